//! Checks: whether phases do their work. Nothing here changes a host.
//!
//! Contains the evaluation of checks, how often they failed in a row, and the check of the role's package. What follows a failed check
//! is decided in `repair` and by the agent.
//!
//! Start with `status`; `condition` has the results, `probe` makes the single observations, and `wait` waits in an apply until a check holds.
//! `stopped` adds to the results what a signal has stopped.
//! `missing_node` ends the wait for a worker's node that was deleted.

pub(in crate::exec) mod checks_in_progress;
pub(in crate::exec) mod condition;
pub(in crate::exec) mod damaged;
pub(in crate::exec) mod failure_counts;
pub(in crate::exec) mod missing_node;
pub(in crate::exec) mod probe;
pub(in crate::exec) mod status;
mod stopped;
mod wait;
