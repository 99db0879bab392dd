//! A second apply: nothing changes, nothing restarts, no file is written; and a setting that cannot change is refused.

use lab_suites::{RunningInstances, changes, listing, shared};

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_second_apply_leaves_everything_as_it_was() {
    let master = shared();
    let (before, running) = (listing(&master), RunningInstances::of(&master));
    let written = "find /etc/pf9 /etc/docker /etc/cni /etc/systemd /var/opt/pf9 -newer /tmp/mark -type f -not -path '*/etcd/data/*'";
    master.sh("touch /tmp/mark");

    master.apply(&[]).exits(0).changes_nothing();

    assert_eq!(
        RunningInstances::of(&master),
        running,
        "nothing was restarted"
    );
    assert_eq!(changes(&before, &listing(&master)), Vec::<String>::new());
    assert_eq!(master.sh(written), "", "no file was written again");
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn kube_env_is_for_the_group_and_for_shells() {
    let master = shared();
    assert_eq!(
        master.sh("stat --format '%a %U:%G' /etc/pf9/kube.env"),
        "640 root:root"
    );
    let values = master
        .sh(". /etc/pf9/kube.env; sh -c 'echo $ROLE $CONTAINERS_CIDR $SERVICES_CIDR $MASTER_IP'");
    assert_eq!(
        values,
        format!(
            "master 10.20.0.0/16 10.21.0.0/16 {}",
            master.host().address()
        )
    );
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn without_a_virtual_ip_keepalived_is_not_installed() {
    let master = shared();
    assert!(
        !master
            .try_sh("dpkg-query --status keepalived")
            .status
            .success()
    );
    assert!(!master.try_sh("systemctl cat keepalived").status.success());
    master
        .check(&["--only", "keepalived"])
        .exits(0)
        .says(&["skipped"]);
}

/// A prediction refuses these as an apply does, because an operator relies on it.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn settings_that_cannot_change_are_refused_by_prediction_and_apply_alike() {
    let master = shared();
    for (key, value) in [
        ("CONTAINERS_CIDR", "10.50.0.0/16"),
        ("ETCD_DATA_DIR", "/var/other"),
    ] {
        master.configure(&[(key, value)]);
        let refusal = format!("use {key}={value} on this host: it was set up with");
        for verb in ["diff", "plan", "apply"] {
            let refused = master.nodelet(&[verb, "--role", "pf9-kube"]).exits(1);
            let _ = refused.says(&[&refusal]);
        }
    }
    master.configure(&[]);
    let _ = master.nodelet(&["diff"]).exits(0);
}
