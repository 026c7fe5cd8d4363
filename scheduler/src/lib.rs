//! The library controllers embed: watch a view, plan, get tickets, execute, resume.
