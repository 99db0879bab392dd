//! A master whose other masters are down: etcd has no quorum, and no restart on this host would bring it back.

use behaviour::{Bringup, Case};
use engine::exec::{PhaseHealth, Status, failed_phases};
use engine::host::EtcdStatus;
use engine::host::fake::FakeHost;
use engine::kubernetes::etcd_members::OWN_ENDPOINT;
use engine::kubernetes::masters::MASTERS;
use engine::model::{Outcome, PhaseName};

/// Phases whose checks need the quorum.
const NEED: [&str; 2] = ["etcd", "api-ready"];

/// A master that is up, beside two masters whose hosts are down since then.
fn left_alone() -> (Bringup, FakeHost) {
    let bringup = Bringup::from_case(Case::named("cp-1"));
    let host = bringup.bare_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let masters = r#"{"version":1,"masters":[{"name":"cp-1","address":"172.30.0.11","etcd_id":"1","voter":true},{"name":"cp-2","address":"172.30.0.12","etcd_id":"2","voter":true},{"name":"cp-3","address":"172.30.0.13","etcd_id":"3","voter":true}]}"#;
    host.with_world_mut(|world| {
        world.file_with_mode(MASTERS, masters, 0o600);
        let own = EtcdStatus {
            id: 1,
            ..EtcdStatus::default()
        };
        world.etcd.states.insert(OWN_ENDPOINT.to_owned(), own);
    });
    let host = host
        .with_endpoint("127.0.0.1:4001", 503, r#"{"health":"false"}"#)
        .with_endpoint("127.0.0.1:443", 500, "[-]etcd failed");
    (bringup, host)
}

fn of<'h>(health: &'h [PhaseHealth], phase: &str) -> &'h PhaseHealth {
    let mut all = health.iter();
    let found = all.find(|its| its.phase.as_str() == phase);
    found.expect("a phase of the plan")
}

#[test]
fn a_master_that_others_have_left_without_a_quorum_restarts_nothing() {
    let (bringup, host) = left_alone();
    let health = bringup.check(&host);
    let failed = failed_phases(&health);
    let failed: Vec<&str> = failed.iter().map(PhaseName::as_str).collect();
    assert_eq!(failed, [""; 0]);
    for phase in NEED {
        let health = of(&health, phase);
        assert_eq!(health.status(), Status::Unknown, "{health:?}");
        let names = |why: &str| why.contains("members cp-2, cp-3 do not answer");
        let mut reasons = health.conditions.iter().map(|its| its.reason.as_str());
        assert!(reasons.any(names), "{health:?}");
    }
}

#[test]
fn a_member_that_does_not_run_is_repaired_also_without_a_quorum() {
    let (bringup, host) = left_alone();
    host.with_world_mut(|world| {
        world.etcd.states.clear();
        world.break_container("etcd", true);
    });
    let health = bringup.check(&host);
    for phase in NEED {
        assert_eq!(of(&health, phase).status(), Status::False, "{health:?}");
    }
}

/// Its API server and its etcd do not work for another reason.
#[test]
fn the_only_master_is_repaired() {
    let (bringup, host) = left_alone();
    host.with_world_mut(|world| world.remove(MASTERS));
    let health = bringup.check(&host);
    for phase in NEED {
        assert_eq!(of(&health, phase).status(), Status::False, "{health:?}");
    }
}
