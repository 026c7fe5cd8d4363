//! Pure planning: state, expectations, violations, steps, costs, search, plan and report.
