//! The [`Runner`]: a plan, a host, and what is needed to bring them together. This file has only the data.
//!
//! What a runner does is in `apply`, `check`, `repair`, `undo` and the other directories beside this file. They import this file, and it
//! imports none of their functions.

use tokio_util::sync::CancellationToken;

use crate::exec::kubernetes::quorum::lost::QuorumLost;
use crate::exec::{ChecksInProgress, EventSink, Renewals, Selection};
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
    /// Whether a stop or restart goes on although etcd loses its quorum.
    pub accepts_quorum_loss: bool,
    /// Outputs of steps, shared by all phases.
    pub outputs: Outputs,
    /// The phases whose checks are running now.
    pub checks_in_progress: ChecksInProgress,
    /// Why etcd was last found without a quorum.
    pub(in crate::exec) quorum_lost: QuorumLost,
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
            accepts_quorum_loss: false,
            outputs: Outputs::default(),
            checks_in_progress: ChecksInProgress::default(),
            quorum_lost: QuorumLost::default(),
        }
    }
}
