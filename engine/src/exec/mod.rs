//! Carrying out a plan: apply, dry run, check, stop, rollback.
//!
//! Everything here is a reading of one immutable [`Plan`] against one
//! [`Host`]. Everything that happens is reported as [`Event`]s; text, JSON and progress are made from these alone
//! (`report`).

mod apply;
mod check;
mod diagnosis;
mod dry_run;
mod event;
mod kubernetes;
mod recovery;
mod repair;
mod selection;
mod undo;

pub use apply::preflight::unmet;
pub use apply::unmet_requires::UnmetRequires;
pub use check::failure_counts::FailureCounts;
pub use check::status::{ChecksInProgress, Condition, ConditionKind, PhaseHealth, Status};
pub use diagnosis::advice::advice;
pub use dry_run::overlay::overlay_host;
pub use dry_run::planned::Planned;
pub use dry_run::simulated::simulated_host;
pub use event::{Event, EventSink, Recording};
pub use kubernetes::backups::room_for_backup;
pub use kubernetes::renew::{Due, Renewals, phases_renewed_with};
pub use kubernetes::rotate::{authorities, rotating};
pub use recovery::recover::{Recovered, RecoveredFrom};
pub use repair::restart::{failed_phases, left_over_phases, restart_set};
pub use selection::{Selection, SelectionError};
pub use undo::another_role::AnotherRole;
pub use undo::clean::clean;
pub use undo::scratch;

use tokio_util::sync::CancellationToken;

use crate::facts::Facts;
use crate::host::Host;
use crate::plan::Plan;
use crate::resource::{Outputs, SecretStore};

/// Whether effects are real.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Effects happen, checks are waited for.
    Apply,
    /// Effects happen on a simulated host, so that later phases see them; nothing is waited for, and what cannot
    /// be predicted is shown as known after apply.
    DryRun,
}

/// A plan, a host, and what is needed to bring them together.
pub struct Runner<'a> {
    /// What should be.
    pub plan: &'a Plan,
    /// The host.
    pub host: &'a dyn Host,
    /// Its facts, for preconditions.
    pub facts: &'a Facts,
    /// Secrets by name.
    pub secrets: &'a dyn SecretStore,
    /// Where events go.
    pub events: &'a dyn EventSink,
    /// Asks the run to end at the next safe point.
    pub cancel: CancellationToken,
    /// Which phases.
    pub selection: Selection,
    /// Which due certificates it renews; all by default.
    pub renewals: Renewals,
    /// Whether to evaluate again the preconditions that were met before, as if the role were not on this host: what an
    /// apply after a full clean would find.
    pub rebuild: bool,
    /// Outputs of steps, shared by all phases.
    pub outputs: Outputs,
    /// The phases whose checks are running now.
    pub checks_in_progress: ChecksInProgress,
}

impl<'a> Runner<'a> {
    /// A runner over all phases of a plan.
    #[must_use]
    pub fn new(
        plan: &'a Plan,
        host: &'a dyn Host,
        facts: &'a Facts,
        secrets: &'a dyn SecretStore,
        events: &'a dyn EventSink,
    ) -> Self {
        Self {
            plan,
            host,
            facts,
            secrets,
            events,
            cancel: CancellationToken::new(),
            selection: Selection::default(),
            renewals: Renewals::All,
            rebuild: false,
            outputs: Outputs::default(),
            checks_in_progress: ChecksInProgress::default(),
        }
    }
}
