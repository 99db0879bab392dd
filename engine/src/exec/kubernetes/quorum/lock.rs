//! One master at a time ends its member of etcd. Between the question whether the quorum stays and the end of the member, another master could ask
//! and get the same answer. So a run has a lock in etcd from before the question until other masters can see that the member is down, or works
//! again.
//!
//! The lock is a key with a lease, so etcd itself ends the lock of a host that dies. If etcd has no quorum, there is no lock, and no quorum that it
//! would protect. If etcd has quorum and gives no lock, for example because its database is full, the member must not be ended. A member that does
//! not work is ended without a lock: etcd loses nothing by it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ACCEPT_QUORUM_LOSS, OwnState, PlannedMember, endpoints, own_state};
use crate::exec::{Mode, Runner};
use crate::host::{EtcdLock, Host, HostError};
use crate::kubernetes::etcd_members::Loss;
use crate::kubernetes::masters;
use crate::model::{Problem, chain, doubled};
use crate::plan::PlannedPhase;

/// The key of the lock. The API server's own keys begin with `/registry/`.
const KEY: &str = "/nodelet/etcd-disruption";
/// The lock lives so much longer than its phase may take.
const RESERVE: Duration = Duration::from_secs(60);
/// How long to wait for another master before anything is ended.
pub(in crate::exec) const WAIT: Duration = Duration::from_secs(180);
/// How long to wait when the clients of the member are ended already.
pub(in crate::exec) const LATE_WAIT: Duration = Duration::from_secs(15);
/// Attempts before an etcd that has quorum counts as one that gives no lock.
const REFUSALS: u32 = 4;
/// Pauses between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// The lock on the members of etcd, or nothing where none is needed.
#[derive(Debug, Default)]
pub(in crate::exec) struct DisruptionLock(Option<Lease>);

#[derive(Debug)]
struct Lease {
    id: u64,
    life: Duration,
    endpoints: Vec<String>,
}

/// Why a member must not be ended now.
#[derive(Debug)]
pub(in crate::exec) enum NotLocked {
    /// etcd would lose its quorum, or another master has the lock for too long.
    Refused(Box<Problem>),
    /// The run was asked to end while it waited.
    Interrupted,
}

/// How the wait for the lock ended.
pub(in crate::exec) enum Wait {
    /// This host has the lock, or needs none, because etcd does not answer.
    Over(DisruptionLock),
    /// This master still has it.
    HeldBy(String),
    /// etcd has quorum, and does not give it for this reason.
    NotGiven(String),
    /// The run was asked to end.
    Interrupted,
}

impl DisruptionLock {
    /// Takes the lock for `holder`, until `life` is over or it is released. Waits as long as `limit` while another master has it.
    ///
    /// # Cancel safety
    /// Do not drop the future: the lock may be held until its end.
    pub(in crate::exec) async fn take(
        host: &dyn Host,
        endpoints: Vec<String>,
        holder: &str,
        life: Duration,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Wait {
        let began = host.elapsed();
        let mut attempts: u32 = 0;
        let mut held_by = None;
        let mut refusals = 0;
        loop {
            let taken = host.take_lock(&endpoints, KEY, holder, life).await;
            let other = match (taken, held_by.take()) {
                (Ok(EtcdLock::Held { lease: id }), _) => {
                    let lease = Lease {
                        id,
                        life,
                        endpoints,
                    };
                    return Wait::Over(Self(Some(lease)));
                }
                (Ok(EtcdLock::HeldBy(other)), _) => other,
                // It is held, and etcd does not answer for a moment.
                (Err(_), Some(other)) => other,
                (Err(error), None) => {
                    let why = chain(&error).join(": ");
                    if host.member_list(&endpoints).await.is_err() {
                        tracing::warn!(
                            "could not take the lock on the members of etcd, which has no quorum: {why}"
                        );
                        return Wait::Over(Self::default());
                    }
                    // The leader may change at this moment.
                    refusals += 1;
                    if refusals >= REFUSALS {
                        return Wait::NotGiven(why);
                    }
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return Wait::Interrupted,
                        () = host.pause(doubled(refusals, PAUSES.0, PAUSES.1)) => {}
                    }
                    continue;
                }
            };
            if host.elapsed().saturating_sub(began) >= limit {
                return Wait::HeldBy(other);
            }
            if attempts == 0 {
                tracing::info!(
                    "waits for master {other}, which has the lock on the members of etcd"
                );
            }
            attempts = attempts.saturating_add(1);
            let pause = doubled(attempts, PAUSES.0, PAUSES.1);
            // Several masters may wait.
            let pause = pause.mul_f64(rand::random_range(0.9..1.1));
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Wait::Interrupted,
                () = host.pause(pause) => {}
            }
            held_by = Some(other);
        }
    }

    /// Releases the lock. If that fails, etcd ends it later.
    pub(in crate::exec) async fn release(self, host: &dyn Host) {
        let Some(lease) = self.0 else { return };
        let released = host.release_lock(&lease.endpoints, lease.id).await;
        if let Err(error) = released {
            tracing::warn!(
                "could not release the lock on the members of etcd, so other masters wait for its end, about {} s: {}",
                lease.life.as_secs(),
                chain(&error).join(": ")
            );
        }
    }
}

impl Runner<'_> {
    /// Takes the lock if the phase runs this host's member of etcd, then asks whether etcd keeps its quorum. Waits as long as `limit` for another
    /// master that has the lock. There is no lock without another master, without quorum, and if this host's member does not work.
    ///
    /// # Errors
    /// Why the member must not be ended. Then this host has no lock.
    ///
    /// # Cancel safety
    /// Do not drop the future: the lock may be held until its end. Cancel through [`Runner::cancel`].
    pub(in crate::exec) async fn take_disruption_lock(
        &self,
        phase: &PlannedPhase,
        loss: Loss,
        limit: Duration,
    ) -> Result<DisruptionLock, NotLocked> {
        let Some(planned) = PlannedMember::of(phase).filter(|_| !self.accepts_quorum_loss) else {
            return Ok(DisruptionLock::default());
        };
        let mut lock = DisruptionLock::default();
        if let Some(endpoints) = self.endpoints_for_lock(&planned, loss).await {
            let holder = planned.member.name.as_str();
            let life = phase.timeout + RESERVE;
            let taken =
                DisruptionLock::take(self.host, endpoints, holder, life, limit, &self.cancel);
            lock = match taken.await {
                Wait::Over(lock) => lock,
                Wait::HeldBy(other) => {
                    let problem = held_by(&other, limit, life, &planned);
                    return Err(NotLocked::Refused(Box::new(problem)));
                }
                Wait::NotGiven(why) => {
                    let problem = not_given(&why, &planned);
                    return Err(NotLocked::Refused(Box::new(problem)));
                }
                Wait::Interrupted => return Err(NotLocked::Interrupted),
            };
        }
        match self.quorum_problem([phase], loss).await {
            None => Ok(lock),
            Some(problem) => {
                lock.release(self.host).await;
                Err(NotLocked::Refused(Box::new(problem)))
            }
        }
    }

    /// As [`Runner::quorum_problem`]. Before an apply, a stop or a repair, it waits while another master has the lock, because the member of that one
    /// may be down for a moment only.
    ///
    /// # Cancel safety
    /// As [`Runner::take_disruption_lock`].
    pub(in crate::exec) async fn quorum_problem_in_turn<'p>(
        &self,
        phases: impl IntoIterator<Item = &'p PlannedPhase>,
        loss: Loss,
        mode: Mode,
    ) -> Option<Problem> {
        let mut phases = phases.into_iter();
        let phase = phases.find(|phase| PlannedMember::of(phase).is_some())?;
        match mode {
            Mode::DryRun => self.quorum_problem([phase], loss).await,
            Mode::Apply => match self.take_disruption_lock(phase, loss, WAIT).await {
                Ok(lock) => {
                    lock.release(self.host).await;
                    None
                }
                Err(NotLocked::Refused(problem)) => Some(*problem),
                // The run ends at its next safe point.
                Err(NotLocked::Interrupted) => None,
            },
        }
    }

    /// The members at which the lock is taken and released: this host's own, and those of other masters, because this host's is down at the
    /// release. `None` if no lock is needed. A list of masters that is missing, damaged or names no other one does not decide that: nodeletd may have
    /// been stopped when others joined, and this host's own member knows them.
    async fn endpoints_for_lock(
        &self,
        planned: &PlannedMember<'_>,
        loss: Loss,
    ) -> Option<Vec<String>> {
        let mut others = masters::read(self.host).await.unwrap_or_default();
        others.retain(|its| its.name != planned.member.name);
        let mut endpoints = endpoints(&others);
        if others.is_empty() {
            let members = self.host.member_list(&endpoints).await.ok()?;
            let me = planned.member.me();
            let others = members.into_iter().filter(|member| !me.is(member));
            let known: Vec<String> = others.flat_map(|other| other.client_urls).collect();
            if known.is_empty() {
                return None;
            }
            endpoints.extend(known);
        }
        let container = planned.container.map(|(_, its)| its.name.as_str());
        let is_down = match loss {
            Loss::Restart | Loss::Stop => {
                matches!(
                    own_state(self.host, &planned.member.peer, container).await,
                    OwnState::Down
                )
            }
            Loss::Clean | Loss::Removal => false,
        };
        (!is_down).then_some(endpoints)
    }
}

/// Why the member of another master cannot be removed while etcd gives no lock.
pub(in crate::exec) fn not_given_during_removal(why: &str) -> HostError {
    HostError::service(
        "remove the member from etcd",
        format!("etcd gives no lock on its members: {why}; {}", GIVES_NONE),
    )
}

/// The next step if etcd gives no lock.
const GIVES_NONE: &str =
    "remove the cause (`nodelet etcd status` on a master names alarms), then repeat the command";

fn not_given(why: &str, planned: &PlannedMember<'_>) -> Problem {
    super::problem(
        Some(&planned.step.span),
        format!(
            "etcd gives no lock on its members, so another master may end its member at the same time: {why}"
        ),
        format!(
            "{GIVES_NONE}; {ACCEPT_QUORUM_LOSS} goes on without a lock: use it on one master at a time, and wait until its member works again"
        ),
    )
}

/// Why the member of another master cannot be removed now.
pub(in crate::exec) fn held_during_removal(other: &str) -> HostError {
    HostError::service(
        "remove the member from etcd",
        format!(
            "master {other} has had the lock on the members of etcd for {} s; look at {other} (`nodelet history` there), then repeat the command",
            WAIT.as_secs()
        ),
    )
}

fn held_by(other: &str, waited: Duration, life: Duration, planned: &PlannedMember<'_>) -> Problem {
    super::problem(
        Some(&planned.step.span),
        format!(
            "master {other} has had the lock on the members of etcd for {} s, and only one member may be down",
            waited.as_secs()
        ),
        format!(
            "look at {other} (`nodelet history` there); if no nodelet runs there, the lock ends by itself in about {} min; then repeat the command",
            life.as_secs().div_ceil(60)
        ),
    )
}

#[cfg(test)]
pub(in crate::exec) mod tests {
    use super::*;
    use crate::exec::Recording;
    use crate::exec::kubernetes::quorum::tests::{host as three, phase};
    use crate::facts::Facts;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::host::{Clock as _, EtcdMembers as _, Files as _};
    use crate::kubernetes::etcd_members::OWN_ENDPOINT;
    use crate::kubernetes::masters::MASTERS;
    use crate::plan::Plan;
    use crate::resource::NoSecrets;

    const LIFE: Duration = Duration::from_secs(600);

    /// Master `m-2` tries to take the lock.
    pub(in crate::exec) async fn other_takes_lock(host: &FakeHost, life: Duration) -> EtcdLock {
        takes_lock(host, "m-2", life).await
    }

    /// This master tries to take the lock.
    pub(in crate::exec) async fn takes_lock(
        host: &FakeHost,
        holder: &str,
        life: Duration,
    ) -> EtcdLock {
        let endpoints = ["https://172.30.0.12:4001".to_owned()];
        let taken = host.take_lock(&endpoints, KEY, holder, life).await;
        taken.expect("etcd answers")
    }

    /// One of three masters whose own member answers.
    fn host() -> FakeHost {
        let host = three();
        host.with_world_mut(|world| {
            let own = world.etcd.states["https://172.30.0.11:4001"].clone();
            world.etcd.states.insert(OWN_ENDPOINT.to_owned(), own);
        });
        host
    }

    async fn with_runner<T>(host: &FakeHost, work: impl AsyncFnOnce(&Runner<'_>) -> T) -> T {
        let plan = Plan::bare(vec![phase()]);
        let (facts, heard) = (Facts::nothing_about("m-1"), Recording::default());
        let runner = Runner::new(&plan, host, &facts, &NoSecrets, &heard);
        work(&runner).await
    }

    async fn locked(runner: &Runner<'_>) -> Result<DisruptionLock, String> {
        let phase = phase();
        let locked = runner.take_disruption_lock(&phase, Loss::Restart, WAIT);
        locked.await.map_err(|not| match not {
            NotLocked::Refused(problem) => format!("{}; {}", problem.problem, problem.remedy),
            NotLocked::Interrupted => "interrupted".to_owned(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn one_master_at_a_time_has_the_lock() {
        let host = host();
        with_runner(&host, async |runner| {
            let lock = locked(runner).await.expect("it is free");
            let other = other_takes_lock(&host, LIFE).await;
            assert_eq!(other, EtcdLock::HeldBy("m-1".to_owned()));
            // After an interruption, this host takes it anew.
            let again = locked(runner).await.expect("it is its own");
            lock.release(&host).await;
            let other = other_takes_lock(&host, LIFE).await;
            assert_eq!(other, EtcdLock::HeldBy("m-1".to_owned()));
            again.release(&host).await;
            let other = other_takes_lock(&host, LIFE).await;
            assert!(matches!(other, EtcdLock::Held { .. }), "{other:?}");
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_lock_of_another_master_is_waited_for_and_named() {
        let host = host();
        with_runner(&host, async |runner| {
            other_takes_lock(&host, WAIT / 2).await;
            let began = host.elapsed();
            let lock = locked(runner).await.expect("it ends by itself");
            assert!(host.elapsed() - began >= WAIT / 2);
            lock.release(&host).await;
            other_takes_lock(&host, LIFE).await;
            let said = locked(runner).await.expect_err("it is held for too long");
            assert!(said.contains("master m-2 has had the lock"), "{said}");
            let phase = phase();
            let asked = runner.quorum_problem_in_turn([&phase], Loss::Stop, Mode::Apply);
            assert!(asked.await.is_some_and(|its| its.problem.contains("m-2")));
            let asked = runner.quorum_problem_in_turn([&phase], Loss::Stop, Mode::DryRun);
            assert!(asked.await.is_none(), "a dry run does not wait");
            let began = host.elapsed();
            runner.cancel.cancel();
            let said = locked(runner).await.expect_err("it is asked to end");
            assert_eq!(said, "interrupted");
            assert!(host.elapsed() - began < Duration::from_secs(1));
        })
        .await;
    }

    /// The leader may change meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_lock_that_is_held_is_waited_for_although_etcd_does_not_answer_for_a_moment() {
        let host = host();
        other_takes_lock(&host, WAIT / 2).await;
        host.set_faults(FaultPlan::none().fail_call(3).fail_call(4));
        with_runner(&host, async |runner| {
            let began = host.elapsed();
            locked(runner).await.expect("it ends by itself");
            assert!(host.elapsed() - began >= WAIT / 2);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_leaves_no_lock() {
        let host = host();
        host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
        with_runner(&host, async |runner| {
            let said = locked(runner).await.expect_err("the quorum needs it");
            assert!(said.contains("m-3"), "{said}");
        })
        .await;
        let other = other_takes_lock(&host, LIFE).await;
        assert!(matches!(other, EtcdLock::Held { .. }), "{other:?}");
    }

    /// A repair of a dead member helps the quorum.
    #[tokio::test(start_paused = true)]
    async fn a_member_that_does_not_work_needs_no_lock() {
        let host = three();
        host.with_world_mut(|world| world.etcd.silence("172.30.0.11"));
        other_takes_lock(&host, LIFE).await;
        let began = host.elapsed();
        with_runner(&host, async |runner| {
            locked(runner).await.expect("it is down");
        })
        .await;
        assert!(host.elapsed() - began < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_etcd_that_has_quorum_and_gives_no_lock_refuses() {
        let full = host();
        full.set_faults(FaultPlan::none().fail("take_lock", "*"));
        with_runner(&full, async |runner| {
            let said = locked(runner)
                .await
                .expect_err("others may end theirs, too");
            assert!(said.contains("etcd gives no lock"), "{said}");
            assert!(said.contains(ACCEPT_QUORUM_LOSS), "{said}");
        })
        .await;
        // The leader changes.
        let changing = host();
        changing.set_faults(FaultPlan::none().fail_call(1));
        with_runner(&changing, async |runner| {
            locked(runner).await.expect("it is given later");
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_without_another_master_is_no_proof() {
        let list =
            r#"{"version":1,"masters":[{"name":"m-1","address":"172.30.0.11","voter":true}]}"#;
        for outdated in [Some(list), None] {
            let host = host();
            match outdated {
                Some(list) => {
                    host.with_world_mut(|world| world.file_with_mode(MASTERS, list, 0o600))
                }
                None => host.remove(MASTERS.as_ref()).await.expect("it is there"),
            }
            other_takes_lock(&host, LIFE).await;
            with_runner(&host, async |runner| {
                let said = locked(runner).await.expect_err("it is held");
                assert!(said.contains("m-2"), "{said}");
            })
            .await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_quorum_or_another_master_the_guard_decides_alone() {
        let of_three = host();
        of_three.set_faults(
            FaultPlan::none()
                .fail("take_lock", "*")
                .fail("member_list", "*"),
        );
        with_runner(&of_three, async |runner| {
            locked(runner).await.expect("the quorum stays");
        })
        .await;
        let alone = host();
        let list =
            r#"{"version":1,"masters":[{"name":"m-1","address":"172.30.0.11","voter":true}]}"#;
        alone.with_world_mut(|world| {
            world.file_with_mode(MASTERS, list, 0o600);
            world.etcd.members.truncate(1);
        });
        with_runner(&alone, async |runner| {
            locked(runner).await.expect("there is no other master");
        })
        .await;
        assert_eq!(alone.mutations(), 0);
        // Its own member knows the others.
        let damaged = host();
        damaged.with_world_mut(|world| world.file_with_mode(MASTERS, "{", 0o600));
        other_takes_lock(&damaged, LIFE).await;
        with_runner(&damaged, async |runner| {
            let said = locked(runner).await.expect_err("it is held");
            assert!(said.contains("m-2"), "{said}");
        })
        .await;
    }
}
