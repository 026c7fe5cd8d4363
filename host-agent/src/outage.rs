//! Whether libvirt answers, and since when not: what people are told of it, and when this host
//! accepts nothing new.
//!
//! Told by whoever lists all domains. Guests run on meanwhile, and what was accepted waits until it
//! is back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::refusal::Refusal;

/// How long libvirt may be away before other hosts do better. It restarts well within this, and a
/// start that was accepted meanwhile is only late.
const PATIENCE_MS: u64 = 5_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outage(Mutex<Option<Away>>);

#[derive(Debug)]
struct Away {
    since_ms: u64,
    why: String,
}

impl Outage {
    /// libvirt did not answer; how long already stays known.
    pub(crate) fn goes_on(&self, now_ms: u64, why: String) {
        let mut away = self.lock();
        let since_ms = away.as_ref().map_or(now_ms, |away| away.since_ms);
        *away = Some(Away { since_ms, why });
    }

    /// It has answered.
    pub(crate) fn is_over(&self) {
        *self.lock() = None;
    }

    /// What somebody should look after.
    pub(crate) fn ailment(&self, now_ms: u64) -> Option<String> {
        let away = self.lock();
        let Away { since_ms, why } = away.as_ref()?;
        let seconds = now_ms.saturating_sub(*since_ms) / 1000;
        Some(format!(
            "libvirt has not answered for {seconds} s: {why}; guests run on, and nothing starts, stops \
             or moves here until it is back (`systemctl restart libvirtd`)"
        ))
    }

    /// Why nothing new is accepted, once it has been away for long.
    pub(crate) fn refusal(&self, now_ms: u64) -> Option<Refusal> {
        let away = self.lock();
        let Away { since_ms, why } = away.as_ref()?;
        let away_ms = now_ms.saturating_sub(*since_ms);
        (away_ms >= PATIENCE_MS).then(|| Refusal::Unsupported {
            what: "take guests now".to_owned(),
            why: format!("libvirt has not answered for {} s: {why}", away_ms / 1000),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Away>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_at_once_and_refused_for_when_it_lasts() {
        let outage = Outage::default();
        assert_eq!((outage.ailment(1_000), outage.refusal(1_000)), (None, None));
        outage.goes_on(1_000, "gone".to_owned());
        outage.goes_on(4_000, "refused".to_owned());
        let ailment = outage.ailment(5_999).expect("it is away");
        assert!(ailment.starts_with("libvirt has not answered for 4 s: refused"), "{ailment}");
        assert_eq!(outage.refusal(5_999), None, "it may be restarting");
        let no = outage.refusal(6_000).expect("it has been away for long");
        assert!(no.is_about_this_host(), "another host may say yes");
        assert_eq!(
            no.to_string(),
            "this host cannot take guests now: libvirt has not answered for 5 s: refused"
        );
        outage.is_over();
        assert_eq!((outage.ailment(9_000), outage.refusal(9_000)), (None, None));
    }
}
