//! Nodes that are not Ready or have left, and versions that do not go together.

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
