//! One run: whether its effects are real, and where they are recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::exec::Mode;
use crate::exec::partial_files::sweep;
use crate::exec::planned_resources::planned_again;
use crate::host::Host;
use crate::ledger::{Ledger, LedgerError, Record, RunId};
use crate::model::{Failure, Outcome, PhaseName, Span, StepId, Verb};
use crate::plan::{Plan, PlannedStep};
use crate::resource::{Change, Receipt, ResourceResult, Undo, UndoLog};

/// A run in progress.
pub(in crate::exec) struct Session<'a> {
    pub(in crate::exec) mode: Mode,
    /// A dry run records nothing.
    session: Option<LedgerSession<'a>>,
}

/// The ledger and the run in it. The run begins with its first record: a run that finds everything as it should be
/// leaves no trace.
struct LedgerSession<'a> {
    ledger: Ledger<'a>,
    verb: Verb,
    plan: &'a Plan,
    run: OnceCell<RunId>,
    /// Earlier runs that were interrupted. This run continues them, so what they did counts as its own, except in the phases
    /// that they completed.
    interrupted: BTreeMap<RunId, BTreeSet<PhaseName>>,
}

impl LedgerSession<'_> {
    async fn run(&self) -> Result<RunId, LedgerError> {
        self.run
            .get_or_try_init(|| {
                let plan = self.plan;
                self.ledger.begin(self.verb, &plan.role, Some(plan))
            })
            .await
            .copied()
    }

    /// This run, if it has begun, and those that it continues in a phase.
    fn own(&self, phase: &PhaseName) -> BTreeSet<RunId> {
        let mut own = self.carried_on(phase);
        own.extend(self.run.get());
        own
    }

    fn carried_on(&self, phase: &PhaseName) -> BTreeSet<RunId> {
        let interrupted = self
            .interrupted
            .iter()
            .filter(|(_, applied)| !applied.contains(phase));
        interrupted.map(|(run, _)| *run).collect()
    }
}

impl<'a> Session<'a> {
    /// A run whose effects are real.
    pub(in crate::exec) async fn begin(
        host: &'a dyn Host,
        verb: Verb,
        plan: &'a Plan,
    ) -> ResourceResult<Self> {
        let ledger = Ledger::open(host).await?;
        let interrupted = match verb {
            Verb::Apply => ledger.interrupted_runs(&plan.digest()).await,
            Verb::DryRun
            | Verb::Stop
            | Verb::Clean
            | Verb::Restart
            | Verb::Renew
            | Verb::Rotate
            | Verb::Recover => BTreeMap::new(),
        };
        let session = LedgerSession {
            interrupted,
            ledger,
            verb,
            plan,
            run: OnceCell::new(),
        };
        if session.ledger.was_interrupted().await {
            let live = session.ledger.live().await;
            sweep(host, live.iter().map(|live| &live.undo)).await?;
        }
        if verb == Verb::Stop {
            // A stop does not record its steps, so the run is recorded at its beginning.
            session.run().await?;
        }
        Ok(Self {
            mode: Mode::Apply,
            session: Some(session),
        })
    }

    /// A run on a simulated host.
    pub(in crate::exec) fn simulated() -> Self {
        Self {
            mode: Mode::DryRun,
            session: None,
        }
    }

    /// Appends a record of this run, which begins now if it has not begun yet; nothing in a dry run.
    async fn append(&self, record: impl FnOnce(RunId) -> Record) -> Result<(), LedgerError> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        session.ledger.append(record(session.run().await?)).await
    }

    /// The cleanup steps of a phase that are recorded already, perhaps none; `None` if all of them are recorded.
    pub(in crate::exec) async fn known_unless_complete(
        &self,
        phase: &PhaseName,
    ) -> Option<Vec<StepId>> {
        match self.session.as_ref()?.ledger.cleanup_steps_of(phase).await {
            None => Some(Vec::new()),
            Some((known, partial)) => partial.then_some(known),
        }
    }

    /// What the runs that this one continues did in a phase.
    pub(in crate::exec) async fn done_before(&self, phase: &PhaseName) -> Vec<Undo> {
        match &self.session {
            Some(session) if !session.interrupted.is_empty() => {
                session
                    .ledger
                    .noted_by(&session.carried_on(phase), phase)
                    .await
            }
            _ => Vec::new(),
        }
    }

    pub(in crate::exec) async fn cleanup_steps(
        &self,
        phase: &PhaseName,
        steps: Vec<PlannedStep>,
    ) -> Result<(), LedgerError> {
        self.append(|run| Record::CleanupSteps {
            run,
            phase: phase.clone(),
            steps,
            partial: false,
        })
        .await
    }

    /// The cleanup steps of a phase, if this run has recorded them: the phase had never been applied before.
    pub(in crate::exec) async fn new_cleanup_steps(&self, phase: &PhaseName) -> Vec<PlannedStep> {
        match &self.session {
            Some(session) => {
                session
                    .ledger
                    .cleanup_steps_of_runs(&session.own(phase), phase)
                    .await
            }
            None => Vec::new(),
        }
    }

    /// Whether this run has begun to change anything in a phase.
    pub(in crate::exec) async fn has_begun(&self, phase: &PhaseName) -> bool {
        match &self.session {
            Some(session) => session.ledger.has_intent(&session.own(phase), phase).await,
            None => false,
        }
    }

    /// Whether an earlier run made something of this phase that is still on the host.
    pub(in crate::exec) async fn was_applied_before(&self, phase: &PhaseName) -> bool {
        let Some(session) = &self.session else {
            return false;
        };
        let own = session.own(phase);
        // Of a phase that was rolled back, such a directory is all that is there.
        let left = session.ledger.left_by_rollback(phase).await;
        let live = session.ledger.live().await;
        live.iter().any(|live| {
            live.phase == *phase && !own.contains(&live.run) && !left.contains(&live.undo.key())
        })
    }

    /// Whether the ledger has an undo of this resource.
    pub(in crate::exec) async fn has_undo_of(&self, resource: &str) -> bool {
        let Some(session) = &self.session else {
            return false;
        };
        let live = session.ledger.live().await;
        live.iter().any(|live| live.undo.key() == resource)
    }

    /// Records that what a step is about is to be kept, if that was decided after it was made.
    pub(in crate::exec) async fn keep(
        &self,
        phase: &PhaseName,
        step: &PlannedStep,
    ) -> ResourceResult<()> {
        let Some(session) = self.session.as_ref().filter(|_| step.policy.keep) else {
            return Ok(());
        };
        let keys = step.spec.keys();
        for resource in session.ledger.resources().await {
            // Any step may have made it, under another name.
            let its = resource.steps.contains(&step.id) || keys.contains(&resource.undo.undo.key());
            if its && !resource.undo.keep {
                let log = session.ledger.step_log(session.run().await?, phase, step);
                log.note(&resource.undo.undo).await?;
            }
        }
        Ok(())
    }

    /// Ends the marks of resources that count as in use and that the plan has again. If a later plan has them no longer,
    /// they are taken back.
    pub(in crate::exec) async fn end_marks_in_use(&self) -> ResourceResult<()> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        for live in planned_again(session.ledger.resources().await, session.plan) {
            session.run().await?;
            // With the run that noted it first: a rollback of the present run must not take the resource back.
            let record = Record::Undo {
                run: live.run,
                phase: live.phase,
                step: live.step,
                keep: live.keep,
                undo: live.undo,
            };
            session.ledger.append(record).await?;
        }
        Ok(())
    }

    /// A receipt for one step.
    ///
    /// Undos that a rollback carries out go to `done` as well.
    pub(in crate::exec) fn receipt<'s>(
        &'s self,
        phase: &'s PhaseName,
        step: &'s PlannedStep,
        done: &'s Mutex<Vec<Undo>>,
    ) -> Receipt<'s> {
        match &self.session {
            Some(session) => Receipt::logged(Box::new(StepUndoLog {
                session,
                phase,
                step,
                done,
            })),
            None => Receipt::default(),
        }
    }

    /// Records that a step is about to be changed, or that something that the plan no longer has is about to be removed.
    pub(in crate::exec) async fn intent(
        &self,
        phase: &PhaseName,
        (step, span): (&StepId, &Span),
        change: &Change,
    ) -> Result<(), LedgerError> {
        self.append(|run| Record::Intent {
            run,
            phase: phase.clone(),
            step: step.clone(),
            span: span.clone(),
            action: change.action,
            fields: change.differences.iter().map(|d| d.field.clone()).collect(),
        })
        .await
    }

    pub(in crate::exec) async fn converged(
        &self,
        phase: &PhaseName,
        step: &PlannedStep,
    ) -> Result<(), LedgerError> {
        let (phase, step) = (phase.clone(), step.id.clone());
        self.append(|run| Record::Receipt { run, phase, step })
            .await
    }

    /// Records that a resource that the plan no longer has was taken back, or that it is in use and stays until a clean.
    pub(in crate::exec) async fn pruned(
        &self,
        phase: &PhaseName,
        (step, resource): (&StepId, &str),
        in_use: bool,
    ) -> Result<(), LedgerError> {
        self.append(|run| Record::Pruned {
            run,
            phase: phase.clone(),
            step: step.clone(),
            resource: resource.to_owned(),
            in_use,
        })
        .await
    }

    pub(in crate::exec) async fn cleanup_done(&self, phase: &PhaseName) -> Result<(), LedgerError> {
        let (phase, step) = (phase.clone(), None);
        self.append(|run| Record::CleanupDone { run, phase, step })
            .await
    }

    /// Records that a phase is complete, if anything was changed in it.
    pub(in crate::exec) async fn record_phase_complete(
        &self,
        phase: &PhaseName,
    ) -> Result<(), LedgerError> {
        if !self.has_begun(phase).await {
            return Ok(());
        }
        let phase = phase.clone();
        self.append(|run| Record::PhaseApplied { run, phase }).await
    }

    pub(in crate::exec) async fn failed(
        &self,
        phase: &PhaseName,
        failure: &Failure,
    ) -> Result<(), LedgerError> {
        self.append(|run| Record::Failed {
            run,
            phase: phase.clone(),
            failure: failure.clone(),
        })
        .await
    }

    /// Records that everything that was done in a phase has been taken back, except for the directories in `remaining`; or only
    /// `resource`.
    pub(in crate::exec) async fn reverted(
        &self,
        phase: &PhaseName,
        resource: Option<&str>,
        remaining: &[String],
    ) -> Result<(), LedgerError> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        session.run().await?;
        for run in session.own(phase) {
            let record = Record::Reverted {
                run,
                phase: phase.clone(),
                resource: resource.map(str::to_owned),
                remaining: remaining.to_vec(),
            };
            session.ledger.append(record).await?;
        }
        Ok(())
    }

    pub(in crate::exec) async fn end(
        &self,
        outcome: Outcome,
        totals: (usize, usize),
        phases: Vec<PhaseName>,
    ) -> Result<(), LedgerError> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        if !session.interrupted.is_empty() {
            // A run that finds everything done has completed the runs that it continues; the next run does not continue
            // them.
            session.run().await?;
        }
        match session.run.get() {
            Some(run) => session.ledger.end(*run, outcome, totals, phases).await,
            None => Ok(()),
        }
    }
}

/// Writes the undos of one step.
struct StepUndoLog<'s, 'a> {
    session: &'s LedgerSession<'a>,
    phase: &'s PhaseName,
    step: &'s PlannedStep,
    done: &'s Mutex<Vec<Undo>>,
}

#[async_trait]
impl UndoLog for StepUndoLog<'_, '_> {
    async fn note(&self, undo: &Undo) -> ResourceResult<()> {
        let run = self.session.run().await?;
        let log = self.session.ledger.step_log(run, self.phase, self.step);
        log.note(undo).await?;
        // What is to be kept outlives a rollback.
        if !self.step.policy.keep {
            self.done
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(undo.clone());
        }
        Ok(())
    }
}
