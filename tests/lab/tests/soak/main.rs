//! The suites that take minutes each: `cargo xtask soak` runs them, `cargo xtask test` does not.

mod bitrot;
mod certificates;
mod clean_slate;
mod cluster;
mod crowded;
mod endurance;
mod fail_over;
mod fidelity;
mod figures;
mod kills;
mod loaded;
mod machine;
mod repairs;
mod steady;
mod tunnels;
mod under_load;
