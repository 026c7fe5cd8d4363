//! Turns hosts behind a discovery URL into a working, secured cluster.
//!
//! Decides when there are enough hosts and whether they can be one cluster, where Ostler's own roles
//! run, what the trust document says, and whether all is well at the end. Each step looks first and
//! changes only what is not so yet; so running it again changes nothing, and running it after a
//! failure goes on where it stopped. Which agent obeys what is the agents' to decide.
//!
//! ```text
//! wait-hosts ─▶ check-hosts ─▶ start-arbiter ─▶ start-monitor ─▶ start-controller
//!                                                                       │
//!              done ◀─ check-health ◀─ give-trust ◀─ sign-trust ◀───────┘
//! ```
//!
//! The verdicts (`verdict`, `layout`, `charter`, `health`) are pure; `shell` asks and waits. So it is
//! with the doctor: `views` compares what monitors show with what hosts say.

pub mod event;

pub mod error;

pub mod verdict;

pub mod layout;

pub mod charter;

pub mod committee;

pub mod health;

pub mod views;

pub mod context;

mod shell;

pub use context::{Context, ContextError};
pub use error::{BootstrapError, Kind};
pub use event::{Step, StepEvent, StepState};
pub use layout::Layout;
pub use shell::views::{ViewsOptions, ViewsReport, compare_views};
pub use shell::{Options, ServiceSummary, Summary, bootstrap};
