//! The reference controller: API, engine, durable runs.
