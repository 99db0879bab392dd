//! Applies phases in order; independent phases run in parallel.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{FuturesUnordered, StreamExt};

use crate::exec::event::{Event, millis};
use crate::exec::session::Session;
use crate::exec::undo::orphans::{PhaseOrphans, orphans};
use crate::exec::{Mode, Runner};
use crate::ledger::LedgerError;
use crate::model::{Outcome, PhaseName, Verb, chain};
use crate::plan::{Graph, PlannedPhase};
use crate::resource::docker::container_runtime;
use crate::resource::{ResourceError, ResourceResult};

impl Runner<'_> {
    /// Brings the host to the plan. Events report each action. Returns the outcome of the run.
    ///
    /// # Errors
    /// The engine's own records cannot be read or written; nothing else was touched then.
    ///
    /// # Cancel safety
    /// Do not drop the future. Cancel through [`Runner::cancel`]: the run then ends at the next safe point.
    pub async fn apply(&self) -> ResourceResult<Outcome> {
        self.run(Verb::Apply, Mode::Apply).await
    }

    /// Predicts what [`Runner::apply`] would do. The host must be a simulated one: effects are carried forward
    /// on it from phase to phase.
    ///
    /// # Errors
    /// The simulated host failed.
    pub async fn dry_run(&self) -> ResourceResult<Outcome> {
        self.run(Verb::DryRun, Mode::DryRun).await
    }

    pub(in crate::exec) async fn run(&self, verb: Verb, mode: Mode) -> ResourceResult<Outcome> {
        let started = self.host.elapsed();
        let phases = self.selection.phases(self.plan);
        let orphans = self.orphans(mode).await?;
        let leaving = orphans.iter().map(|orphan| orphan.phase.clone());
        let coming = phases.iter().map(|phase| phase.name.clone());
        self.events.emit(Event::RunStarted {
            verb,
            role: self.plan.role.clone(),
            host: self.plan.host.clone(),
            digest: self.plan.digest(),
            phases: leaving.chain(coming).collect(),
        });
        let done = phases.iter().filter(|phase| phase.skipped.is_none());
        let names = done.map(|phase| phase.name.clone()).collect();
        let mut totals = (0, 0);
        let claim = self.preflight(mode, &orphans).await?;
        let passed = claim.is_some();
        let outcome = if passed || mode == Mode::DryRun {
            let session = match mode {
                Mode::Apply => Session::begin(self.host, verb, self.plan).await?,
                Mode::DryRun => Session::simulated(),
            };
            session.end_marks_in_use().await?;
            let (pruned, all_gone) = self.prune(&orphans, &session).await?;
            totals.0 = pruned;
            let outcome = match (self.schedule(&phases, &session, &mut totals).await, mode) {
                (Outcome::Converged, Mode::DryRun) if passed && all_gone => Outcome::Predicted,
                (Outcome::Converged, Mode::DryRun) if passed => Outcome::Failed,
                // The whole prediction was shown, but an apply would not begin.
                (Outcome::Converged | Outcome::Failed, Mode::DryRun) if !passed => Outcome::Refused,
                (Outcome::Converged, Mode::Apply) if !all_gone => Outcome::Failed,
                (outcome, _) => outcome,
            };
            if mode == Mode::Apply || passed {
                self.start_interrupted(mode).await;
            }
            if let Err(error) = session.end(outcome, totals, names).await {
                // All changes are recorded. Only the end of the run is not, so the next run treats this one as interrupted.
                tracing::warn!("could not {}", chain(&error).join(": "));
            }
            outcome
        } else {
            Outcome::Refused
        };
        drop(claim);
        self.events.emit(Event::RunFinished {
            outcome,
            changed: totals.0,
            unchanged: totals.1,
            milliseconds: millis(self.host.elapsed().saturating_sub(started)),
        });
        Ok(outcome)
    }

    /// Starts the containers of other programs that an earlier run has left down. They are not the role's, so a failure is logged only. A dry run
    /// says which would be started.
    async fn start_interrupted(&self, mode: Mode) {
        let containers = match mode {
            Mode::Apply => {
                let start = container_runtime::start_interrupted_if_up(self.host);
                let Some((started, result)) = self.cancel.run_until_cancelled(start).await else {
                    return;
                };
                if let Err(error) = result {
                    tracing::warn!("could not {}", chain(&error).join(": "));
                }
                started
            }
            Mode::DryRun => container_runtime::interrupted_to_start(self.host).await,
        };
        if !containers.is_empty() {
            self.events.emit(Event::OthersStarted { containers });
        }
    }

    /// What is on the host but not in the plan. A dry run without permission to read the ledger continues without it;
    /// the preconditions report what cannot be read.
    async fn orphans(&self, mode: Mode) -> ResourceResult<Vec<PhaseOrphans>> {
        match (orphans(self.host, self.plan, &self.selection).await, mode) {
            (Err(ResourceError::Ledger(error)), Mode::DryRun)
                if matches!(error.downcast_ref(), Some(LedgerError::Host { .. })) =>
            {
                Ok(Vec::new())
            }
            (left, _) => left,
        }
    }

    /// Starts each phase when all phases before it have ended. After a failure it starts no more phases; a dry run
    /// continues, to show all failures at once.
    async fn schedule(
        &self,
        phases: &[&PlannedPhase],
        session: &Session<'_>,
        totals: &mut (usize, usize),
    ) -> Outcome {
        let graph = Graph::of_run(self.plan);
        let mut waiting: Vec<&PlannedPhase> = phases.to_vec();
        let mut over: BTreeSet<&PhaseName> = BTreeSet::new();
        let mut running = FuturesUnordered::new();
        let mut outcome = Outcome::Converged;
        let selected: BTreeSet<&PhaseName> = phases.iter().map(|phase| &phase.name).collect();
        // Computed once, not in each round: a role may have a thousand phases.
        let before: BTreeMap<&PhaseName, BTreeSet<&PhaseName>> = selected
            .iter()
            .map(|&name| (name, graph.nearest_before(name, &selected)))
            .collect();
        loop {
            let goes_on = outcome == Outcome::Converged || session.mode == Mode::DryRun;
            if goes_on && !self.cancel.is_cancelled() {
                waiting.retain(|phase| {
                    // A dry run runs one phase at a time: effects must be seen in the plan's order.
                    let alone = session.mode == Mode::Apply || running.is_empty();
                    let starts =
                        alone && before[&phase.name].iter().all(|&name| over.contains(name));
                    if starts {
                        let phase = *phase;
                        running.push(async move { (phase, self.phase(phase, session).await) });
                    }
                    !starts
                });
            }
            let Some((phase, result)) = running.next().await else {
                break;
            };
            totals.0 += result.changed;
            totals.1 += result.unchanged;
            over.insert(&phase.name);
            // A failure outweighs an interruption.
            if result.outcome == Outcome::Failed || outcome == Outcome::Converged {
                outcome = result.outcome;
            }
        }
        if outcome == Outcome::Converged && !waiting.is_empty() {
            return Outcome::Interrupted;
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Recording;
    use crate::facts::Facts;
    use crate::host::Services as _;
    use crate::host::fake::FakeHost;
    use crate::plan::Plan;
    use crate::resource::NoSecrets;
    use crate::resource::docker::container_runtime::tests::interrupted_host;

    /// What a run says of the containers of others.
    async fn started(host: &FakeHost, mode: Mode) -> Vec<Event> {
        let plan = Plan::bare(Vec::new());
        let (facts, heard) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, host, &facts, &NoSecrets, &heard);
        let run = match mode {
            Mode::Apply => runner.apply().await,
            Mode::DryRun => runner.dry_run().await,
        };
        run.expect("the host can be read");
        let mut events = heard.events();
        events.retain(|event| matches!(event, Event::OthersStarted { .. }));
        events
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_says_which_containers_of_others_it_starts() {
        let host = interrupted_host().await;
        let up = host.start_unit(container_runtime::UNIT).await;
        up.expect("it starts");
        let theirs = [Event::OthersStarted {
            containers: vec!["theirs".to_owned()],
        }];
        host.clear_journal();
        assert_eq!(started(&host, Mode::DryRun).await, theirs);
        assert_eq!(host.mutations(), 0);
        assert_eq!(started(&host, Mode::Apply).await, theirs);
        assert_eq!(started(&host, Mode::Apply).await, []);
    }
}
