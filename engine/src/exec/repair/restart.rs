//! Partial restart: finds the phases that a repair has to restart, and restarts them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::stop::Containers;
use crate::exec::check::condition::PhaseHealth;
use crate::exec::event::Event;
use crate::exec::{Mode, Renewals, Runner, Selection};
use crate::kubernetes::etcd_members::Loss;
use crate::ledger::Ledger;
use crate::model::{Outcome, PhaseName, Problem, Verb};
use crate::plan::{Graph, Plan, PlannedPhase, PlannedStep};
use crate::resource::{Action, ResourceResult, Spec};

/// Bound on one question.
const BOUND: Duration = Duration::from_secs(10);

/// The phases that a repair restarts, in the plan's order; empty if nothing failed.
///
/// For each phase in `failed`, these are the phase itself, the phase that its `restart_from` names, and all that need
/// that one by `requires`, directly or through others. A phase that only comes `after` it is not restarted, and neither
/// is a phase that it needs, unless that one failed too.
#[must_use]
pub fn restart_set(plan: &Plan, failed: &BTreeSet<PhaseName>) -> Vec<PhaseName> {
    let graph = Graph::of(plan);
    let mut set = BTreeSet::new();
    for phase in plan.phases.iter().filter(|p| failed.contains(&p.name)) {
        let first = phase.restart_from.as_ref().unwrap_or(&phase.name);
        set.extend(graph.dependents(first));
        set.insert(first.clone());
        // No phase need have it as a dependent if `restart_from` jumps over a gap.
        set.insert(phase.name.clone());
    }
    plan.phases
        .iter()
        .filter(|phase| phase.skipped.is_none() && set.contains(&phase.name))
        .map(|phase| phase.name.clone())
        .collect()
}

/// The phases with a failed check. These conditions restart nothing: those that could not be determined, those that
/// only warn (`.advisory()`), and resources that are not in the plan, which are taken back while everything goes on running.
#[must_use]
pub fn failed_phases(health: &[PhaseHealth]) -> BTreeSet<PhaseName> {
    let failed = health.iter().filter(|phase| phase.fails());
    failed.map(|phase| phase.phase.clone()).collect()
}

/// The phases that have something on the host that is not in the plan. The plan need not have these phases.
#[must_use]
pub fn phases_with_orphans(health: &[PhaseHealth]) -> Vec<PhaseName> {
    let left = health.iter().filter(|phase| phase.has_orphans());
    left.map(|phase| phase.phase.clone()).collect()
}

impl Runner<'_> {
    /// Restarts these phases and no others: ends what they run, from the last phase to the first, and applies them
    /// again in order. Their `on_stop` steps are not run, because those are for a permanent stop: pods continue to run
    /// while their kubelet restarts.
    ///
    /// If something cannot be ended, this is reported and the restart goes on: it may be what is broken.
    ///
    /// Before anything is ended, the restart tries each file that the phases are going to write, and looks for the
    /// keys, data and images that they need. If a file cannot be written, something is lost, or etcd would lose its quorum,
    /// nothing is touched and the outcome is [`Outcome::Refused`]. If the restart fails or is interrupted, it starts again, as they were, the
    /// resources that it ended and that do not run.
    ///
    /// What another host has to sign is asked for before anything is ended, too. If that fails, what waits for it goes on running, and only the other
    /// phases are restarted; the outcome is [`Outcome::Failed`].
    ///
    /// In the phases in `with_orphans`, only what is not in the plan is removed; nothing of them is ended.
    ///
    /// # Errors
    /// As [`Runner::apply`].
    ///
    /// # Cancel safety
    /// As [`Runner::apply`].
    pub async fn restart(
        self,
        phases: &[PhaseName],
        with_orphans: &[PhaseName],
    ) -> ResourceResult<Outcome> {
        self.stop_and_start(phases, with_orphans, Mode::Apply).await
    }

    /// Predicts what [`Runner::restart`] would do. The host must be a simulated one, as for [`Runner::dry_run`]. Files that cannot be
    /// written are predicted as far as the host can tell without a write.
    ///
    /// # Errors
    /// The simulated host failed.
    pub async fn dry_restart(
        self,
        phases: &[PhaseName],
        with_orphans: &[PhaseName],
    ) -> ResourceResult<Outcome> {
        self.stop_and_start(phases, with_orphans, Mode::DryRun)
            .await
    }

    async fn stop_and_start(
        mut self,
        phases: &[PhaseName],
        with_orphans: &[PhaseName],
        mode: Mode,
    ) -> ResourceResult<Outcome> {
        let only = |phases: &[PhaseName]| Selection {
            only: phases.iter().map(ToString::to_string).collect(),
            ..Selection::default()
        };
        // Certificates that are only due are left for later: a repair is about what is broken.
        self.renewals = Renewals::none();
        let verb = match mode {
            Mode::Apply => Verb::Restart,
            Mode::DryRun => Verb::DryRun,
        };
        self.selection = only(phases);
        if mode == Mode::Apply {
            Ledger::has_room(self.host, verb).await?;
        }
        // If preconditions do not hold, nothing is ended here, and `run` says why.
        let mut ended = Vec::new();
        let mut phases = phases.to_vec();
        let mut all_signed = true;
        if !phases.is_empty() && self.preconditions_hold(mode).await? {
            let (problems, containers) = self.restart_problems(&phases, mode).await;
            if !problems.is_empty() {
                self.events.emit(Event::PreflightFailed { problems });
                return Ok(Outcome::Refused);
            }
            let to_sign = match mode {
                Mode::Apply => self.phases_to_sign(&phases).await,
                Mode::DryRun => Vec::new(),
            };
            if !to_sign.is_empty() {
                self.selection = only(&to_sign);
                match self.run(verb, mode).await {
                    Ok(Outcome::Converged) => {}
                    Ok(Outcome::Failed) => {
                        all_signed = false;
                        phases = self.without(&phases, &to_sign);
                    }
                    ended => return ended,
                }
                if phases.is_empty() {
                    return Ok(Outcome::Failed);
                }
                self.selection = only(&phases);
            }
            let quiesced = self.quiesce(mode, containers, &mut ended).await;
            if !matches!(quiesced, Ok(Outcome::Stopped | Outcome::Failed)) {
                self.start_again(ended).await;
                return quiesced;
            }
        }
        self.selection = only(&[&phases, with_orphans].concat());
        let outcome = self.run(verb, mode).await.map(|outcome| match outcome {
            Outcome::Converged if !all_signed => Outcome::Failed,
            outcome => outcome,
        });
        if mode == Mode::Apply && !matches!(outcome, Ok(Outcome::Converged)) {
            self.start_again(ended).await;
        }
        outcome
    }

    /// These phases without the `failed` ones and those that come after them.
    fn without(&self, phases: &[PhaseName], failed: &[PhaseName]) -> Vec<PhaseName> {
        let graph = Graph::of_run(self.plan);
        let waits = |name: &PhaseName| {
            failed.contains(name) || graph.before(name).iter().any(|its| failed.contains(its))
        };
        phases.iter().filter(|name| !waits(name)).cloned().collect()
    }

    /// The phases among these that need a signature of another host, if there is one that is missing, and those that come before them. They only
    /// have files, so they can be applied while everything runs.
    async fn phases_to_sign(&self, phases: &[PhaseName]) -> Vec<PhaseName> {
        let graph = Graph::of_run(self.plan);
        let mut to_sign: BTreeSet<PhaseName> = BTreeSet::new();
        let of_these = || {
            let all = self.plan.phases.iter();
            all.filter(|phase| phases.contains(&phase.name))
        };
        for phase in of_these() {
            if self.lacks_signature(phase).await {
                to_sign.extend(graph.before(&phase.name));
                to_sign.insert(phase.name.clone());
            }
        }
        let selected = of_these().filter(|phase| to_sign.contains(&phase.name));
        let selected: Vec<&PlannedPhase> = selected.collect();
        let runs = |step: &PlannedStep| matches!(step.spec, Spec::Service(_) | Spec::Container(_));
        if selected.iter().any(|phase| phase.steps.iter().any(runs)) {
            return Vec::new();
        }
        selected.iter().map(|phase| phase.name.clone()).collect()
    }

    async fn lacks_signature(&self, phase: &PlannedPhase) -> bool {
        let steps = phase.steps.iter().filter(|step| !step.policy.absent);
        for step in steps.filter(|step| !step.spec.is_signed_here()) {
            let cx = self.context(false);
            let pending = tokio::time::timeout(BOUND, step.spec.pending(&cx)).await;
            match pending {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(change))) if change.action == Action::Renew => {}
                // Also if it cannot be told: then nothing is ended either before it is known.
                _ => return true,
            }
        }
        false
    }

    /// What keeps a restart of these phases from beginning, and what it would do with containers.
    async fn restart_problems(
        &self,
        phases: &[PhaseName],
        mode: Mode,
    ) -> (Vec<Problem>, Containers) {
        let mut containers = Containers::End;
        let mut problems = match mode {
            Mode::DryRun => self.predicted_write_problems(phases).await,
            Mode::Apply => {
                let mut trial = self.unwritable(phases).await;
                // Only a runtime that answers can say what a container lacks.
                if trial.found.is_empty()
                    && !trial.runtime_answers
                    && self.restart_stopped_runtime().await
                {
                    trial = self.unwritable(phases).await;
                }
                if !trial.runtime_answers {
                    containers = Containers::Leave;
                }
                trial.found.into_iter().map(|one| one.problem).collect()
            }
        };
        // Otherwise etcd goes on running.
        if containers == Containers::End {
            let of_these = self.plan.phases.iter();
            let of_these = of_these.filter(|phase| phases.contains(&phase.name));
            let refused = self.quorum_problem_in_turn(of_these, Loss::Restart, mode);
            problems.extend(refused.await);
        }
        (problems, containers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{ConditionKind, Status};
    use crate::plan::PlannedPhase;

    fn phase(name: &str, requires: &[&str], after: &[&str], from: Option<&str>) -> PlannedPhase {
        let names = |list: &[&str]| list.iter().map(|n| n.parse().expect("a name")).collect();
        PlannedPhase {
            requires: names(requires),
            after: names(after),
            restart_from: from.map(|name| name.parse().expect("a name")),
            ..PlannedPhase::bare(name.parse().expect("a name"))
        }
    }

    fn plan() -> Plan {
        Plan::bare(vec![
            phase("certs", &[], &[], None),
            phase("configure-docker", &[], &[], None),
            phase(
                "docker",
                &["configure-docker"],
                &[],
                Some("configure-docker"),
            ),
            phase("etcd", &["docker", "certs"], &[], None),
            phase("kubelet", &["docker"], &["etcd"], None),
            phase("api-ready", &["kubelet", "etcd"], &[], None),
            phase("keepalived", &[], &["api-ready"], None),
        ])
    }

    fn set(failed: &[&str]) -> String {
        let failed = failed.iter().map(|n| n.parse().expect("a name")).collect();
        let names = restart_set(&plan(), &failed);
        names
            .iter()
            .map(PhaseName::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn a_repair_restarts_what_failed_and_what_needs_it() {
        for (failed, restarted) in [
            (&[][..], ""),
            (&["etcd"], "etcd api-ready"),
            (&["kubelet"], "kubelet api-ready"),
            (&["keepalived"], "keepalived"),
            (
                &["docker"],
                "configure-docker docker etcd kubelet api-ready",
            ),
            (&["certs"], "certs etcd api-ready"),
            (&["keepalived", "api-ready"], "api-ready keepalived"),
        ] {
            assert_eq!(set(failed), restarted, "{failed:?}");
        }
    }

    #[test]
    fn advisory_checks_restart_nothing() {
        let condition = |status, advisory| crate::exec::Condition {
            kind: ConditionKind::Check,
            check: "c".to_owned(),
            span: crate::model::Span::new("phases/etcd.rhai", 1, 1),
            status,
            reason: String::new(),
            advisory,
            failed_in_a_row: 0,
            deferred: false,
        };
        let health = |conditions| PhaseHealth {
            phase: "etcd".parse().expect("a name"),
            skipped: None,
            conditions,
        };
        let with_advisory = health(vec![
            condition(Status::True, false),
            condition(Status::False, true),
        ]);
        assert!(!with_advisory.all_conditions_hold(), "people are told");
        assert!(
            failed_phases(&[with_advisory]).is_empty(),
            "and no more than that"
        );
        let fails = health(vec![
            condition(Status::False, false),
            condition(Status::True, true),
        ]);
        assert_eq!(failed_phases(&[fails]).len(), 1);
    }

    #[test]
    fn a_phase_is_healthy_with_orphans_and_fails_only_because_of_checks() {
        let condition = |kind, status| crate::exec::Condition {
            kind,
            check: "c".to_owned(),
            span: crate::model::Span::new("phases/etcd.rhai", 1, 1),
            status,
            reason: String::new(),
            advisory: false,
            failed_in_a_row: 0,
            deferred: false,
        };
        for (runs, with_orphans, works) in [
            (Status::True, Status::True, true),
            (Status::True, Status::False, true),
            (Status::Unknown, Status::True, false),
            (Status::Unknown, Status::False, false),
            (Status::False, Status::False, false),
        ] {
            let health = PhaseHealth {
                phase: "etcd".parse().expect("a name"),
                skipped: None,
                conditions: vec![
                    condition(ConditionKind::Check, runs),
                    condition(ConditionKind::Orphans, with_orphans),
                ],
            };
            assert_eq!(
                health.needs_no_repair(),
                works,
                "{runs:?}, {with_orphans:?}"
            );
            let all = std::slice::from_ref(&health);
            assert_eq!(failed_phases(all).len(), usize::from(runs == Status::False));
            let orphans = usize::from(with_orphans == Status::False);
            assert_eq!(phases_with_orphans(all).len(), orphans);
        }
    }

    #[test]
    fn a_phase_that_does_nothing_here_is_not_restarted() {
        let mut plan = plan();
        plan.phases[5].skipped = Some("it is for workers".to_owned());
        let failed = ["etcd".parse().expect("a name")].into();
        assert_eq!(restart_set(&plan, &failed).len(), 1);
    }
}
