//! Everything an agent decides, and nothing it does.
//!
//! [`Agent`] takes one [`Input`] at a time and answers with [`Effect`]s; the shell performs them,
//! first all that is to be persisted, then the rest in order, and feeds results back. A core knows
//! no clock, file, socket or libvirt, so the very same type can run by the thousand in a simulator.

mod agent;
pub use agent::{Agent, Birth};

mod input;
pub use input::{
    Effect, Input, Joint, Look, Measured, MigrationOutcome, Reply, ReplyId, Request, ServiceNews,
    SnapshotAct, Standing, Work, WorkId, WorkOutcome,
};

mod table;

mod taking;

mod adopting;

mod ending;
mod protecting;
mod ranking;

mod budgets;

mod moving;

mod job_life;

mod fencing;

mod seeing;

mod addresses;

mod networks;
pub use networks::{Link, NetworkRecord, SeenNetworks};

mod resizing;

mod leaving;
pub use leaving::{Leaver, Leaving};

mod snapshots;
pub use snapshots::LastRevert;
mod reading;
pub(crate) use reading::readable;

mod one_off;

mod restarts;

mod acts;
pub use acts::Act;

mod recover;

mod history;
pub use history::Ended;

mod pools;
pub use pools::{Coming, Stay, Turn};

mod hugepages;
pub use hugepages::HugepagesSeen;

mod cpus;
pub use cpus::CpuLayout;
mod agreeing;

mod tenure;
pub use tenure::{Draft, Drafted};

mod route;

mod offers;

mod claims;
pub use claims::{Claim, Deed};

mod ledger;
pub use ledger::{Intent, Issued, JobRecord, LastResize, LedgerState, Tally, Write};

mod events;
pub use events::{EventRing, Resume};

#[cfg(test)]
pub(crate) mod tests;
