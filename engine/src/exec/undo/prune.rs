//! Takes back what the plan no longer has, before the first phase begins.
//!
//! This comes first because what leaves may hold a port, an address or a name that a phase needs. What the plan still
//! has is not taken back. If something cannot be taken back, this is reported and the run fails, but the phases are
//! applied all the same, and the next run tries again. Nothing of this is rolled back. Each resource is recorded when it
//! is gone, so the next run continues a run that was interrupted.

use std::time::Duration;

use super::executor::{
    Executor, UndoPurpose, Undone, failure, name_of, needs_runtime, remove, role_may_use,
};
use crate::exec::diagnosis::advice::advice;
use crate::exec::event::{Event, millis};
use crate::exec::session::Session;
use crate::exec::undo::orphans::{OrphanStep, PhaseOrphans, is_directory};
use crate::exec::{Mode, Runner};
use crate::ledger::LiveUndo;
use crate::model::{Outcome, PhaseName, Span, StepId, chain};
use crate::plan::PlannedStep;
use crate::resource::{Action, Change, ResourceError, ResourceResult, Undo, last_order};

/// What a phase is about while the resources that it has left are taken back.
const ABOUT: &str = "Takes back what the plan no longer has.";

/// A prune in progress.
struct Prune<'r, 'a, 's> {
    runner: &'r Runner<'a>,
    session: &'r Session<'s>,
    executor: Executor<'r>,
    /// Steps of which everything is gone.
    changed: usize,
}

impl Runner<'_> {
    /// Takes back what these phases have left. Returns how many steps that were, and whether all of it is gone.
    ///
    /// # Errors
    /// It could not be recorded.
    pub(in crate::exec) async fn prune(
        &self,
        orphans: &[PhaseOrphans],
        session: &Session<'_>,
    ) -> ResourceResult<(usize, bool)> {
        let mut prune = Prune {
            runner: self,
            session,
            executor: Executor::new(self.host, UndoPurpose::Prune),
            changed: 0,
        };
        for orphan in orphans {
            if self.cancel.is_cancelled() {
                break;
            }
            prune.phase(orphan).await?;
        }
        for live in prune.executor.last() {
            if self.cancel.is_cancelled() {
                break;
            }
            prune.resource(&live).await?;
        }
        Ok((prune.changed, prune.executor.failed == 0))
    }
}

impl Prune<'_, '_, '_> {
    async fn phase(&mut self, orphan: &PhaseOrphans) -> ResourceResult<()> {
        let runner = self.runner;
        let started = runner.host.elapsed();
        let (changed, failed) = (self.changed, self.executor.failed);
        runner.events.emit(Event::PhaseStarted {
            phase: orphan.phase.clone(),
            about: ABOUT.to_owned(),
        });
        let resources = orphan.steps.iter().flat_map(|step| &step.resources);
        if needs_runtime(resources.map(|resource| &resource.undo), &orphan.cleanup)
            && let Some(error) = self.executor.ensure_runtime_running().await
        {
            self.fail(&orphan.phase, "container runtime", &error).await;
        }
        for step in orphan.steps.iter().filter(|step| !step.is_directories()) {
            if runner.cancel.is_cancelled() {
                break;
            }
            self.step(&orphan.phase, step).await?;
        }
        self.directories(orphan).await?;
        if !runner.cancel.is_cancelled() {
            self.cleanup(orphan).await?;
        }
        runner.events.emit(Event::PhaseFinished {
            phase: orphan.phase.clone(),
            outcome: match self.session.mode {
                _ if self.executor.failed > failed => Outcome::Failed,
                Mode::DryRun => Outcome::Predicted,
                Mode::Apply if runner.cancel.is_cancelled() => Outcome::Interrupted,
                Mode::Apply => Outcome::Converged,
            },
            changed: self.changed - changed,
            unchanged: 0,
            milliseconds: millis(runner.host.elapsed().saturating_sub(started)),
        });
        Ok(())
    }

    async fn step(&mut self, phase: &PhaseName, step: &OrphanStep) -> ResourceResult<()> {
        let started = self.runner.host.elapsed();
        let failed = self.executor.failed;
        self.intend(phase, (&step.id, &step.span), step.change())
            .await?;
        for resource in &step.resources {
            if self.runner.cancel.is_cancelled() {
                return Ok(());
            }
            if resource.undo.undo.properties().deferred_order.is_some() {
                self.executor.later.push(resource.undo.clone());
            } else if !is_directory(&resource.undo.undo) {
                self.resource(&resource.undo).await?;
            }
        }
        if self.executor.failed == failed {
            self.changed(phase, &step.id, started);
        }
        Ok(())
    }

    async fn intend(
        &self,
        phase: &PhaseName,
        (step, span): (&StepId, &Span),
        change: Change,
    ) -> ResourceResult<()> {
        self.runner.events.emit(Event::StepChanging {
            phase: phase.clone(),
            step: step.clone(),
            span: span.clone(),
            change: change.clone(),
        });
        let noted = self.session.intent(phase, (step, span), &change);
        Ok(noted.await?)
    }

    fn changed(&mut self, phase: &PhaseName, step: &StepId, started: Duration) {
        self.changed += 1;
        self.runner.events.emit(Event::StepChanged {
            phase: phase.clone(),
            step: step.clone(),
            milliseconds: millis(self.runner.host.elapsed().saturating_sub(started)),
        });
    }

    /// Takes one resource back and writes that down.
    async fn resource(&mut self, live: &LiveUndo) -> ResourceResult<()> {
        let (phase, undo) = (&live.phase, &live.undo);
        match self.executor.undo(undo).await {
            Undone::Done => self.gone(live, false).await?,
            Undone::Again => {}
            Undone::Full => self.executor.later.push(live.clone()),
            // The removal has been reported; how it ends cannot be simulated here, unless an apply would get the same
            // error.
            Undone::Left(error) | Undone::Failed(error)
                if self.session.mode == Mode::DryRun && !error.is_permanent() => {}
            Undone::Left(error) => {
                self.runner.events.emit(Event::ResourceLeft {
                    phase: Some(phase.clone()),
                    resource: undo.key(),
                    reason: chain(&error).join(": "),
                });
                // It is in use: it is not an orphan any more.
                self.gone(live, role_may_use(undo)).await?;
            }
            Undone::Failed(error) => self.fail(phase, &undo.key(), &error).await,
        }
        Ok(())
    }

    /// Records that a resource was taken back, or that it is in use and stays until a clean.
    async fn gone(&self, live: &LiveUndo, in_use: bool) -> ResourceResult<()> {
        let about = live.undo.key();
        let resource = (&live.step, about.as_str());
        Ok(self.session.pruned(&live.phase, resource, in_use).await?)
    }

    /// Removes the directories of a phase, the deepest first; those that are not empty wait.
    async fn directories(&mut self, orphan: &PhaseOrphans) -> ResourceResult<()> {
        let mut all: Vec<(&OrphanStep, &LiveUndo)> = Vec::new();
        for step in &orphan.steps {
            all.extend(step.resources.iter().map(|resource| (step, &resource.undo)));
        }
        all.sort_by_key(|(_, live)| last_order(&live.undo));
        for (step, live) in all {
            let Undo::RemoveDirectory { path } = &live.undo else {
                continue;
            };
            if self.runner.cancel.is_cancelled() {
                break;
            }
            if self.executor.is_full(&live.undo).await {
                self.executor.later.push(live.clone());
                continue;
            }
            let host = self.runner.host;
            let (started, failed) = (host.elapsed(), self.executor.failed);
            let is_there = host.entry(path).await.is_ok_and(|entry| entry.is_some());
            let is_reported = is_there && step.is_directories();
            if is_reported {
                let change = Change::new(Action::Remove);
                let change = change.with(live.undo.key(), "not in the plan", "");
                let place = (&step.id, &step.span);
                self.intend(&orphan.phase, place, change).await?;
            }
            self.resource(live).await?;
            if is_reported && self.executor.failed == failed {
                self.changed(&orphan.phase, &step.id, started);
            }
        }
        Ok(())
    }

    /// Removes what a phase that is gone has left behind.
    async fn cleanup(&mut self, orphan: &PhaseOrphans) -> ResourceResult<()> {
        let failed = self.executor.failed;
        for step in &orphan.cleanup {
            if self.runner.cancel.is_cancelled() {
                return Ok(());
            }
            self.cleanup_step(&orphan.phase, step).await?;
        }
        if !orphan.cleanup.is_empty() && self.executor.failed == failed {
            self.session.cleanup_done(&orphan.phase).await?;
        }
        Ok(())
    }

    async fn cleanup_step(&mut self, phase: &PhaseName, step: &PlannedStep) -> ResourceResult<()> {
        let runner = self.runner;
        let started = runner.host.elapsed();
        let change = match step.spec.pending(&runner.context(true)).await {
            Ok(None) => return Ok(()),
            Ok(Some(change)) => change,
            Err(error) if self.session.mode == Mode::DryRun => {
                Change::unknown(&chain(&error).join(": "))
            }
            Err(error) => {
                self.fail(phase, &name_of(step), &error).await;
                return Ok(());
            }
        };
        self.intend(phase, (&step.id, &step.span), change).await?;
        match remove(runner.host, step).await {
            Err(error) if self.session.mode == Mode::Apply || error.is_permanent() => {
                self.fail(phase, &name_of(step), &error).await;
            }
            _ => self.changed(phase, &step.id, started),
        }
        Ok(())
    }

    async fn fail(&mut self, phase: &PhaseName, resource: &str, error: &ResourceError) {
        self.executor.failed += 1;
        let failure = failure(phase, resource, error, advice(error, &[]));
        // If this cannot be recorded, the event below reports the failure all the same.
        let _ = self.session.failed(phase, &failure).await;
        let reason = failure.chain.join(": ");
        self.runner.events.emit(Event::CleanFailed {
            phase: Some(phase.clone()),
            resource: resource.to_owned(),
            error: match error.is_permanent() {
                true => format!("{reason}; next: {}", failure.next),
                false => format!("{reason}; the next `nodelet apply` tries again"),
            },
        });
    }
}
