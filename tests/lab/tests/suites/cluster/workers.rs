//! A worker beside a master: it joins, its pods and Services work across the nodes, and it leaves nothing behind.

use std::time::Duration;

use lab_suites::{
    After, CALM, KUBECTL, Master, Node, Pods, SCALED, Slate, Watch, changes, listing, shared,
};
use serde_json::Value;

const WORKER: &str = "worker-1";
/// The taint that its admission names.
const TAINT: &str = "suite=admitted:PreferNoSchedule";
/// The pods of the suite, one on each node.
const ON_MASTER: &str = "on-master";
const ON_WORKER: &str = "on-worker";
/// A script that succeeds if the master's node is the only one.
const ALONE: &str = "[ \"$(kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml get node --output name)\" = node/master-1 ]";
/// The join file of a host and the identity that opens it, below `/`.
const JOIN_FILE: &str = "etc/pf9/nodelet/join.age";
const IDENTITY: &str = "var/opt/pf9/nodelet/age.key";
/// Removes nodeletd's own files: they belong to its package and not to the role.
const REMOVE_OWN_FILES: &str = "rm -rf /run/pf9 /run/pf9-nodeletd.lock /var/opt/pf9/kube_status";
/// Time limit until all parts know what has changed: the API server, nodeletd, kubelet and kube-proxy.
const SEEN: Duration = Duration::from_secs(60);
/// Time limit of a route's repair. A pass alone would take part of it; the event of the route is sooner.
const REPAIRED: Duration = Duration::from_secs(90);

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
    worker.join_tainted(&master, SCALED, TAINT);
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

    it_has_two_identities(&worker);
    let used = join_file(&worker);
    a_worker_may_not_change_its_node(&worker);
    masters_keep_its_taint(&master);
    many_requests_of_a_worker_are_deleted(&master, &worker);
    let pods = [(ON_MASTER, "master-1"), (ON_WORKER, WORKER)];
    let pods = Pods::run(&master, &pods);
    pods.reach_one_another([ON_WORKER, ON_MASTER]);
    pods.serve_one_another([ON_WORKER, ON_MASTER], &[master.host(), worker.host()]);
    a_deleted_route_returns(&master, &worker);
    a_bridge_that_is_down_is_set_up(&worker);
    pods.reach_one_another([ON_WORKER, ON_MASTER]);
    a_second_apply_changes_nothing(&master, &worker);
    worker.recovers_a_lost_ledger();
    a_deleted_node_returns(&master, &worker);
    master.wait_for("the worker is labelled again", &labelled, SEEN);
    pods.reach_one_another([ON_WORKER, ON_MASTER]);
    leave(&master, &worker, &pods);
    before.assert_same_host(worker.host(), After::CleanOfWorker, "clean of a worker");
    let _ = worker.nodelet(&["clean", "--purge"]).exits(0);
    before.assert_same_host(worker.host(), After::Purge, "purge of a worker");
    a_used_join_file_is_refused(&worker, &used);
    before.assert_same_host(worker.host(), After::Purge, "refusal of a used join file");
    a_removed_worker_stays_out(&master, &worker);
    before.assert_same_host(worker.host(), After::Purge, "purge of a removed worker");

    // The next user of the master finds it alone.
    pods.remove();
    master.kubectl(&format!(
        "--namespace kube-system delete configmap/nodelet-node-{WORKER} --ignore-not-found"
    ));
    drop(watch);
    worker.remove(&mut master);
}

/// The subnet of a node's pods.
fn pod_subnet(master: &Master, node: &str) -> String {
    master.kubectl(&format!(
        "get node/{node} --output jsonpath='{{.spec.podCIDR}}'"
    ))
}

/// A script that succeeds if the host has its route to the pods of another one.
fn has_route(subnet: &str, by: &lab::Host) -> String {
    format!(
        "ip -4 route show proto 92 | grep -q '^{subnet} via {} '",
        by.address()
    )
}

/// Shell with the function `ask`, which asks `$server` as the kubelet of the host and prints the status of the answer.
const AS_KUBELET: &str = r#"server=$(sed -n 's/.*server: *"\?\([^"]*\)"\?$/\1/p' /etc/pf9/kube.d/kubeconfigs/kubelet.yaml)
    certs=/etc/pf9/kube.d/certs/kubelet/apiserver
    ask() { curl -s -o /dev/null -w '%{http_code} ' --max-time 10 --cacert /etc/pf9/kube.d/ca/cluster/ca.crt --cert $certs/request.crt --key $certs/request.key "$@"; }"#;

/// All certificates of clients whose keys are on the host.
fn it_has_two_identities(worker: &Node) {
    let subjects = worker.sh(
        "find /etc/pf9 /var/opt/pf9 /var/lib/kubelet -name '*.crt' | while read -r file; do
             [ -e ${file%.crt}.key ] && openssl x509 -in $file -noout -purpose | grep -q '^SSL client : Yes' || continue
             openssl x509 -in $file -noout -subject -nameopt RFC2253
         done | sort -u",
    );
    let expected =
        format!("subject=CN=system:kube-proxy\nsubject=CN=system:node:{WORKER},O=system:nodes");
    assert_eq!(subjects, expected);
}

/// A node may not change its taints, so masters do it. Its admission names the first one, and a command names another one later.
fn masters_keep_its_taint(master: &Master) {
    const LATER: &str = "suite=later:PreferNoSchedule";
    let has = |taints: &str| {
        format!(
            "its=$({KUBECTL} get node/{WORKER} --output jsonpath='{{range .spec.taints[*]}}{{.key}}={{.value}}:{{.effect}} {{end}}') && [ \"${{its% }}\" = '{taints}' ]"
        )
    };
    let taint = |what: &str| {
        let _ = master.nodelet(&["cluster", "taint", WORKER, what]).exits(0);
    };
    let admitted = "the worker has the taint of its admission and no other";
    master.wait_for(admitted, &has(TAINT), SEEN);
    taint(LATER);
    master.wait_for("the worker has the later taint alone", &has(LATER), SEEN);
    master.kubectl(&format!("taint node {WORKER} suite-"));
    master.wait_for("the taint returns", &has(LATER), SEEN);
    taint("--none");
    master.wait_for("the taint is gone", &has(""), SEEN);
}

/// The join file of a worker, with the identity that opens it, as text.
fn join_file(worker: &Node) -> String {
    worker.sh(&format!("tar -C / -c {JOIN_FILE} {IDENTITY} | base64 -w0"))
}

/// The token has ended, also for the host that it was made for. Nothing is touched.
fn a_used_join_file_is_refused(worker: &Node, used: &str) {
    worker.configure(SCALED);
    worker.sh(&format!("base64 -d <<< '{used}' | tar -C / -x"));
    let before = listing(worker);
    let _ = worker
        .apply(&[])
        .refused()
        .says(&["does not accept its token", "was used already"]);
    assert_eq!(changes(&before, &listing(worker)), [""; 0]);
    let _ = worker.nodelet(&["clean", "--purge"]).exits(0);
    worker.sh(&format!(
        "rm -f /{JOIN_FILE} /{IDENTITY}; {REMOVE_OWN_FILES}"
    ));
}

/// As its kubelet, it may read its Node. The API server does not let it delete this one, label it as a master, taint it, or change another node.
fn a_worker_may_not_change_its_node(worker: &Node) {
    let answers = worker.sh(&format!(
        r#"{AS_KUBELET}
           patch() {{ ask -X PATCH -H 'Content-Type: application/merge-patch+json' -d "$2" "$server/api/v1/nodes/$1"; }}
           ask "$server/api/v1/nodes/{WORKER}"
           ask -X DELETE "$server/api/v1/nodes/{WORKER}"
           patch {WORKER} '{{"metadata":{{"labels":{{"node-role.kubernetes.io/master":""}}}}}}'
           patch {WORKER} '{{"spec":{{"taints":[{{"key":"own","effect":"NoSchedule"}}]}}}}'
           patch master-1 '{{"metadata":{{"annotations":{{"own":""}}}}}}'"#
    ));
    assert_eq!(answers.trim(), "200 403 403 403 403");
}

/// Masters keep a bounded number of them, and log whose they were. That they still sign is shown when the worker joins again.
fn many_requests_of_a_worker_are_deleted(master: &Master, worker: &Node) {
    const MADE: usize = 60;
    let request = master.kubectl("get csr --output jsonpath='{.items[0].spec.request}'");
    let made = worker.sh(&format!(
        r#"{AS_KUBELET}
           for n in $(seq {MADE}); do
               ask -X POST -H 'Content-Type: application/json' "$server/apis/certificates.k8s.io/v1/certificatesigningrequests" -d '{{
                   "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {{"name": "flood-'$n'"}},
                   "spec": {{"signerName": "nodelet.pf9.io/node", "usages": ["client auth"], "request": "{request}"}}}}'
           done"#
    ));
    assert_eq!(made.matches("201").count(), MADE, "{made}");
    let few = format!(
        "[ $({KUBECTL} get csr --output name | grep -c /flood-) -le 40 ] && ! {KUBECTL} get csr | grep flood- | grep -q Pending"
    );
    master.wait_for("most of them are deleted", &few, SEEN);
    let logged = format!(
        "journalctl --no-pager --unit pf9-nodeletd | grep -q 'deleted [0-9]* requests of system:node:{WORKER}'"
    );
    master.wait_for("nodeletd says whose they were", &logged, SEEN);
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

/// No pod ends for it.
fn a_bridge_that_is_down_is_set_up(worker: &Node) {
    let started = "docker ps --quiet --no-trunc | sort";
    let before = worker.sh(started);
    worker.sh("ip link set dev cni0 down");
    let is_up = "ip -o link show dev cni0 up | grep -q cni0";
    worker.wait_for("the bridge is up", is_up, SEEN);
    assert_eq!(worker.sh(started), before);
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

/// kubelet registers its node only at its start. A worker does not start it for that: its node may have been deleted on purpose. The node gets its
/// subnet again, so its pods go on.
fn a_deleted_node_returns(master: &Master, worker: &Node) {
    worker.sh("systemctl stop pf9-nodeletd");
    let subnet = pod_subnet(master, WORKER);
    master.kubectl(&format!("delete node/{WORKER}"));
    let status = master.nodelet(&["cluster", "status"]).exits(2);
    let says = format!("worker {WORKER} has no node");
    assert!(status.text().contains(&says), "{}", status.text());
    let status = worker.nodelet(&["check"]).exits(2);
    assert!(
        status.text().contains("`nodelet repair kubelet`"),
        "{}",
        status.text()
    );
    let _ = worker.nodelet(&["repair", "kubelet"]).exits(0);
    assert_eq!(pod_subnet(master, WORKER), subnet);
    worker.sh("systemctl start pf9-nodeletd");
    master.kubectl(&format!(
        "wait --for=condition=Ready node/{WORKER} --timeout=60s"
    ));
}

/// A worker leaves with a clean, with a pod on it. The master goes on alone.
fn leave(master: &Master, worker: &Node, pods: &Pods<'_>) {
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
    worker.sh(REMOVE_OWN_FILES);
    master.wait_for("the worker's node is gone", ALONE, SEEN);
    let status = master.nodelet(&["cluster", "status"]).text();
    assert!(!status.contains("has no node"), "{status}");
    let none = r#"[ -z "$(ip -4 route show proto 92)" ]"#;
    master.wait_for("the route to it is gone", none, SEEN);
    // The pod asks its own Service.
    pods.answers_outside(ON_MASTER, master.host());
    pods.reaches_service(ON_MASTER, ON_MASTER);
}

/// It joins again, and is removed while nodeletd keeps its host. Its kubelet has a valid certificate, and registers the node at its next start.
fn a_removed_worker_stays_out(master: &Master, worker: &Node) {
    worker.join(master, SCALED);
    let watch = Watch::start(worker);
    let _ = master.nodelet(&["cluster", "remove", WORKER]).exits(0);
    master.wait_for("the worker's node is gone", ALONE, SEEN);
    let kubelet = "systemctl show --value --property InvocationID pf9-kubelet";
    let before = worker.sh(kubelet);
    watch.passes(3, CALM);
    assert_eq!(worker.sh(kubelet), before, "nodeletd restarts nothing");
    master.sh(ALONE);
    worker.sh("systemctl restart pf9-kubelet");
    let registers = format!(
        "journalctl --no-pager _SYSTEMD_INVOCATION_ID=$({kubelet}) | grep -q 'Successfully registered node'"
    );
    worker.wait_for("kubelet registers its node", &registers, SEEN);
    master.wait_for("the masters delete it again", ALONE, SEEN);
    drop(watch);
    let _ = worker.nodelet(&["clean", "--purge"]).exits(0);
    worker.sh(REMOVE_OWN_FILES);
}
