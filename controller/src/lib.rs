//! The reference controller: API, engine, durable runs.
//!
//! It decides how runs and expectations are kept (SQLite) and who may ask for them (trust); what a run does is the
//! `scheduler` library's, of which this is the example. Any number of controllers may work on one
//! cluster; hosts and arbiters settle between them.

mod serve;

mod api;

mod openapi;
pub use openapi::openapi;

mod expectations;

mod peers;
mod users;

mod fencing;
mod power;

mod metrics;

mod store;

pub use serve::{ControllerError, Options, serve};
pub use store::SqliteConductor;
