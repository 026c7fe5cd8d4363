//! The agent on every hypervisor.
#![allow(missing_docs)]
pub mod core;
