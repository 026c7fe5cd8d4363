//! Finds agents, follows them, merges their state in memory and serves the view.
