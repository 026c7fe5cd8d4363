//! The nouns of Ostler and what crosses a process boundary.
//!
//! Everything here is pure: no sockets, clocks, files or randomness. Two parties that must agree
//! on a rule (the planner and a host on admission, an arbiter and a host on a ticket) share the one
//! function in this crate. Sending, storing and deciding what to do are left to the other crates.

pub mod id;

pub mod resources;

pub mod hugepages;

pub mod cpus;

pub mod amounts;

pub mod budget;

pub mod vm;

pub mod job;

pub mod host;

pub mod history;

pub mod image;

pub mod network;

pub mod pool;

pub mod power;

pub mod fencing;

pub mod subject;

pub mod refusal;

pub mod event;

pub mod view;

pub mod signed;

pub mod trust;

pub mod ticket;

pub mod tenure;

pub mod admission;

pub mod usage;

pub mod used;

pub mod api;

pub mod expectations;

mod tagged;
