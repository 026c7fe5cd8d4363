//! Which host is switched off next because nobody hears it.
//!
//! Decides from what is seen alone. Silence is counted from the first look without the host, on this controller's
//! clock, and anew whenever the controller itself did not see: a monitor that was away has heard nobody. While as
//! many hosts are silent as are heard, none is switched off, for it may be this side that is cut off; hosts that
//! were put to sleep are not counted.

use std::collections::BTreeMap;

use protocol::fencing::{SilentHost, Standing};
use protocol::id::HostId;

/// How much later each further fencer acts than the one before it, so that they don't all cut the same power.
const TURN_MS: u64 = 20_000;

/// How long a host is left alone with which it did not work.
const REST_MS: u64 = 60_000;

/// What is seen of a host of the roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) host: HostId,
    /// Whether a monitor hears it.
    pub(crate) is_heard: bool,
    /// What keeps it from being switched off, however long it is silent.
    pub(crate) hindrance: Option<Standing>,
}

/// When hosts are switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// After so long a silence.
    pub(crate) after_ms: u64,
    /// So many fencers come before this one.
    pub(crate) before: u64,
}

/// What is remembered from look to look.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    silent: BTreeMap<HostId, u64>,
    failed: BTreeMap<HostId, Failed>,
}

#[derive(Debug)]
struct Failed {
    at_ms: u64,
    trouble: String,
}

impl Watch {
    /// Nothing could be seen: whoever is silent at the next look is silent from then on.
    pub(crate) fn saw_nothing(&mut self) {
        self.silent.clear();
    }

    /// It did not work with this host.
    pub(crate) fn note_failed(&mut self, now_ms: u64, host: &HostId, trouble: String) {
        self.failed.insert(host.clone(), Failed { at_ms: now_ms, trouble });
    }

    /// The hosts of the roster that are not heard, silent for longest first, with what comes of each.
    pub(crate) fn look(&mut self, now_ms: u64, rule: Rule, roster: &[Seen]) -> Vec<SilentHost> {
        let silent: BTreeMap<&HostId, &Seen> =
            roster.iter().filter(|seen| !seen.is_heard).map(|seen| (&seen.host, seen)).collect();
        self.silent.retain(|host, _| silent.contains_key(host));
        self.failed.retain(|host, _| silent.contains_key(host));
        let is_asleep = |seen: &&Seen| seen.hindrance == Some(Standing::Asleep);
        let awake = roster.len() - roster.iter().filter(is_asleep).count();
        let heard = roster.len() - silent.len();
        let mut hosts: Vec<SilentHost> = silent
            .into_values()
            .map(|seen| {
                let since_ms = *self.silent.entry(seen.host.clone()).or_insert(now_ms);
                let silent_ms = now_ms.saturating_sub(since_ms);
                let few =
                    (heard * 2 <= awake).then_some(Standing::FewHeard { heard, roster: awake });
                let hindrance = seen.hindrance.clone().or(few);
                let standing = hindrance
                    .or_else(|| self.resting(now_ms, &seen.host))
                    .unwrap_or_else(|| counted(silent_ms, rule));
                SilentHost { host: seen.host.clone(), silent_ms, standing }
            })
            .collect();
        hosts.sort_by(|a, b| b.silent_ms.cmp(&a.silent_ms).then_with(|| a.host.cmp(&b.host)));
        hosts
    }

    fn resting(&self, now_ms: u64, host: &HostId) -> Option<Standing> {
        let Failed { at_ms, trouble } = self.failed.get(host)?;
        let left_ms = (at_ms + REST_MS).checked_sub(now_ms).filter(|left| *left > 0)?;
        Some(Standing::Resting { trouble: trouble.clone(), left_ms })
    }
}

fn counted(silent_ms: u64, rule: Rule) -> Standing {
    let after_ms = rule.after_ms.saturating_add(rule.before * TURN_MS);
    match after_ms.checked_sub(silent_ms) {
        None | Some(0) => Standing::Due,
        Some(left_ms) => Standing::Counted { left_ms },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { after_ms: 30_000, before: 0 };

    fn host(n: u8) -> HostId {
        HostId::of(&protocol::signed::SecretKey::from_seed([n; 32]).public())
    }

    /// Five hosts, of which these are silent.
    fn seen(silent: &[u8]) -> Vec<Seen> {
        let one = |n: u8| Seen { host: host(n), is_heard: !silent.contains(&n), hindrance: None };
        (1..=5).map(one).collect()
    }

    fn due(looks: &[SilentHost]) -> Vec<HostId> {
        let due = looks.iter().filter(|look| look.standing == Standing::Due);
        due.map(|look| look.host.clone()).collect()
    }

    #[test]
    fn a_host_is_due_after_its_silence_and_not_before() {
        let mut watch = Watch::default();
        let first = watch.look(1_000, RULE, &seen(&[2]));
        assert_eq!(first[0].standing, Standing::Counted { left_ms: 30_000 });
        assert_eq!(due(&watch.look(30_999, RULE, &seen(&[2]))), []);
        assert_eq!(due(&watch.look(31_000, RULE, &seen(&[2]))), [host(2)]);
    }

    #[test]
    fn silence_is_counted_anew_after_a_word_and_after_a_time_without_sight() {
        let mut watch = Watch::default();
        watch.look(0, RULE, &seen(&[2]));
        watch.look(20_000, RULE, &seen(&[]));
        assert_eq!(due(&watch.look(40_000, RULE, &seen(&[2]))), []);
        watch.saw_nothing();
        watch.look(60_000, RULE, &seen(&[2]));
        assert_eq!(due(&watch.look(89_999, RULE, &seen(&[2]))), []);
        assert_eq!(due(&watch.look(90_000, RULE, &seen(&[2]))), [host(2)]);
    }

    #[test]
    fn none_is_due_while_half_of_the_hosts_are_silent() {
        let mut watch = Watch::default();
        let four = |silent: &[u8]| seen(silent)[..4].to_vec();
        watch.look(0, RULE, &four(&[1, 2]));
        let looks = watch.look(60_000, RULE, &four(&[1, 2]));
        assert!(
            looks.iter().all(|look| look.standing == Standing::FewHeard { heard: 2, roster: 4 })
        );
        // Its silence has been seen all the while.
        assert_eq!(due(&watch.look(61_000, RULE, &four(&[1]))), [host(1)]);
        assert_eq!(due(&watch.look(61_000, RULE, &seen(&[1, 2]))), [host(1)], "three of five");
    }

    #[test]
    fn who_is_silent_for_longest_comes_first_and_each_fencer_has_its_turn() {
        let mut watch = Watch::default();
        watch.look(0, RULE, &seen(&[3]));
        watch.look(10_000, RULE, &seen(&[2, 3]));
        assert_eq!(due(&watch.look(40_000, RULE, &seen(&[2, 3]))), [host(3), host(2)]);
        let second = Rule { before: 1, ..RULE };
        assert_eq!(due(&watch.look(40_000, second, &seen(&[2, 3]))), []);
        assert_eq!(due(&watch.look(50_000, second, &seen(&[2, 3]))), [host(3)]);
    }

    #[test]
    fn what_did_not_work_is_tried_again_after_a_rest() {
        let mut watch = Watch::default();
        watch.look(0, RULE, &seen(&[2]));
        watch.note_failed(31_000, &host(2), "its BMC is mute".into());
        let looks = watch.look(41_000, RULE, &seen(&[2]));
        let trouble = "its BMC is mute".to_owned();
        assert_eq!(looks[0].standing, Standing::Resting { trouble, left_ms: 50_000 });
        assert_eq!(due(&watch.look(91_000, RULE, &seen(&[2]))), [host(2)]);
    }

    #[test]
    fn hosts_that_sleep_are_missed_by_nobody() {
        let mut watch = Watch::default();
        let mut seen = seen(&[1, 2, 3]);
        seen[0].hindrance = Some(Standing::Asleep);
        seen[1].hindrance = Some(Standing::Asleep);
        watch.look(0, RULE, &seen);
        let looks = watch.look(30_000, RULE, &seen);
        assert_eq!(due(&looks), [host(3)], "two of three that are awake are heard");
        assert_eq!(looks.iter().filter(|look| look.standing == Standing::Asleep).count(), 2);
    }

    #[test]
    fn a_host_with_a_hindrance_is_never_due() {
        let mut watch = Watch::default();
        let mut seen = seen(&[2]);
        seen[1].hindrance = Some(Standing::NothingAtStake);
        watch.look(0, RULE, &seen);
        assert_eq!(watch.look(600_000, RULE, &seen)[0].standing, Standing::NothingAtStake);
    }
}
