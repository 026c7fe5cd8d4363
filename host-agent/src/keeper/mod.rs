//! The keeper: the small process beside the agent that lets guests run only while they are covered.
//!
//! It states what the host holds, counts the arbiters' terms, and freezes and kills a guest whose right
//! to run is over, also while the agent is stopped, hung or being upgraded. [`core`] decides; `process`
//! sends and listens; `gate` is the cgroup that holds a guest; `watchdog` resets the machine when nobody
//! else acts. `warden` is the agent's side, `peer` the keeper's process as it sees it, `troubles` what it
//! tells people.

pub mod core;

mod gate;

mod ioctl;

mod watchdog;
pub use watchdog::WatchdogError;
pub(crate) use watchdog::check as check_watchdog;

mod process;
pub(crate) use process::Left;
pub use process::{KeeperError, KeeperOptions, keep};

mod peer;

mod troubles;

mod warden;
pub(crate) use warden::{Unopened, Warden, Wards};
