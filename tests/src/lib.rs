//! What stories share: the lab, the operator's shell, and waiting for conditions.

pub mod lab;

pub mod operator;

pub mod sim;

pub mod wait;
