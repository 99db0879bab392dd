//! Takes back what the plan no longer has, before the first phase begins.
//!
//! This comes first because what leaves may hold a port, an address or a name that a phase needs. What the plan still
//! has is not taken back. If something cannot be taken back, this is reported and the run fails, but the phases are
//! applied all the same, and the next run tries again. Nothing of this is rolled back. Each thing is recorded when it
//! is gone, so the next run continues a run that was cut.

use std::path::Path;

use super::clean::{concerns_others, is_about_containers, keeps_engine, late, remove};
use crate::exec::apply::session::Session;
use crate::exec::apply::step::millis;
use crate::exec::diagnosis::advice::advice;
use crate::exec::event::Event;
use crate::exec::undo::orphans::{Leftover, LeftoverStep, is_directory};
use crate::exec::{Mode, Runner};
use crate::host::Host;
use crate::ledger::LiveResource;
use crate::model::{Failure, Outcome, PhaseName, Span, chain};
use crate::plan::PlannedStep;
use crate::resource::docker::container_runtime;
use crate::resource::{Action, Change, ResourceError, ResourceResult, Undo};

/// What a phase is about while the things that it has left are taken back.
const ABOUT: &str = "Takes back what the plan no longer has.";

/// A withdrawal in progress.
struct Withdrawal<'r, 'a, 's> {
    runner: &'r Runner<'a>,
    session: &'r Session<'s>,
    /// Steps of which everything is gone.
    changed: usize,
    failed: usize,
    /// Something in the container engine could not be taken back.
    containers_left: bool,
    /// Directories that were not empty when their turn came.
    full: Vec<&'r LiveResource>,
    /// The undos that have to follow after files were restored.
    settling: Vec<(&'r LeftoverStep, &'r LiveResource)>,
}

impl Runner<'_> {
    /// Takes back what these phases have left. Returns how many steps that were, and whether all of it is gone.
    ///
    /// # Errors
    /// It could not be recorded.
    pub(in crate::exec) async fn withdraw(
        &self,
        leftovers: &[Leftover],
        session: &Session<'_>,
    ) -> ResourceResult<(usize, bool)> {
        let mut withdrawal = Withdrawal {
            runner: self,
            session,
            changed: 0,
            failed: 0,
            containers_left: false,
            full: Vec::new(),
            settling: Vec::new(),
        };
        for leftover in leftovers {
            if self.cancel.is_cancelled() {
                break;
            }
            withdrawal.phase(leftover).await?;
        }
        withdrawal.settle().await?;
        Ok((withdrawal.changed, withdrawal.failed == 0))
    }
}

impl<'r> Withdrawal<'r, '_, '_> {
    async fn phase(&mut self, leftover: &'r Leftover) -> ResourceResult<()> {
        let runner = self.runner;
        let started = runner.host.elapsed();
        let (changed, failed) = (self.changed, self.failed);
        runner.events.emit(Event::PhaseStarted {
            phase: leftover.phase.clone(),
            about: ABOUT.to_owned(),
        });
        let things = leftover.steps.iter().flat_map(|step| &step.things);
        if things
            .clone()
            .any(|thing| is_about_containers(&thing.undo.undo))
            && let Err(error) = container_runtime::wake(runner.host).await
        {
            self.containers_left = true;
            self.fail(&leftover.phase, "container engine", &error).await;
        }
        for step in leftover.steps.iter().filter(|step| !step.is_directories()) {
            if runner.cancel.is_cancelled() {
                break;
            }
            self.step(&leftover.phase, step).await?;
        }
        self.directories(leftover).await?;
        if !runner.cancel.is_cancelled() {
            self.lane(leftover).await?;
        }
        runner.events.emit(Event::PhaseFinished {
            phase: leftover.phase.clone(),
            outcome: match self.session.mode {
                _ if self.failed > failed => Outcome::Failed,
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

    async fn step(&mut self, phase: &PhaseName, step: &'r LeftoverStep) -> ResourceResult<()> {
        let started = self.runner.host.elapsed();
        let failed = self.failed;
        self.intend(phase, step, step.change()).await?;
        for thing in &step.things {
            if self.runner.cancel.is_cancelled() {
                return Ok(());
            }
            if is_directory(&thing.undo.undo) {
                continue;
            }
            if thing.undo.undo.settles().is_some() {
                self.settling.push((step, thing));
                continue;
            }
            self.thing(phase, thing).await?;
        }
        if self.failed == failed {
            self.changed(phase, step, started);
        }
        Ok(())
    }

    async fn intend(
        &self,
        phase: &PhaseName,
        step: &LeftoverStep,
        change: Change,
    ) -> ResourceResult<()> {
        self.runner.events.emit(Event::StepChanging {
            phase: phase.clone(),
            step: step.id.clone(),
            span: step.span.clone(),
            change: change.clone(),
        });
        let place = (&step.id, &step.span);
        Ok(self.session.withdrawal(phase, place, &change).await?)
    }

    fn changed(&mut self, phase: &PhaseName, step: &LeftoverStep, started: std::time::Duration) {
        self.changed += 1;
        self.runner.events.emit(Event::StepChanged {
            phase: phase.clone(),
            step: step.id.clone(),
            milliseconds: millis(self.runner.host.elapsed().saturating_sub(started)),
        });
    }

    /// Takes one thing back and writes that down.
    async fn thing(&mut self, phase: &PhaseName, thing: &LiveResource) -> ResourceResult<()> {
        let (host, undo) = (self.runner.host, &thing.undo.undo);
        if self.containers_left
            && let Some(error) = keeps_engine(undo, host).await
        {
            self.fail(phase, &undo.about(), &error).await;
            return Ok(());
        }
        let limit = undo.patience();
        let result = match tokio::time::timeout(limit, take_back(undo, host)).await {
            Ok(result) => result,
            Err(_) => Err(late(&undo.about(), limit)),
        };
        match result {
            Ok(()) => self.gone(phase, thing).await?,
            // The removal has been reported; how it ends cannot be simulated here, unless an apply would get the same
            // error.
            Err(error) if self.session.mode == Mode::DryRun && !error.is_permanent() => {}
            // An image may be in use by a container that this run replaces; the next run can remove it.
            Err(error)
                if concerns_others(undo, &error) && !matches!(undo, Undo::RemoveImage { .. }) =>
            {
                self.runner.events.emit(Event::ResourceLeft {
                    phase: Some(phase.clone()),
                    thing: undo.about(),
                    reason: chain(&error).join(": "),
                });
                // Other programs use it now: it is not left over any more.
                self.gone(phase, thing).await?;
            }
            Err(error) => {
                self.containers_left |= is_about_containers(undo);
                self.fail(phase, &undo.about(), &error).await;
            }
        }
        Ok(())
    }

    async fn gone(&self, phase: &PhaseName, thing: &LiveResource) -> ResourceResult<()> {
        let about = thing.undo.undo.about();
        Ok(self
            .session
            .withdrawn(phase, &thing.undo.step, &about)
            .await?)
    }

    /// Removes the directories of a phase, the deepest first; those that are not empty wait.
    async fn directories(&mut self, leftover: &'r Leftover) -> ResourceResult<()> {
        let mut all: Vec<(&LeftoverStep, &LiveResource, &Path)> = Vec::new();
        for step in &leftover.steps {
            for thing in &step.things {
                if let Undo::RemoveDirectory { path } = &thing.undo.undo {
                    all.push((step, thing, path));
                }
            }
        }
        all.sort_by_key(|(_, _, path)| std::cmp::Reverse(path.components().count()));
        for (step, thing, path) in all {
            if self.runner.cancel.is_cancelled() {
                break;
            }
            let host = self.runner.host;
            let is_there = host.entry(path).await.is_ok_and(|entry| entry.is_some());
            if is_there && host.list(path).await.is_ok_and(|names| !names.is_empty()) {
                self.full.push(thing);
                continue;
            }
            let (started, failed) = (host.elapsed(), self.failed);
            let told = is_there && step.is_directories();
            if told {
                self.intend(&leftover.phase, step, one(thing)).await?;
            }
            self.thing(&leftover.phase, thing).await?;
            if told && self.failed == failed {
                self.changed(&leftover.phase, step, started);
            }
        }
        Ok(())
    }

    /// Removes what a phase that is gone has left behind.
    async fn lane(&mut self, leftover: &Leftover) -> ResourceResult<()> {
        let failed = self.failed;
        for step in &leftover.lane {
            if self.runner.cancel.is_cancelled() {
                return Ok(());
            }
            self.lane_step(&leftover.phase, step).await?;
        }
        if !leftover.lane.is_empty() && self.failed == failed {
            self.session.lane_withdrawn(&leftover.phase).await?;
        }
        Ok(())
    }

    async fn lane_step(&mut self, phase: &PhaseName, step: &PlannedStep) -> ResourceResult<()> {
        let runner = self.runner;
        let started = runner.host.elapsed();
        let change = match step.spec.pending(&runner.context(true)).await {
            Ok(None) => return Ok(()),
            Ok(Some(change)) => change,
            Err(error) if self.session.mode == Mode::DryRun => {
                Change::unknown(&chain(&error).join(": "))
            }
            Err(error) => {
                self.fail(phase, &thing_of(step), &error).await;
                return Ok(());
            }
        };
        runner.events.emit(Event::StepChanging {
            phase: phase.clone(),
            step: step.id.clone(),
            span: step.span.clone(),
            change: change.clone(),
        });
        let place = (&step.id, &step.span);
        self.session.withdrawal(phase, place, &change).await?;
        let limit = step.policy.timeout;
        let result = match tokio::time::timeout(limit, remove(runner.host, step)).await {
            Ok(result) => result,
            Err(_) => Err(late(&thing_of(step), limit)),
        };
        match result {
            Err(error) if self.session.mode == Mode::Apply || error.is_permanent() => {
                self.fail(phase, &thing_of(step), &error).await;
            }
            _ => {
                self.changed += 1;
                runner.events.emit(Event::StepChanged {
                    phase: phase.clone(),
                    step: step.id.clone(),
                    milliseconds: millis(runner.host.elapsed().saturating_sub(started)),
                });
            }
        }
        Ok(())
    }

    /// When everything else is gone: removes the directories that are empty now, then loads the units whose files were
    /// restored.
    async fn settle(&mut self) -> ResourceResult<()> {
        let host = self.runner.host;
        for thing in std::mem::take(&mut self.full) {
            if let Undo::RemoveDirectory { path } = &thing.undo.undo
                && host.list(path).await.is_ok_and(|names| names.is_empty())
            {
                self.thing(&thing.undo.phase, thing).await?;
            }
        }
        let mut settling = std::mem::take(&mut self.settling);
        settling.sort_by_key(|(_, thing)| thing.undo.undo.settles());
        for (_, thing) in settling {
            if self.runner.cancel.is_cancelled() {
                break;
            }
            self.thing(&thing.undo.phase, thing).await?;
        }
        Ok(())
    }

    async fn fail(&mut self, phase: &PhaseName, thing: &str, error: &ResourceError) {
        self.failed += 1;
        let failure = Failure {
            what: format!("taking back {thing}"),
            span: Span::file(format!("phases/{phase}.rhai")),
            chain: chain(error),
            found: Vec::new(),
            next: advice(error, &[]),
        };
        // If this cannot be recorded, the event below reports the failure all the same.
        let _ = self.session.failed(phase, &failure).await;
        self.runner.events.emit(Event::CleanFailed {
            phase: Some(phase.clone()),
            thing: thing.to_owned(),
            error: match error.is_permanent() {
                true => format!("{}; next: {}", failure.chain.join(": "), failure.next),
                false => format!(
                    "{}; the next `nodelet apply` tries again",
                    failure.chain.join(": ")
                ),
            },
        });
    }
}

/// The directory of the role's unit files.
const UNITS: &str = "/etc/systemd/system";

/// Carries out an undo. Units are loaded again together with the file, and not at the end: a run that is cut in between
/// would leave a unit running whose file is gone.
async fn take_back(undo: &Undo, host: &dyn Host) -> ResourceResult<()> {
    undo.carry_out(host).await?;
    match undo {
        Undo::RemoveFile { path } | Undo::RestoreFile { path, .. } if path.starts_with(UNITS) => {
            Ok(host.reload_units().await?)
        }
        _ => Ok(()),
    }
}

fn one(thing: &LiveResource) -> Change {
    Change::new(Action::Remove).with(thing.undo.undo.about(), "not in the plan", "")
}

fn thing_of(step: &PlannedStep) -> String {
    format!("{} {}", step.spec.kind(), step.spec.label())
}
