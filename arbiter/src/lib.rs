//! The arbiter: says yes to one host at a time for each job, and keeps within each tenant's quota.
//!
//! [`core`] decides (rules R1 to R7 of the tenure protocol), [`books`] counts, [`rates`] counts starts, [`leases`]
//! lapse, [`statement`] is what corrects them. The rest is the shell: `serve` answers requests, `reader`
//! asks the hosts what they hold.

pub mod core;

pub mod books;

pub mod rates;

pub mod leases;

pub mod statement;

mod serve;

mod openapi;
pub use openapi::openapi;

mod reader;

mod metrics;

pub use serve::{ArbiterError, BooksReply, LeaseRow, Options, TenantUse, serve};
