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
//! let want = Want::Run { job: "web-1".parse()?, spec, on: None, again: false };
//! let ended = scheduler.ensure(want).await?.ended().await;
//! println!("{:?}: {:?}", ended.state, ended.reason);
//! # Ok(()) }
//! ```
//!
//! [`Scheduler::ensure`] is for once. What is to *stay* true is kept: while [`Scheduler::tend_hosts`] runs,
//! expectations are judged whenever something that they read has changed, mended by runs like the one
//! above, and told of with the reason where they cannot be. Here there is one host, which does not have
//! what is expected:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use protocol::expectations::KeptStanding;
//! use protocol::id::Revision;
//! use scheduler::{InMemory, Options, Picture, Scheduler};
//! use serde_json::json;
//! use tokio::sync::watch;
//! use transport::{CancellationToken, Client, Clock, Identity};
//!
//! // A cluster as a monitor would show it; `follow` gives such a picture that stays current.
//! let (view, _) = planner::case::view_of(json!({ "h1": {
//!     "host": { "capacity": { "vcpus": 4, "memory_bytes": 4294967296_u64, "disk_bytes": 0 },
//!               "labels": { "disk": "tape" } },
//!     "jobs": [{ "id": "web-1", "state": "running",
//!                "spec": { "vm": { "vcpus": 1, "memory_bytes": 1073741824 } } }]
//! }}))?;
//! let (_keep, picture) = watch::channel(Arc::new(Picture { view, is_current: true, ..Picture::default() }));
//! let (_trust, trust) = watch::channel(None);
//!
//! let (client, clock) = (Client::new(Arc::new(Identity::ephemeral())), Clock::real());
//! let (conductor, stop) = (Arc::new(InMemory::default()), CancellationToken::new());
//! let scheduler =
//!     Scheduler::new(Options { client, clock, conductor, picture, trust, seed: 1 }, stop);
//! let tending = scheduler.clone();
//! tokio::spawn(async move { tending.tend_hosts().await });
//!
//! let on_ssd = json!({ "expect": "host_label", "job": "web-1", "key": "disk", "value": "ssd" });
//! let on_tape = json!({ "expect": "host_label", "job": "web-1", "key": "disk", "value": "tape" });
//! let mut kept = scheduler.keep("web".parse()?, Revision(1), vec![on_tape]).await?;
//! kept.met().await.ok_or("deleted")?;
//!
//! let mut kept = scheduler.keep("web".parse()?, Revision(2), vec![on_ssd]).await?;
//! let why = loop {
//!     let status = kept.changed().await.ok_or("deleted")?;
//!     if let KeptStanding::Unmet { why, .. } = &status.expectations[0].standing {
//!         break why.clone();
//!     }
//! };
//! assert_eq!(why, "web-1 is on h1, which has disk=tape");
//! # Ok(()) }
//! ```

mod engine;

mod errands;

mod sleep;

mod run;

mod task;

mod record;

mod drain;

mod rest;

mod failover;

mod fenced;

mod upkeep;

mod keeping;

mod gauge;

mod gauging;

mod tend;

mod executor;

mod reach;

mod network;

mod poll;

mod spread;

mod level;

mod tally;

mod knowledge;

mod follow;

mod conductor;

pub mod judge;

/// The cores that judge and begin, for who drives them over a world of their own: a simulation, or a benchmark.
pub mod cores {
    pub use crate::drain::{Drain, Effect as DrainEffect, Input as DrainInput, Open as DrainOpen};
    pub use crate::failover::{Ended, FailOver, freshness_of};
    pub use crate::upkeep::{Aims, Effect, Input, Look, Open, Shifts, Turns, Upkeep};
}

pub use conductor::{Acceptance, Claimed, Conductor, InMemory, Sets, StoreError, Storing};
pub use engine::{
    CancelError, Options, RUNS_OPEN_MAX, RunHandle, Scheduler, SubmitError, WAIT_MS_MAX,
};
pub use executor::Executor;
pub use follow::{HeardAt, Picture, follow};
pub use gauge::Gauge;
pub use keeping::{KeepError, Kept};
pub use knowledge::Knowledge;
pub use level::{Move, level};
pub use network::Network;
pub use poll::{NoRoom, Poll};
pub use reach::{JobAsk, Reach, Trouble};
pub use record::{Cause, RECORD_VERSION, RunRecord, TaskRecord};
pub use run::{Answer, Effect, Input, No, ROUNDS_IDLE_MAX, Run};
pub use sleep::{NotSwitched, Powers, Sleeper, Sleepers, Waker, Waking};
pub use tally::{Counts, Durations, Figures, Kept as KeptFigures, TOOK_S};
pub use task::{
    Ask, Circumstances, Direction, Dispatch, TaskKind, TaskResult, ask_to_do, ask_to_undo, tasks_of,
};
pub use upkeep::{Clash, Foresight, ITEMS_MAX, Look, SET_VERSION, SETS_MAX, SetError, SetRecord};
