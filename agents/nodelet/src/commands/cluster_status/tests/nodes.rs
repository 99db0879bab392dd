//! Nodes that are not Ready or have left, and versions that do not go together.

use engine::host::{Cluster as _, ClusterAccess, ConfigMap, ConfigMaps as _};
use engine::kubernetes::SHARED_SETTINGS;
use engine::kubernetes::admission::{
    Admission, CertificateKind, JOINED, RemovedNode, parse_taint, put,
};
use engine::kubernetes::workers::LEFT;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_ready_or_has_left_is_a_problem() {
    let cluster = Cluster::healthy().await;
    cluster.node("w-1", |node| {
        node.ready = Some(false);
        node.ready_message = "KubeletNotReady: \u{1b}[31mdocker is down".to_owned();
        node.pressures = vec!["DiskPressure (full)".to_owned()];
    });
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    assert!(
        problems.contains("node w-1 is not Ready: KubeletNotReady:  [31mdocker"),
        "{problems}"
    );
    assert!(
        problems.contains("`nodelet cluster remove w-1` if the host is lost"),
        "{problems}"
    );
    assert!(
        problems.contains("node w-1 reports DiskPressure (full)"),
        "{problems}"
    );
    cluster.node("w-1", |node| {
        node.ready = None;
        node.annotations
            .insert(LEFT.to_owned(), "2025-12-31T00:00:00Z".to_owned());
    });
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.starts_with("worker w-1 has left at 2025-12-31T00:00:00Z"),
        "{problems}"
    );
    assert_eq!(problems.lines().count(), 1);
}

/// kubelet may write any annotation of its own node, and an administrator any label.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_marked_as_what_it_is_not_is_named() {
    let cluster = Cluster::healthy().await;
    let mark = "2027-12-01T00:00:00Z";
    cluster.node("cp-2", |node| {
        node.labels.insert(MASTER_LABEL.to_owned(), String::new());
        node.annotations.insert(LEFT.to_owned(), mark.to_owned());
        node.ready = Some(false);
    });
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.starts_with("node cp-2 of a master has the mark of a worker that has left"),
        "{problems}"
    );
    assert!(problems.contains("node cp-2 is not Ready"), "{problems}");
    assert!(!problems.contains("cluster remove cp-2"), "{problems}");

    let cluster = Cluster::healthy().await;
    cluster.node("w-1", |node| {
        node.labels.insert(MASTER_LABEL.to_owned(), String::new());
    });
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.contains("node w-1 has the label of a master and is no member of etcd"),
        "{problems}"
    );
    cluster.node("w-1", |node| node.labels.clear());
    let (problems, _) = cluster.problems().await;
    assert!(
        problems.contains("node w-1 is neither a master nor a worker that a master has admitted"),
        "{problems}"
    );
}

/// kubelet can register its node with any subnet and any address.
#[tokio::test(start_paused = true)]
async fn a_node_whose_pods_cannot_be_reached_is_a_problem() {
    let cluster = Cluster::healthy().await;
    cluster.node("w-1", |node| {
        node.pod_cidr = Some("10.20.12.128/25".to_owned())
    });
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    for says in [
        "10.20.12.128/25, which overlaps that of node cp-2",
        "`nodelet cluster remove w-1`",
    ] {
        assert!(problems.contains(says), "{problems}");
    }
    cluster.node("w-1", |node| {
        node.pod_cidr = Some("10.20.21.0/24".to_owned());
        node.addresses = vec!["172.31.0.21".parse().expect("an address")];
    });
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    let says = "node w-1 has address 172.31.0.21, which is not on a network of this host";
    assert!(problems.contains(says), "{problems}");
}

/// A kubelet may report any address.
#[tokio::test(start_paused = true)]
async fn a_worker_with_the_address_of_this_host_is_not_taken_for_it() {
    let cluster = Cluster::healthy().await;
    let of_this_host = |status: &ClusterStatus| {
        let rows = status.nodes.known().expect("they are listed").iter();
        let here = rows.filter(|row| row.this_host);
        here.map(|row| row.name.clone()).collect::<Vec<String>>()
    };
    let before = of_this_host(&cluster.status().await);
    assert_eq!(before.len(), 1);
    let worker = cluster.status().await.nodes;
    let rows = worker.known().expect("they are listed").iter();
    let own = rows.clone().find(|row| row.this_host).expect("it is there");
    let addresses = own.addresses.clone();
    cluster.node("w-1", |node| node.addresses.clone_from(&addresses));
    assert_eq!(of_this_host(&cluster.status().await), before);
    // Where masters run workloads, operators label them as workers, too.
    cluster.node(&before[0], |node| {
        node.labels.insert(MASTER_LABEL.to_owned(), String::new());
        node.addresses = addresses;
    });
    assert_eq!(of_this_host(&cluster.status().await), before);
}

#[tokio::test(start_paused = true)]
async fn versions_that_do_not_go_together_are_problems() {
    let cluster = Cluster::healthy().await;
    for (version, says) in [
        ("v1.18.9", ""),
        ("v1.20.15", ""),
        (
            "v1.17.0",
            "is more than two minor versions older than the API server v1.20.2",
        ),
        ("v1.21.0", "is newer than the API server v1.20.2"),
    ] {
        cluster.node("w-1", |node| version.clone_into(&mut node.kubelet_version));
        let (problems, code) = cluster.problems().await;
        assert_eq!(code, if says.is_empty() { 0 } else { 2 }, "{version}");
        assert!(problems.contains(says), "{problems}");
    }
    cluster.node("w-1", |node| node.kubelet_version = "new".to_owned());
    assert_eq!(cluster.status().await.exit().code(), 1);
}

/// A worker that may join, has joined, or was removed.
async fn record(cluster: &Cluster, record: Admission) {
    let access = ClusterAccess::with(KUBECONFIG.as_ref());
    let put = put(&cluster.host, &access, &record).await;
    assert!(put.expect("the API answers"), "it is new");
}

#[tokio::test(start_paused = true)]
async fn a_host_without_a_node_is_a_problem() {
    let cluster = Cluster::healthy().await;
    let joined = |node: &str| Admission {
        node: node.to_owned(),
        keys: BTreeMap::from([(CertificateKind::KubeletClient, "k".to_owned())]),
        ..Admission::default()
    };
    record(&cluster, joined("w-1")).await;
    let joins = Admission {
        token_id: Some("t".to_owned()),
        ..joined("w-2")
    };
    record(&cluster, joins).await;
    let removed = Admission {
        removed: Some(RemovedNode {
            at: cluster.host.now(),
            uid: String::new(),
        }),
        ..joined("w-3")
    };
    record(&cluster, removed).await;
    let left = Admission {
        left: Some(cluster.host.now()),
        ..joined("w-4")
    };
    record(&cluster, left).await;
    assert_eq!(cluster.problems().await, (String::new(), 0));
    cluster.host.with_world_mut(|world| {
        world.remove_node("w-1");
        world.remove_node("cp-3");
    });
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    for says in [
        "worker w-1 has no node: it was deleted → `nodelet repair kubelet` on its host registers it; `nodelet cluster remove w-1` if",
        "master cp-3 has no node: it was deleted, or kubelet has not registered it yet → `nodelet status`",
    ] {
        assert!(problems.contains(says), "{problems}");
    }
    assert_eq!(problems.lines().count(), 2, "{problems}");
}

/// Two masters with another router id hold the virtual IP at the same time.
#[tokio::test(start_paused = true)]
async fn masters_with_different_settings_are_a_problem() {
    let cluster = Cluster::healthy().await;
    let access = ClusterAccess::with(KUBECONFIG.as_ref());
    let publish = async |name: &str, settings: &str| {
        let patch =
            serde_json::json!({ "metadata": { "annotations": { SHARED_SETTINGS: settings } } });
        let patched = cluster.host.patch_node(&access, name, &patch).await;
        patched.expect("the API answers");
    };
    let usual = r#"{"MASTER_IP":"172.30.0.100","MASTER_VIP_VROUTER_ID":"51"}"#;
    for name in ["cp-1", "cp-2", "w-1"] {
        publish(name, usual).await;
    }
    publish("cp-2", &usual.replace("}", r#","CLUSTER_ID":"0A"}"#)).await;
    publish("cp-1", &usual.replace("}", r#","CLUSTER_ID":"0a"}"#)).await;
    assert_eq!(cluster.problems().await, (String::new(), 0));
    publish("cp-1", usual).await;
    publish("cp-2", usual).await;
    // One that has published nothing yet, or something unreadable, is no problem.
    publish("cp-3", "{").await;
    assert_eq!(cluster.problems().await, (String::new(), 0));
    publish(
        "cp-2",
        r#"{"MASTER_IP":"172.30.0.100","MASTER_VIP_VROUTER_ID":"52"}"#,
    )
    .await;
    // A worker says nothing about masters.
    publish("w-1", r#"{"MASTER_IP":"172.30.0.66"}"#).await;
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    let says = "the masters have different values of MASTER_VIP_VROUTER_ID: cp-1 has 51, cp-2 has 52 → set MASTER_VIP_VROUTER_ID alike";
    assert!(problems.contains(says), "{problems}");
    assert_eq!(problems.lines().count(), 1, "{problems}");
}

/// It is Ready until its certificate ends.
#[tokio::test(start_paused = true)]
async fn a_worker_without_its_record_is_a_problem() {
    let cluster = Cluster::healthy().await;
    cluster.node("w-1", |node| {
        let (name, value) = (JOINED.to_owned(), "2025-12-31T00:00:00Z".to_owned());
        node.annotations.insert(name, value);
    });
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    let says = "the record of the admission of worker w-1 was deleted (ConfigMap nodelet-node-w-1 in kube-system)";
    assert!(problems.contains(says), "{problems}");
    assert!(
        problems.contains("`nodelet pki issue w-1 --to KEY --replace`"),
        "{problems}"
    );
    let admitted = Admission {
        node: "w-1".to_owned(),
        ..Admission::default()
    };
    record(&cluster, admitted).await;
    assert_eq!(cluster.problems().await, (String::new(), 0));
}

/// Its removal was interrupted: masters do nothing about the node, and it stays Ready.
#[tokio::test(start_paused = true)]
async fn the_node_of_a_removed_worker_is_a_problem() {
    let cluster = Cluster::healthy().await;
    let removed = Admission {
        node: "w-1".to_owned(),
        removed: Some(RemovedNode {
            at: cluster.host.now(),
            uid: String::new(),
        }),
        ..Admission::default()
    };
    record(&cluster, removed).await;
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    let says = "worker w-1 was removed, and its node is still there → `nodelet cluster remove w-1` goes on with the removal";
    assert_eq!(problems.trim_end(), says);
}

/// The masters' nodeletd does not run, or something else takes the taint away all the time.
#[tokio::test(start_paused = true)]
async fn a_worker_without_a_taint_of_its_record_is_a_problem() {
    let cluster = Cluster::healthy().await;
    let taint = parse_taint("gpu=true:NoSchedule").expect("a taint");
    let admitted = Admission {
        node: "w-1".to_owned(),
        taints: vec![taint.clone()],
        ..Admission::default()
    };
    record(&cluster, admitted).await;
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    let says =
        "worker w-1 lacks taints of its record of admission: gpu=true:NoSchedule → `journalctl";
    assert!(problems.contains(says), "{problems}");
    cluster.node("w-1", |node| node.taints.push(taint));
    assert_eq!(cluster.problems().await, (String::new(), 0));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_of_an_admission_is_a_problem() {
    let cluster = Cluster::healthy().await;
    let access = ClusterAccess::with(KUBECONFIG.as_ref());
    let map = ConfigMap {
        namespace: "kube-system".to_owned(),
        name: "nodelet-node-w-2".to_owned(),
        data: BTreeMap::from([
            ("node".to_owned(), "w-2".to_owned()),
            ("address".to_owned(), "?".to_owned()),
        ]),
        ..ConfigMap::default()
    };
    let put = cluster.host.put_config_map(&access, &map).await;
    assert!(put.expect("the API answers"), "it is new");
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    for says in [
        "could not read the ConfigMap kube-system/nodelet-node-w-2",
        "`address`",
        "→ correct it with `kubectl -n kube-system edit",
    ] {
        assert!(problems.contains(says), "{problems}");
    }
}
