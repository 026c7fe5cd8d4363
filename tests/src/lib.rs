//! The house rules, the lab's stories, contracts and end-to-end tests.
