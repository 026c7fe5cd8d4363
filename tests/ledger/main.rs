//! The agent's ledger on a disk that fails: at every write, at every byte of the last one, and by itself.
//!
//! The code is the agent's own, down to redb; only the disk is `tests::disk`. What was answered is there
//! after any of it, what was not is there as a whole or not at all, and a damaged file costs nothing and
//! is named.

mod cut;

mod damaged;

mod failing;

mod workload;
