//! The monitor: finds agents, follows them, merges what they say, and serves the view.
//!
//! [`core`] decides what enters the view and how fresh each row is, [`check`] whom not to believe.

pub mod core;

pub mod check;
