//! The node's cordon and its pods: who has set the cordon, what a drain evicts and names, and pods that look like ours.

use std::time::Duration;

use lab_suites::{CALM, Master, TOOLBOX_IMAGE, Watch, shared};

/// Time limit until the containers of evicted pods have ended.
const ENDED: Duration = Duration::from_secs(120);
/// The number of passes in an hour, at the usual interval of a minute.
const HOUR: u64 = 60;
/// Settings with which these passes take minutes and not an hour.
const HASTENED: &[(&str, &str)] = &[("LOOP_INTERVAL", "1s"), ("KUBE_SERVICE_STATE", "true")];
/// The number of pods that ended long ago.
const FINISHED: usize = 1500;
const KUBECONFIG: &str = "/etc/pf9/kube.d/kubeconfigs/admin.yaml";

fn is_cordoned(master: &Master) -> bool {
    master.kubectl("get node/master-1 --output jsonpath='{.spec.unschedulable}'") == "true"
}

/// What `nodelet status` shows of the cordon.
fn status(master: &Master) -> String {
    let shown = master.try_sh("nodelet status");
    String::from_utf8_lossy(&shown.stdout).into_owned()
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_cordon_of_an_operator_survives_and_ours_is_lifted() {
    let master = shared();
    master.configure(HASTENED);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);

    master.kubectl("cordon master-1");
    let before = master.sh("docker inspect --format '{{.State.StartedAt}}' proxy");
    watch.passes(HOUR, 4 * CALM);
    assert!(is_cordoned(&master), "passes leave it");
    let shown = status(&master);
    assert!(
        shown.contains("node master-1 is cordoned by an operator with kubectl"),
        "{shown}"
    );
    master.sh("docker kill proxy");
    watch.until("the proxy is repaired", CALM, || {
        let now = master.try_sh("docker inspect --format '{{.State.StartedAt}}' proxy");
        now.status.success() && String::from_utf8_lossy(&now.stdout).trim() != before
    });
    watch.wait_until_healthy(CALM);
    assert!(is_cordoned(&master), "a repair leaves it");
    // A drain of a node that an operator has cordoned leaves the cordon to the operator.
    master.nodelet(&["drain", "--duration", "10m"]).exits(0);
    master.sh("nodelet resume");
    watch.passes(3, CALM);
    watch.wait_until_healthy(CALM);
    assert!(is_cordoned(&master), "`resume` leaves it");
    master.apply(&[]).exits(0);
    assert!(is_cordoned(&master), "an apply leaves it");
    master.host().reboot().expect("the host reboots");
    assert_api_server_ended_first(&master);
    master.sh("systemctl start pf9-nodeletd");
    watch.wait_until_healthy(2 * CALM);
    watch.passes(2, CALM);
    assert!(is_cordoned(&master), "a reboot leaves it");
    master.kubectl("uncordon master-1");

    // Our cordon is lifted even if all of our own state is lost, because its mark is on the node.
    master.nodelet(&["drain", "--duration", "10m"]).exits(0);
    assert!(is_cordoned(&master));
    let mark = "get node/master-1 --output jsonpath='{.metadata.annotations.KubeStackShutDown}'";
    assert_eq!(master.kubectl(mark), "true");
    master.sh("systemctl stop pf9-nodeletd; rm -f /var/opt/pf9/nodelet/nodeletd.json; systemctl start pf9-nodeletd");
    watch.until("it takes pods again", CALM, || !is_cordoned(&master));
    watch.wait_until_healthy(CALM);
    assert_eq!(master.kubectl(mark), "");
    assert!(!status(&master).contains("cordoned"));

    // If an operator lifts our cordon and sets another one, that one is the operator's, even if our mark was left behind.
    master.nodelet(&["drain", "--duration", "10m"]).exits(0);
    master.kubectl("uncordon master-1");
    master.kubectl("cordon master-1");
    master.sh("nodelet resume");
    watch.passes(3, CALM);
    watch.wait_until_healthy(CALM);
    assert!(is_cordoned(&master), "it is the operator's");
    assert_eq!(master.kubectl(mark), "");
    master.kubectl("uncordon master-1");

    master.sh("systemctl stop pf9-nodeletd");
    master.configure(&[]);
    master.apply(&[]).exits(0);
}

/// The shutdown of a host does not wait for the API server: it ends before etcd, which ends as soon as it is asked to.
fn assert_api_server_ended_first(master: &Master) {
    let ended = master.sh(
        "server=$(docker ps --all --quiet --filter label=io.kubernetes.container.name=kube-apiserver --filter status=exited | head -n 1)
         docker inspect --format '{{.State.FinishedAt}}' $server etcd | date --file - +%s%N",
    );
    let times: Vec<u64> = ended.lines().flat_map(str::parse).collect();
    let [server, etcd] = times.try_into().unwrap_or_else(|_| panic!("{ended}"));
    assert!(server < etcd, "{ended}");
}

/// Pods with their budgets, in a namespace that is removed when this value is dropped.
struct Pods<'a>(&'a Master);

impl<'a> Pods<'a> {
    fn on(master: &'a Master) -> Self {
        master.load_toolbox();
        let pods = Self(master);
        pods.clear();
        master.kubectl("create namespace eviction");
        let account = format!(
            "kubectl --kubeconfig {KUBECONFIG} --namespace eviction get serviceaccount/default"
        );
        master.wait_for("pods can be made", &account, Duration::from_secs(60));
        pods
    }

    fn clear(&self) {
        let _ = self.0.try_sh(&format!(
            "k='kubectl --kubeconfig {KUBECONFIG} --namespace eviction'
             $k patch pod/never --type merge --patch '{{\"metadata\":{{\"finalizers\":null}}}}'
             $k delete namespace/eviction --ignore-not-found --timeout=90s"
        ));
    }

    fn apply(&self, objects: &str) {
        self.0.sh(&format!(
            "kubectl --kubeconfig {KUBECONFIG} apply --filename - <<'END'\n{objects}\nEND"
        ));
    }

    /// Runs a pod on the node, with this label and this additional metadata.
    fn run(&self, name: &str, group: &str, metadata: &str) {
        self.apply(&format!(
            r#"{{"apiVersion": "v1", "kind": "Pod",
                "metadata": {{"name": "{name}", "namespace": "eviction", "labels": {{"group": "{group}"}}{metadata}}},
                "spec": {{"nodeName": "master-1", "terminationGracePeriodSeconds": 1,
                    "tolerations": [{{"operator": "Exists"}}],
                    "containers": [{{"name": "c", "image": "{TOOLBOX_IMAGE}", "imagePullPolicy": "Never",
                        "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"]}}]}}}}"#
        ));
    }

    fn budget(&self, name: &str, group: &str) {
        self.apply(&format!(
            r#"{{"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget",
                "metadata": {{"name": "{name}", "namespace": "eviction"}},
                "spec": {{"minAvailable": 1, "selector": {{"matchLabels": {{"group": "{group}"}}}}}}}}"#
        ));
    }

    /// Puts finished pods on the node. Each is created without a node, set to finished, and only then bound, so that kubelet has
    /// nothing to do for it.
    fn finish(&self, count: usize) {
        self.0.sh(&format!(
            r#"cd "$(mktemp -d)"
            k='kubectl --kubeconfig {KUBECONFIG}'
            $k config view --raw --output jsonpath='{{.users[0].user.client-certificate-data}}' | base64 -d > crt
            $k config view --raw --output jsonpath='{{.users[0].user.client-key-data}}' | base64 -d > key
            $k config view --raw --output jsonpath='{{.clusters[0].cluster.certificate-authority-data}}' | base64 -d > ca
            server=$($k config view --raw --output jsonpath='{{.clusters[0].cluster.server}}')
            echo '{{"status":{{"phase":"Succeeded"}}}}' > status
            requests() {{
                for n in $(seq {count}); do
                    echo "url = $server/api/v1/namespaces/eviction/pods$(printf "$2" "$n")"
                    printf 'cert = crt\nkey = key\ncacert = ca\nfail\nsilent\nshow-error\noutput = /dev/null\nrequest = %s\n' "$1"
                    printf 'header = "Content-Type: %s"\n' "$3"
                    echo "data = @$(printf "$4" "$n")"
                    echo next
                done | sed '$d' > requests
                curl --parallel --parallel-max 12 --no-progress-meter --config requests
            }}
            for n in $(seq {count}); do
                echo '{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"done-'$n'"}},"spec":{{"schedulerName":"none","containers":[{{"name":"c","image":"none"}}]}}}}' > pod-$n
                echo '{{"apiVersion":"v1","kind":"Binding","metadata":{{"name":"done-'$n'"}},"target":{{"apiVersion":"v1","kind":"Node","name":"master-1"}}}}' > bind-$n
            done
            requests POST '' application/json pod-%s
            requests PATCH '/done-%s/status' application/merge-patch+json status
            requests POST '/done-%s/binding' application/json bind-%s"#
        ));
    }

    /// Names of pods on the node, without the finished ones.
    fn left(&self) -> String {
        self.0.kubectl(
            "get pods --namespace eviction --field-selector spec.nodeName=master-1,status.phase!=Succeeded \
             --sort-by .metadata.name --output jsonpath='{.items[*].metadata.name}'",
        )
    }

    fn finished(&self) -> usize {
        let names = self.0.kubectl(
            "get pods --namespace eviction --field-selector spec.nodeName=master-1,status.phase=Succeeded --output name",
        );
        names.lines().count()
    }
}

impl Drop for Pods<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_drain_evicts_what_it_can_and_names_what_stays() {
    let master = shared();
    let pods = Pods::on(&master);
    pods.finish(FINISHED);
    for name in ["plain-1", "plain-2", "plain-3"] {
        pods.run(name, "plain", "");
    }
    pods.run("a-two-budgets", "two", "");
    pods.run("b-one-budget", "one", "");
    pods.run(
        "never",
        "plain",
        r#", "finalizers": ["suites.example/never"]"#,
    );
    pods.budget("first", "two");
    pods.budget("second", "two");
    pods.budget("third", "one");
    let wait = "wait --namespace eviction --for=condition=Ready pod --selector group --timeout=90s";
    master.kubectl(wait);
    assert_eq!(pods.finished(), FINISHED);

    let drained = master.nodelet(&["drain", "--role", "pf9-kube"]).exits(2);
    drained.says(&[
        "eviction/a-two-budgets (the API server refuses its eviction: This pod has more than one PodDisruptionBudget",
        "eviction/b-one-budget (the API server refuses its eviction: Cannot evict pod as it would violate",
        "finalizers keep it: suites.example/never",
    ]);
    // The others were evicted; on a busy machine their containers take a while to end.
    let kept = "a-two-budgets b-one-budget never";
    let ended = lab_suites::poll(ENDED, || (pods.left() == kept).then_some(()));
    assert!(ended.is_some(), "{}, not {kept}", pods.left());
    assert!(is_cordoned(&master));
    assert_eq!(pods.finished(), FINISHED, "finished pods are left alone");

    master.kubectl("delete --namespace eviction poddisruptionbudgets --all");
    master.kubectl(
        r#"patch pod/never --namespace eviction --type merge --patch '{"metadata":{"finalizers":null}}'"#,
    );
    // A drain gives pods half a minute. On a busy machine this may be too little: then the drain says so, and the next one
    // continues.
    let drained = lab_suites::poll(ENDED, || {
        let drain = master.try_sh("nodelet drain --role pf9-kube");
        drain.status.success().then_some(())
    });
    assert!(drained.is_some(), "left: {}", pods.left());
    assert_eq!(pods.left(), "");
    assert_eq!(pods.finished(), FINISHED);
    master.apply(&[]).exits(0);
    assert!(
        !is_cordoned(&master),
        "an apply lifts the cordon of a drain"
    );
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_tenant_pod_with_control_plane_names_is_not_matched() {
    let master = shared();
    master.load_toolbox();
    let pods = Pods::on(&master);
    pods.apply(&format!(
        r#"{{"apiVersion": "v1", "kind": "Pod",
            "metadata": {{"name": "k8s-master-x", "namespace": "eviction",
                "labels": {{"group": "tenant", "annotation.kubernetes.io/config.source": "file"}},
                "annotations": {{"kubernetes.io/config.source": "file", "kubernetes.io/config.hash": "4f5e"}}}},
            "spec": {{"nodeName": "master-1", "terminationGracePeriodSeconds": 1,
                "tolerations": [{{"operator": "Exists"}}],
                "containers": [{{"name": "kube-apiserver", "image": "{TOOLBOX_IMAGE}", "imagePullPolicy": "Never",
                    "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"]}}]}}}}"#
    ));
    master
        .kubectl("wait --namespace eviction --for=condition=Ready pod/k8s-master-x --timeout=90s");
    let of = |namespace: &str| {
        format!(
            "docker ps --quiet --filter label=io.kubernetes.container.name=kube-apiserver \
             --filter label=io.kubernetes.pod.namespace={namespace}"
        )
    };
    let (tenants, ours) = (master.sh(&of("eviction")), master.sh(&of("kube-system")));
    assert!(!tenants.is_empty() && !ours.is_empty());

    // A file that the API server has read at its start is newer now: our API server is restarted, and the tenant's pod is not.
    master.sh("touch /etc/pf9/kube.d/certs/apiserver/etcd/ca.crt");
    master.apply(&[]).exits(0);
    assert_ne!(master.sh(&of("kube-system")), ours);
    assert_eq!(master.sh(&of("eviction")), tenants);

    // The tenant's pod does not count as our API server, either.
    let manifest = "/etc/pf9/kube.d/manifests/k8s-master.yaml";
    master.sh(&format!("mv {manifest} /root/k8s-master.yaml"));
    let gone = format!("test -z \"$({})\"", of("kube-system"));
    master.wait_for("the control plane is gone", &gone, Duration::from_secs(60));
    let checked = master.check(&["--only", "api-ready"]);
    checked.says(&["container kube-apiserver of pod k8s-master does not run"]);
    master.sh(&format!("mv /root/k8s-master.yaml {manifest}"));
    master.apply(&[]).exits(0);
    assert_eq!(master.sh(&of("eviction")), tenants);
}
