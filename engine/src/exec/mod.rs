//! Carrying out a plan: apply, dry run, check, stop, rollback.
//!
//! Everything here is a reading of one immutable [`Plan`](crate::plan::Plan) against one
//! [`Host`](crate::host::Host). Everything that happens is reported as [`Event`]s; text, JSON and progress are made from these alone
//! (`report`).
//!
//! Not here: how one resource is changed or reverted (`resource`), the calls of the host (`host`), and when the daemon acts
//! (`nodeletd::supervisor` of the agent). Start with `runner`, then `apply::run` and `apply::step`; `session` is what one run knows of the
//! ledger.

mod apply;
mod check;
mod diagnosis;
mod dry_run;
mod event;
mod kubernetes;
mod partial_files;
mod planned_resources;
mod recovery;
mod repair;
mod runner;
mod selection;
mod session;
mod undo;

pub use apply::preflight::unmet;
pub use apply::unmet_requires::UnmetRequires;
pub use check::checks_in_progress::ChecksInProgress;
pub use check::condition::{Condition, ConditionKind, PhaseHealth, Status};
pub use check::failure_counts::FailureCounts;
pub use diagnosis::advice::advice;
pub use dry_run::overlay::overlay_host;
pub use dry_run::planned::Planned;
pub use dry_run::simulated::simulated_host;
pub use event::{Event, EventSink, Recording};
pub use kubernetes::backups::{backup_left, room_for_backup};
pub use kubernetes::probes::api_problem_of_clean;
pub use kubernetes::quorum::{
    ACCEPT_QUORUM_LOSS, RecordedNode, endpoints as etcd_endpoints, etcd_members,
    quorum_problem_of_clean,
};
pub use kubernetes::remove_master::{MasterRemoval, MasterToRemove, remove_master};
pub use kubernetes::renew::{Due, phases_renewed_with};
pub use kubernetes::rotate::{
    InterruptedStep, Missing, Rollout, authorities, check_export, is_worker_behind, published,
    receiving, rotating, said, show_worker,
};
pub use kubernetes::scratch;
pub use kubernetes::sign::{
    DecidedRequest, DeletedRequests, LONGEST_LIFE, RequestOutcome, SigningReport,
    node_certificate_spec, reserved_for_api_servers, sign_requests,
};
pub use recovery::recovered::{Recovered, RecoveredFrom};
pub use repair::restart::{failed_phases, phases_with_orphans, restart_set};
pub use repair::wake::StoppedRuntime;
pub use runner::{Mode, Runner};
pub use selection::{Renewals, Selection, SelectionError};
pub use undo::another_role::AnotherRole;
pub use undo::clean::clean;
