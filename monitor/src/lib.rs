//! The monitor: finds agents, follows them, merges what they say, and serves the view.
//!
//! [`core`] decides what enters the view and how fresh each row is, [`check`] whom not to believe.
//! The rest is the shell: `directory` finds hosts, `sources` keeps one `follower` for each, `writer`
//! alone owns the core and publishes, `serve` answers.

pub mod core;

pub mod check;

mod serve;

mod writer;

mod sources;

mod follower;

mod directory;

pub use serve::{MonitorError, Options, serve};
