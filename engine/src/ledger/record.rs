//! One line of the ledger.

use serde::{Deserialize, Serialize};

use crate::model::{Failure, Outcome, PhaseName, Span, StepId, Verb};
use crate::plan::PlannedStep;
use crate::resource::{Action, Undo};

/// Number of a run, from 1.
pub type RunId = u64;

/// One thing that was done, is about to be, or was taken back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "r", rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the fields repeat from record to record and say what they are"
)]
pub enum Record {
    /// The first line. `id` tells the ledgers of two hosts apart.
    Header {
        version: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// A run begins. `at` is RFC 3339.
    Run {
        run: RunId,
        verb: Verb,
        role: String,
        digest: String,
        /// [`Plan::cluster_digest`](crate::plan::Plan::cluster_digest) of its plan. Earlier versions did not record it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cluster_digest: Option<String>,
        at: String,
    },
    /// A step is about to converge.
    Intent {
        run: RunId,
        phase: PhaseName,
        step: StepId,
        span: Span,
        action: Action,
        /// Names of the fields that differ; values stay out, some may be secret.
        fields: Vec<String>,
    },
    /// The inverse of an effect that is about to happen. Or, with the run that noted it first, the inverse of one that
    /// counted as in use and that a plan has again.
    Undo {
        run: RunId,
        phase: PhaseName,
        step: StepId,
        keep: bool,
        undo: Undo,
    },
    /// A step has converged.
    Receipt {
        run: RunId,
        phase: PhaseName,
        step: StepId,
    },
    /// A phase is complete, its checks included, after this run, or one that it continued, changed something in it.
    PhaseApplied { run: RunId, phase: PhaseName },
    /// The cleanup steps of a phase: steps that remove what the phase will leave behind; written before its first effect.
    /// `partial` says that some of them have been carried out since; these are noted again when the phase is applied
    /// again.
    CleanupSteps {
        run: RunId,
        phase: PhaseName,
        steps: Vec<PlannedStep>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        partial: bool,
    },
    /// A phase failed.
    Failed {
        run: RunId,
        phase: PhaseName,
        failure: Failure,
    },
    /// What this run did in a phase has been taken back; or only `resource`, if not everything could be.
    Reverted {
        run: RunId,
        phase: PhaseName,
        /// As [`Undo::key`] names it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resource: Option<String>,
        /// Directories that stay because something else is in them, as [`Undo::key`] names them. Their undos still
        /// count.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remaining: Vec<String>,
    },
    /// A resource was taken back: it is as it was before the role. With `in_use` it was not: something on the host uses it.
    /// Then its undo still counts, and only a clean carries it out, until the undo is noted again.
    Pruned {
        run: RunId,
        phase: PhaseName,
        step: StepId,
        /// As [`Undo::key`] names it.
        resource: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_use: bool,
    },
    /// The cleanup steps of a phase were carried out, except for what is kept; or only this step.
    CleanupDone {
        run: RunId,
        phase: PhaseName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<StepId>,
    },
    /// Everything has been taken back, except for what is kept.
    Cleaned { run: RunId, kept: bool },
    /// A run is over. If it has converged, it saw every step of its phases as planned, also those that it had no need to change.
    End {
        run: RunId,
        outcome: Outcome,
        changed: usize,
        unchanged: usize,
        /// Its phases. Earlier versions did not record them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        phases: Vec<PhaseName>,
        at: String,
    },
}

impl Record {
    /// The run it belongs to; the header belongs to none.
    #[must_use]
    pub fn run(&self) -> Option<RunId> {
        match self {
            Self::Header { .. } => None,
            Self::Run { run, .. }
            | Self::Intent { run, .. }
            | Self::Undo { run, .. }
            | Self::Receipt { run, .. }
            | Self::PhaseApplied { run, .. }
            | Self::CleanupSteps { run, .. }
            | Self::Failed { run, .. }
            | Self::Reverted { run, .. }
            | Self::Pruned { run, .. }
            | Self::CleanupDone { run, .. }
            | Self::Cleaned { run, .. }
            | Self::End { run, .. } => Some(*run),
        }
    }

    /// The phase that it is about; a record of a whole run is about none.
    #[must_use]
    pub fn phase(&self) -> Option<&PhaseName> {
        match self {
            Self::Header { .. } | Self::Run { .. } | Self::Cleaned { .. } | Self::End { .. } => {
                None
            }
            Self::Intent { phase, .. }
            | Self::Undo { phase, .. }
            | Self::Receipt { phase, .. }
            | Self::PhaseApplied { phase, .. }
            | Self::CleanupSteps { phase, .. }
            | Self::Failed { phase, .. }
            | Self::Reverted { phase, .. }
            | Self::Pruned { phase, .. }
            | Self::CleanupDone { phase, .. } => Some(phase),
        }
    }
}
