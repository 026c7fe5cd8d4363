//! The simulator's part in the gate: a fixed set of seeds, named scenarios, and worlds with one rule
//! broken on purpose. Long runs are `ostler-sim run`; what is modelled is told in `tests::sim`.

mod budgets;

mod fence;

mod fixed;

mod ledgers;

mod liars;

mod members;

mod mutants;

mod scenarios;

mod tenure;

mod witnesses;
