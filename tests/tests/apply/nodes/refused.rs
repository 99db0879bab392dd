//! Hosts of the whole role that are refused before anything on them is touched.

use behaviour::{Bringup, Case, fixtures};
use engine::host::fake::FakeHost;
use engine::kubernetes::join_file::JOIN_FILE;
use engine::model::Outcome;

use super::beside_two_masters;

/// A host of the case `cp-1` with these changes to its settings.
fn with_settings(changes: &[(&str, &str)]) -> Bringup {
    let mut settings = behaviour::text(fixtures("settings/cp-1.yaml"));
    for (before, after) in changes {
        assert!(settings.contains(before), "{before}: {settings}");
        settings = settings.replace(before, after);
    }
    Bringup::from_case(Case::of("cp-1", &settings))
}

/// Applies the plan, which is refused for these reasons, and checks that the host stays as it is.
fn refused(bringup: &Bringup, host: &FakeHost, reasons: &[&str]) {
    let before = host.snapshot();
    let run = bringup.apply(host);
    let text = run.text();
    assert_eq!(run.outcome, Outcome::Refused, "{text}");
    for reason in reasons {
        assert!(text.contains(reason), "{reason}: {text}");
    }
    assert!(host.snapshot() == before, "nothing is touched");
}

#[test]
fn a_worker_without_a_usable_join_file_stays_bare() {
    let bringup = Bringup::of("wk-1");
    let garbage = bringup.bare_host();
    garbage.with_world_mut(|world| world.file_with_mode(JOIN_FILE, "garbage", 0o600));
    refused(&bringup, &garbage, &["copy the file from the master"]);
    // With the file of its masters, it comes up.
    let run = bringup.apply(&bringup.bare_host());
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
}

/// Two hosts of a cluster behind a load balancer have `new`. The first one has begun the cluster. With a virtual IP, the precondition about
/// its user says the same.
#[test]
fn a_second_host_that_is_to_begin_the_cluster_stays_bare() {
    let bringup = with_settings(&[("MASTER_IP: 172.30.0.11", "MASTER_IP: 172.30.0.200")]);
    let host = bringup
        .bare_host()
        .with_endpoint("172.30.0.200:443", 401, "");
    let reasons = [
        "an API server answers at https://172.30.0.200:443",
        "so the cluster exists",
        "set ETCD_INITIAL_CLUSTER_STATE to existing",
    ];
    refused(&bringup, &host, &reasons);
    // The first one finds no API server.
    let run = bringup.apply(&bringup.bare_host());
    assert_ne!(run.outcome, Outcome::Refused, "{}", run.text());
}

#[test]
fn a_master_does_not_become_a_worker_before_it_is_cleaned() {
    let master = Bringup::of("cp-1");
    let host = master.bare_host();
    beside_two_masters(&host);
    let run = master.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host.with_world_mut(|world| world.etcd.silence("172.30.0.19"));
    let worker = with_settings(&[
        ("ROLE: master", "ROLE: worker"),
        ("MASTER_IP: 172.30.0.11", "MASTER_IP: 172.30.0.18"),
    ]);
    // A clean asks for the quorum in turn.
    let reasons = ["so it is or was a master", "run `nodelet clean --purge`"];
    refused(&worker, &host, &reasons);
    assert!(host.with_world(|world| world.container_runs("etcd")));
}
