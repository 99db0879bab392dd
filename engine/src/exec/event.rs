//! What happens in a run. The only input of reports, logs, JSON and progress.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Failure, Outcome, PhaseName, Problem, Span, StepId, Verb};
use crate::resource::Change;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the fields repeat from event to event and say what they are"
)]
pub enum Event {
    /// The run begins.
    RunStarted {
        verb: Verb,
        role: String,
        host: String,
        digest: String,
        phases: Vec<PhaseName>,
    },
    /// Before a run: the first phase whose checks have not ended. It is emitted if they take a while.
    Checking { phase: PhaseName },
    /// Before a repair's checks: the process of a unit, which a signal had stopped, works again. `restarted` says that the unit had to be
    /// restarted for it. In a dry run: a repair would do this first.
    ResourceWoken {
        resource: String,
        reason: String,
        restarted: bool,
    },
    /// All preconditions hold; `evaluated` of them were evaluated now.
    PreflightPassed { evaluated: usize },
    /// Preconditions that do not hold. Nothing was touched.
    PreflightFailed { problems: Vec<Problem> },
    /// A phase begins.
    PhaseStarted { phase: PhaseName, about: String },
    /// A phase does nothing on this host.
    PhaseSkipped { phase: PhaseName, reason: String },
    /// A step is as it should be.
    StepUnchanged { phase: PhaseName, step: StepId },
    /// A step is about to be converged.
    StepChanging {
        phase: PhaseName,
        step: StepId,
        span: Span,
        change: Change,
    },
    /// A step has converged.
    StepChanged {
        phase: PhaseName,
        step: StepId,
        milliseconds: u64,
    },
    /// A step failed and will be tried again.
    StepRetried {
        phase: PhaseName,
        step: StepId,
        attempt: u32,
        tries: u32,
        error: String,
    },
    /// A check does not hold yet.
    CheckWaiting {
        phase: PhaseName,
        check: String,
        reason: String,
    },
    /// A check holds.
    CheckPassed {
        phase: PhaseName,
        check: String,
        milliseconds: u64,
    },
    /// A dry run shows a check without making it.
    CheckPlanned { phase: PhaseName, check: String },
    /// A phase failed; its rollback follows. In a dry run: an apply would fail there.
    PhaseFailed { phase: PhaseName, failure: Failure },
    /// What a phase did was taken back; `errors` says what could not be.
    PhaseRolledBack {
        phase: PhaseName,
        reverted: usize,
        errors: Vec<String>,
    },
    /// A phase was interrupted at a safe point; `failure` is what went wrong at the same time.
    PhaseInterrupted {
        phase: PhaseName,
        done: usize,
        steps: usize,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
    },
    /// Something that ran was ended.
    StepStopped { phase: PhaseName, step: StepId },
    /// Something was restarted, or it was ended so that kubelet starts it again.
    ResourceRestarted {
        phase: PhaseName,
        resource: String,
        reason: String,
    },
    /// Something could not be ended; the stop goes on.
    StopFailed {
        phase: PhaseName,
        step: StepId,
        error: String,
    },
    /// A repair that did not complete has started this again as it was before.
    StepStartedAgain { phase: PhaseName, step: StepId },
    /// A repair that did not complete could not start this again.
    StartFailed {
        phase: PhaseName,
        step: StepId,
        error: String,
    },
    /// A resource is as it was before the role.
    ResourceRestored {
        phase: Option<PhaseName>,
        resource: String,
    },
    /// A resource was not taken back, which is no failure: it is elsewhere, or other programs use it by now.
    ResourceLeft {
        phase: Option<PhaseName>,
        resource: String,
        reason: String,
    },
    /// A resource could not be taken back; the clean goes on.
    CleanFailed {
        phase: Option<PhaseName>,
        resource: String,
        error: String,
    },
    /// Containers of other programs run again, which an earlier restart of docker had ended. In a dry run: an apply would start them at its end.
    OthersStarted { containers: Vec<String> },
    /// What a clean leaves because it is marked as kept.
    ResourcesKept { resources: Vec<String> },
    /// A phase is over.
    PhaseFinished {
        phase: PhaseName,
        outcome: Outcome,
        changed: usize,
        unchanged: usize,
        milliseconds: u64,
    },
    /// The run is over.
    RunFinished {
        outcome: Outcome,
        changed: usize,
        unchanged: usize,
        milliseconds: u64,
    },
}

impl Event {
    /// If this event refuses a run: what is wrong, and what to do about it.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let Self::PreflightFailed { problems } = self else {
            return None;
        };
        let lines = problems
            .iter()
            .map(|one| format!("{}: {}", one.problem, one.remedy));
        Some(lines.collect::<Vec<_>>().join("; "))
    }

    /// The phase of a run that it is about.
    #[must_use]
    pub fn phase(&self) -> Option<&PhaseName> {
        match self {
            // They come before a run or after its phases, so the order of the run's phases does not hold them back.
            Self::Checking { .. }
            | Self::ResourceWoken { .. }
            | Self::RunStarted { .. }
            | Self::PreflightPassed { .. }
            | Self::PreflightFailed { .. }
            | Self::ResourcesKept { .. }
            | Self::OthersStarted { .. }
            | Self::RunFinished { .. } => None,
            Self::ResourceRestored { phase, .. }
            | Self::ResourceLeft { phase, .. }
            | Self::CleanFailed { phase, .. } => phase.as_ref(),
            Self::PhaseStarted { phase, .. }
            | Self::PhaseSkipped { phase, .. }
            | Self::StepUnchanged { phase, .. }
            | Self::StepChanging { phase, .. }
            | Self::StepChanged { phase, .. }
            | Self::StepRetried { phase, .. }
            | Self::CheckWaiting { phase, .. }
            | Self::CheckPassed { phase, .. }
            | Self::CheckPlanned { phase, .. }
            | Self::PhaseFailed { phase, .. }
            | Self::PhaseRolledBack { phase, .. }
            | Self::PhaseInterrupted { phase, .. }
            | Self::StepStopped { phase, .. }
            | Self::ResourceRestarted { phase, .. }
            | Self::StopFailed { phase, .. }
            | Self::StepStartedAgain { phase, .. }
            | Self::StartFailed { phase, .. }
            | Self::PhaseFinished { phase, .. } => Some(phase),
        }
    }
}

/// Whole milliseconds, as events have them.
pub(in crate::exec) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Takes events, from several phases at once.
pub trait EventSink: Send + Sync {
    /// Takes an event. Must not block.
    fn emit(&self, event: Event);
}

/// Keeps events, for tests and for callers that read them all at the end.
#[derive(Debug, Default)]
pub struct Recording(Mutex<Vec<Event>>);

impl Recording {
    /// All events so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for Recording {
    fn emit(&self, event: Event) {
        self.lock().push(event);
    }
}
