//! One phase: its steps in order, its checks, and its rollback when one of them fails.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use super::advice::{self, chain};
use super::event::{Event, Failure, Outcome};
use super::session::{Noted, Session};
use super::step::{Done, millis};
use super::{Mode, Runner};
use crate::host::HostError;
use crate::ledger::LedgerError;
use crate::plan::{PlannedPhase, PlannedStep, Span};
use crate::resource::{
    DirectorySpec, Receipt, ResourceError, ResourceResult, Spec, Undo, directory, revert_each,
};

/// What a phase did.
#[derive(Debug, Clone, Copy)]
pub(super) struct PhaseResult {
    pub(super) outcome: Outcome,
    pub(super) changed: usize,
    pub(super) unchanged: usize,
}

/// How a phase was cut short.
enum Cut {
    Failed(Trouble),
    /// It was asked to end; what went wrong just then is told as well.
    Interrupted(Option<Trouble>),
}

/// What went wrong, and where.
struct Trouble {
    what: String,
    span: Span,
    error: ResourceError,
}

/// The way back of a phase that failed.
struct Back<'a> {
    undos: &'a [Undo],
    /// Those of a step that was given up when its time was out: whoever was asked for its effects may still bring them about.
    doubtful: &'a [Undo],
    /// What was noted of its `on_rollback` steps.
    ways_back: &'a [&'a PlannedStep],
}

impl Runner<'_> {
    /// Runs a phase to its end, whatever that is.
    pub(super) async fn phase(&self, phase: &PlannedPhase, session: &Session<'_>) -> PhaseResult {
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
        // Outside the timed future: what a step did before the phase's time was up has to be taken back, too.
        let done = Noted::after(session.done_before(name).await);
        let ways_back = OnceLock::new();
        let mut result = PhaseResult {
            outcome: Outcome::Converged,
            changed: 0,
            unchanged: 0,
        };
        let run = async {
            let noted = self.note_ways_back(phase, session, &ways_back).await;
            noted.map_err(|error| {
                self.cut(Trouble {
                    what: "on_rollback".to_owned(),
                    span: phase.span.clone(),
                    error,
                })
            })?;
            self.steps_and_checks(phase, session, &done, &mut result)
                .await
        };
        let cut = match tokio::time::timeout(phase.timeout, run).await {
            Ok(Ok(())) => None,
            Ok(Err(cut)) => Some(cut),
            Err(_) => Some(Cut::Failed(Trouble {
                what: format!("phase {name}"),
                span: phase.span.clone(),
                error: ResourceError::Host(crate::host::HostError::Deadline {
                    action: format!("finish phase {name}"),
                    after: phase.timeout,
                }),
            })),
        };
        match cut {
            None => {
                if let Err(error) = session.stands_now(name).await {
                    // It stands all the same; what a later failure would take back is then more than it need be.
                    tracing::warn!("could not {}", chain(&error).join(": "));
                }
            }
            Some(Cut::Interrupted(trouble)) => {
                result.outcome = Outcome::Interrupted;
                let failure = match trouble {
                    Some(trouble) => Some(self.failure(phase, trouble, session.mode).await),
                    None => None,
                };
                self.events.emit(Event::PhaseInterrupted {
                    phase: name.clone(),
                    done: result.changed + result.unchanged,
                    steps: phase.steps.len(),
                    failure,
                });
            }
            Some(Cut::Failed(trouble)) => {
                result.outcome = Outcome::Failed;
                let out_of_time = matches!(
                    trouble.error,
                    ResourceError::Host(HostError::Deadline { .. })
                );
                let failure = self.failure(phase, trouble, session.mode).await;
                let noted = session.failed(&phase.name, &failure).await;
                self.events.emit(Event::PhaseFailed {
                    phase: name.clone(),
                    failure,
                });
                if session.mode == Mode::Apply {
                    let (undos, last_step) = done.into_parts();
                    let doubtful = match out_of_time {
                        true => &undos[last_step..],
                        false => &[],
                    };
                    let ways_back = ways_back.into_inner().unwrap_or_default();
                    let back = Back {
                        undos: &undos,
                        doubtful,
                        ways_back: &ways_back,
                    };
                    self.roll_back(phase, session, &back, noted.err()).await;
                }
            }
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

    /// What went wrong, with what was found near it and the next thing to try.
    async fn failure(&self, phase: &PlannedPhase, trouble: Trouble, mode: Mode) -> Failure {
        let found = match mode {
            Mode::Apply => advice::look_around(phase, self.host).await,
            // What a simulated host says of itself is nothing that was found.
            Mode::DryRun => Vec::new(),
        };
        Failure {
            what: trouble.what,
            span: trouble.span,
            chain: chain(&trouble.error),
            next: advice::advice(&trouble.error, &found),
            found,
        }
    }

    async fn steps_and_checks(
        &self,
        phase: &PlannedPhase,
        session: &Session<'_>,
        done: &Noted,
        result: &mut PhaseResult,
    ) -> Result<(), Cut> {
        self.note_clean_lane(phase, session)
            .await
            .map_err(|error| {
                Cut::Failed(Trouble {
                    what: "on_clean".to_owned(),
                    span: phase.span.clone(),
                    error,
                })
            })?;
        for step in &phase.steps {
            let trouble = |error| Trouble {
                what: format!("{} {}", step.spec.kind(), step.spec.label()),
                span: step.span.clone(),
                error,
            };
            done.next_step();
            self.claim(phase, step, session, done)
                .await
                .map_err(|error| Cut::Failed(trouble(error)))?;
            if self.cancel.is_cancelled() {
                return Err(Cut::Interrupted(None));
            }
            let mut receipt = session.receipt(&phase.name, step, done);
            match self.step(&phase.name, step, session, &mut receipt).await {
                Ok(Done::Changed) => result.changed += 1,
                Ok(Done::Unchanged) => {
                    result.unchanged += 1;
                    let kept = session.keep(&phase.name, step).await;
                    kept.map_err(|error| Cut::Failed(trouble(error)))?;
                }
                Err(error) => return Err(self.cut(trouble(error))),
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
            if check.warns {
                self.warn_of(phase, check).await;
                continue;
            }
            if let Err(error) = self.wait_for(phase, check).await {
                return Err(self.cut(Trouble {
                    what: format!("check \"{}\"", check.name),
                    span: check.span.clone(),
                    error,
                }));
            }
        }
        Ok(())
    }

    /// An error that comes together with the wish to end is no failure of the phase: nothing is taken back.
    fn cut(&self, trouble: Trouble) -> Cut {
        if self.cancel.is_cancelled() {
            Cut::Interrupted(Some(trouble))
        } else {
            Cut::Failed(trouble)
        }
    }

    /// Notes which `on_rollback` steps a failure will call for: those of a phase that begins here, but for what they
    /// would remove and is there before the phase's first effect. That is somebody else's.
    async fn note_ways_back<'p>(
        &self,
        phase: &'p PlannedPhase,
        session: &Session<'_>,
        ways_back: &OnceLock<Vec<&'p PlannedStep>>,
    ) -> ResourceResult<()> {
        if session.mode == Mode::DryRun
            || phase.on_rollback.is_empty()
            || session.stood_before(&phase.name).await
        {
            return Ok(());
        }
        let mut ours = Vec::new();
        for step in &phase.on_rollback {
            let cx = self.context(true);
            if !step.policy.absent || step.spec.pending(&cx).await?.is_none() {
                ours.push(step);
            }
        }
        ways_back.get_or_init(|| ours);
        Ok(())
    }

    /// Notes of a directory whose content is ours whole and that is there before us, what was in it: all else that comes to be in
    /// it is ours. It may be a disk of its own for etcd's data. Once, before anything of ours is in it.
    async fn claim(
        &self,
        phase: &PlannedPhase,
        step: &PlannedStep,
        session: &Session<'_>,
        done: &Noted,
    ) -> ResourceResult<()> {
        let Spec::Directory(its) = &step.spec else {
            return Ok(());
        };
        if !its.whole || step.policy.absent || session.mode == Mode::DryRun {
            return Ok(());
        }
        let Some(spared) = directory::names(self.host, &its.path).await? else {
            return Ok(());
        };
        let path = its.path.clone();
        let undo = Undo::ClearDirectory { path, spared };
        if session.stands(&undo.about()).await {
            return Ok(());
        }
        session.receipt(&phase.name, step, done).push(undo).await
    }

    /// Writes down, once, which steps will remove what this phase's things leave behind. A thing that is there before
    /// the phase's first effect is somebody else's, and its step is left out.
    async fn note_clean_lane(
        &self,
        phase: &PlannedPhase,
        session: &Session<'_>,
    ) -> ResourceResult<()> {
        if phase.on_clean.is_empty() {
            return Ok(());
        }
        let Some(known) = session.lacks_clean_lane(&phase.name).await else {
            return Ok(());
        };
        let mut ours = Vec::new();
        for step in phase
            .on_clean
            .iter()
            .filter(|step| !known.contains(&step.id))
        {
            let cx = self.context(true);
            if let Spec::SysctlBefore(setting) = &step.spec {
                let mut step = step.clone();
                step.spec = Spec::SysctlBefore(setting.noted(self.host).await?);
                ours.push(step);
            } else if step.spec.pending(&cx).await?.is_none() {
                ours.push(step.clone());
            } else if let Some(spec) = self.beside_what_stands(&step.spec).await? {
                let mut step = step.clone();
                step.spec = spec;
                ours.push(step);
            }
        }
        Ok(session.clean_lane(&phase.name, ours).await?)
    }

    /// Of what stands already: how to remove what comes beside it, where that can be told apart.
    async fn beside_what_stands(&self, spec: &Spec) -> ResourceResult<Option<Spec>> {
        Ok(match spec {
            // An empty directory may be a disk of its own. What is in one that is not empty, and comes to be there, may be
            // somebody else's.
            Spec::Directory(its) => {
                let names = directory::names(self.host, &its.path).await?;
                let empty = names.filter(Vec::is_empty);
                empty.map(|spared| {
                    Spec::Directory(DirectorySpec {
                        spared: Some(spared),
                        ..its.clone()
                    })
                })
            }
            Spec::FirewallChains(its) if its.spares_earlier => {
                Some(Spec::FirewallChains(its.sparing(self.host).await?))
            }
            _ => None,
        })
    }

    /// Reverts what a failed phase did, in reverse, then runs what was noted of its `on_rollback` steps.
    async fn roll_back(
        &self,
        phase: &PlannedPhase,
        session: &Session<'_>,
        way: &Back<'_>,
        unwritten: Option<LedgerError>,
    ) {
        let mut errors = Vec::new();
        let (mut back, mut stuck) = (BTreeSet::new(), BTreeSet::new());
        let doubtful = way.doubtful.iter().filter(|undo| undo.may_come_late());
        stuck.extend(doubtful.map(Undo::about));
        for (undo, result) in revert_each(way.undos, self.host).await {
            match result {
                Ok(()) => back.insert(undo.about()),
                Err(error) => {
                    errors.push(chain(&error).join(": "));
                    stuck.insert(undo.about())
                }
            };
        }
        let lane = session.lane_begun_here(&phase.name).await;
        // Where nothing was done there is nothing to come back from. A command may have done something without an undo.
        let has_begun = session.has_begun(&phase.name).await;
        let ways_back = way.ways_back.iter().copied().filter(|_| has_begun);
        // Then what its things left behind: nothing of it was there before this run.
        for step in ways_back.chain(lane.iter().filter(|step| !step.policy.keep)) {
            // A way back needs no way back of its own.
            let mut ignored = Receipt::default();
            if let Err(error) = self.step(&phase.name, step, session, &mut ignored).await {
                errors.push(format!("{}: {}", step.span, chain(&error).join(": ")));
            }
        }
        // What could not be taken back stays in the ledger, for a clean to try again, and nothing else: what comes to stand
        // in its place is somebody else's.
        let mut written = None;
        if errors.is_empty() && stuck.is_empty() {
            written = session.reverted(phase, None).await.err();
        } else {
            for thing in back.difference(&stuck) {
                if written.is_none() {
                    written = session.reverted(phase, Some(thing)).await.err();
                }
            }
        }
        errors.extend(
            unwritten
                .into_iter()
                .chain(written)
                .map(|error| chain(&error).join(": ")),
        );
        self.events.emit(Event::PhaseRolledBack {
            phase: phase.name.clone(),
            reverted: way.undos.len(),
            errors,
        });
    }
}
