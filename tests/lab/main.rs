//! Stories on real hosts: real libvirtd, real QEMU guests, real sockets, and `virsh` as the judge.
//!
//! Each test is one story, with hosts of its own; three run side by side (`.config/nextest.toml`).

mod adopt;

mod attach;

mod backup;

mod budgets;

mod house;

mod hugepages;

mod images;

mod jobs;

mod networks;

mod page;

mod policy;

mod pools;

mod power;

mod protect;

mod rank;

mod readers;

mod users;

mod resize;

mod snapshots;

mod retire;

mod dedicated;

mod discovery;

mod metrics;

mod drain;

mod exchange;

mod migrate;

mod expect;

mod balance;

mod failover;

mod liars;

mod members;

mod operators;

mod survive;

mod tickets;

mod traces;

mod upgrade;

mod walk;

mod witnesses;
