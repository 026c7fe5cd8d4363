//! For how long a guest may stand still at the end of its migration: as short as will do.
//!
//! QEMU ends the passes over a guest's memory once the rest can be sent within the time that it is
//! allowed. A guest that writes as fast as can be sent never comes to that. So whenever a pass has left
//! no less than one before it, the time is doubled, as Proxmox does, up to what was asked for.

use protocol::job::Passes;

/// What QEMU allows at first, in ms.
const FIRST_MS: u32 = 300;

/// The time that one migration's guest may stand still.
#[derive(Debug)]
pub(super) struct Downtime {
    allowed_ms: u32,
    most_ms: u32,
    pass: u32,
    least_left_bytes: u64,
}

impl Downtime {
    pub(super) fn up_to(most_ms: u32) -> Self {
        Self { allowed_ms: FIRST_MS.min(most_ms), most_ms, pass: 1, least_left_bytes: u64::MAX }
    }

    /// What to allow after a look at it, when that is not what is allowed.
    pub(super) fn after(&mut self, memory: &Passes) -> Option<u32> {
        if memory.pass > self.pass {
            self.pass = memory.pass;
            let is_less = memory.left_bytes < self.least_left_bytes;
            self.least_left_bytes = self.least_left_bytes.min(memory.left_bytes);
            if !is_less {
                self.allowed_ms = self.allowed_ms.saturating_mul(2).min(self.most_ms);
            }
        }
        (memory.downtime_ms != self.allowed_ms).then_some(self.allowed_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(pass: u32, left_bytes: u64, downtime_ms: u32) -> Passes {
        let (written_bytes_s, sent_bytes_s, throttle_percent) = (0, 0, 0);
        Passes { pass, left_bytes, written_bytes_s, sent_bytes_s, downtime_ms, throttle_percent }
    }

    #[test]
    fn what_shrinks_needs_no_more_than_the_first() {
        let mut downtime = Downtime::up_to(10_000);
        for (pass, left) in [(1, 900), (1, 10), (2, 500), (2, 20), (3, 300), (4, 299)] {
            assert_eq!(downtime.after(&look(pass, left, FIRST_MS)), None, "{pass}");
        }
    }

    #[test]
    fn it_grows_pass_by_pass_to_what_was_asked_for_and_no_further() {
        let mut downtime = Downtime::up_to(1_000);
        assert_eq!(downtime.after(&look(2, 500, 300)), None);
        assert_eq!(downtime.after(&look(3, 500, 300)), Some(600), "no less than before");
        assert_eq!(
            downtime.after(&look(3, 400, 600)),
            None,
            "within one pass less is left, of course"
        );
        assert_eq!(downtime.after(&look(4, 520, 600)), Some(1_000), "no more than was asked for");
        assert_eq!(downtime.after(&look(9, 900, 1_000)), None);
    }

    #[test]
    fn less_than_qemu_would_allow_is_told_to_it_at_once() {
        let mut downtime = Downtime::up_to(50);
        assert_eq!(downtime.after(&look(1, 900, 300)), Some(50));
        assert_eq!(downtime.after(&look(1, 800, 50)), None);
        assert_eq!(downtime.after(&look(2, 900, 50)), None);
    }

    #[test]
    fn what_was_not_taken_is_told_again() {
        let mut downtime = Downtime::up_to(600);
        assert_eq!(downtime.after(&look(2, 500, 300)), None);
        assert_eq!(downtime.after(&look(3, 600, 300)), Some(600));
        assert_eq!(downtime.after(&look(3, 600, 300)), Some(600));
    }
}
