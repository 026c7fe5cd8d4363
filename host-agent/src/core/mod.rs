//! Everything an agent decides, and nothing it does.
//!
//! [`Agent`] takes one [`Input`] at a time and answers with [`Effect`]s; the shell performs them,
//! first all that is to be persisted, then the rest in order, and feeds results back. A core knows
//! no clock, file, socket or libvirt, so the very same type can run by the thousand in a simulator.

mod agent;
mod claims;
mod events;
mod input;
mod job_life;
mod ledger;
mod offers;
mod recover;

pub use agent::{Agent, Birth};
pub use claims::Claim;
pub use events::{EventRing, Resume};
pub use input::{
    Effect, Input, Look, MigrationOutcome, Reply, ReplyId, Request, ServiceNews, Work, WorkId,
    WorkOutcome,
};
pub use ledger::{Intent, JobRecord, LedgerState, Write};
