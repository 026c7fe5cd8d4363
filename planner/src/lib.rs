//! Pure planning: from a view and what is wanted to steps, or to the reasons why not.
//!
//! [`plan`] decides which steps would make expectations true on the picture it is given; whether
//! they work is the hosts' to say, and carrying them out is the scheduler's. It reads no clock and
//! draws no lots: the same input gives the same plan on any machine.
//!
//! ```text
//!   PlanInput ──▶ State ──▶ search: violated expectation ─▶ steps that could help ─▶ State' …
//!  (view, refusals,  (overlay)                                        │
//!   reservations)                                       best first, bounded in nodes
//!                                                                     ▼
//!                                            Outcome { plan, coming, report of what stays unmet }
//! ```
//!
//! Placement spreads: of the hosts that admit a VM, the one with the largest free share *after*
//! placing it wins (its scarcest resource counts), so that no host is filled while another idles.
//! A fresh host is preferred to a stale one; a lost one is never used. One that has the images is
//! preferred to one to which they must be copied first.

mod input;

mod level;

mod expectation;

pub mod rules;

mod group;

mod order;

mod intent;

mod policy;

mod terms;

mod load;

mod state;

mod shards;

pub mod marks;

pub mod rooms;

mod register;

mod images;

mod macs;

mod pools;

pub mod steps;

mod cost;

mod aims;

mod search;

mod evictions;

mod exchange;

mod ring;

mod preempt;

mod measure;

mod balance;

mod saving;

mod rehearsal;

mod arrival;

mod report;

mod audit;

pub mod case;

pub mod fleet;

pub mod simulate;

pub use aims::{Favour, Outcome, Plan, plan, plan_again};
pub use audit::{Fault, audit};
pub use balance::Shift;
pub use cost::Cost;
pub use expectation::{Expectation, Standing, whereabouts};
pub use group::{GROUP_MAX, Group, GroupError, Spread, numbered};
pub use images::Fetch;
pub use input::{Heard, Limits, PlanInput, Reservation, Setback, SetbackReason};
pub use intent::{Intent, Problem, problems};
pub use level::{Level, Score};
pub use measure::Measure;
pub use order::{ORDER_MAX, Order, StartsAfter, circle, circle_words, runs};
pub use policy::Placement;
pub use preempt::Preemption;
pub use register::{Prepared, Register};
pub use rehearsal::{Loss, Lost, Rehearsal, Stranded};
pub use report::{HostVerdict, Report, Unmet, UnmetReason};
pub use rules::{Clause, Rule, Violation};
pub use saving::{Need, Saving, is_needed, need, put_to_sleep, wake};
pub use shards::Shards;
pub use state::{Placed, State};
pub use steps::{Blocker, Step};
pub use terms::Terms;

#[cfg(test)]
mod tests;
