//! A worker beside a master: it joins, its pods and Services work across the nodes, and it leaves nothing behind.

use std::time::Duration;

use lab_suites::{After, Master, Node, SCALED, Slate, TOOLBOX_IMAGE, Watch, poll, shared};
use serde_json::Value;

use super::workload::page_from_outside;

const WORKER: &str = "worker-1";
/// The pods of the suite, one on each node, each with a Service of its name. Each serves a page and logs who asks for it.
const ON_MASTER: &str = "on-master";
const ON_WORKER: &str = "on-worker";
/// kubectl in scripts that may fail.
const KUBECTL: &str = "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml";
/// Time limit until all parts know what has changed: the API server, nodeletd, kubelet and kube-proxy.
const SEEN: Duration = Duration::from_secs(60);
/// Time limit of a route's repair. A pass alone would take part of it; the event of the route is sooner.
const REPAIRED: Duration = Duration::from_secs(20);

/// One test, because a worker's bring-up takes longer than everything that is done with it.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_worker_joins_serves_and_leaves() {
    let mut master = shared();
    let worker = Node::worker_beside(&mut master, WORKER);
    let before = Slate::of_host(worker.host());
    assert!(!worker.is_joined(&master));
    master.load_toolbox();
    master.configure(SCALED);
    let watch = Watch::start(&master);
    worker.join(&master, SCALED);
    worker.sh("systemctl start pf9-nodeletd");
    assert!(
        worker.is_joined(&master),
        "a second `up` issues no join file"
    );
    master.kubectl(&format!(
        "wait --for=condition=Ready node/master-1 node/{WORKER} --timeout=60s"
    ));
    let labelled = format!(
        "{KUBECTL} get node --selector node-role.kubernetes.io/worker --output name | grep -qx node/{WORKER}"
    );
    master.wait_for("the worker is labelled", &labelled, SEEN);

    run_pods(&master);
    pods_reach_one_another(&master);
    services_lead_to_the_other_node(&master, &worker);
    a_deleted_route_returns(&master, &worker);
    a_second_apply_changes_nothing(&master, &worker);
    leave(&master, &worker);
    before.assert_same_host(worker.host(), After::CleanOfWorker, "clean of a worker");
    let _ = worker.nodelet(&["clean", "--purge"]).exits(0);
    before.assert_same_host(worker.host(), After::Purge, "purge of a worker");

    // The next user of the master finds it alone.
    master.kubectl(&format!(
        "delete pod/{ON_MASTER} pod/{ON_WORKER} service/{ON_MASTER} service/{ON_WORKER} --ignore-not-found --force --grace-period=0"
    ));
    master.kubectl(&format!(
        "--namespace kube-system delete configmap/nodelet-node-{WORKER} --ignore-not-found"
    ));
    drop(watch);
    worker.remove(&mut master);
}

/// Runs the pods and their Services. The pods name their nodes, so no scheduler and no taint keeps them from there.
fn run_pods(master: &Master) {
    let account = format!("{KUBECTL} get serviceaccount/default");
    master.wait_for("pods can be made", &account, SEEN);
    for (pod, node) in [(ON_MASTER, "master-1"), (ON_WORKER, WORKER)] {
        let overrides = format!(
            r#"{{"apiVersion": "v1", "spec": {{"nodeName": "{node}", "terminationGracePeriodSeconds": 1, "tolerations": [{{"operator": "Exists"}}]}}}}"#
        );
        master.kubectl(&format!(
            "run {pod} --image={TOOLBOX_IMAGE} --image-pull-policy=Never --restart=Never --port=8080 --overrides='{overrides}' -- \
             httpd -f -v -p 8080 -h /www"
        ));
        master.kubectl(&format!(
            "expose pod/{pod} --type=NodePort --port=80 --target-port=8080"
        ));
    }
    master.kubectl(&format!(
        "wait --for=condition=Ready pod/{ON_MASTER} pod/{ON_WORKER} --timeout=60s"
    ));
}

fn pod_address(master: &Master, pod: &str) -> String {
    master.kubectl(&format!(
        "get pod/{pod} --output jsonpath='{{.status.podIP}}'"
    ))
}

/// The subnet of a node's pods.
fn pod_subnet(master: &Master, node: &str) -> String {
    master.kubectl(&format!(
        "get node/{node} --output jsonpath='{{.spec.podCIDR}}'"
    ))
}

/// A script in which a pod asks for the page at an address.
fn asks(pod: &str, address: &str) -> String {
    format!(
        "{KUBECTL} exec {pod} -- timeout 5 wget -q -O - http://{address}/index.html | grep -q 'hello from the toolbox'"
    )
}

/// In both directions, by the pods' addresses. A server sees the address of the pod that asks, not that of its node.
fn pods_reach_one_another(master: &Master) {
    for (from, to) in [(ON_WORKER, ON_MASTER), (ON_MASTER, ON_WORKER)] {
        let server = pod_address(master, to);
        master.wait_for(
            &format!("{from} reaches {to}"),
            &asks(from, &format!("{server}:8080")),
            SEEN,
        );
        let client = pod_address(master, from);
        let sees = format!("{KUBECTL} logs {to} | grep -F '{client}' | grep -q response:200");
        master.wait_for(&format!("{to} sees {client}"), &sees, SEEN);
    }
}

/// From a pod by the Service's address, and from outside at a port of either node: the only endpoint is on the other node.
fn services_lead_to_the_other_node(master: &Master, worker: &Node) {
    for (from, to) in [(ON_WORKER, ON_MASTER), (ON_MASTER, ON_WORKER)] {
        let service = master.kubectl(&format!(
            "get service/{to} --output jsonpath='{{.spec.clusterIP}}'"
        ));
        let what = format!("{from} reaches the Service {to}");
        master.wait_for(&what, &asks(from, &service), SEEN);
        for host in [master.host(), worker.host()] {
            answers_outside(master, to, host);
        }
    }
}

/// Waits until the Service's port of a node answers outside of the cluster.
fn answers_outside(master: &Master, service: &str, host: &lab::Host) {
    let port = master.kubectl(&format!(
        "get service/{service} --output jsonpath='{{.spec.ports[0].nodePort}}'"
    ));
    let port: u16 = port.parse().expect("a port");
    let mut last = String::new();
    let page = poll(SEEN, || {
        let answer = page_from_outside(host.address(), port);
        answer
            .inspect_err(|error| last = error.to_string())
            .ok()
            .filter(|page| page.contains("hello from the toolbox"))
    });
    assert!(
        page.is_some(),
        "port {port} of {} for {service} does not answer: {last}",
        host.name()
    );
}

/// A script that succeeds if the host has its route to the pods of another one.
fn has_route(subnet: &str, by: &lab::Host) -> String {
    format!(
        "ip -4 route show proto 92 | grep -q '^{subnet} via {} '",
        by.address()
    )
}

fn a_deleted_route_returns(master: &Master, worker: &Node) {
    let to_worker = pod_subnet(master, WORKER);
    let route = has_route(&to_worker, worker.host());
    master.sh(&route);
    master.sh(&format!("ip route del {to_worker} proto 92; ! {route}"));
    master.wait_for("the master's route returns", &route, REPAIRED);
    let to_master = pod_subnet(master, "master-1");
    let route = has_route(&to_master, master.host());
    worker.sh(&route);
    worker.sh(&format!("ip route del {to_master} proto 92; ! {route}"));
    worker.wait_for("the worker's route returns", &route, REPAIRED);
}

/// On both hosts, while nodeletd does not run: only one nodelet works on a host.
fn a_second_apply_changes_nothing(master: &Master, worker: &Node) {
    // More steps than this are as planned on a worker, which has no control plane.
    const STEPS: u64 = 15;
    master.sh("systemctl stop pf9-nodeletd");
    worker.sh("systemctl stop pf9-nodeletd");
    master.apply(&[]).exits(0).changes_nothing();
    worker.apply(&[]).exits(0).changes_none_of(STEPS);
    master.sh("systemctl start pf9-nodeletd");
    worker.sh("systemctl start pf9-nodeletd");
}

/// A worker leaves with a clean, with a pod on it. The master goes on alone.
fn leave(master: &Master, worker: &Node) {
    worker.sh("systemctl stop pf9-nodeletd");
    let cleaned = worker.nodelet(&["clean", "--json"]).exits(0);
    let drains = |event: &Value| {
        event["step"]
            .as_str()
            .is_some_and(|its| its.contains("drain"))
    };
    let done = cleaned.events("step_changed");
    assert!(done.iter().any(drains), "{}", cleaned.text());
    for failure in ["stop_failed", "phase_failed"] {
        let failed = cleaned.events(failure);
        assert!(failed.is_empty(), "cordon and eviction: {failed:#?}");
    }
    // nodeletd's own files belong to its package and not to the role.
    worker.sh("rm -rf /run/pf9 /run/pf9-nodeletd.lock /var/opt/pf9/kube_status");
    let alone = format!(r#"[ "$({KUBECTL} get node --output name)" = node/master-1 ]"#);
    master.wait_for("the worker's node is gone", &alone, SEEN);
    let none = r#"[ -z "$(ip -4 route show proto 92)" ]"#;
    master.wait_for("the route to it is gone", none, SEEN);
    answers_outside(master, ON_MASTER, master.host());
    let service = master.kubectl(&format!(
        "get service/{ON_MASTER} --output jsonpath='{{.spec.clusterIP}}'"
    ));
    master.wait_for(
        "the Service of the master's pod answers its own pod",
        &asks(ON_MASTER, &service),
        SEEN,
    );
}
