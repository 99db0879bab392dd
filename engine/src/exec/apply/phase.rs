//! One phase: its steps in order and its checks, and how it ends.

use std::sync::{Mutex, OnceLock, PoisonError};

use super::step::Done;
use crate::exec::diagnosis::advice;
use crate::exec::event::{Event, millis};
use crate::exec::kubernetes::quorum::lock::{DisruptionLock, NotLocked};
use crate::exec::session::Session;
use crate::exec::{Mode, Runner};
use crate::host::{ClaimKind, ClaimedAddress};
use crate::model::{Failure, Outcome, Problem, Span, chain};
use crate::plan::PlannedPhase;
use crate::resource::{ResourceError, Undo};

/// What a phase did.
#[derive(Debug, Clone, Copy)]
pub(in crate::exec) struct PhaseResult {
    pub(in crate::exec) outcome: Outcome,
    pub(in crate::exec) changed: usize,
    pub(in crate::exec) unchanged: usize,
}

/// How a phase ended early.
enum PhaseEnd {
    Failed(StepFailure),
    /// The run was asked to end; an error at the same time is reported as well.
    Interrupted(Option<StepFailure>),
}

/// What went wrong, and where.
struct StepFailure {
    what: String,
    span: Span,
    error: ResourceError,
}

/// Where a phase is: the step or check that it is at, and why the last try of that failed. Read when its time is over.
#[derive(Debug, Default)]
pub(in crate::exec) struct Progress(Mutex<Option<Attempted>>);

#[derive(Debug)]
struct Attempted {
    what: String,
    span: Span,
    error: Option<ResourceError>,
}

impl Progress {
    fn at(&self, what: &str, span: &Span) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Attempted {
            what: what.to_owned(),
            span: span.clone(),
            error: None,
        });
    }

    /// A try failed, and there is going to be another one.
    pub(in crate::exec) fn failed(&self, error: ResourceError) {
        let mut at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = at.as_mut() {
            at.error = Some(error);
        }
    }

    /// The failure of a phase whose time is over.
    fn out_of_time(self, phase: &PlannedPhase) -> StepFailure {
        let name = phase.name.to_string();
        let at = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (what, span, error) = match at {
            Some(at) => (at.what, at.span, at.error),
            None => (format!("phase {name}"), phase.span.clone(), None),
        };
        let error = match error {
            Some(source) => ResourceError::OutOfTime {
                phase: name,
                after: phase.timeout,
                source: Box::new(source),
            },
            None => ResourceError::Host(crate::host::HostError::Deadline {
                action: format!("finish phase {name}"),
                after: phase.timeout,
            }),
        };
        StepFailure { what, span, error }
    }
}

/// What a phase has while it runs.
struct Admitted {
    lock: DisruptionLock,
    _claim: ClaimedAddress,
}

/// The failure of a phase that must not begin now.
fn refused(phase: &PlannedPhase, problem: Problem) -> StepFailure {
    StepFailure {
        what: problem.requirement,
        span: phase.span.clone(),
        error: ResourceError::Awaited {
            what: problem.problem,
            next: problem.remedy,
        },
    }
}

impl Runner<'_> {
    /// Runs a phase to its end: success, failure or interruption.
    pub(in crate::exec) async fn phase(
        &self,
        phase: &PlannedPhase,
        session: &Session<'_>,
    ) -> PhaseResult {
        let started = self.host.elapsed();
        let name = &phase.name;
        if let Some(reason) = &phase.skipped {
            self.events.emit(Event::PhaseSkipped {
                phase: name.clone(),
                reason: reason.clone(),
            });
            return PhaseResult {
                outcome: Outcome::Converged,
                changed: 0,
                unchanged: 0,
            };
        }
        self.events.emit(Event::PhaseStarted {
            phase: name.clone(),
            about: phase.about.clone(),
        });
        if session.mode == Mode::Apply {
            self.end_stopped_pods(phase).await;
        }
        // Outside the timed future: what a step did before the phase timed out has to be taken back, too.
        let done = Mutex::new(session.done_before(name).await);
        let rollback_steps = OnceLock::new();
        let progress = Progress::default();
        let mut result = PhaseResult {
            outcome: Outcome::Converged,
            changed: 0,
            unchanged: 0,
        };
        let (admitted, refusal) = match self.admit(phase, session.mode).await {
            Ok(admitted) => (Some(admitted), None),
            Err(end) => (None, Some(end)),
        };
        let run = async {
            if let Some(end) = refusal {
                return Err(end);
            }
            let noted = self
                .record_rollback_steps(phase, session, &rollback_steps)
                .await;
            noted.map_err(|error| {
                self.end_of(StepFailure {
                    what: "on_rollback".to_owned(),
                    span: phase.span.clone(),
                    error,
                })
            })?;
            self.steps_and_checks(phase, session, &done, &progress, &mut result)
                .await
        };
        let ended = tokio::time::timeout(phase.timeout, run).await;
        let end = match ended {
            Ok(Ok(())) => None,
            Ok(Err(end)) => Some(end),
            Err(_) => Some(PhaseEnd::Failed(progress.out_of_time(phase))),
        };
        match end {
            None => {
                if let Err(error) = session.record_phase_complete(name).await {
                    // The phase is complete all the same. But a later failure would take back more than it needs to.
                    tracing::warn!("could not {}", chain(&error).join(": "));
                }
            }
            Some(PhaseEnd::Interrupted(failure)) => {
                result.outcome = Outcome::Interrupted;
                let failure = match failure {
                    Some(failure) => Some(self.failure(phase, failure, session.mode).await),
                    None => None,
                };
                self.events.emit(Event::PhaseInterrupted {
                    phase: name.clone(),
                    done: result.changed + result.unchanged,
                    steps: phase.steps.len(),
                    failure,
                });
            }
            Some(PhaseEnd::Failed(failure)) => {
                result.outcome = Outcome::Failed;
                let failure = self.failure(phase, failure, session.mode).await;
                let noted = session.failed(&phase.name, &failure).await;
                self.events.emit(Event::PhaseFailed {
                    phase: name.clone(),
                    failure,
                });
                // A phase that was not admitted has changed nothing.
                if session.mode == Mode::Apply && admitted.is_some() {
                    let waited = self.host.elapsed().saturating_sub(started);
                    let undos = done.into_inner().unwrap_or_else(PoisonError::into_inner);
                    let rollback_steps = rollback_steps.into_inner().unwrap_or_default();
                    self.roll_back(phase, session, &undos, &rollback_steps, noted.err())
                        .await;
                    self.kill_stuck_pods(phase, waited).await;
                }
            }
        }
        if let Some(admitted) = admitted {
            admitted.lock.release(self.host).await;
        }
        let predicted = session.mode == Mode::DryRun && result.outcome == Outcome::Converged;
        self.events.emit(Event::PhaseFinished {
            phase: name.clone(),
            outcome: if predicted {
                Outcome::Predicted
            } else {
                result.outcome
            },
            changed: result.changed,
            unchanged: result.unchanged,
            milliseconds: millis(self.host.elapsed().saturating_sub(started)),
        });
        result
    }

    /// Whether the phase may begin: no other host begins a cluster at the virtual IP, and no other master ends its member of etcd.
    async fn admit(&self, phase: &PlannedPhase, mode: Mode) -> Result<Admitted, PhaseEnd> {
        // Asked again: a switch may have held back what other hosts sent when this one had just booted.
        let claim = match mode {
            Mode::Apply => self.claim_virtual_ip(&[phase], ClaimKind::Held).await,
            Mode::DryRun => Ok(ClaimedAddress::default()),
        };
        let claim = claim.map_err(|problem| self.end_of(refused(phase, problem)))?;
        match self.lock_restart(phase, mode).await {
            Ok(lock) => Ok(Admitted {
                lock,
                _claim: claim,
            }),
            Err(NotLocked::Refused(problem)) => Err(self.end_of(refused(phase, *problem))),
            Err(NotLocked::Interrupted) => Err(PhaseEnd::Interrupted(None)),
        }
    }

    /// What went wrong, with what was found near it and the next thing to try.
    async fn failure(&self, phase: &PlannedPhase, failure: StepFailure, mode: Mode) -> Failure {
        let found = match mode {
            Mode::Apply => advice::nearby_findings(phase, self.host, &failure.error).await,
            // The state of a simulated host explains nothing.
            Mode::DryRun => Vec::new(),
        };
        Failure {
            what: failure.what,
            span: failure.span,
            chain: chain(&failure.error),
            next: advice::advice(&failure.error, &found),
            found,
        }
    }

    async fn steps_and_checks(
        &self,
        phase: &PlannedPhase,
        session: &Session<'_>,
        done: &Mutex<Vec<Undo>>,
        progress: &Progress,
        result: &mut PhaseResult,
    ) -> Result<(), PhaseEnd> {
        self.record_cleanup_steps(phase, session)
            .await
            .map_err(|error| {
                PhaseEnd::Failed(StepFailure {
                    what: "on_clean".to_owned(),
                    span: phase.span.clone(),
                    error,
                })
            })?;
        for step in &phase.steps {
            let what = format!("{} {}", step.spec.kind(), step.spec.label());
            progress.at(&what, &step.span);
            let failure = |error| StepFailure {
                what: what.clone(),
                span: step.span.clone(),
                error,
            };
            self.record_existing_names(phase, step, session, done)
                .await
                .map_err(|error| PhaseEnd::Failed(failure(error)))?;
            session
                .keep(&phase.name, step)
                .await
                .map_err(|error| PhaseEnd::Failed(failure(error)))?;
            if self.cancel.is_cancelled() {
                return Err(PhaseEnd::Interrupted(None));
            }
            let mut receipt = session.receipt(&phase.name, step, done);
            let place = (&phase.name, step);
            match self.step(place, session, &mut receipt, progress).await {
                Ok(Done::Changed) => result.changed += 1,
                Ok(Done::Unchanged) => result.unchanged += 1,
                Err(error) => return Err(self.end_of(failure(error))),
            }
        }
        for check in &phase.checks {
            if session.mode == Mode::DryRun {
                self.events.emit(Event::CheckPlanned {
                    phase: phase.name.clone(),
                    check: check.name.clone(),
                });
                continue;
            }
            let what = format!("check \"{}\"", check.name);
            progress.at(&what, &check.span);
            if check.advisory {
                self.warn_of(phase, check).await;
                continue;
            }
            if let Err(error) = self.wait_for(phase, check, progress).await {
                return Err(self.end_of(StepFailure {
                    what,
                    span: check.span.clone(),
                    error,
                }));
            }
        }
        Ok(())
    }

    /// An error while the run is asked to end is no failure of the phase: nothing is taken back.
    fn end_of(&self, failure: StepFailure) -> PhaseEnd {
        if self.cancel.is_cancelled() {
            PhaseEnd::Interrupted(Some(failure))
        } else {
            PhaseEnd::Failed(failure)
        }
    }
}
