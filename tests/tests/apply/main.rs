//! What an apply does on a simulated host, and what a dry run predicts of it.

mod dry_run_failures;
mod fidelity;
mod foreign_resources;
mod history;
mod kept;
mod mounts;
mod nodes;
mod phase_selection;
mod phases;
mod scale;
mod shared_hosts;
