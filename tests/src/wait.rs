//! Waiting for the state of the world, never for a duration.

use std::time::{Duration, Instant};

/// How often a condition is looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// And at least, beside the time that a look takes.
const LOOK_INTERVAL_MAX: Duration = Duration::from_millis(500);

/// Looking mostly means starting programs: who waits leaves twice as much time to those whom it waits for.
const REST_FACTOR: u32 = 2;

/// Waits until `look` finds something, and returns it with the time that took.
///
/// # Panics
/// When it has not after `limit`; says what was waited for and what was seen last.
pub fn until<T, S: std::fmt::Debug>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> (T, Duration) {
    let begin = Instant::now();
    loop {
        let looked = Instant::now();
        match look() {
            Ok(found) => return (found, begin.elapsed()),
            Err(seen) if begin.elapsed() > limit => {
                panic!("waited {limit:?} for {what}; last seen: {seen:?}")
            }
            Err(_) => {
                let rest = looked.elapsed() * REST_FACTOR;
                std::thread::sleep(rest.clamp(LOOK_INTERVAL, LOOK_INTERVAL_MAX));
            }
        }
    }
}

/// `Ok` when true; for [`until`].
pub fn is<S>(condition: bool, seen: S) -> Result<(), S> {
    if condition { Ok(()) } else { Err(seen) }
}
