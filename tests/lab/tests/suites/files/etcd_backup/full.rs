//! An etcd whose store is full: it is reported, etcd is not restarted, and it is healthy again once there is room.

use std::time::Duration;

use lab_suites::{Master, poll, shared};

use super::ETCDCTL;

/// The smallest quota that may be set.
const LEAST: u64 = 64 << 20;

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_full_store_is_reported_and_does_not_restart_etcd() {
    let master = shared();
    let size = master.sh("stat --format %s /var/opt/pf9/kube/etcd/data/member/snap/db");
    let size: u64 = size.parse().expect("a size");
    let quota = LEAST.max(size + (8 << 20)).to_string();
    master.configure(&[("ETCD_QUOTA_BACKEND_BYTES", &quota)]);
    master.apply(&[]).exits(0);
    let alarm = "etcd raises no alarm";
    let conditions = || master.check(&[]).text();
    assert!(!conditions().contains(alarm), "{}", conditions());

    master.sh(&format!(
        r#"head -c 700000 /dev/urandom | base64 --wrap=0 > /tmp/value
        for i in $(seq 100); do {ETCDCTL} put /full/$i < /tmp/value > /dev/null 2>/tmp/said || break; done
        grep -q 'database space exceeded' /tmp/said"#
    ));
    let member = "docker inspect --format '{{.State.StartedAt}}' etcd";
    let before = master.sh(member);
    master.check(&[]).says(&[alarm]);
    master
        .nodelet(&["etcd", "status"])
        .exits(2)
        .says(&["NOSPACE", "compact and defragment"]);
    // A repair cannot fix it: the prediction names the alarm and restarts nothing of etcd.
    let predicted = master.nodelet(&["diff", "--repair"]).text();
    assert!(predicted.contains("nothing to repair"), "{predicted}");
    assert!(predicted.contains(alarm), "{predicted}");

    // The steps that the message names.
    master.sh(&format!(
        r#"{ETCDCTL} del --prefix /full/ > /dev/null
        revision=$({ETCDCTL} get /full --write-out json | grep -o '"revision":[0-9]*' | cut -d: -f2)
        {ETCDCTL} compact $revision; {ETCDCTL} defrag; {ETCDCTL} alarm disarm; rm /tmp/value /tmp/said"#
    ));
    assert!(!conditions().contains(alarm), "{}", conditions());
    assert_eq!(master.sh(member), before, "etcd was not restarted");
    master.configure(&[]);
    master.apply(&[]).exits(0);
    watched_anew(&master);
}

/// If etcd has compacted what the API server of Kubernetes 1.20 watched, and is started again, the API server leaves the watches of
/// its clients open and silent until they end by themselves after five to ten minutes. The next suite on this host creates Services
/// and needs them served, so the API server is restarted.
fn watched_anew(master: &Master) {
    master.sh(
        "docker ps --quiet --filter label=io.kubernetes.container.name=kube-apiserver | xargs docker kill > /dev/null",
    );
    let checked = || master.check(&[]);
    // kubelet waits for up to five minutes before it starts a container that has ended a few times.
    let again = poll(Duration::from_secs(360), || {
        checked().exited(0).then_some(())
    });
    if again.is_none() {
        checked().exits(0);
    }
}
