//! A worker whose host is lost: one command removes it, nothing of it stays, and another host takes its name.

use std::time::Duration;

use lab_suites::{KUBECTL, Node, SCALED};

use super::workers::{WORKER, with_worker};

/// Time limit until all parts know what has changed.
const SEEN: Duration = Duration::from_secs(120);

#[test]
#[ignore = "cargo xtask soak runs it"]
fn lost_worker_is_removed_and_another_host_takes_its_name() {
    let (mut master, lost) = with_worker("lost-worker", SCALED);
    let routes = "ip -4 -o route show proto 92";
    let has_route = format!(r#"[ -n "$({routes})" ]"#);
    master.wait_for("the master has a route to its pods", &has_route, SEEN);
    let record = format!("{KUBECTL} --namespace kube-system get configmap/nodelet-node-{WORKER}");
    master.sh(&record);

    // Its host is gone for good, and says nothing before.
    lost.host().kill().expect("it is killed");
    lost.remove(&mut master);
    let not_ready =
        format!("{KUBECTL} wait --for=condition=Ready=Unknown node/{WORKER} --timeout=5s");
    master.wait_for("the master misses the worker", &not_ready, SEEN);
    let removed = master.nodelet(&["cluster", "remove", WORKER]).exits(0);
    let _ = removed.says(&[WORKER]);

    let alone = format!(r#"[ "$({KUBECTL} get node --output name)" = node/master-1 ]"#);
    master.wait_for("its node is gone", &alone, SEEN);
    let none = format!(r#"[ -z "$({routes})" ]"#);
    master.wait_for("the route to its pods is gone", &none, SEEN);
    let no_pod = format!(
        r#"[ -z "$({KUBECTL} get pod --field-selector spec.nodeName={WORKER} --output name)" ]"#
    );
    master.wait_for("its pods are gone", &no_pod, SEEN);
    let no_token = format!(
        r#"[ -z "$({KUBECTL} --namespace kube-system get secret --field-selector type=bootstrap.kubernetes.io/token --output name)" ]"#
    );
    master.wait_for("its token is gone", &no_token, SEEN);
    let well = "nodelet cluster status";
    master.wait_for("all is well without it", well, SEEN);
    let again = master.nodelet(&["cluster", "remove", WORKER]);
    let _ = again.exits(0);

    // A new host of the same name joins with a new key.
    let next = Node::worker_beside(&mut master, WORKER);
    let key = next.sh("nodelet pki key | grep -o 'age1[a-z0-9]*'");
    let refused = master.nodelet(&["pki", "issue", WORKER, "--to", key.trim()]);
    let _ = refused.exits(1).says(&[
        "it was removed at",
        "use another name until then",
        "`--replace`",
    ]);
    next.prepare_join_in_place(&master, SCALED);
    let _ = next.apply(&[]).exits(0);
    next.keep();
    let ready = format!("{KUBECTL} wait --for=condition=Ready node/{WORKER} --timeout=5s");
    master.wait_for("the new host is Ready", &ready, SEEN);
    master.wait_for("the master has a route again", &has_route, SEEN);
}
