//! The evaluation of checks: whether phases do their work. Read-only, bounded, and honest about what is not known.
//!
//! Not here: what a condition consists of (`condition`), and the single observations (`probe`).

#[cfg(test)]
pub(in crate::exec::check) mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::exec::Runner;
use crate::exec::check::condition::{Condition, ConditionKind, PhaseHealth, Status};
use crate::exec::check::failure_counts::FailureCounts;
use crate::exec::check::probe::StepNotes;
use crate::exec::event::{Event, millis};
use crate::exec::kubernetes::probes::api_answers;
use crate::exec::undo::orphans::orphans;
use crate::host::{Host, HostError, UnitState, View};
use crate::model::{PhaseName, Span, chain};
use crate::plan::{Graph, PlannedCheck, PlannedPhase, Probe};
use crate::resource::{ResourceError, ResourceResult, Spec};

/// How many orphans are named.
const SHOWN: usize = 4;
/// Bound on one observation.
const BOUND: Duration = Duration::from_secs(10);
/// Pause before a failed check is made again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the container runtime may take to answer the second time. A restart of the runtime restarts everything that
/// it runs, so a host that is only slow, for example after a boot, gets this time.
const RUNTIME: Duration = Duration::from_secs(30);

/// How long the comparison of a phase with the plan may take after a check has failed: more than a busy host needs for its files, and less than
/// a disk that hangs may delay a repair.
const COMPARISON: Duration = Duration::from_secs(5);

/// How long to wait until the service manager has finished the starts in progress, as at boot. The bound is for all
/// starts together: a pass has its own bound, and a pass that is interrupted reports nothing and repairs nothing.
const STARTING: Duration = Duration::from_secs(45);

/// The checks are repeated only if they took less than this: two rounds stay within the bound of a pass.
const ONCE_MORE: Duration = Duration::from_secs(40);

/// Why the checks are made.
#[derive(Debug, Clone, Copy)]
enum ProbeMode<'a> {
    /// To report the state: each check is made once.
    Single,
    /// To act on failures: a failed check is repeated, so that a server which is busy for a moment does not count as
    /// failed.
    Confirmed {
        /// Until when to wait for starts of the service manager, on the host's clock.
        until: Duration,
        /// Failures in a row before these checks. `None` if the caller does not check again: one failure counts then.
        before: Option<&'a FailureCounts>,
    },
}

/// Whether a phase checks the role's package for damage.
fn compares_the_package(phase: &PlannedPhase) -> bool {
    let compares = |check: &PlannedCheck| matches!(check.probe, Probe::PackageIntact { .. });
    phase.checks.iter().any(compares)
}

/// The condition of a check with this result.
fn condition_of(check: &PlannedCheck, status: Status, reason: String) -> Condition {
    Condition {
        kind: ConditionKind::Check,
        check: check.name.clone(),
        span: check.span.clone(),
        status,
        reason,
        advisory: check.advisory,
        failed_in_a_row: 0,
        deferred: false,
    }
}

fn unknown(check: &PlannedCheck, reason: String) -> Condition {
    condition_of(check, Status::Unknown, reason)
}

/// Leaves the decision about a failure to the next check.
fn deferred(condition: &mut Condition) {
    condition.status = Status::Unknown;
    condition.deferred = true;
}

/// The condition that follows from the result of a probe.
fn judged(check: &PlannedCheck, answer: ResourceResult<Option<String>>) -> Condition {
    let (status, reason) = match answer {
        Ok(None) => (Status::True, String::new()),
        Ok(Some(reason)) => (Status::False, reason),
        // A server that refuses the request runs, but does not do its work.
        Err(error @ ResourceError::Host(HostError::Refused { .. })) => {
            (Status::False, chain(&error).join(": "))
        }
        Err(error) => (Status::Unknown, chain(&error).join(": ")),
    };
    condition_of(check, status, reason)
}

/// A phase whose checks run, and the tokens that end them.
struct PhaseChecks {
    phase: PhaseName,
    cancel: CancellationToken,
    /// Ends checks that no other failure can make hang.
    cancel_local: CancellationToken,
    /// Cancelled when all of its checks have ended.
    ended: CancellationToken,
}

impl PhaseChecks {
    fn at(phase: &PhaseName) -> Self {
        Self {
            phase: phase.clone(),
            cancel: CancellationToken::new(),
            cancel_local: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Whether a comparison with the plan may still fail.
    fn is_comparing(&self, phase: &PlannedPhase) -> bool {
        let mut checks = phase.checks.iter();
        !self.ended.is_cancelled() && checks.any(|check| compares_this_host(phase, check))
    }

    fn end_of(&self, phase: &PlannedPhase, check: &PlannedCheck) -> &CancellationToken {
        match compares_this_host(phase, check) {
            true => &self.cancel_local,
            false => &self.cancel,
        }
    }
}

/// Whether a check compares the phase with the plan, and needs only files, the kernel and systemd for it.
fn compares_this_host(phase: &PlannedPhase, check: &PlannedCheck) -> bool {
    let mut steps = phase.steps.iter().filter(|step| !step.policy.absent);
    matches!(check.probe, Probe::AsPlanned) && !steps.any(|step| step.spec.asks_a_server())
}

impl Runner<'_> {
    /// Makes every check of the selected phases once. Changes nothing. Each check has its bound, and phases are checked
    /// in parallel.
    pub async fn check(&self) -> Vec<PhaseHealth> {
        self.check_all(None, None).await
    }

    /// The same for a caller that acts on failures. Once a check fails, phases that the failed one does not come after
    /// get `settle` more time and then count as unknown: a check that hangs because of the failure must not delay its
    /// repair. Phases that may be the cause are checked to the end. What only compares this host with the plan gets a
    /// few seconds, so that it does not depend on the host's speed what is repaired together. A check that got no
    /// answer is repeated once: a server that is busy for a moment causes no restart.
    pub async fn check_until_failed(&self, settle: Duration) -> Vec<PhaseHealth> {
        self.check_all(Some(settle), None).await
    }

    /// The same for a caller that checks again and again. A check that may fail more than once fails only after that
    /// many failures in a row; `before` has the failures of the checks before.
    pub async fn check_again(&self, settle: Duration, before: &FailureCounts) -> Vec<PhaseHealth> {
        self.check_all(Some(settle), Some(before)).await
    }

    /// Phases that come after one of `repaired` and are known not to be as planned. Right after a repair, these are
    /// phases that read, at their start, something that the repair has made again. Waits for units that the service
    /// manager is still starting.
    pub async fn outdated(&self, repaired: &[PhaseName]) -> BTreeSet<PhaseName> {
        let graph = Graph::of(self.plan);
        let later = |phase: &PlannedPhase| {
            let before = graph.before(&phase.name);
            repaired.iter().any(|repaired| before.contains(repaired))
        };
        let phases = self.plan.phases.iter();
        let phases = phases.filter(|phase| phase.skipped.is_none() && later(phase));
        let mode = ProbeMode::Confirmed {
            until: self.host.elapsed() + STARTING,
            before: None,
        };
        let checks = phases.map(|phase| async move {
            for check in &phase.checks {
                if matches!(check.probe, Probe::AsPlanned)
                    && self
                        .confirmed(self.host, phase, check, mode)
                        .await
                        .fails_phase()
                {
                    return Some(phase.name.clone());
                }
            }
            None
        });
        let outdated = futures::future::join_all(checks).await;
        outdated.into_iter().flatten().collect()
    }

    async fn check_all(
        &self,
        settle: Option<Duration>,
        before: Option<&FailureCounts>,
    ) -> Vec<PhaseHealth> {
        let mut health = self.check_phases(settle, before).await;
        self.check_orphans(&mut health).await;
        health
    }

    /// Adds a condition for each phase that has something on the host that is not in the plan, even if the plan no
    /// longer has the phase.
    async fn check_orphans(&self, health: &mut Vec<PhaseHealth>) {
        let condition = |phase: &PhaseName, status, reason| Condition {
            kind: ConditionKind::Orphans,
            check: "every resource of the role on the host is in the plan".to_owned(),
            span: Span::file(format!("phases/{phase}.rhai")),
            status,
            reason,
            advisory: false,
            failed_in_a_row: 0,
            deferred: false,
        };
        let found = orphans(self.host, self.plan, &self.selection);
        let left = match tokio::time::timeout(BOUND, found).await {
            Ok(Ok(left)) => left,
            // It is not known which phase this is about, so the first phase gets the condition.
            unread => {
                let reason = match unread {
                    Ok(Err(error)) => chain(&error).join(": "),
                    _ => format!("no answer within {} s", BOUND.as_secs()),
                };
                if let Some(first) = health.first_mut() {
                    let unknown = condition(&first.phase, Status::Unknown, reason);
                    first.conditions.push(unknown);
                }
                return;
            }
        };
        for orphan in left {
            let resources = orphan.resources();
            let shown = resources.iter().take(SHOWN).cloned().collect::<Vec<_>>();
            let more = match resources.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let reason = format!("{}{more}: `nodelet apply` takes it back", shown.join(", "));
            let orphaned = condition(&orphan.phase, Status::False, reason);
            match health.iter_mut().find(|its| its.phase == orphan.phase) {
                Some(its) => its.conditions.push(orphaned),
                None => health.push(PhaseHealth {
                    phase: orphan.phase,
                    skipped: Some("the role does not have it any more".to_owned()),
                    conditions: vec![orphaned],
                }),
            }
        }
    }

    async fn check_phases(
        &self,
        settle: Option<Duration>,
        before: Option<&FailureCounts>,
    ) -> Vec<PhaseHealth> {
        let Some(settle) = settle else {
            return self.check_once(Duration::ZERO, ProbeMode::Single).await;
        };
        let began = self.host.elapsed();
        let mode = ProbeMode::Confirmed {
            until: began + STARTING,
            before,
        };
        let starting = self.units_where(UnitState::is_being_started).await;
        let mut health = self.check_once(settle, mode).await;
        let fails = health.iter().any(|phase| phase.status() == Status::False);
        if !fails || starting.is_empty() {
            return health;
        }
        let up = self.units_where(UnitState::is_active).await;
        if starting.is_disjoint(&up) {
            return health;
        }
        // At boot etcd does not answer while docker is still starting. That is no failure.
        if self.host.elapsed().saturating_sub(began) < ONCE_MORE {
            return self.check_once(settle, mode).await;
        }
        for condition in health.iter_mut().flat_map(|phase| &mut phase.conditions) {
            if condition.status == Status::False {
                deferred(condition);
                condition.reason +=
                    "; units were being started at that time, so the next check decides";
            }
        }
        health
    }

    /// The units of the plan for which `so` is true. A unit whose state cannot be read is left out.
    async fn units_where(&self, so: fn(&UnitState) -> bool) -> BTreeSet<&str> {
        let steps = self.plan.phases.iter().flat_map(|phase| &phase.steps);
        let states = steps.map(|step| async move {
            let Spec::Service(service) = &step.spec else {
                return None;
            };
            let unit = service.unit.as_str();
            let state = tokio::time::timeout(AGAIN, self.host.unit(unit)).await;
            matches!(state, Ok(Ok(state)) if so(&state)).then_some(unit)
        });
        let found = futures::future::join_all(states).await;
        found.into_iter().flatten().collect()
    }

    async fn check_once(&self, settle: Duration, mode: ProbeMode<'_>) -> Vec<PhaseHealth> {
        let phases = self.selection.phases(self.plan);
        let all_running: Vec<PhaseChecks> = phases
            .iter()
            .map(|phase| PhaseChecks::at(&phase.name))
            .collect();
        let (failed, mut seen) = watch::channel(BTreeSet::new());
        let view = View::of(self.host);
        let all = futures::future::join_all(
            phases
                .iter()
                .zip(&all_running)
                .map(|(phase, running)| self.check_phase(&view, phase, running, mode, &failed)),
        );
        if matches!(mode, ProbeMode::Single) {
            return all.await;
        }
        let graph = Graph::of(self.plan);
        let end = async {
            // The sender lives as long as this future.
            let _ = seen.wait_for(|failed| !failed.is_empty()).await;
            self.host.pause(settle).await;
            let all = || all_running.iter().zip(&phases);
            // What comes before these phases may be the cause of their failures. A damaged package may be the cause of all failures, so its check
            // is always completed.
            let others = |failing: &BTreeSet<PhaseName>| -> Vec<&PhaseChecks> {
                let before = failing.iter().flat_map(|phase| graph.before(phase));
                let causes: BTreeSet<PhaseName> = before.collect();
                let others = all().filter(|(running, phase)| {
                    !causes.contains(&running.phase) && !compares_the_package(phase)
                });
                others.map(|(running, _)| running).collect()
            };
            let mut failing = seen.borrow().clone();
            failing.extend(
                all()
                    .filter(|(running, phase)| running.is_comparing(phase))
                    .map(|(running, _)| running.phase.clone()),
            );
            others(&failing).iter().for_each(|one| one.cancel.cancel());
            self.host.pause(COMPARISON).await;
            let failing = seen.borrow().clone();
            for one in others(&failing) {
                one.cancel.cancel();
                one.cancel_local.cancel();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            health = all => health,
            () = end => unreachable!("it never ends"),
        }
    }

    async fn check_phase(
        &self,
        view: &View<'_>,
        phase: &PlannedPhase,
        running: &PhaseChecks,
        mode: ProbeMode<'_>,
        failed: &watch::Sender<BTreeSet<PhaseName>>,
    ) -> PhaseHealth {
        let mut conditions = Vec::new();
        if phase.skipped.is_none() {
            self.checks_in_progress.begin(&phase.name);
            for check in &phase.checks {
                let condition = tokio::select! {
                    condition = self.confirmed(view, phase, check, mode) => condition,
                    () = running.end_of(phase, check).cancelled() => {
                        unknown(check, "the check was ended early: another phase failed".to_owned())
                    }
                };
                let condition = match mode {
                    ProbeMode::Confirmed {
                        before: Some(before),
                        ..
                    } => before.next(&phase.name, check, condition),
                    _ => condition,
                };
                if condition.fails_phase() {
                    failed.send_modify(|failed| {
                        failed.insert(phase.name.clone());
                    });
                }
                conditions.push(condition);
            }
            self.checks_in_progress.end(&phase.name);
        }
        running.ended.cancel();
        PhaseHealth {
            phase: phase.name.clone(),
            skipped: phase.skipped.clone(),
            conditions,
        }
    }

    /// The first check reads through `view`, which all checks of this pass share. A failure is confirmed on the host
    /// itself.
    async fn confirmed(
        &self,
        view: &dyn Host,
        phase: &PlannedPhase,
        check: &PlannedCheck,
        mode: ProbeMode<'_>,
    ) -> Condition {
        let mut condition = self.condition(view, phase, check).await;
        let ProbeMode::Confirmed { until, .. } = mode else {
            return condition;
        };
        // A problem that a note tells of is looked at once: nothing is restarted because of it.
        if condition.status != Status::False || condition.advisory && !check.advisory {
            return condition;
        }
        if self.waited(phase, &check.probe, until).await {
            condition = self.condition(self.host, phase, check).await;
        }
        if condition.status != Status::False || !check.probe.asks() {
            return condition;
        }
        if self.note_stopped(phase, &mut condition).await {
            return condition;
        }
        self.host.pause(AGAIN).await;
        if matches!(check.probe, Probe::ContainerRuntime) {
            let mut condition = judged(check, self.runtime_problem(RUNTIME).await);
            self.note_shims(self.host, phase, check, &mut condition)
                .await;
            return condition;
        }
        let mut condition = self.condition(self.host, phase, check).await;
        // At boot everything starts by itself and at once. It gets as much time as after a start by an apply.
        let up = self.host.up();
        if condition.status == Status::False && up < check.timeout {
            deferred(&mut condition);
            condition.reason += &format!(
                "; the host has been up for {} s, and this may take {}",
                up.as_secs(),
                humantime::format_duration(check.timeout)
            );
        }
        condition
    }

    /// Waits while the service manager starts a unit that the probe is about: another start would only delay it.
    /// Returns whether it waited.
    async fn waited(&self, phase: &PlannedPhase, probe: &Probe, until: Duration) -> bool {
        let units: Vec<&str> = match probe {
            Probe::ServiceActive(unit) => vec![unit],
            Probe::AsPlanned => {
                let services = phase.steps.iter().filter_map(|step| match &step.spec {
                    Spec::Service(service) if !step.policy.absent && service.started => {
                        Some(service)
                    }
                    _ => None,
                });
                services.map(|service| service.unit.as_str()).collect()
            }
            Probe::Https { .. }
            | Probe::Tcp(_)
            | Probe::Run { .. }
            | Probe::FileExists(_)
            | Probe::FirstFile { .. }
            | Probe::ContainerRunning(_)
            | Probe::ContainerRuntime
            | Probe::PodRunning { .. }
            | Probe::NodeReady { .. }
            | Probe::NodeWithoutPressure { .. }
            | Probe::ObjectExists { .. }
            | Probe::LinkUp(_)
            | Probe::LinkAddressed(_)
            | Probe::FirewallRule { .. }
            | Probe::AddressHeld(_)
            | Probe::VirtualIp { .. }
            | Probe::VirtualIpAnswers { .. }
            | Probe::AddressUnique { .. }
            | Probe::CertificatesValid { .. }
            | Probe::BackupYoungerThan { .. }
            | Probe::RoomForBackup { .. }
            | Probe::TokenAccepted { .. }
            | Probe::KeysKept
            | Probe::PackageIntact { .. } => return false,
        };
        let mut waited = false;
        for unit in units {
            // A service manager that hangs starts nothing.
            while let Ok(Ok(state)) = tokio::time::timeout(BOUND, self.host.unit(unit)).await
                && state.is_being_started()
                && self.host.elapsed() < until
            {
                waited = true;
                self.host.pause(AGAIN).await;
            }
        }
        waited
    }

    async fn condition(
        &self,
        host: &dyn Host,
        phase: &PlannedPhase,
        check: &PlannedCheck,
    ) -> Condition {
        let mut notes = StepNotes::default();
        let running = async {
            match &check.probe {
                Probe::AsPlanned => self.as_planned(host, phase, &mut notes).await,
                probe => self.probe(host, phase, probe).await,
            }
        };
        let mut condition = match tokio::time::timeout(BOUND, running).await {
            Ok(answer) => judged(check, answer),
            Err(_) => unknown(check, format!("no answer within {} s", BOUND.as_secs())),
        };
        self.note_shims(host, phase, check, &mut condition).await;
        if condition.status == Status::True {
            condition.reason = notes.texts.join("; ");
            if notes.unknown {
                condition.status = Status::Unknown;
            } else if notes.problem {
                condition.status = Status::False;
                condition.advisory = true;
                return condition;
            }
        }
        if condition.status == Status::False
            && let Some(needed) = &check.needs_api
        {
            match api_answers(host, needed).await {
                // Masters may have deleted it on purpose. A removed host would register it at each repair.
                Ok(false) if matches!(check.probe, Probe::NodeReady { .. }) => {
                    condition = unknown(check, condition.reason);
                }
                Ok(_) => {}
                Err(silence) => {
                    condition = unknown(check, format!("{}; {silence}", condition.reason));
                }
            }
        }
        if condition.status == Status::False
            && check.needs_quorum
            && let Some(lost) = self.quorum_lost_elsewhere(host).await
        {
            condition = unknown(check, format!("{}; {lost}", condition.reason));
        }
        condition
    }

    /// Makes a check that only warns: the apply does not wait for it.
    pub(in crate::exec) async fn warn_of(&self, phase: &PlannedPhase, check: &PlannedCheck) {
        let started = self.host.elapsed();
        let seen = self.condition(self.host, phase, check).await;
        self.events.emit(if seen.status == Status::True {
            Event::CheckPassed {
                phase: phase.name.clone(),
                check: check.name.clone(),
                milliseconds: millis(self.host.elapsed().saturating_sub(started)),
            }
        } else {
            Event::CheckWaiting {
                phase: phase.name.clone(),
                check: check.name.clone(),
                reason: seen.reason,
            }
        });
    }
}
