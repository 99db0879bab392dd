//! What masters do about workers, in the cluster of a fake host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::*;
use crate::host::fake::{FakeHost, FaultPlan};
use crate::host::{
    CertificateRequests as _, Clock as _, Cluster as _, ConfigMaps as _, NewCertificateRequest,
    Taint,
};
use crate::kubernetes::NODE_SIGNER;
use crate::kubernetes::admission::tests::master;
use crate::kubernetes::admission::{JOINING, LONGEST_LIFE, NewToken, RemovedNode, admit, put};
use crate::kubernetes::join_file::Token;
use crate::kubernetes::masters::MasterEntry;

mod left_token;
mod taints;
mod tombstones;

const MINUTE: Duration = Duration::from_secs(60);

fn labelled(labels: &[&str]) -> ClusterNode {
    let labels = labels
        .iter()
        .map(|label| ((*label).to_owned(), String::new()));
    ClusterNode {
        labels: labels.collect(),
        // It has joined before, so there is nothing to do about its token.
        annotations: BTreeMap::from([(JOINED.to_owned(), String::new())]),
        ready: Some(true),
        ..ClusterNode::default()
    }
}

/// Puts a node into the cluster, which admits it.
async fn admitted(host: &FakeHost, access: &ClusterAccess, name: &str, node: ClusterNode) {
    issue(host, access, name, false).await;
    host.with_world_mut(|world| world.node(name, node));
}

/// Admits a node with a new token.
async fn issue(host: &FakeHost, access: &ClusterAccess, name: &str, replaces: bool) -> Token {
    let token = Token::random().expect("random numbers");
    let new = NewToken {
        token: &token,
        now: host.now(),
        expires: host.now() + MINUTE,
        replaces,
        taints: None,
    };
    admit(host, access, name, &new).await.expect("it answers");
    token
}

async fn cared(host: &FakeHost, access: &ClusterAccess) -> Vec<(String, Care)> {
    let results = care_for_workers(host, access).await.expect("it answers");
    let done = |(name, result): (String, Result<Care, HostError>)| (name, result.expect("done"));
    results.into_iter().map(done).collect()
}

async fn nodes(host: &FakeHost, access: &ClusterAccess) -> BTreeMap<String, ClusterNode> {
    host.nodes(access).await.expect("it answers")
}

#[tokio::test]
async fn only_admitted_nodes_that_are_no_masters_are_labelled() {
    let (host, access) = master();
    admitted(&host, &access, "w-1", labelled(&[])).await;
    admitted(&host, &access, "cp-2", labelled(&[MASTER_LABEL])).await;
    host.with_world_mut(|world| world.node("foreign", labelled(&[])));
    let labels = ("w-1".to_owned(), Care::Label);
    assert_eq!(cared(&host, &access).await, [labels]);
    let all = nodes(&host, &access).await;
    assert_eq!(all["w-1"].labels[WORKER_LABEL], "");
    assert!(all["foreign"].labels.is_empty());
    assert!(!all["cp-2"].labels.contains_key(WORKER_LABEL));
    assert!(!needs_care(&all["w-1"]) && !needs_care(&all["cp-2"]));
    assert_eq!(cared(&host, &access).await, []);
}

#[tokio::test]
async fn a_damaged_record_is_reported_and_stops_no_other_node() {
    let (host, access) = master();
    admitted(&host, &access, "w-1", labelled(&[])).await;
    admitted(&host, &access, "w-2", labelled(&[])).await;
    let name = "nodelet-node-w-2";
    let map = host.config_map(&access, "kube-system", name).await.unwrap();
    let mut map = map.expect("it is there");
    map.data.insert("keys-at".to_owned(), "?".to_owned());
    assert!(host.put_config_map(&access, &map).await.unwrap());
    let results = care_for_workers(&host, &access).await.unwrap();
    let [(second, Err(error)), (first, Ok(Care::Label))] = results.as_slice() else {
        panic!("{results:?}");
    };
    assert_eq!((first.as_str(), second.as_str()), ("w-1", "w-2"));
    let text = crate::model::chain(error).join(": ");
    assert!(
        text.contains("`keys-at`") && text.contains("edit configmap nodelet-node-w-2"),
        "{text}"
    );
}

#[tokio::test]
async fn the_node_of_a_worker_that_has_left_is_deleted() {
    let (host, access) = master();
    admitted(&host, &access, "w-1", labelled(&[WORKER_LABEL])).await;
    host.with_world_mut(|world| world.node("foreign", labelled(&[WORKER_LABEL])));
    for name in ["w-1", "foreign", "none"] {
        mark_as_left(&host, &access, name, host.now())
            .await
            .unwrap();
    }
    let deletes = ("w-1".to_owned(), Care::Delete);
    assert_eq!(cared(&host, &access).await, [deletes]);
    let all = nodes(&host, &access).await;
    assert!(!all.contains_key("w-1") && all.contains_key("foreign"));
    // It may come back with its certificate.
    let record = admission(&host, &access, "w-1").await.unwrap();
    assert!(record.is_some_and(|its| its.left.is_some()));
    host.with_world_mut(|world| world.node("w-1", labelled(&[])));
    let labels = ("w-1".to_owned(), Care::Label);
    assert_eq!(cared(&host, &access).await, [labels]);
    let record = admission(&host, &access, "w-1").await.unwrap();
    assert_eq!(record.expect("it is admitted").left, None);
}

/// Its host was a worker before, or its label was taken away.
#[tokio::test]
async fn the_node_of_a_master_is_left_alone() {
    let names = ["cp-2", "cp-3"];
    let entry = |(number, name): (u8, &str)| MasterEntry {
        name: name.to_owned(),
        address: IpAddr::from([172, 30, 0, 12 + number]),
        etcd_id: None,
        voter: true,
    };
    let list: Vec<MasterEntry> = (0..).zip(names).map(entry).collect();
    let list = masters::render(&list).expect("a list");
    for (known, expected) in [
        (true, &[][..]),
        (false, &[Care::Label, Care::DeleteRemoved]),
    ] {
        let (mut host, access) = master();
        if known {
            host = host.with_file(masters::MASTERS, &list);
        }
        for name in names {
            admitted(&host, &access, name, labelled(&[])).await;
        }
        let tombstone = revoke(&host, &access, "cp-3", "uid-of-its-worker").await;
        assert!(tombstone.expect("it answers").is_some());
        let done = cared(&host, &access).await.into_iter();
        let done: Vec<Care> = done.map(|(_, care)| care).collect();
        assert_eq!(done, expected, "{known}");
    }
}

/// A worker could shed the taint: it marks its node and registers again.
#[tokio::test]
async fn a_marked_node_with_a_taint_of_an_operator_is_reported_and_stays() {
    let (host, access) = master();
    let tainted = |key: &str| ClusterNode {
        taints: vec![Taint {
            key: key.to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        }],
        ..labelled(&[WORKER_LABEL])
    };
    let of_kubernetes = tainted("node.kubernetes.io/unschedulable");
    let of_autoscaler = tainted("ToBeDeletedByClusterAutoscaler");
    admitted(&host, &access, "w-1", tainted("quarantine")).await;
    admitted(&host, &access, "w-2", of_kubernetes).await;
    admitted(&host, &access, "w-3", of_autoscaler).await;
    for name in ["w-1", "w-2", "w-3"] {
        mark_as_left(&host, &access, name, host.now())
            .await
            .unwrap();
    }
    let results = care_for_workers(&host, &access).await.unwrap();
    let [
        (first, Err(error)),
        (_, Ok(Care::Delete)),
        (_, Ok(Care::Delete)),
    ] = results.as_slice()
    else {
        panic!("{results:?}");
    };
    assert_eq!(first.as_str(), "w-1");
    let text = crate::model::chain(error).join(": ");
    assert!(
        text.contains("quarantine") && text.contains("cluster remove w-1"),
        "{text}"
    );
    assert_eq!(
        nodes(&host, &access).await.into_keys().collect::<Vec<_>>(),
        ["w-1"]
    );
}

/// A host that was removed has its certificates for a while, and chooses the taints of a node that it registers.
/// It registers without the label when it comes back, and pods may be kept from it, or kept to others, by the label.
#[tokio::test]
async fn a_marked_node_with_a_restricted_label_is_reported_and_stays() {
    let (host, access) = master();
    for (name, label, deleted) in [
        ("w-1", "node-restriction.kubernetes.io/untrusted", false),
        ("w-2", "tier.node-restriction.kubernetes.io/trusted", false),
        ("w-3", "not-node-restriction.kubernetes.io/x", true),
    ] {
        admitted(&host, &access, name, labelled(&[WORKER_LABEL, label])).await;
        let now = host.now();
        mark_as_left(&host, &access, name, now).await.unwrap();
        let results = care_for_workers(&host, &access).await.unwrap();
        let its = results.iter().find(|(its, _)| its == name);
        match &its.expect("it is looked at").1 {
            Ok(care) => assert_eq!((*care, deleted), (Care::Delete, true), "{name}"),
            Err(error) => {
                let text = crate::model::chain(error).join(": ");
                assert!(!deleted && text.contains(label), "{name}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_removed_worker_cannot_keep_a_node_by_a_taint_and_a_mark() {
    let (host, access) = master();
    admitted(&host, &access, "w-1", labelled(&[WORKER_LABEL])).await;
    let removed = remove(&host, &access, "w-1", false).await;
    assert_eq!(removed, Removal::Removed { left: Vec::new() });
    let again = ClusterNode {
        taints: vec![Taint {
            key: "x".to_owned(),
            value: String::new(),
            effect: "PreferNoSchedule".to_owned(),
        }],
        ..labelled(&[WORKER_LABEL])
    };
    host.with_world_mut(|world| world.node("w-1", again));
    let later = host.now() + Duration::from_secs(365 * 24 * 3600);
    mark_as_left(&host, &access, "w-1", later).await.unwrap();
    let results = care_for_workers(&host, &access).await.unwrap();
    assert!(
        matches!(results.as_slice(), [(_, Ok(Care::DeleteRemoved))]),
        "{results:?}"
    );
    assert!(nodes(&host, &access).await.is_empty());
}

#[tokio::test]
async fn a_worker_that_has_come_back_loses_only_its_mark() {
    let (host, access) = master();
    let left = host.now();
    let node = |reported| ClusterNode {
        reported: Some(reported),
        ..labelled(&[WORKER_LABEL])
    };
    admitted(&host, &access, "w-1", node(left + MINUTE)).await;
    admitted(&host, &access, "w-2", node(left)).await;
    for name in ["w-1", "w-2"] {
        mark_as_left(&host, &access, name, left).await.unwrap();
    }
    let expected = [("w-1", Care::Unmark), ("w-2", Care::Delete)];
    let expected = expected.map(|(name, care)| (name.to_owned(), care));
    assert_eq!(cared(&host, &access).await, expected);
    let all = nodes(&host, &access).await;
    assert!(!all["w-1"].annotations.contains_key(LEFT));
    assert_eq!(all.len(), 1);
}

/// The master ends, or etcd elects a leader, between the two writes: without its node, no master would look at the worker again.
#[tokio::test]
async fn the_leave_of_a_worker_is_noted_before_its_node_is_deleted() {
    let (host, access) = master();
    admitted(&host, &access, "w-1", labelled(&[WORKER_LABEL])).await;
    let left = host.now();
    mark_as_left(&host, &access, "w-1", left).await.unwrap();
    host.set_faults(FaultPlan::none().fail("delete_node", "w-1"));
    let failed = care_for_workers(&host, &access).await.expect("it answers");
    assert!(matches!(&failed[..], [(_, Err(_))]), "{failed:?}");
    let noted = async || {
        let record = admission(&host, &access, "w-1").await.unwrap();
        record.expect("it is admitted").left
    };
    assert!(noted().await.is_some());
    // Its kubelet has reported since then.
    host.set_faults(FaultPlan::none());
    host.with_world_mut(|world| {
        let node = world.cluster.nodes.get_mut("w-1").expect("it is there");
        node.reported = Some(left + MINUTE);
    });
    let unmarks = ("w-1".to_owned(), Care::Unmark);
    assert_eq!(cared(&host, &access).await, [unmarks]);
    assert_eq!(noted().await, None);
}

#[tokio::test]
async fn a_mark_that_is_no_time_is_removed_and_deletes_nothing() {
    let (host, access) = master();
    let mut odd = labelled(&[WORKER_LABEL]);
    odd.annotations.insert(LEFT.to_owned(), "yes".to_owned());
    admitted(&host, &access, "w-1", odd).await;
    admitted(&host, &access, "w-2", labelled(&[])).await;
    let expected = [("w-1", Care::UnmarkUnreadable), ("w-2", Care::Label)];
    let expected = expected.map(|(name, care)| (name.to_owned(), care));
    assert_eq!(cared(&host, &access).await, expected);
    assert!(!nodes(&host, &access).await.values().any(needs_care));
}

/// A node that has just joined.
fn joining() -> ClusterNode {
    ClusterNode {
        annotations: BTreeMap::new(),
        ..labelled(&[WORKER_LABEL])
    }
}

async fn its_token(host: &FakeHost, access: &ClusterAccess, its: &Token) -> bool {
    token(host, access, its.id()).await.unwrap().is_some()
}

#[tokio::test]
async fn a_token_ends_when_its_node_is_ready() {
    let (host, access) = master();
    let its = issue(&host, &access, "w-1", false).await;
    let away = ClusterNode {
        ready: None,
        ..joining()
    };
    host.with_world_mut(|world| world.node("w-1", away));
    assert_eq!(cared(&host, &access).await, []);
    assert!(its_token(&host, &access, &its).await);
    host.with_world_mut(|world| world.node("w-1", joining()));
    assert!(needs_care(&nodes(&host, &access).await["w-1"]));
    let ends = ("w-1".to_owned(), Care::EndToken);
    assert_eq!(cared(&host, &access).await, std::slice::from_ref(&ends));
    assert!(!its_token(&host, &access, &its).await);
    let record = admission(&host, &access, "w-1").await.unwrap().unwrap();
    assert_eq!(record.token_id, None);
    assert!(!needs_care(&nodes(&host, &access).await["w-1"]));
    // Another token of the same node ends as well.
    issue(&host, &access, "w-1", false).await;
    assert!(needs_care(&nodes(&host, &access).await["w-1"]));
    assert_eq!(cared(&host, &access).await, [ends]);
}

/// The Node is still that of the host which is replaced.
#[tokio::test]
async fn a_token_that_replaces_a_ready_node_ends_after_its_use() {
    let (host, access) = master();
    host.with_world_mut(|world| world.node("w-1", joining()));
    let its = issue(&host, &access, "w-1", true).await;
    assert_eq!(cared(&host, &access).await, []);
    assert!(its_token(&host, &access, &its).await);
    let note = async |at: SystemTime| {
        let record = admission(&host, &access, "w-1").await.unwrap().unwrap();
        let used = Admission {
            keys: BTreeMap::from([(CertificateKind::KubeletClient, "aa".to_owned())]),
            keys_at: Some(at),
            ..record
        };
        assert!(
            super::super::admission::put(&host, &access, &used)
                .await
                .unwrap()
        );
    };
    note(host.now()).await;
    // Its validity, one minute, would end it as well: only the time of the use decides here.
    assert_eq!(cared(&host, &access).await, []);
    note(host.now() - FETCHED - MINUTE).await;
    let ends = ("w-1".to_owned(), Care::EndToken);
    assert_eq!(cared(&host, &access).await, [ends]);
    assert!(!its_token(&host, &access, &its).await);
}

#[tokio::test]
async fn a_removed_node_that_registers_again_is_deleted_at_once() {
    let (host, access) = master();
    admitted(&host, &access, "w-1", labelled(&[WORKER_LABEL])).await;
    let removed = Removal::Removed { left: Vec::new() };
    assert_eq!(remove(&host, &access, "w-1", false).await, removed);
    host.with_world_mut(|world| world.node("w-1", labelled(&[])));
    let deletes = ("w-1".to_owned(), Care::DeleteRemoved);
    assert_eq!(cared(&host, &access).await, [deletes]);
    assert!(nodes(&host, &access).await.is_empty());
}

#[tokio::test]
async fn a_node_that_has_changed_since_it_was_read_is_not_deleted() {
    let (host, access) = master();
    admitted(&host, &access, "w-1", labelled(&[WORKER_LABEL])).await;
    let read = host.node(&access, "w-1").await.unwrap().unwrap();
    mark_as_left(&host, &access, "w-1", host.now())
        .await
        .unwrap();
    let deleted = host.delete_same_node(&access, "w-1", &read).await;
    assert!(!deleted.unwrap());
    assert_eq!(nodes(&host, &access).await.len(), 1);
    let read = host.node(&access, "w-1").await.unwrap().unwrap();
    let deleted = host.delete_same_node(&access, "w-1", &read).await;
    assert!(deleted.unwrap());
}

#[tokio::test]
async fn a_removal_settles_the_open_requests_of_its_node() {
    let (host, access) = master();
    let its = issue(&host, &access, "w-1", false).await;
    for (name, user) in [
        ("a", format!("system:bootstrap:{}", its.id())),
        ("b", "system:node:w-1".to_owned()),
        ("c", "system:node:w-1".to_owned()),
        ("d", "system:node:w-2".to_owned()),
    ] {
        let new = NewCertificateRequest {
            name: name.to_owned(),
            request: Vec::new(),
            signer: NODE_SIGNER.to_owned(),
            usages: Vec::new(),
        };
        let groups = ["system:nodes", JOINING].map(str::to_owned);
        host.with_world_mut(|world| world.certificate_request(&new, &user, &groups));
    }
    let third = host.certificate_request(&access, "c").await.unwrap();
    let third = third.expect("it is there");
    let approved = host.approve_certificate_request(&access, &third, "").await;
    approved.unwrap();
    assert_eq!(
        remove(&host, &access, "w-1", false).await,
        Removal::WithoutNode
    );
    let requests = host.with_world(|world| world.certificate_requests());
    let states = requests
        .iter()
        .map(|its| (its.name.as_str(), its.is_open()));
    let expected = [("a", false), ("b", false), ("d", true)];
    assert_eq!(states.collect::<Vec<_>>(), expected);
}

async fn remove(host: &FakeHost, access: &ClusterAccess, name: &str, force: bool) -> Removal {
    let removed = remove_worker(host, access, name, MINUTE, force).await;
    removed.expect("it answers")
}

/// An administrator has deleted a damaged record. The certificate of the host is still valid.
#[tokio::test]
async fn a_worker_without_a_record_that_is_removed_cannot_come_back() {
    let (host, access) = master();
    host.with_world_mut(|world| world.node("w-1", labelled(&[WORKER_LABEL])));
    let removed = Removal::Removed { left: Vec::new() };
    assert_eq!(remove(&host, &access, "w-1", false).await, removed);
    host.with_world_mut(|world| world.node("w-1", labelled(&[])));
    let deletes = ("w-1".to_owned(), Care::DeleteRemoved);
    assert_eq!(cared(&host, &access).await, [deletes]);
    assert_eq!(remove(&host, &access, "w-1", false).await, Removal::Before);
}

#[tokio::test]
async fn a_removed_worker_has_neither_node_nor_admission() {
    let (host, access) = master();
    admitted(&host, &access, "w-1", labelled(&[WORKER_LABEL])).await;
    let removed = Removal::Removed { left: Vec::new() };
    assert_eq!(remove(&host, &access, "w-1", false).await, removed);
    assert!(nodes(&host, &access).await.is_empty());
    let record = admission(&host, &access, "w-1").await.unwrap().unwrap();
    assert!(record.removed.is_some() && record.token_id.is_none());
    assert_eq!(remove(&host, &access, "w-1", false).await, Removal::Before);
}

/// While etcd elects a leader, the API server answers with an error.
#[tokio::test]
async fn the_deletion_of_a_node_is_tried_again() {
    let (host, access) = master();
    admitted(&host, &access, "w-1", labelled(&[WORKER_LABEL])).await;
    let uid = nodes(&host, &access).await.remove("w-1").unwrap().uid;
    host.set_faults(FaultPlan::none().fail("delete_node", "w-1").times(2));
    let deleted = delete_removed(&host, &access, "w-1", &uid).await;
    deleted.unwrap();
    assert!(nodes(&host, &access).await.is_empty());
}

#[tokio::test]
async fn a_node_that_registers_during_a_removal_is_not_deleted() {
    let (host, access) = master();
    admitted(&host, &access, "w-1", labelled(&[WORKER_LABEL])).await;
    let earlier = nodes(&host, &access).await.remove("w-1").unwrap().uid;
    host.with_world_mut(|world| world.node("w-1", labelled(&[WORKER_LABEL])));
    let deleted = delete_removed(&host, &access, "w-1", &earlier).await;
    deleted.unwrap();
    let present = nodes(&host, &access).await.remove("w-1").unwrap().uid;
    let deleted = delete_removed(&host, &access, "w-1", &present).await;
    deleted.unwrap();
    assert!(nodes(&host, &access).await.is_empty());
}

#[tokio::test]
async fn masters_and_foreign_nodes_are_not_removed() {
    let (host, access) = master();
    admitted(&host, &access, "cp-1", labelled(&[MASTER_LABEL])).await;
    host.with_world_mut(|world| world.node("foreign", labelled(&[])));
    for (name, expected) in [
        ("cp-1", Removal::Master),
        ("foreign", Removal::NotAdmitted),
        ("none", Removal::Unknown),
    ] {
        assert_eq!(remove(&host, &access, name, true).await, expected);
    }
    assert_eq!(nodes(&host, &access).await.len(), 2);
    assert!(admission(&host, &access, "cp-1").await.unwrap().is_some());
}

#[tokio::test]
async fn pods_that_stay_keep_the_node_of_a_worker_that_is_ready() {
    let (host, access) = master();
    let pod = RemainingPod {
        name: "shop/web-1".to_owned(),
        reason: "a budget".to_owned(),
    };
    host.with_world_mut(|world| world.kubernetes.unevictable = vec![pod.clone()]);
    for (ready, force, stays) in [
        (Some(true), false, true),
        (Some(true), true, false),
        (None, false, false),
    ] {
        let node = ClusterNode {
            ready,
            ..labelled(&[WORKER_LABEL])
        };
        admitted(&host, &access, "w-1", node).await;
        let left = vec![pod.clone()];
        let expected = match stays {
            true => Removal::PodsLeft(left),
            false => Removal::Removed { left },
        };
        assert_eq!(remove(&host, &access, "w-1", force).await, expected);
        let all = nodes(&host, &access).await;
        assert_eq!(all.get("w-1").is_some_and(|node| node.unschedulable), stays);
        let record = admission(&host, &access, "w-1").await.unwrap().unwrap();
        assert!(record.removed.is_some());
        // The rest of the removal is left to its command.
        assert_eq!(cared(&host, &access).await, []);
    }
}

/// Its kubelet was restarted for example.
#[tokio::test]
async fn pods_keep_the_node_of_a_worker_that_becomes_ready_during_the_eviction() {
    let (host, access) = master();
    let pod = RemainingPod {
        name: "shop/web-1".to_owned(),
        reason: "a budget".to_owned(),
    };
    let node = ClusterNode {
        ready: None,
        ..labelled(&[WORKER_LABEL])
    };
    admitted(&host, &access, "w-1", node).await;
    host.with_world_mut(|world| {
        world.kubernetes.unevictable = vec![pod.clone()];
        world.kubernetes.ready_after_eviction = Some("w-1".to_owned());
    });
    let removal = remove(&host, &access, "w-1", false).await;
    assert_eq!(removal, Removal::PodsLeft(vec![pod]));
    assert!(nodes(&host, &access).await.contains_key("w-1"));
}

#[tokio::test]
async fn an_interrupted_removal_goes_on() {
    let (host, access) = master();
    admitted(&host, &access, "w-1", labelled(&[WORKER_LABEL])).await;
    host.set_faults(FaultPlan::none().fail("evict_pods", "w-1").times(1));
    let interrupted = remove_worker(&host, &access, "w-1", MINUTE, false).await;
    interrupted.expect_err("the eviction fails");
    let removed = Removal::Removed { left: Vec::new() };
    assert_eq!(remove(&host, &access, "w-1", false).await, removed);
}
