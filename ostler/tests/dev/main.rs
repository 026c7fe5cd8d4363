//! `ostler dev` with pretended guests: the program as people run it.
//!
//! Needs libvirt's library and no privileges; real guests are the lab's business.

mod cluster;

mod life;

mod page;
