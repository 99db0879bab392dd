//! A worker whose host is lost: one command removes it, nothing of it stays, pods on the other nodes go on, and another host takes its name. When
//! that host leaves, the pods go on, too.

use std::time::Duration;

use lab_suites::{KUBECTL, Node, Pods, SCALED};

use super::workers::{WORKER, with_worker};

/// Time limit until all parts know what has changed.
const SEEN: Duration = Duration::from_secs(120);
/// The worker that stays.
const OTHER: &str = "worker-2";
/// Pods on the nodes that stay.
const ON_MASTER: &str = "on-master-1";
const ON_OTHER: &str = "on-worker-2";

#[test]
#[ignore = "cargo xtask soak runs it"]
fn lost_worker_is_removed_and_another_host_takes_its_name() {
    let (mut master, lost) = with_worker("lost-worker", SCALED);
    let other = Node::worker_beside(&mut master, OTHER);
    other.join(&master, SCALED);
    other.keep();
    master.load_toolbox();
    let first = master.as_one();
    let pods = Pods::run(&first, &[(ON_MASTER, "master-1"), (ON_OTHER, OTHER)]);
    let reach_one_another = || {
        pods.reach_one_another([ON_MASTER, ON_OTHER]);
        pods.serve_one_another([ON_MASTER, ON_OTHER], &[first.host(), other.host()]);
    };
    reach_one_another();

    let routes = format!(
        "ip -4 -o route show proto 92 | grep -F ' via {} '",
        lost.host().address()
    );
    let has_route = format!(r#"[ -n "$({routes})" ]"#);
    for node in [&first, &other] {
        node.wait_for("it has a route to the worker's pods", &has_route, SEEN);
    }
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

    let gone = format!(
        r#"nodes=$({KUBECTL} get node --output name) && [ "$nodes" = "node/master-1
node/{OTHER}" ]"#
    );
    master.wait_for("its node is gone", &gone, SEEN);
    let none = format!(r#"[ -z "$({routes})" ]"#);
    for node in [&first, &other] {
        node.wait_for("the route to its pods is gone", &none, SEEN);
    }
    reach_one_another();
    let no_pod = format!(
        r#"[ -z "$({KUBECTL} get pod --field-selector spec.nodeName={WORKER} --output name)" ]"#
    );
    master.wait_for("its pods are gone", &no_pod, SEEN);
    let no_token = format!(
        "tokens=$({KUBECTL} --namespace kube-system get secret --field-selector type=bootstrap.kubernetes.io/token --output json) && ! grep -wF {WORKER} <<< \"$tokens\""
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
    let has_route = format!(
        "ip -4 -o route show proto 92 | grep -qF ' via {} '",
        next.host().address()
    );
    for node in [&first, &other] {
        node.wait_for("it has a route to the new worker's pods", &has_route, SEEN);
    }
    reach_one_another();

    // It leaves, and the others go on.
    next.sh("systemctl stop pf9-nodeletd");
    let _ = next.nodelet(&["clean"]).exits(0);
    master.wait_for("the node of the new host is gone", &gone, SEEN);
    let has_no_route = format!("! {has_route}");
    for node in [&first, &other] {
        node.wait_for("the route to its pods is gone", &has_no_route, SEEN);
    }
    reach_one_another();
}
