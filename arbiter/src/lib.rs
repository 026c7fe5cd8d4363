//! The arbiter: says yes to one host at a time for each job, and keeps within each tenant's quota.
//!
//! [`core`] decides (rules R1, R2, R3, R5, R6, R7 of the tenure protocol), [`books`] counts,
//! [`statement`] is what corrects them. The rest is the shell: `serve` answers requests, `reader`
//! asks the hosts what they hold.

pub mod core;

pub mod books;

pub mod statement;

mod serve;

mod reader;

pub use serve::{ArbiterError, BooksReply, Options, TenantUse, serve};
