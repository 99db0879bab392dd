//! What operators and programs do with a host that nodeletd holds at its role.

use lab_suites::{CALM, KUBECONFIG, Master, RunningInstances, SCALED, Watch, shared};

/// Holds the lock while a command that needs it is tried.
const LOCKED: &str =
    "exec 9<>/run/pf9-nodelet.lock; flock 9; echo '`nodelet apply` (process 1, since now)' >&9";

fn passes(watch: &Watch<'_>) -> u64 {
    let view = watch.view().unwrap_or_default();
    view["counters"]["passes"].as_u64().unwrap_or_default()
}

fn is_paused(watch: &Watch<'_>) -> bool {
    watch.view().unwrap_or_default()["paused_until"].is_number()
}

fn takes_pods(master: &Master) -> bool {
    master.kubectl("get node -o jsonpath='{.items[0].spec.unschedulable}'") != "true"
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_paused_host_can_be_drained_and_is_not_cleaned() {
    let master = shared();
    master.configure(&[SCALED, &[("METRICS_PORT", "9753")]].concat());
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    watch.wait_until_healthy(CALM);

    // A clean or a stop is refused: nodeletd would bring the host up again before the operator could work on it.
    let before = RunningInstances::of(&master);
    for verb in ["clean", "stop"] {
        let refused = master.nodelet(&[verb]).exits(1);
        refused.says(&["nodeletd holds it", "systemctl stop pf9-nodeletd"]);
    }
    assert_eq!(RunningInstances::of(&master), before);

    // A nodeletd that does not answer does not count as none, either.
    master.sh("rm /run/pf9/nodeletd.sock; mkdir /run/pf9/nodeletd.sock");
    for verb in ["clean", "stop", "drain"] {
        let refused = master.nodelet(&[verb]).exits(1);
        refused.says(&["it runs, and makes its socket again"]);
    }
    assert_eq!(RunningInstances::of(&master), before);
    assert!(takes_pods(&master));
    master.sh("rmdir /run/pf9/nodeletd.sock");
    watch.wait_until_healthy(CALM);

    // A drain that cannot begin does not pause nodeletd.
    let refused = master.try_sh(&format!("{LOCKED}; nodelet drain"));
    assert_eq!(refused.status.code(), Some(75));
    assert!(!is_paused(&watch));

    // A drain without an API server does not, either: it says so, and an operator's pause stays.
    let server = "$(docker ps --quiet --filter label=io.kubernetes.container.name=kube-apiserver)";
    master.sh("nodelet pause 5m --because 'a look at the rack'");
    master.sh(&format!("docker pause {server}"));
    let refused = master.nodelet(&["drain"]).exits(1);
    refused.says(&["ask the API server for the node"]);
    let view = watch.view().expect("a view");
    assert_eq!(view["paused_because"], "a look at the rack", "{view:#}");
    master.sh(&format!("docker unpause {server}"));
    // On a busy machine it needs a while: nodeletd would repair what recovers by itself.
    let answers =
        format!("kubectl --kubeconfig {KUBECONFIG} --request-timeout=5s get --raw /readyz");
    master.wait_for("the API server answers", &answers, CALM);
    master.sh("nodelet resume");
    watch.wait_until_healthy(CALM);

    master.nodelet(&["drain", "--duration", "10m"]).exits(0);
    assert!(is_paused(&watch));
    let seen = passes(&watch);
    watch.until("two passes more", CALM, || passes(&watch) > seen + 2);
    assert!(!takes_pods(&master), "it stays drained");
    master.sh("nodelet resume");
    watch.until("it takes pods again", CALM, || takes_pods(&master));
    watch.wait_until_healthy(CALM);

    let metrics = master.sh("curl -sf --max-time 5 http://127.0.0.1:9753/metrics");
    assert!(metrics.contains("nodeletd_resident_bytes"), "{metrics}");
    let socket = "curl -sf --max-time 60 --unix-socket /run/pf9/nodeletd.sock http://nodeletd";
    let events = master.sh(&format!("{socket}/v1/diff"));
    assert!(events.contains("step_unchanged"), "{events}");
    assert!(!events.contains("step_changing"), "{events}");
    let proxy = "docker inspect --format '{{.State.StartedAt}}' proxy";
    let before = master.sh(proxy);
    master.sh(&format!("{socket}/v1/repair/kube-proxy -X POST"));
    watch.until("it is restarted", CALM, || {
        let now = master.try_sh(proxy);
        now.status.success() && String::from_utf8_lossy(&now.stdout).trim() != before
    });
    watch.wait_until_healthy(CALM);

    master.sh("systemctl stop pf9-nodeletd");
    master.configure(&[]);
    master.apply(&[]).exits(0);
    master.check(&[]).exits(0);
}
