//! `nodelet check` distinguishes a healthy node from a broken one, and `nodelet stop` ends a node and keeps its files and data.

use std::time::Duration;

use lab_suites::shared;

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn check_names_what_is_wrong_within_bounded_time() {
    let master = shared();
    let healthy = master.check(&[]).exits(0);
    assert!(healthy.took < Duration::from_secs(60), "{}", healthy.text());

    for (broken, says) in [
        (
            "docker stop etcd",
            ["container etcd has exited", "phases/etcd.rhai:"],
        ),
        (
            "systemctl stop pf9-kubelet",
            ["pf9-kubelet.service is inactive", "phases/kubelet.rhai:"],
        ),
        (
            "docker rm --force proxy",
            ["there is no container proxy", "phases/kube-proxy.rhai:"],
        ),
        (
            "systemctl stop docker.socket docker",
            ["docker.service is inactive", "phases/docker.rhai:"],
        ),
    ] {
        master.sh(broken);
        let check = master.check(&[]).exits(2).says(&says);
        // Three checks of one phase may wait for the API server in turn, each for 10 s.
        assert!(check.took < Duration::from_secs(60), "{}", check.text());
        master.apply(&[]).exits(0);
        // A kubelet that asked docker while docker stopped reports this once, and reports that it is over with its next look,
        // within 5 s.
        master.wait_for(
            "check finds the node healthy",
            "nodelet check --role pf9-kube",
            Duration::from_secs(120),
        );
    }
}

/// The API server keeps the last report of a kubelet that has ended.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_report_of_the_kubelet_before_is_not_believed() {
    let master = shared();
    master.sh("systemctl restart pf9-kubelet; kill -STOP $(systemctl show -P MainPID pf9-kubelet)");
    let check = master.check(&[]);
    master.sh("kill -CONT $(systemctl show -P MainPID pf9-kubelet)");
    check.exits(2).says(&[
        "pf9-kubelet.service has not reported since its start",
        "phases/kubernetes-ready.rhai:",
    ]);
    master.wait_for(
        "check finds the node healthy",
        "nodelet check --role pf9-kube",
        Duration::from_secs(120),
    );
}

/// A check by hand costs no more than one in a status pass, and what a repair starts must not inherit the limits of its checks.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn manual_checks_are_limited_and_repairs_are_not() {
    let master = shared();
    // The control group of the process, each time it changes, until the process has ended.
    let groups = |words: &str| {
        master.sh(&format!(
            "nodelet {words} > /tmp/said 2>&1 & its=/proc/$!; before=
             while readlink $its/exe > /dev/null; do
                 if grep -q -e pf9-kube-status -e nodelet-check- $its/cgroup; then now=limited; else now=free; fi
                 if [ $now != \"$before\" ] && readlink $its/exe > /dev/null; then echo $now; before=$now; fi
             done; wait $!; rm /tmp/said"
        ))
    };
    assert_eq!(groups("check --role pf9-kube"), "free\nlimited");
    master.sh("docker rm --force proxy");
    let repaired = groups("repair --role pf9-kube");
    // With version 2 of control groups a process outside nodeletd's unit only lowers its priority for a moment.
    let is_version_2 = master
        .try_sh("test -e /sys/fs/cgroup/cgroup.controllers")
        .status
        .success();
    let looks = if is_version_2 { "" } else { "limited\nfree" };
    assert_eq!(repaired, format!("free\n{looks}").trim_end());
    master.wait_until_well();
}

/// Whether ports are taken is asked before an apply, and not in each pass.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_pass_does_not_check_met_preconditions_again() {
    let master = shared();
    // This directory is the first one on the path.
    let started = master.sh(
        "place=/usr/local/sbin
         trap 'cd $place; rm -f ss dpkg-query iptables-save /tmp/started' EXIT
         for program in ss dpkg-query iptables-save; do
             real=$(command -v $program)
             printf '#!/bin/sh\necho %s >> /tmp/started\nexec %s \"$@\"\n' $program $real > $place/$program
             chmod 0755 $place/$program
         done
         nodelet pass --role pf9-kube > /dev/null
         sort -u /tmp/started",
    );
    // They are asked about the packages of phases, and about the rules of kube-proxy.
    assert_eq!(started, "dpkg-query\niptables-save");
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn stop_ends_what_runs_and_keeps_files_and_data() {
    let master = shared();
    master.kubectl("create configmap remembered --from-literal=word=swordfish --dry-run=client --output yaml | kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml apply -f -");
    let files = "find /etc/pf9 /etc/docker /etc/cni /opt/pf9 /etc/systemd/system -type f | sort";
    let before = master.sh(files);

    master.nodelet(&["stop", "--json"]).exits(0);

    assert_eq!(
        master.sh("ls /var/lib/docker/containers"),
        "",
        "no container is left, of ours or of pods"
    );
    let running = master.sh("ps -e -o comm= | sort -u");
    for program in [
        "kubelet",
        "kube-apiserver",
        "etcd",
        "kube-proxy",
        "kube-controller",
        "kube-scheduler",
        "dockerd",
        "containerd-shim",
        "pause",
    ] {
        assert!(
            !running.lines().any(|line| line == program),
            "{program} still runs:\n{running}"
        );
    }
    for unit in ["pf9-kubelet", "docker", "docker.socket"] {
        let state = master.try_sh(&format!("systemctl is-active {unit}"));
        assert_eq!(
            String::from_utf8_lossy(&state.stdout).trim(),
            "inactive",
            "{unit}"
        );
    }
    assert!(
        !master.try_sh("ip link show cni0").status.success(),
        "the pods' bridge is gone"
    );
    assert_eq!(master.sh(files), before, "files stay");
    master.check(&[]).exits(2);
    master.nodelet(&["stop", "--json"]).exits(0);

    master.apply(&[]).exits(0);
    assert_eq!(
        master.kubectl("get configmap remembered --output jsonpath='{.data.word}'"),
        "swordfish"
    );
    let node = master.kubectl("get nodes --no-headers");
    assert!(
        node.contains(" Ready ") && !node.contains("SchedulingDisabled"),
        "{node}"
    );
    master.wait_until_well();
}
