//! A whole cluster on one thread, with a clock of its own and everything going wrong.
//!
//! The cores are the daemons' own: [`host_agent::core::Agent`], `arbiter::core::Core`,
//! `monitor::core::Core`, [`scheduler::Run`] with [`scheduler::Knowledge`] and the planner. What
//! is simulated is what they stand on: clocks, network, disks, libvirt, processes, and the shells'
//! loops, written as the shells write them. A seed decides everything; the same seed is the same
//! run, event by event.
//!
//! Not modelled yet, because no core has it: tables between arbiters (R2(c)). Not modelled although it exists: services, images, several pages of the HTTP layer
//! (permissions, bodies that are too large), a libvirt that carries out a start long after it was
//! given up *and* after later operations on that domain (operations on a domain keep their order),
//! network storage (volumes are names), and hosts that join or are retired.

pub mod chance;

pub mod clock;

pub mod message;

pub mod tasks;

pub mod world;

mod network;

pub mod hypervisor;

mod libvirt;

mod works;

pub mod ledger;

pub mod host;

pub mod keeper;

pub mod arbiter;

pub mod operator;

pub mod fence;
pub mod fencers;

pub mod liars;

pub mod monitor;

mod streams;

pub mod engine;

mod executor;

pub mod profile;

pub mod faults;

pub mod workload;

pub mod by_hand;

pub mod budgets;

pub mod invariants;

pub mod mutant;

pub mod coverage;

pub mod verdict;

pub mod minimal;

pub use mutant::Mutant;
pub use profile::Profile;
pub use verdict::{
    Verdict, simulate, simulate_liars, simulate_on_real_ledgers, simulate_witnesses, simulate_world,
};
pub use world::World;
