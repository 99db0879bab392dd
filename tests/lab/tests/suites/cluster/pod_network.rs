//! The pods' network between nodes: routes to other nodes, and the addresses with which pods reach other hosts.

use std::net::Ipv4Addr;
use std::time::Duration;

use lab_suites::{Master, SCALED, TOOLBOX_IMAGE, Watch, shared};

const KUBECTL: &str = "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml";

/// Nodes of the cluster that are no hosts: objects with a pod subnet and an address on the lab's network.
struct OtherNodes<'a>(&'a Master);

impl OtherNodes<'_> {
    fn join(&self, name: &str, subnet: &str, address: Ipv4Addr) {
        let node = format!(
            r#"{{"apiVersion": "v1", "kind": "Node", "metadata": {{"name": "{name}"}},
                "spec": {{"podCIDR": "{subnet}", "podCIDRs": ["{subnet}"]}},
                "status": {{"addresses": [{{"type": "InternalIP", "address": "{address}"}}]}}}}"#
        );
        self.0
            .sh(&format!("echo '{node}' | {KUBECTL} create --filename -"));
    }

    fn has_route(&self, subnet: &str, via: Ipv4Addr) {
        let route = format!("ip route show {subnet} proto 92 | grep -qw 'via {via}'");
        let what = format!("there is a route to {subnet}");
        self.0.wait_for(&what, &route, SECONDS);
    }
}

impl Drop for OtherNodes<'_> {
    fn drop(&mut self) {
        // With `try_sh`, because it must not panic after the suite has failed.
        let _ = self.0.try_sh(&format!(
            "{KUBECTL} delete node/other-1 node/other-2 --ignore-not-found; ip route del 10.20.202.0/24 proto static"
        ));
    }
}

/// Much less than the pause between two passes, so that only an event can be the reason.
const SECONDS: Duration = Duration::from_secs(150);

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn routes_follow_the_nodes_of_the_cluster() {
    let master = shared();
    master.configure(&[("LOOP_INTERVAL", "10m"), ("KUBE_SERVICE_STATE", "true")]);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    // A difference that comes before a repair is verified looks like a repair that did not help, and the next one waits.
    let settles = || {
        let is_healthy = || watch.view().is_some_and(|view| Watch::is_healthy(&view));
        let what = "nodeletd has verified its repair";
        watch.until(what, SECONDS, is_healthy);
    };
    let nodes = OtherNodes(&master);
    let [a, b, c, _] = master.host().address().octets();
    let (first, second) = (Ipv4Addr::new(a, b, c, 250), Ipv4Addr::new(a, b, c, 251));

    nodes.join("other-1", "10.20.201.0/24", first);
    nodes.has_route("10.20.201.0/24", first);
    settles();
    // A route of another program for the subnet of a node stays, and costs no other node its route.
    master.sh(&format!(
        "ip route add 10.20.202.0/24 via {first} proto static"
    ));
    nodes.join("other-2", "10.20.202.0/24", second);
    master
        .check(&["--only", "node-routes", "--json"])
        .exits(2)
        .says(&["another program has a route for the pod subnet 10.20.202.0/24"]);
    let theirs = master.sh("ip route show 10.20.202.0/24");
    assert!(theirs.contains(&format!("via {first}")), "{theirs}");
    master.sh("ip route del 10.20.202.0/24 proto static");
    // The pass that the new node has caused may repair the route at the same moment.
    let applied = lab_suites::poll(SECONDS, || {
        let run = master.apply(&["--only", "node-routes"]);
        (!run.exited(75)).then_some(run)
    });
    applied.expect("no other command works").exits(0);
    nodes.has_route("10.20.202.0/24", second);
    settles();

    master.sh("ip route del 10.20.201.0/24 proto 92");
    nodes.has_route("10.20.201.0/24", first);
    settles();

    master.kubectl("delete node/other-1");
    let gone = "test -z \"$(ip route show 10.20.201.0/24 proto 92)\"";
    master.wait_for("the route is gone", gone, SECONDS);
    nodes.has_route("10.20.202.0/24", second);
    settles();
    drop(nodes);
    let gone = "test -z \"$(ip route show proto 92)\"";
    master.wait_for("all routes are gone", gone, SECONDS);
    master.configure(SCALED);
}

/// A network namespace beside the host: a router with an address of its own, and with a pod subnet of the cluster behind it.
struct Outside<'a>(&'a Master);

impl<'a> Outside<'a> {
    const HOST: &'static str = "192.0.2.1";
    const ADDRESS: &'static str = "192.0.2.2";
    const POD: &'static str = "10.20.203.7";

    fn make(master: &'a Master) -> Self {
        let outside = Self(master);
        let (host, address, pod) = (Self::HOST, Self::ADDRESS, Self::POD);
        master.sh(&format!(
            "set -e
             ip netns add outside
             ip link add outside0 type veth peer name eth0 netns outside
             ip addr add {host}/24 dev outside0
             ip link set outside0 up
             ip -n outside addr add {address}/24 dev eth0
             ip -n outside addr add {pod}/32 dev lo
             ip -n outside link set lo up
             ip -n outside link set eth0 up
             ip -n outside route add 10.20.0.0/24 via {host}
             ip route add 10.20.203.0/24 via {address}"
        ));
        // Each server answers with the address from which the client comes.
        let server = "socat TCP-LISTEN:18099,fork,reuseaddr 'SYSTEM:echo $SOCAT_PEERADDR'";
        master.sh(&format!(
            "systemd-run --collect --unit peer-of-host {server}
             systemd-run --collect --unit peer-outside ip netns exec outside {server}"
        ));
        let listens = "ss -ltn sport = :18099 | grep -q LISTEN && ip netns exec outside ss -ltn sport = :18099 | grep -q LISTEN";
        master.wait_for("the servers listen", listens, Duration::from_secs(20));
        outside
    }
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_sh(&format!(
            "systemctl stop peer-of-host peer-outside; ip netns del outside; ip link del outside0
             {KUBECTL} delete pod/client --ignore-not-found --now"
        ));
    }
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn pods_keep_their_address_among_pods_and_have_the_nodes_outside() {
    let master = shared();
    master.load_toolbox();
    let account = format!("{KUBECTL} get serviceaccount/default");
    master.wait_for("pods can be made", &account, Duration::from_secs(60));
    let outside = Outside::make(&master);
    let overrides = r#"{"apiVersion": "v1", "spec": {"terminationGracePeriodSeconds": 1,
        "tolerations": [{"key": "node-role.kubernetes.io/master", "operator": "Exists"}]}}"#;
    master.kubectl(&format!(
        "run client --image={TOOLBOX_IMAGE} --image-pull-policy=Never --restart=Never --overrides='{overrides}' -- \
         httpd -f -p 8080 -h /www"
    ));
    master.kubectl("wait --for=condition=Ready pod/client --timeout=60s");
    let own = master.kubectl("get pod/client --output jsonpath='{.status.podIP}'");

    let seen_by = |server: &str| {
        master.kubectl(&format!(
            "exec client -- sh -c 'timeout 10 nc {server} 18099 </dev/null'"
        ))
    };
    let host = master.host().address().to_string();
    assert_eq!(
        seen_by(&host),
        own,
        "the host itself sees the pod's address"
    );
    assert_eq!(seen_by(Outside::POD), own, "a pod of another node as well");
    assert_eq!(
        seen_by(Outside::ADDRESS),
        Outside::HOST,
        "all others see the node's"
    );

    // A new connection from a pod of another node: docker's policy for forwarded packets would drop it.
    let page = master.sh(&format!(
        "ip netns exec outside curl --silent --show-error --fail --max-time 5 --interface {} http://{own}:8080/index.html",
        Outside::POD
    ));
    assert!(page.contains("hello from the toolbox"), "{page}");
    // What flushes the kernel's own chains takes the jumps away; a repair brings them back.
    master.sh("iptables -w -t nat -D POSTROUTING -j PF9-MASQUERADE; iptables -w -F PF9-FORWARD");
    master.check(&["--only", "pod-network"]).exits(2);
    master.apply(&["--only", "pod-network"]).exits(0);
    assert_eq!(seen_by(Outside::ADDRESS), Outside::HOST);
    drop(outside);
}
