//! The keeper: the small process beside the agent that lets guests run only while they are covered.
//!
//! It states what the host holds, counts the arbiters' terms, and freezes and kills a guest whose right
//! to run is over, also while the agent is stopped, hung or being upgraded. [`core`] decides; `process`
//! sends and listens; `gate` is the cgroup that holds a guest; `warden` is the agent's side.

pub mod core;

mod gate;

mod process;
pub(crate) use process::Left;
pub use process::{KeeperError, KeeperOptions, keep};

mod warden;
pub(crate) use warden::{Unopened, Warden, Wards};
