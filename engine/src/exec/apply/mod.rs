//! Apply: brings the host to the plan, phase by phase.
//!
//! Contains the order of phases, their steps, the preconditions of a run and what a run records. It does not contain what a step does
//! to the host (`resource`), the checks (`check`) or undo (`undo`).
//!
//! Start with `run` (all phases), then `phase` and `step`. What one run knows of the ledger is in `session` beside this directory.

pub(in crate::exec) mod baseline;
pub(in crate::exec) mod etcd_quorum;
pub(in crate::exec) mod joining;
pub(in crate::exec) mod permanent;
pub(in crate::exec) mod phase;
pub(in crate::exec) mod preflight;
pub(in crate::exec) mod run;
pub(in crate::exec) mod runtime_state;
pub(in crate::exec) mod step;
pub(in crate::exec) mod unmet_requires;
pub(in crate::exec) mod virtual_ip_claim;
