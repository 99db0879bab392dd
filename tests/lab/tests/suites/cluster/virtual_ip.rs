//! The virtual IP, if the settings have one.

use std::time::Duration;

use lab_suites::{CLIENT, Run, RunningInstances, ready_with_vip};

/// The role's name.
const ROLE: &str = "pf9-kube";

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn the_api_answers_on_the_virtual_ip() {
    let master = ready_with_vip("vip");
    let vip = master.vip();
    master.wait_for(
        "the master takes the address",
        &format!("ip -o address show dev eth0 | grep -qw {vip}"),
        Duration::from_secs(60),
    );

    let client = master.neighbour(CLIENT);
    let authority = master
        .host()
        .get("/etc/pf9/kube.d/ca/cluster/ca.crt")
        .expect("the authority");
    client
        .put(&authority, "/tmp/ca.crt", 0o644)
        .expect("it is on the other host");
    let ready = client.text(&[
        "curl",
        "-sS",
        "--max-time",
        "5",
        "--cacert",
        "/tmp/ca.crt",
        &format!("https://{vip}:443/readyz"),
    ]);
    assert_eq!(ready.expect("the address answers"), "ok");

    // The administrator's kubeconfig names the virtual IP, and works on another host, too.
    let admin = master
        .host()
        .get("/etc/pf9/kube.d/kubeconfigs/admin.yaml")
        .expect("the kubeconfig");
    let text = String::from_utf8_lossy(&admin).into_owned();
    assert!(
        text.contains(&format!("server: https://{vip}")),
        "{}",
        text.lines()
            .filter(|l| l.contains("server"))
            .collect::<String>()
    );
    client
        .put(&admin, "/tmp/admin.yaml", 0o600)
        .expect("it is on the other host");
    let kubectl = master
        .host()
        .get("/opt/pf9/pf9-kube/bin/kubectl")
        .expect("kubectl");
    client
        .put(&kubectl, "/tmp/kubectl", 0o755)
        .expect("it is on the other host");
    let node = client.text(&[
        "/tmp/kubectl",
        "--kubeconfig",
        "/tmp/admin.yaml",
        "get",
        "nodes",
        "--no-headers",
    ]);
    assert!(
        node.as_deref()
            .is_ok_and(|line| line.contains("master-1") && line.contains(" Ready ")),
        "{node:?}"
    );

    let running = RunningInstances::of(&master);
    master.apply(&[]).exits(0).changes_nothing();
    assert_eq!(
        RunningInstances::of(&master),
        running,
        "nothing was restarted, not even keepalived"
    );

    // It is active for systemd, and announces nothing.
    master.sh("systemctl kill --signal=STOP keepalived; systemctl is-active --quiet keepalived");
    let _ = master
        .check(&[])
        .exits(2)
        .says(&["keepalived.service", "SIGSTOP"]);
    let _ = master.nodelet(&["repair"]).exits(0);
    master.wait_until_well();
    let running = RunningInstances::of(&master);

    // An interface that does not exist is refused, and the node goes on.
    master.configure(&[("MASTER_VIP_IFACE", "none0")]);
    for verb in ["diff", "apply"] {
        let refused = master.nodelet(&[verb, "--role", ROLE]).exits(1);
        let _ = refused.says(&["there is no link none0", "MASTER_VIP_IFACE"]);
    }
    master.configure(&[]);
    assert_eq!(
        RunningInstances::of(&master),
        running,
        "the refused settings have changed nothing"
    );
    master.wait_until_well();

    // A master whose API server is not ready gives up the address.
    master.sh("systemctl stop pf9-kubelet; docker ps --quiet --filter label=io.kubernetes.container.name=kube-apiserver | xargs docker stop");
    master.wait_for(
        "the address goes with the API server",
        &format!("! ip -o address show dev eth0 | grep -qw {vip}"),
        Duration::from_secs(60),
    );
    master.apply(&[]).exits(0);
    master.wait_until_well();
    master.wait_for(
        "and comes back with it",
        &format!("ip -o address show dev eth0 | grep -qw {vip}"),
        Duration::from_secs(60),
    );
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_virtual_ip_that_is_no_longer_wanted_is_taken_back() {
    let mut master = ready_with_vip("no-vip");
    let vip = master.vip();
    let held = format!("ip -o address show dev eth0 | grep -qw {vip}");
    master.wait_for(
        "the master takes the address",
        &held,
        Duration::from_secs(60),
    );
    master.wait_until_well();

    master.without_vip();
    let diff = master.nodelet(&["diff", "--role", ROLE, "--json"]).exits(2);
    let predicted: Vec<String> = removed(&diff);
    assert!(
        predicted
            .iter()
            .any(|step| step == "keepalived/service:keepalived.service"),
        "{}",
        diff.text()
    );
    master.check(&[]).exits(2).says(&[
        "every resource of the role on the host is in the plan",
        "keepalived",
    ]);

    let apply = master.apply(&[]).exits(0);
    assert_eq!(removed(&apply), predicted, "{}", apply.text());
    for (what, gone) in [
        ("the unit", "! systemctl is-active --quiet keepalived"),
        (
            "the unit at boot",
            "! systemctl is-enabled --quiet keepalived",
        ),
        ("the configuration", "! test -e /etc/keepalived"),
        ("the address", &format!("! {held}")),
    ] {
        assert!(
            master.try_sh(gone).status.success(),
            "{what} is still there"
        );
    }
    master.apply(&[]).exits(0).changes_nothing();
    master.wait_until_well();
}

/// The steps that a run removes, or would remove, sorted.
fn removed(run: &Run) -> Vec<String> {
    let mut steps: Vec<String> = run
        .events("step_changing")
        .iter()
        .filter(|event| event["change"]["action"] == "remove")
        .filter_map(|event| event["step"].as_str().map(str::to_owned))
        .collect();
    steps.sort();
    steps
}
