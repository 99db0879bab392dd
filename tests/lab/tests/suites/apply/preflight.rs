//! Preconditions: all problems of an unfit host are reported, the host is not changed, and an apply succeeds once they are removed.

use lab_suites::{Image, Master, changes, listing};

/// Makes a host unfit in many ways. [`MEND`] reverts each line.
const SPOIL: &str = r#"
    cp /etc/os-release /tmp/os-release; hostname > /tmp/hostname
    printf 'ID=plan9\nVERSION_ID=4\nPRETTY_NAME="Plan 9"\n' > /etc/os-release
    sysctl --quiet --write kernel.hostname=Not_a_name
    mv /usr/bin/nsenter /usr/bin/nsenter.away
    mkdir -p /etc/rancher/k3s
    ip link add lan0 type bridge; ip address add 10.20.5.1/24 dev lan0; ip link set lan0 up
    printf '[Service]\nExecStart=/bin/sleep inf\n[Install]\nWantedBy=multi-user.target\n' > /etc/systemd/system/k3s.service
    systemctl daemon-reload; systemctl --quiet enable --now k3s
"#;

const MEND: &str = r#"
    cp /tmp/os-release /etc/os-release
    sysctl --quiet --write kernel.hostname="$(cat /tmp/hostname)"
    mv /usr/bin/nsenter.away /usr/bin/nsenter
    rm -r /etc/rancher
    ip link delete lan0
    systemctl --quiet disable --now k3s; rm /etc/systemd/system/k3s.service; systemctl daemon-reload
    systemctl stop squatter-443 squatter-2380
"#;

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn an_unfit_host_gets_all_problems_and_comes_up_after_they_are_fixed() {
    let master = Master::create("unfit", Image::NoDocker, false);
    assert!(
        !master.try_sh("command -v dockerd").status.success(),
        "this host has no docker"
    );
    master.sh(SPOIL);
    master.occupy_port(443);
    master.occupy_port(2380);
    master.configure(&[
        ("MASTER_VIP_ENABLED", "true"),
        ("MASTER_VIP_IFACE", "eth9"),
        ("MASTER_VIP_VROUTER_ID", "51"),
    ]);
    let before = listing(&master);
    let state = master.sh("ls -A /var/opt/pf9 /run/pf9* 2>/dev/null || true");

    let refused = master.apply(&[]).exits(1);
    let problems = refused.event("preflight_failed")["problems"].clone();
    let problems: Vec<String> = problems
        .as_array()
        .expect("a list")
        .iter()
        .map(ToString::to_string)
        .collect();
    for wanted in [
        "Plan 9 (plan9 4) is not supported",
        "`Not_a_name` has the character",
        "443 (perl on 0.0.0.0)",
        "2380 (perl on 0.0.0.0)",
        "nsenter",
        "k3s runs on this host",
        "/etc/rancher/k3s",
        "CONTAINERS_CIDR (10.20.0.0/16) overlaps",
        "there is no link eth9",
    ] {
        let named = problems
            .iter()
            .filter(|problem| problem.contains(wanted))
            .count();
        assert_eq!(
            named,
            1,
            "`{wanted}` is named once in\n{}",
            problems.join("\n")
        );
    }
    assert_eq!(problems.len(), 9, "{}", problems.join("\n"));
    for problem in &problems {
        assert!(
            problem.contains("phases/preflight.rhai") && !problem.contains(r#""remedy":"""#),
            "{problem}"
        );
    }
    assert_eq!(refused.event("run_finished")["outcome"], "refused");
    master
        .nodelet(&["apply"])
        .exits(1)
        .says(&["preconditions that do not hold (9)", "nothing was touched"]);

    assert_eq!(
        changes(&before, &listing(&master)),
        Vec::<String>::new(),
        "nothing was touched"
    );
    a_dry_run_is_refused_for_a_network_of_services(&master);
    let state_after = master.sh("ls -A /var/opt/pf9 2>/dev/null || true");
    assert!(
        state_after.is_empty(),
        "nothing was recorded: {state} {state_after}"
    );

    master.sh(MEND);
    master.configure(&[]);
    let applied = master.apply(&[]).exits(0);
    assert!(
        applied.event("preflight_passed")["evaluated"].as_u64() > Some(10),
        "{}",
        applied.text()
    );
    assert_eq!(
        master.sh("systemctl is-active docker"),
        "active",
        "docker came from the payload"
    );
    master.kubectl("wait --for=condition=Ready node/master-1 --timeout=10s");

    // Our own programs use the ports now. A requirement that was met is not evaluated again.
    master.apply(&[]).exits(0).changes_nothing();
}

/// The requirement names one network at a time, so this one has settings of its own.
fn a_dry_run_is_refused_for_a_network_of_services(master: &Master) {
    master.configure(&[
        ("CONTAINERS_CIDR", "10.30.0.0/16"),
        ("SERVICES_CIDR", "10.20.4.0/22"),
    ]);
    let before = listing(master);
    let refused = master.nodelet(&["plan"]).exits(1);
    let _ = refused.says(&[
        "SERVICES_CIDR (10.20.4.0/22) overlaps 10.20.5.0/24, which this host reaches by lan0",
        "nothing would be changed",
    ]);
    assert_eq!(changes(&before, &listing(master)), [""; 0]);
}
