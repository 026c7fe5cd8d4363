//! The library controllers embed: watch a view, plan, get tickets, execute, resume.
//!
//! It decides how what is wanted becomes so on hosts that may refuse, die or answer late: durable
//! intent first, every request safe to repeat, and undone in reverse what cannot be finished. The
//! host's word is final; where a job runs is never guessed. Storage of runs is behind
//! [`Conductor`]; serving an API is the controller's.
//!
//! ```no_run
//! # async fn embed(client: transport::Client, monitors: Vec<transport::Endpoint>, spec: protocol::job::JobSpec) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use protocol::api::Want;
//! use scheduler::{InMemory, Options, Scheduler, follow};
//! use tokio::sync::watch;
//! use transport::{CancellationToken, Clock};
//!
//! let (clock, stop) = (Clock::real(), CancellationToken::new());
//! let (_monitors, monitors) = watch::channel(monitors);
//! let (_trust, trust) = watch::channel(None);
//! let picture = follow(client.clone(), clock.clone(), monitors, stop.clone());
//! let conductor = Arc::new(InMemory::default());
//! let scheduler =
//!     Scheduler::new(Options { client, clock, conductor, picture, trust, seed: 1 }, stop);
//! let want = Want::Run { job: "web-1".parse()?, spec, on: None };
//! let ended = scheduler.ensure(want).await?.ended().await;
//! println!("{:?}: {:?}", ended.state, ended.reason);
//! # Ok(()) }
//! ```

mod engine;

mod run;

mod task;

mod record;

mod drain;

mod failover;

mod tend;

mod executor;

mod knowledge;

mod follow;

mod conductor;

/// What rows and denials mean to a run: the pure parts of executor and engine, shared with whoever
/// drives runs over another transport.
pub mod judge {
    pub use crate::engine::met_at;
    pub use crate::executor::{
        ended, fetched, has_moved_to, incoming, is_firm, is_going_to, is_ours, is_over,
        is_taken_over, progress_words, resized, running, sent,
    };
}

pub use conductor::{Acceptance, Claimed, Conductor, InMemory, StoreError, Storing};
pub use engine::{
    CancelError, Options, RUNS_OPEN_MAX, RunHandle, Scheduler, SubmitError, WAIT_MS_MAX,
};
pub use executor::Executor;
pub use follow::{HeardAt, Picture, follow};
pub use knowledge::Knowledge;
pub use record::{Cause, RECORD_VERSION, RunRecord, TaskRecord};
pub use run::{Answer, Effect, Input, No, ROUNDS_IDLE_MAX, Run};
pub use task::{
    Ask, Circumstances, Direction, Dispatch, TaskKind, TaskResult, ask_to_do, ask_to_undo, tasks_of,
};
