//! Conditions: whether phases do their work. Read-only, bounded, and honest about what is not known.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Runner;
use super::advice::chain;
use super::event::Event;
use super::lasting::Lasting;
use super::leftovers::leftovers;
use super::step::{backoff, millis};
use super::streaks::Streaks;
use crate::host::{Host, HostError, UnitState, View};
use crate::plan::{Graph, PhaseName, PlannedCheck, PlannedPhase, Probe, Span};
use crate::resource::{ResourceError, ResourceResult, Spec};

/// Typed result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    /// It holds.
    True,
    /// It could not be determined.
    Unknown,
    /// It does not hold.
    False,
}

/// One check's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is asserted.
    pub check: String,
    /// Where the script says it.
    pub span: Span,
    /// Whether it holds.
    pub status: Status,
    /// Why not, or why that is not known. If it holds: what people should know all the same, mostly nothing.
    pub reason: String,
    /// It is for people to know: nothing is restarted for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warns: bool,
    /// How often in a row it has not held, of one that may fail more than once before its phase does; 0 of all others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_in_a_row: u32,
    /// It did not hold when it was looked at, but counts as not known: that may still come by itself, after a boot for one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub put_off: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// All conditions of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseHealth {
    /// The phase.
    pub phase: PhaseName,
    /// Why it has none, if it does nothing here.
    pub skipped: Option<String>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// The condition of a phase of which something stands that the plan does not have; a phase without has none such.
pub const LEFT_OVER: &str = "nothing stands that the plan does not have";

impl PhaseHealth {
    /// Whether something of it that a repair would be made for does not hold and was left to the next look.
    #[must_use]
    pub fn was_put_off(&self) -> bool {
        let mut its = self.conditions.iter();
        its.any(|its| its.put_off && !its.warns)
    }

    /// Whether anything of it stands that the plan does not have.
    #[must_use]
    pub fn has_left_over(&self) -> bool {
        let mut its = self.conditions.iter();
        its.any(|condition| condition.check == LEFT_OVER && condition.status == Status::False)
    }

    /// The worst of its conditions, but for those that only warn; True without any.
    #[must_use]
    pub fn status(&self) -> Status {
        let works = self.conditions.iter().filter(|c| !c.warns);
        works.map(|c| c.status).max().unwrap_or(Status::True)
    }

    /// Whether all is known to hold that something would be restarted for.
    #[must_use]
    pub fn works(&self) -> bool {
        let counts = |its: &&Condition| !its.warns && its.check != LEFT_OVER;
        let mut counting = self.conditions.iter().filter(counts);
        counting.all(|its| its.status == Status::True)
    }

    /// Whether it works and every one of its conditions holds.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.conditions.iter().all(|c| c.status == Status::True)
    }
}

/// The phases whose checks a look has begun and not ended, in the plan's order. Clones are about the same look.
#[derive(Debug, Clone, Default)]
pub struct ChecksInProgress(Arc<Mutex<Vec<PhaseName>>>);

impl ChecksInProgress {
    /// The first of them.
    #[must_use]
    pub fn first(&self) -> Option<PhaseName> {
        self.lock().first().cloned()
    }

    fn begin(&self, phase: &PhaseName) {
        self.lock().push(phase.clone());
    }

    fn end(&self, phase: &PhaseName) {
        self.lock().retain(|other| other != phase);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PhaseName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many things that are left over are named.
const SHOWN: usize = 4;
/// Bound on one look.
const BOUND: Duration = Duration::from_secs(10);
/// Longest pause that is left to whoever is slow to answer.
const REST: Duration = Duration::from_secs(5);
/// After an answer that did not come, before it is asked for once more.
const AGAIN: Duration = Duration::from_secs(1);
/// For the container engine to answer when it is asked once more: all that it runs is restarted with it, so a host that is merely slow, for
/// it has just booted perhaps, gets its time.
const ENGINE: Duration = Duration::from_secs(30);

/// For the service manager to end the starts that it has begun, as at boot. For all that a look sees being started together: a pass has
/// its own bound, and one that is cut tells nothing and repairs nothing.
const STARTING: Duration = Duration::from_secs(45);

/// How long a look may have taken to be made once more: two of them stay within the bound of a pass.
const ONCE_MORE: Duration = Duration::from_secs(40);

/// What a look is for.
#[derive(Debug, Clone, Copy)]
enum Asked<'a> {
    /// To tell what is: each question is asked once.
    Once,
    /// To act on it: a busy moment is no failure.
    Twice {
        /// Until when starts of the service manager are waited for, on the host's clock.
        until: Duration,
        /// Failures before this look; where nobody looks again, one counts.
        before: Option<&'a Streaks>,
    },
}

/// Whether a phase tells of damage to the role's package.
fn compares_the_package(phase: &PlannedPhase) -> bool {
    let compares = |check: &PlannedCheck| matches!(check.probe, Probe::PackageIntact { .. });
    phase.checks.iter().any(compares)
}

fn unknown(check: &PlannedCheck, reason: String) -> Condition {
    Condition {
        check: check.name.clone(),
        span: check.span.clone(),
        status: Status::Unknown,
        reason,
        warns: check.warns,
        failed_in_a_row: 0,
        put_off: false,
    }
}

/// Leaves a failure to the next look.
fn put_off(condition: &mut Condition) {
    condition.status = Status::Unknown;
    condition.put_off = true;
}

/// What a look says of a check.
fn judged(check: &PlannedCheck, looked: ResourceResult<Option<String>>) -> Condition {
    let (status, reason) = match looked {
        Ok(None) => (Status::True, String::new()),
        Ok(Some(reason)) => (Status::False, reason),
        // Who refuses us is there, and does not do its work for us.
        Err(error @ ResourceError::Host(HostError::Refused { .. })) => {
            (Status::False, chain(&error).join(": "))
        }
        Err(error) => return unknown(check, chain(&error).join(": ")),
    };
    Condition {
        check: check.name.clone(),
        span: check.span.clone(),
        status,
        reason,
        warns: check.warns,
        failed_in_a_row: 0,
        put_off: false,
    }
}

/// A phase that is looked at, and how to end that.
struct Look {
    phase: PhaseName,
    cut: CancellationToken,
}

impl Look {
    fn at(phase: &PhaseName) -> Self {
        Self {
            phase: phase.clone(),
            cut: CancellationToken::new(),
        }
    }
}

impl Runner<'_> {
    /// Makes every check of the selected phases once. Changes nothing; each check has its bound, and phases are looked at
    /// side by side.
    pub async fn check(&self) -> Vec<PhaseHealth> {
        self.look(None, None).await
    }

    /// The same for whoever wants to act on what fails: once a check does not hold, phases that the failed one does not
    /// come after are given `settle` more and then count as unknown. What hangs because something else is broken does not
    /// keep that from being mended; what may be the cause is looked at to the end. What does not answer is asked twice: one
    /// busy moment of a server restarts nothing.
    pub async fn check_until_failed(&self, settle: Duration) -> Vec<PhaseHealth> {
        self.look(Some(settle), None).await
    }

    /// The same for whoever does so again and again: what may fail more often than once fails as often in a row, beginning `before` this
    /// look.
    pub async fn check_again(&self, settle: Duration, before: &Streaks) -> Vec<PhaseHealth> {
        self.look(Some(settle), Some(before)).await
    }

    /// Phases that come after one of `repaired` and are known not to be as planned. Right after a repair these are such as read, at their
    /// start, what it has made anew; what the service manager is starting still is waited for.
    pub async fn outdated(&self, repaired: &[PhaseName]) -> BTreeSet<PhaseName> {
        let graph = Graph::of(self.plan);
        let later = |phase: &PlannedPhase| {
            let before = graph.before(&phase.name);
            repaired.iter().any(|repaired| before.contains(repaired))
        };
        let phases = self.plan.phases.iter();
        let phases = phases.filter(|phase| phase.skipped.is_none() && later(phase));
        let asked = Asked::Twice {
            until: self.host.elapsed() + STARTING,
            before: None,
        };
        let looks = phases.map(|phase| async move {
            for check in &phase.checks {
                if matches!(check.probe, Probe::AsPlanned)
                    && !check.warns
                    && self.confirmed(self.host, phase, check, asked).await.status == Status::False
                {
                    return Some(phase.name.clone());
                }
            }
            None
        });
        let outdated = futures::future::join_all(looks).await;
        outdated.into_iter().flatten().collect()
    }

    async fn look(&self, settle: Option<Duration>, before: Option<&Streaks>) -> Vec<PhaseHealth> {
        let mut health = self.look_at_all(settle, before).await;
        self.look_for_leftovers(&mut health).await;
        health
    }

    /// Adds a condition to each phase that has something left which the plan does not have, be it no phase any more.
    async fn look_for_leftovers(&self, health: &mut Vec<PhaseHealth>) {
        let condition = |phase: &PhaseName, status, reason| Condition {
            check: LEFT_OVER.to_owned(),
            span: Span::file(format!("phases/{phase}.rhai")),
            status,
            reason,
            warns: false,
            failed_in_a_row: 0,
            put_off: false,
        };
        let found = leftovers(self.host, self.plan, &self.selection);
        let left = match tokio::time::timeout(BOUND, found).await {
            Ok(Ok(left)) => left,
            // Whose it would be is not known; the first stands for all.
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
        for leftover in left {
            let things = leftover.things();
            let shown = things.iter().take(SHOWN).cloned().collect::<Vec<_>>();
            let more = match things.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let reason = format!("{}{more}: `nodelet apply` takes it back", shown.join(", "));
            let left_over = condition(&leftover.phase, Status::False, reason);
            match health.iter_mut().find(|its| its.phase == leftover.phase) {
                Some(its) => its.conditions.push(left_over),
                None => health.push(PhaseHealth {
                    phase: leftover.phase,
                    skipped: Some("the role does not have it any more".to_owned()),
                    conditions: vec![left_over],
                }),
            }
        }
    }

    async fn look_at_all(
        &self,
        settle: Option<Duration>,
        before: Option<&Streaks>,
    ) -> Vec<PhaseHealth> {
        let Some(settle) = settle else {
            return self.look_once(Duration::ZERO, Asked::Once).await;
        };
        let began = self.host.elapsed();
        let asked = Asked::Twice {
            until: began + STARTING,
            before,
        };
        let starting = self.units_where(UnitState::is_being_started).await;
        let mut health = self.look_once(settle, asked).await;
        let fails = health.iter().any(|phase| phase.status() == Status::False);
        if !fails || starting.is_empty() {
            return health;
        }
        let up = self.units_where(UnitState::is_active).await;
        if starting.is_disjoint(&up) {
            return health;
        }
        // At boot etcd does not answer while docker is still starting, and is nobody's failure.
        if self.host.elapsed().saturating_sub(began) < ONCE_MORE {
            return self.look_once(settle, asked).await;
        }
        for condition in health.iter_mut().flat_map(|phase| &mut phase.conditions) {
            if condition.status == Status::False {
                put_off(condition);
                condition.reason += "; units were being started meanwhile, so the next look counts";
            }
        }
        health
    }

    /// The units of the plan that are so; one that cannot be looked at is not.
    async fn units_where(&self, so: fn(&UnitState) -> bool) -> BTreeSet<&str> {
        let steps = self.plan.phases.iter().flat_map(|phase| &phase.steps);
        let looks = steps.map(|step| async move {
            let Spec::Service(service) = &step.spec else {
                return None;
            };
            let unit = service.unit.as_str();
            let state = tokio::time::timeout(AGAIN, self.host.unit(unit)).await;
            matches!(state, Ok(Ok(state)) if so(&state)).then_some(unit)
        });
        let found = futures::future::join_all(looks).await;
        found.into_iter().flatten().collect()
    }

    async fn look_once(&self, settle: Duration, asked: Asked<'_>) -> Vec<PhaseHealth> {
        let phases = self.selection.phases(self.plan);
        let looks: Vec<Look> = phases.iter().map(|phase| Look::at(&phase.name)).collect();
        let (failed, mut seen) = watch::channel(BTreeSet::new());
        let view = View::of(self.host);
        let all = futures::future::join_all(
            phases
                .iter()
                .zip(&looks)
                .map(|(phase, look)| self.look_at(&view, phase, look, asked, &failed)),
        );
        if matches!(asked, Asked::Once) {
            return all.await;
        }
        let graph = Graph::of(self.plan);
        let end = async {
            // The sender lives as long as this future.
            let _ = seen.wait_for(|failed| !failed.is_empty()).await;
            self.host.pause(settle).await;
            let causes: BTreeSet<PhaseName> = seen
                .borrow()
                .iter()
                .flat_map(|phase| graph.before(phase))
                .collect();
            for (look, phase) in looks.iter().zip(phases) {
                // That a file of the package is damaged may be why the rest fails, and is told whatever else fails.
                if !causes.contains(&look.phase) && !compares_the_package(phase) {
                    look.cut.cancel();
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            health = all => health,
            () = end => unreachable!("it never ends"),
        }
    }

    async fn look_at(
        &self,
        view: &View<'_>,
        phase: &PlannedPhase,
        look: &Look,
        asked: Asked<'_>,
        failed: &watch::Sender<BTreeSet<PhaseName>>,
    ) -> PhaseHealth {
        let mut conditions = Vec::new();
        if phase.skipped.is_none() {
            self.checks_in_progress.begin(&phase.name);
            for check in &phase.checks {
                let condition = tokio::select! {
                    condition = self.confirmed(view, phase, check, asked) => condition,
                    () = look.cut.cancelled() => {
                        unknown(check, "not looked at to the end: something else failed".to_owned())
                    }
                };
                let condition = match asked {
                    Asked::Twice {
                        before: Some(before),
                        ..
                    } => before.next(&phase.name, check, condition),
                    _ => condition,
                };
                if condition.status == Status::False && !condition.warns {
                    failed.send_modify(|failed| {
                        failed.insert(phase.name.clone());
                    });
                }
                conditions.push(condition);
            }
            self.checks_in_progress.end(&phase.name);
        }
        PhaseHealth {
            phase: phase.name.clone(),
            skipped: phase.skipped.clone(),
            conditions,
        }
    }

    /// The first look is at what all others of this pass see, too; whatever is to be acted on is looked at anew.
    async fn confirmed(
        &self,
        view: &dyn Host,
        phase: &PlannedPhase,
        check: &PlannedCheck,
        asked: Asked<'_>,
    ) -> Condition {
        let mut condition = self.condition(view, phase, check).await;
        let Asked::Twice { until, .. } = asked else {
            return condition;
        };
        if condition.status != Status::False {
            return condition;
        }
        if self.waited(phase, &check.probe, until).await {
            condition = self.condition(self.host, phase, check).await;
        }
        if condition.status != Status::False || !check.probe.asks() {
            return condition;
        }
        if self.is_stopped(phase).await {
            condition.reason += "; its process was stopped by a signal";
            return condition;
        }
        self.host.pause(AGAIN).await;
        if matches!(check.probe, Probe::ContainerEngine) {
            return judged(check, self.engine_answers(ENGINE).await);
        }
        let mut condition = self.condition(self.host, phase, check).await;
        // At boot all starts at once and by itself, and has as long for that as after a start of ours.
        let up = self.host.up();
        if condition.status == Status::False && up < check.timeout {
            put_off(&mut condition);
            condition.reason += &format!(
                "; the host has been up for {} s, and this may take {}",
                up.as_secs(),
                humantime::format_duration(check.timeout)
            );
        }
        condition
    }

    /// Waits while the service manager starts a unit that the probe is about: who would start it once more only sets it
    /// back. Whether there was anything to wait for.
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
            _ => return false,
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
        let mut notes = Vec::new();
        let look = async {
            match &check.probe {
                Probe::AsPlanned => self.as_planned(host, phase, &mut notes).await,
                probe => self.probe(host, phase, probe).await,
            }
        };
        let mut condition = match tokio::time::timeout(BOUND, look).await {
            Ok(looked) => judged(check, looked),
            Err(_) => unknown(check, format!("no answer within {} s", BOUND.as_secs())),
        };
        if condition.status == Status::True {
            condition.reason = notes.join("; ");
        }
        condition
    }

    /// Makes a check that nobody waits for.
    pub(super) async fn warn_of(&self, phase: &PlannedPhase, check: &PlannedCheck) {
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

    /// Waits until a check holds, at most its timeout.
    pub(super) async fn wait_for(
        &self,
        phase: &PlannedPhase,
        check: &PlannedCheck,
    ) -> ResourceResult<()> {
        let started = self.host.elapsed();
        let mut told = String::new();
        let mut attempt = 1;
        let mut lasting = Lasting::default();
        loop {
            let mut permanent = false;
            let asked = self.host.elapsed();
            let reason = match self.probe(self.host, phase, &check.probe).await {
                Ok(None) => {
                    self.events.emit(Event::CheckPassed {
                        phase: phase.name.clone(),
                        check: check.name.clone(),
                        milliseconds: millis(self.host.elapsed().saturating_sub(started)),
                    });
                    return Ok(());
                }
                Ok(Some(reason)) => reason,
                Err(error) => {
                    permanent = error.is_permanent();
                    chain(&error).join(": ")
                }
            };
            if reason != told {
                self.events.emit(Event::CheckWaiting {
                    phase: phase.name.clone(),
                    check: check.name.clone(),
                    reason: reason.clone(),
                });
                told.clone_from(&reason);
            }
            let now = self.host.elapsed();
            let waited = now.saturating_sub(started);
            let when = if self.cancel.is_cancelled() {
                "before the run was asked to end".to_owned()
            } else if waited >= check.timeout {
                format!("within {}", humantime::format_duration(check.timeout))
            } else if lasting.believed(permanent, now) {
                "by waiting".to_owned()
            } else {
                String::new()
            };
            if !when.is_empty() {
                return Err(ResourceError::NotConverged {
                    what: format!("see it hold {when}: {reason}"),
                });
            }
            // The first looks come quickly: most things are up within a second. Whoever is slow to answer has enough to do without us.
            let rest = (now.saturating_sub(asked) * 3).min(REST);
            let pause = check.every.min(backoff(check.every / 5, attempt)).max(rest);
            self.pause(pause.min(check.timeout.saturating_sub(waited)))
                .await;
            attempt += 1;
        }
    }
}

#[cfg(test)]
mod tests;
