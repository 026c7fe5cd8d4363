//! The simulator's fixed set.
fn main() {}
