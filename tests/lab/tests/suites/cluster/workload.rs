//! What users do with a cluster: pods, their network, Services, and kubectl's access to a pod.

use std::net::Ipv4Addr;
use std::time::Duration;

use lab_suites::{CALM, Master, SCALED, TOOLBOX_IMAGE, Watch, page_from_outside, shared};

/// A pod that serves a page at 8080, on a master that takes no workloads, and ends on SIGTERM.
struct Web<'a>(&'a Master);

impl<'a> Web<'a> {
    fn run(master: &'a Master) -> Self {
        master.load_toolbox();
        master.kubectl("delete pod/web service/web --ignore-not-found");
        // The controller-manager makes the account some seconds after the API server is ready, on every cluster.
        let account = "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml get serviceaccount/default";
        master.wait_for("pods can be made", account, Duration::from_secs(60));
        let overrides = r#"{"apiVersion": "v1", "spec": {"terminationGracePeriodSeconds": 1,
            "tolerations": [{"key": "node-role.kubernetes.io/master", "operator": "Exists"}]}}"#;
        master.kubectl(&format!(
            "run web --image={TOOLBOX_IMAGE} --image-pull-policy=Never --restart=Never --port=8080 --overrides='{overrides}' -- \
             sh -c 'echo serving; exec httpd -f -p 8080 -h /www'"
        ));
        let web = Self(master);
        master.kubectl("wait --for=condition=Ready pod/web --timeout=60s");
        web
    }

    fn at(&self, path: &str) -> String {
        self.0
            .kubectl(&format!("get pod/web --output jsonpath='{{{path}}}'"))
    }
}

impl Drop for Web<'_> {
    fn drop(&mut self) {
        // With `try_sh`, because it must not panic after the suite has failed.
        let _ = self.0.try_sh("kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml delete pod/web service/web --ignore-not-found");
    }
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_pod_has_its_address_and_reaches_the_api_by_its_service() {
    let master = shared();
    let web = Web::run(&master);
    let address: Ipv4Addr = web.at(".status.podIP").parse().expect("an address");
    assert!(
        matches!(address.octets(), [10, 20, _, _]),
        "{address} is of CONTAINERS_CIDR"
    );
    let node = master.kubectl("get node/master-1 --output jsonpath='{.spec.podCIDR}'");
    assert_eq!(node, "10.20.0.0/24");

    let service = master.kubectl("get service/kubernetes --output jsonpath='{.spec.clusterIP}'");
    assert_eq!(service, "10.21.0.1");
    let version = master.kubectl(&format!(
        "exec web -- timeout 10 wget -q -O - --no-check-certificate https://{service}/version"
    ));
    assert!(version.contains("v1.20.2"), "{version}");
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn exec_logs_and_port_forward_work() {
    let master = shared();
    let web = Web::run(&master);
    assert_eq!(master.kubectl("exec web -- sh -c 'echo $((6*7))'"), "42");
    let refused = master.try_sh(
        "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml exec web -- sh -c 'exit 7'",
    );
    assert_eq!(
        refused.status.code(),
        Some(7),
        "the command's own exit code"
    );
    assert_eq!(master.sh("echo typed | kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml exec -i web -- cat"), "typed");
    assert_eq!(master.kubectl("logs web"), "serving");
    let page = master.sh(
        "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml port-forward pod/web 18080:8080 >/tmp/forward 2>&1 &
         trap 'kill %1' EXIT
         timeout 20 sh -c 'until grep -q Forwarding /tmp/forward; do sleep 0.1; done'
         curl --silent --show-error --fail --max-time 5 http://127.0.0.1:18080/index.html",
    );
    assert!(page.contains("hello from the toolbox"), "{page}");
    drop(web);
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_node_port_answers_outside_the_host() {
    let master = shared();
    let _web = Web::run(&master);
    master.kubectl("expose pod/web --type=NodePort --port=80 --target-port=8080");
    let port = master.kubectl("get service/web --output jsonpath='{.spec.ports[0].nodePort}'");
    let port: u16 = port.parse().expect("a port");
    let mut last = String::new();
    // kube-proxy writes the rule a moment after the Service is there. If an earlier suite has stopped etcd, the API server may wait
    // up to 30 s before it watches etcd again, and kube-proxy waits as long.
    let page = lab_suites::poll(Duration::from_secs(180), || {
        let answer = page_from_outside(master.host().address(), port);
        answer
            .inspect_err(|error| last = error.to_string())
            .ok()
            .filter(|page| page.contains("200 OK"))
    });
    let page = page.unwrap_or_else(|| {
        let output = master.try_sh(&format!(
            "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml get service,endpoints,endpointslices,pods --output wide
             iptables-save | grep -- {port}; ss -ltnp sport = :{port}; docker logs --tail 30 proxy 2>&1
             docker ps --quiet --filter label=io.kubernetes.container.name=kube-apiserver | xargs -n 1 docker logs --since 10m 2>&1 | tail -150"
        ));
        let text = String::from_utf8_lossy(&output.stdout);
        panic!("port {port} does not answer outside: {last}\n{text}")
    });
    assert!(page.contains("hello from the toolbox"), "{page}");
}

/// On a master that nodeletd only watches, nodes get no pod subnets. No pod runs on such a node, and the status names it.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_node_without_a_pod_subnet_is_named_if_changes_are_not_allowed() {
    const LIMIT: Duration = CALM;
    let master = shared();
    master.configure(&[SCALED, &[("KUBE_SERVICE_STATE", "ignore")]].concat());
    // nodeletd only watches with these settings, so an apply has to write them to the host.
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    let node = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"}}"#;
    let kubectl = "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml";
    master.sh(&format!("echo '{node}' | {kubectl} apply --filename -"));
    watch.tells("NodesHaveSubnets", "other", LIMIT);
    master.configure(SCALED);
    let given =
        format!("{kubectl} get node/other --output jsonpath='{{.spec.podCIDR}}' | grep -q ^10.20.");
    master.wait_for("the node has its pod subnet", &given, LIMIT);
    master.kubectl("delete node/other");
    watch.wait_until_healthy(LIMIT);
}
