//! What stories share: the lab, the operator's shell, the package, and waiting for conditions.

pub mod browser;

pub mod collector;

pub mod counter;

pub mod disk;

pub mod dog;

pub mod journal;

pub mod lab;

pub mod operator;

pub mod package;

#[expect(clippy::large_enum_variant, reason = "messages of a simulation live for an instant")]
pub mod sim;

pub mod wait;

pub mod web;
