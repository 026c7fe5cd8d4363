//! Turns hosts behind a discovery URL into a working, secured cluster.
