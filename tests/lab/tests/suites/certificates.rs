//! Certificates come to their end while the cluster is used: nodeletd renews them one component after the other, and no
//! request to the API server fails. One that somebody replaced is put right without a hand.

use std::time::Duration;

use lab_suites::{Image, Leaves, Load, Master};

/// Life of the certificates here.
const LIFE: Duration = Duration::from_secs(40 * 60);
/// At this age a certificate of that life is due; a third of it is left, less what has passed at this age.
const AGE: Duration = Duration::from_secs(30 * 60);
/// Three servers look at their files once a minute, one after the other; the rest takes seconds.
const RENEWED: Duration = Duration::from_secs(400);
/// Until a replaced certificate is noticed, made again and shown.
const REPAIRED: Duration = Duration::from_secs(120);

#[test]
fn certificates_are_renewed_and_repaired_under_load() {
    let Some(master) = Master::create("certificates", Image::Bare, false) else {
        return;
    };
    master.configure(&[("CERTIFICATE_LIFE", "40m"), ("KUBE_SERVICE_STATE", "true")]);
    let leaves = Leaves::plant(&master);
    master.apply(&[]).exits(0);
    let standing =
        "docker ps --no-trunc --quiet --filter name=etcd --filter name=k8s_kube-apiserver | sort";
    let before = master.sh(standing);

    // All are due at once, as on a host that was brought up in one go.
    for path in leaves.paths() {
        leaves.replace(path, AGE, LIFE);
    }
    let old = leaves.serials();
    master
        .nodelet(&["diff"])
        .exits(2)
        .says(&["past two thirds of its life"]);
    let load = Load::start(&leaves.asker());
    master.sh("systemctl start pf9-nodeletd");
    let renewed = lab_suites::poll(RENEWED, || {
        let new = leaves.serials();
        let left = old.iter().filter(|one| new.contains(one)).count();
        (left == 0).then_some(())
    });
    assert!(
        renewed.is_some(),
        "{}",
        master.sh("nodelet certs; nodelet history")
    );
    master.wait_for("all is well", "nodelet status", REPAIRED);
    let seen = load.so_far();
    println!("renewal: {seen}");
    assert_eq!(seen.failed, 0, "{seen}");
    assert_eq!(
        master.sh(standing),
        before,
        "etcd and the API server went on"
    );

    // A server's, and a client's that is read at each connection: replaced by one that is over.
    for path in ["apiserver", "apiserver/etcd", "kubelet/server"] {
        leaves.replace(path, AGE * 2, LIFE);
    }
    master.wait_for("none is over", "nodelet certs", REPAIRED);
    master.wait_for("all is well", "nodelet status", REPAIRED);
    assert_eq!(
        master.sh(standing),
        before,
        "etcd and the API server went on"
    );
    println!("repair: {}", load.end());
    master.sh("systemctl stop pf9-nodeletd");
}
