//! The monitor: finds agents, follows them, merges what they say, and serves the view.
//!
//! [`core`] decides what enters the view and how fresh each row is, [`check`] whom not to believe,
//! [`newer`] what can be used of what a newer version says; [`packed`] is how it keeps jobs. The rest
//! is the shell: `sources` keeps one `follower` for each, `writer` alone owns the core and publishes,
//! `serve` answers with `page` (the view, filtered), `feed` (the view as a stream, out of the
//! `ring` of what happened of late) and `metrics`.

pub mod core;

pub mod check;

pub mod newer;

pub mod packed;

mod serve;

mod openapi;
pub use openapi::openapi;

mod page;

mod feed;

mod ring;

mod metrics;

mod writer;

mod sources;

mod follower;

pub use serve::{MonitorError, Options, serve};
