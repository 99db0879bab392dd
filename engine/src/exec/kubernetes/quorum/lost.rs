//! Whether etcd has no quorum because members of other masters do not answer. A restart of this host's member would not bring it back,
//! so a check that fails meanwhile says nothing about this host (`.needs_quorum()` in the phase scripts).
//!
//! This host's member is asked on the loopback, and at its address for other members if it may wait for a leader after its start. If it does
//! not answer, or reports damaged data, the failure is its own. The others are those in the file of masters, because no list has quorum. The decision is in `kubernetes::etcd_members`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{PlannedMember, from_file, is_connection_refused};
use crate::exec::Runner;
use crate::host::{EtcdStatus, Host};
use crate::kubernetes::etcd_members::{Me, OWN_ENDPOINT, Seen, look, silent_voters};
use crate::kubernetes::masters;

/// In an alarm of a member whose data is damaged.
const DAMAGED: &str = "CORRUPT";
/// Bound on all questions together.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the answer counts for other checks: hosts that are down cost seconds at each question.
const RECENT: Duration = Duration::from_secs(10);

/// Why etcd was last found without a quorum because of other members, and when, on the host's clock.
#[derive(Debug, Default)]
pub(in crate::exec) struct QuorumLost(Mutex<Option<(Duration, String)>>);

impl QuorumLost {
    fn recent(&self, now: Duration) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, why) = last.as_ref()?;
        (now.saturating_sub(*at) < RECENT).then(|| why.clone())
    }

    fn remember(&self, now: Duration, why: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((now, why.to_owned()));
    }
}

impl Runner<'_> {
    /// Why etcd has no quorum, if members of other masters do not answer and this host's member runs; `None` otherwise, and if the plan
    /// has no member. Changes nothing; takes at most 10 s. Cancel safe.
    pub(in crate::exec) async fn quorum_lost_elsewhere(&self, host: &dyn Host) -> Option<String> {
        let planned = self.plan.phases.iter().find_map(PlannedMember::of)?;
        if let Some(why) = self.quorum_lost.recent(host.elapsed()) {
            return Some(why);
        }
        let asked = lost_elsewhere(host, planned.member.me());
        let silent = tokio::time::timeout(ANSWER, asked).await.ok().flatten()?;
        let why = format!(
            "etcd has no quorum: {}; this host's member runs",
            match silent.as_slice() {
                [one] => format!("member {one} does not answer"),
                several => format!("members {} do not answer", several.join(", ")),
            }
        );
        self.quorum_lost.remember(host.elapsed(), &why);
        Some(why)
    }
}

/// The voters that have taken the quorum by their silence; `None` if it is not known that this is the reason.
async fn lost_elsewhere(host: &dyn Host, me: Me<'_>) -> Option<Vec<String>> {
    let known = masters::read(host).await.ok()?;
    let members = known.iter().map(from_file);
    let (own, others): (Vec<_>, Vec<_>) = members.partition(|member| me.is(member));
    let own = own.into_iter().next()?;
    if others.is_empty() {
        return None;
    }
    let state = match host.member_status(OWN_ENDPOINT).await {
        Ok(state) => state,
        // After its start, etcd answers clients only once it knows a leader. Other members get answers before.
        Err(error) => {
            let is_refused = is_connection_refused(&error);
            if is_refused || !masters::answers_peers(host, me.peer).await {
                return None;
            }
            EtcdStatus {
                id: own.id,
                ..EtcdStatus::default()
            }
        }
    };
    let is_damaged = state.errors.iter().any(|error| error.contains(DAMAGED));
    let is_another = own.id != 0 && own.id != state.id;
    if state.leader.is_some() || is_damaged || is_another {
        return None;
    }
    let mut members = look(host, others).await;
    members.push(Seen {
        member: own,
        state: Ok(state),
    });
    silent_voters(me, &members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::kubernetes::quorum::tests::{host, phase};
    use crate::exec::{PhaseHealth, Recording, Status, failed_phases};
    use crate::facts::Facts;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::plan::{Plan, PlannedCheck, PlannedPhase, Probe};
    use crate::resource::NoSecrets;

    /// A phase with a check that fails, and needs the quorum or not.
    fn failing(phase: PlannedPhase, needs_quorum: bool) -> PlannedPhase {
        PlannedPhase {
            checks: vec![PlannedCheck {
                needs_quorum,
                ..PlannedCheck::bare(
                    &phase.name,
                    "it works",
                    Probe::FileExists("/nowhere".into()),
                )
            }],
            ..phase
        }
    }

    /// etcd's phase and the one of an API server, whose checks need the quorum or not.
    fn plan(needs_quorum: bool) -> Plan {
        let api = PlannedPhase::bare("api-ready".parse().expect("a name"));
        Plan::bare(vec![
            failing(phase(), needs_quorum),
            failing(api, needs_quorum),
        ])
    }

    async fn check(host: &FakeHost, plan: &Plan) -> Vec<PhaseHealth> {
        let (facts, ignored) = (Facts::nothing_about("m-1"), Recording::default());
        let runner = Runner::new(plan, host, &facts, &NoSecrets, &ignored);
        runner.check_until_failed(Duration::from_millis(250)).await
    }

    /// One of three masters, whose member answers so on the loopback; those of the others do not answer.
    fn left_alone(state: Option<EtcdStatus>) -> FakeHost {
        let host = host();
        host.with_world_mut(|world| {
            world.etcd.states.clear();
            let own = state.map(|state| (OWN_ENDPOINT.to_owned(), state));
            world.etcd.states.extend(own);
        });
        host
    }

    fn without_leader() -> EtcdStatus {
        EtcdStatus {
            id: 11,
            errors: vec!["etcdserver: no leader".to_owned()],
            ..EtcdStatus::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_others_have_left_alone_is_not_restarted() {
        let host = left_alone(Some(without_leader()));
        let plan = plan(true);
        let health = check(&host, &plan).await;
        for phase in &health {
            assert_eq!(phase.status(), Status::Unknown, "{phase:?}");
            let reason = &phase.conditions[0].reason;
            let why = "etcd has no quorum: members m-2, m-3 do not answer; this host's member runs";
            assert!(reason.ends_with(why), "{reason}");
        }
        assert!(failed_phases(&health).is_empty());
        assert_eq!(host.mutations(), 0);
    }

    /// It was started again, for example by a boot, and answers no client before it knows a leader.
    #[tokio::test(start_paused = true)]
    async fn a_member_that_waits_for_the_others_is_not_restarted() {
        let waits = |host: FakeHost| {
            host.set_faults(FaultPlan::none().fail("member_status", OWN_ENDPOINT));
            host
        };
        let mut host = waits(left_alone(None));
        for file in ["ca.crt", "request.crt", "request.key"] {
            host = host.with_file(format!("/etc/pf9/kube.d/certs/etcd/peer/{file}"), "pem");
        }
        let silent = check(&host, &plan(true)).await;
        assert_eq!(silent[0].status(), Status::False, "{silent:?}");
        let host = waits(host.with_endpoint("172.30.0.11:2380", 200, "{}"));
        let waiting = check(&host, &plan(true)).await;
        assert_eq!(waiting[0].status(), Status::Unknown, "{waiting:?}");
        // The other members have a leader.
        host.with_world_mut(|world| {
            let leads = EtcdStatus {
                leader: Some(12),
                ..EtcdStatus::default()
            };
            let url = "https://172.30.0.12:4001".to_owned();
            world.etcd.states.insert(url, leads);
        });
        let broken = check(&waits(host), &plan(true)).await;
        assert_eq!(broken[0].status(), Status::False, "{broken:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_needs_no_quorum_fails() {
        let host = left_alone(Some(without_leader()));
        let health = check(&host, &plan(false)).await;
        assert_eq!(health[0].status(), Status::False, "{health:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_is_broken_itself_is_repaired() {
        let mut damaged = without_leader();
        damaged.errors.push("memberID:11 alarm:CORRUPT".to_owned());
        let another = EtcdStatus {
            id: 99,
            ..without_leader()
        };
        let leading = EtcdStatus {
            leader: Some(11),
            ..without_leader()
        };
        for (state, what) in [
            (None, "it does not answer"),
            (Some(damaged), "its data is damaged"),
            (Some(another), "another member answers"),
            (Some(leading), "it has a leader"),
        ] {
            let host = left_alone(state);
            if what.starts_with("another") {
                let masters = r#"{"version":1,"masters":[{"name":"m-1","address":"172.30.0.11","etcd_id":"b","voter":true},{"name":"m-2","address":"172.30.0.12","voter":true}]}"#;
                host.with_world_mut(|world| world.file(masters::MASTERS, masters));
            }
            let health = check(&host, &plan(true)).await;
            assert_eq!(health[0].status(), Status::False, "{what}: {health:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_cause_has_to_be_the_silence_of_others() {
        // Another member answers, so two of three could elect a leader.
        let host = left_alone(Some(without_leader()));
        host.with_world_mut(|world| {
            let url = "https://172.30.0.12:4001".to_owned();
            world.etcd.states.insert(url, EtcdStatus::default());
        });
        assert_eq!(check(&host, &plan(true)).await[0].status(), Status::False);
        // The only master of a cluster.
        let host = left_alone(Some(without_leader()));
        host.with_world_mut(|world| world.remove(masters::MASTERS));
        assert_eq!(check(&host, &plan(true)).await[0].status(), Status::False);
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_counts_for_checks_of_the_same_moment_only() {
        let host = left_alone(Some(without_leader()));
        let plan = plan(true);
        let (facts, ignored) = (Facts::nothing_about("m-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored);
        assert!(runner.quorum_lost_elsewhere(&host).await.is_some());
        host.with_world_mut(|world| world.etcd.states.clear());
        assert!(runner.quorum_lost_elsewhere(&host).await.is_some());
        host.with_world_mut(|world| world.advance(RECENT));
        assert_eq!(runner.quorum_lost_elsewhere(&host).await, None);
    }
}
