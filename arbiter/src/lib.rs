//! Policy, quorum tickets, tenure.
