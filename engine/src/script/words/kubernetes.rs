//! Words for objects of the cluster.

use super::shared::{KUBECONFIG, VARS, words};

words! {
    PODS = Resource(Cluster::Pods) pods() {
        doc: "The containers that kubelet started; only `.absent()` makes sense.";
        example: "on_stop(|| { pods().absent(); });";
        rollback: "Nothing.";
        grace(duration: Duration) => "How long each container may take to end. Default 10s.";
    }

    MANIFEST = Resource(Cluster::Manifest) manifest(template: Text) {
        doc: "Objects in the Kubernetes API, by server-side apply.";
        example: r#"manifest("example/greeting.tmpl").vars(#{ name: host.name });"#;
        rollback: "Objects that were created are deleted.";
        VARS;
        KUBECONFIG;
    }

    NODE = Resource(Cluster::Node) node(name: Text) {
        doc: "This host's node object, registered and with its pod subnet (output `pod_cidr`).";
        example: r#"node(host.name).label("example", "yes");"#;
        rollback: "Labels, taints and cordon are set back.";
        KUBECONFIG;
        #repeatable label(key: Text, value: AnyText) => "A label it has.";
        #repeatable taint(key: Text, value: AnyText, effect: Text) => "A taint it has.";
        #repeatable untainted(key: Text) => "Key of a taint it does not have.";
        shared_settings(settings: Map) =>
            "Settings that all masters have in common, by name. They are published in an annotation, so that `nodelet cluster status` names a master that differs.";
        schedulable() => "Lifts a cordon that nodelet's drain has set; an operator's cordon stays.";
        pod_subnet_of(network: Text, prefix: Integer(1)) =>
            "If the node has no pod subnet, it gets a free one of this network, with this prefix length; nodeletd does the same for other nodes.";
    }

    DRAIN = Resource(Cluster::Drain) drain(node: Text) {
        doc: "Cordons the node and evicts its pods, best effort. Done if no evictable pod is left; pods that stay are named with the reason. For the stop lane.";
        example: r#"on_stop(|| { drain(host.name).within("20s"); });"#;
        rollback: "Nothing; the next bring-up lifts the cordon.";
        KUBECONFIG;
        kubelet(unit: Text) => "kubelet's unit on this host. While it does not run, a pod that is being deleted and of which no container runs here counts as gone: kubelet does not report its end.";
        within(duration: Duration) => "How long pods may take to go. Default 30s.";
    }

    NODE_ROUTES = Resource(Cluster::NodeRoutes) node_routes(node: Text, network: Text) {
        doc: "A route to the pods of each other node, over the node's address, for pod subnets in this network. `node` is this host's node. The routes carry the protocol number 92; routes of other programs are never touched. While the API server does not answer, the routes stay as they are. A node that cannot get a route is named in a note, and the others get theirs.";
        example: r#"node_routes(host.name, "10.20.0.0/16");"#;
        rollback: "All routes with the protocol number 92 are removed.";
        KUBECONFIG;
    }

    ETCD_MEMBER = Resource(Cluster::EtcdMember) etcd_member(name: Text) {
        doc: "This host as a member of etcd, before etcd runs. With data, it is as planned; if a list of members that has quorum does not name it, the step fails and changes nothing. Without data, it begins a cluster or joins the one of the other masters, as a learner and one host at a time; then it writes the settings with which etcd starts. They are never compared again.";
        example: r#"etcd_member(host.name).data("/var/lib/etcd").peer("https://192.0.2.1:2380").settings("/etc/etcd/member.env").initial_state("existing").token(cluster.id);"#;
        rollback: "The host is removed from the cluster, unless it has a vote by now. The settings are removed, or as they were.";
        data(directory: Path) => "etcd's data directory.";
        peer(url: Text) => "URL of the member for other members.";
        settings(path: Path) => "The file with the settings of a new member.";
        initial_state(state: Text) =>
            "How it begins without data: `new` begins a cluster, `existing` joins one.";
        token(token: Text) => "Tells clusters apart while their members join.";
        api(url: Text) =>
            "URL of the cluster's API server: while one answers there, no cluster is begun.";
        data_id(name: Text) =>
            "Name of the data's id (`data_id`). A host that joins without data gets another id.";
    }

    ETCD_PROMOTED = Resource(Cluster::EtcdPromoted) etcd_promoted(name: Text) {
        doc: "The vote of this host's member of etcd. A learner gets it once it is in sync and all voters work; until then each try fails and says what it waits for. A host that knows no other master has its vote from the beginning.";
        example: r#"etcd_promoted(host.name).data("/var/lib/etcd").peer("https://192.0.2.1:2380");"#;
        rollback: "Nothing: `nodelet cluster remove` takes a vote away.";
        data(directory: Path) => "etcd's data directory.";
        peer(url: Text) => "URL of the member for other members.";
    }

    POD_CONTAINER = Resource(Cluster::PodContainer) pod_container(pod: Text, container: Text) {
        doc: "A container of a static pod that kubelet runs. If it started before the files that it reads were written, it is ended, and kubelet starts a new one.";
        example: r#"pod_container("k8s-master", "kube-apiserver").reads(["/etc/pf9/kube.d/certs/apiserver/etcd/ca.crt"]);"#;
        rollback: "Nothing.";
        #repeatable restart_on(steps: Steps) =>
            "Steps of this phase whose content it reads at its start: a change ends it, and kubelet starts a new one.";
        reads(paths: Paths) =>
            "Files of other phases that it reads at its start: a change ends it, and kubelet starts a new one.";
    }
}
