//! How long something is left alone: twice as long each time in a row, up to a bound.

/// Rest of a job that somebody else is changing; not a failure. In milliseconds.
pub(crate) const BUSY_MS: u64 = 2_000;

/// The rest after so many `times` before, in milliseconds: the first of the two, doubled for each, and at most the second.
pub(crate) fn rest_ms((first, longest): (u64, u64), times: u32) -> u64 {
    1_u64.checked_shl(times).map_or(longest, |doubled| first.saturating_mul(doubled)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_doubles_up_to_its_bound_however_often() {
        let rests = [0, 1, 2, 3, 60, 63, 64, u32::MAX].map(|times| rest_ms((5, 30), times));
        assert_eq!(rests, [5, 10, 20, 30, 30, 30, 30, 30]);
    }
}
