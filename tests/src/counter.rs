//! The counter that the lab's guest shows on its console, once a second, from nought: whoever has it go on was not
//! restarted.

use std::time::Duration;

use crate::operator::{Following, Operator};
use crate::wait::until;

/// How long a guest may take to boot and count.
const LIMIT: Duration = Duration::from_secs(120);

/// What the guest's counter shows next.
///
/// # Panics
/// When it shows nothing in time.
#[must_use]
pub fn count(operator: &Operator, vm: &str) -> u64 {
    operator.follow(&["console", vm, "--no-input", "--tail", "0"]).count()
}

/// What it shows once it could be told from the counter of a guest that was started anew.
///
/// # Panics
/// When it does not come to that in time.
#[must_use]
pub fn counting(operator: &Operator, vm: &str) -> u64 {
    let (counted, _) = until(&format!("{vm} to count"), LIMIT, || {
        let counted = count(operator, vm);
        if counted >= 5 { Ok(counted) } else { Err(counted) }
    });
    counted
}

/// What it showed first where the guest is now: where it was restarted, that is nought.
///
/// # Panics
/// When it shows nothing in time.
#[must_use]
pub fn first_count(operator: &Operator, vm: &str) -> u64 {
    operator.follow(&["console", vm, "--no-input", "--tail", "65536"]).count()
}

impl Following {
    /// The number in the next line of a guest's console that has one.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn count(&self) -> u64 {
        loop {
            let line = self.line_with(" count=", LIMIT);
            if let Some(number) = line.rsplit('=').next().and_then(|n| n.trim().parse().ok()) {
                return number;
            }
        }
    }
}
