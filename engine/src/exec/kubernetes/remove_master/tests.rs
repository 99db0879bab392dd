//! Removals on a fake cluster of three masters.

mod interleaved;

use super::*;
use crate::exec::kubernetes::quorum::lock::tests::takes_lock;
use crate::exec::kubernetes::quorum::tests::THREE_MASTERS;
use crate::host::fake::{FakeHost, FaultPlan};
use crate::host::{Clock as _, EtcdLock};
use crate::kubernetes::etcd_members::removed;
use crate::kubernetes::masters::MASTERS;

const KUBECONFIG: &str = "/etc/kubeconfig";

/// The first of three masters.
fn host() -> FakeHost {
    let host = FakeHost::new()
        .with_file(MASTERS, THREE_MASTERS)
        .with_file(KUBECONFIG, "")
        .with_kubernetes(|rules| rules.remote_api = true);
    host.with_world_mut(|world| {
        for number in 1..=3_u64 {
            let (name, address) = (format!("m-{number}"), format!("172.30.0.1{number}"));
            world.etcd.voter(&name, &address, 10 + number);
            let ip = address.parse().expect("an address");
            world.join_node(&name, &format!("10.20.{number}.0/24"), ip);
            let node = world.cluster.nodes.get_mut(&name).expect("it is there");
            node.labels.insert(MASTER_LABEL.to_owned(), String::new());
        }
        let own = world.etcd.states["https://172.30.0.11:4001"].clone();
        world.etcd.states.insert(OWN_ENDPOINT.to_owned(), own);
    });
    host
}

const ONE_MINUTE: Duration = Duration::from_secs(60);

async fn remove(host: &FakeHost, name: &str, accepts_quorum_loss: bool) -> MasterRemoval {
    let master = MasterToRemove {
        accepts_quorum_loss,
        ..named(name, ONE_MINUTE)
    };
    try_remove(host, &master)
        .await
        .expect("the cluster answers")
}

fn named(name: &str, within: Duration) -> MasterToRemove<'_> {
    MasterToRemove {
        name,
        within,
        force: false,
        accepts_quorum_loss: false,
    }
}

async fn try_remove(host: &FakeHost, master: &MasterToRemove<'_>) -> HostResult<MasterRemoval> {
    remove_master(host, &ClusterAccess::with(KUBECONFIG.as_ref()), master).await
}

/// A learner that never started.
fn learner(id: u64, address: &str) -> EtcdMember {
    EtcdMember {
        id,
        name: String::new(),
        peer_urls: vec![format!("https://{address}:2380")],
        client_urls: Vec::new(),
        learner: true,
    }
}

/// Whether the third master may not join again.
async fn is_marked(host: &FakeHost) -> bool {
    let endpoints = ["https://172.30.0.11:4001".to_owned()];
    let standing = removed::standing(host, &endpoints, "m-3").await;
    standing.expect("etcd answers") == removed::Standing::Removed
}

fn counts(host: &FakeHost) -> (usize, usize) {
    host.with_world(|world| (world.etcd.members.len(), world.cluster.nodes.len()))
}

#[tokio::test]
async fn a_dead_master_leaves_etcd_and_the_cluster() {
    let host = host();
    host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
    let removal = remove(&host, "m-3", false).await;
    assert_eq!(
        removal,
        MasterRemoval::Removed {
            voters: 2,
            left: Vec::new()
        }
    );
    assert_eq!(counts(&host), (2, 2));
    assert!(is_marked(&host).await);
    // nodeletd has not written the new list yet.
    assert_eq!(remove(&host, "m-3", false).await, MasterRemoval::Before);
    assert_eq!(remove(&host, "m-4", false).await, MasterRemoval::Unknown);
}

/// It stays a member, and may have to join again after its disk was emptied. Answers may be lost.
#[tokio::test]
async fn a_master_that_etcd_does_not_remove_is_not_marked() {
    let refused = FaultPlan::none().fail("member_remove", "*");
    let lost = (1..=8).map(|call| FaultPlan::none().fail_after_call(call));
    let mut kept = 0;
    for faults in lost.chain([refused]) {
        let host = host();
        host.set_faults(faults.clone());
        let removal = try_remove(&host, &named("m-3", ONE_MINUTE)).await;
        host.set_faults(FaultPlan::none());
        if counts(&host).0 == 3 {
            kept += 1;
            removal.expect_err("the member is still there");
            assert!(!is_marked(&host).await, "{faults:?}");
        } else {
            assert!(is_marked(&host).await, "{faults:?}");
        }
    }
    assert!(kept > 1, "{kept}");
}

/// A member of another master at the address, and one that may be that of a host with a permit.
#[tokio::test]
async fn only_what_the_removed_host_has_added_is_removed_with_it() {
    for (is_permitted, name, stays) in [
        (false, "m-3", false),
        (false, "", false),
        (false, "m-4", true),
        (true, "", true),
    ] {
        let host = host();
        let endpoints = ["https://172.30.0.11:4001".to_owned()];
        host.with_world_mut(|world| {
            world.etcd.members.pop();
            world.etcd.members.push(EtcdMember {
                name: name.to_owned(),
                ..learner(0x2a, "172.30.0.13")
            });
        });
        removed::mark(&host, &endpoints, "m-3")
            .await
            .expect("it answers");
        if is_permitted {
            let until = host.now() + Duration::from_secs(3600);
            let permitted = removed::permit(&host, &endpoints, "m-3", until).await;
            permitted.expect("it answers");
        }
        let gone = Gone {
            name: "m-3",
            member: None,
            addresses: ["172.30.0.13".parse().expect("an address")].into(),
            was_master: true,
            accepts_quorum_loss: false,
        };
        let access = ClusterAccess::with(KUBECONFIG.as_ref());
        let finished = gone.finish(&host, &access, &endpoints).await;
        finished.expect("the cluster answers");
        assert_eq!(counts(&host).0 == 3, stays, "{name} {is_permitted}");
    }
}

#[tokio::test]
async fn a_master_that_the_quorum_needs_stays_unless_the_loss_is_accepted() {
    let host = host();
    host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
    let removal = remove(&host, "m-2", false).await;
    assert!(matches!(removal, MasterRemoval::Refused(_)), "{removal:?}");
    assert_eq!((counts(&host), host.mutations()), ((3, 3), 0));
    let removal = remove(&host, "m-2", true).await;
    assert!(
        matches!(removal, MasterRemoval::Removed { .. }),
        "{removal:?}"
    );
}

/// Otherwise that master could end its member between the question and the removal. It may be this host, where another command runs.
#[tokio::test]
async fn a_member_is_not_removed_while_a_master_has_the_lock() {
    for holder in ["m-2", "m-1"] {
        let host = host();
        let life = Duration::from_secs(3600);
        takes_lock(&host, holder, life).await;
        let in_a_second = named("m-3", Duration::from_secs(1));
        let refused = try_remove(&host, &in_a_second).await;
        let refused = crate::model::chain(&refused.expect_err("it is held")).join(": ");
        let says = format!("master {holder} has had the lock");
        assert!(refused.contains(&says), "{refused}");
        assert_eq!(counts(&host).0, 3, "the member stays");
        host.pause(life).await;
        let removal = remove(&host, "m-3", false).await;
        assert!(
            matches!(removal, MasterRemoval::Removed { .. }),
            "{removal:?}"
        );
        let next = takes_lock(&host, holder, life).await;
        assert!(matches!(next, EtcdLock::Held { .. }), "{next:?}");
    }
}

#[tokio::test]
async fn a_host_does_not_remove_itself_or_a_worker() {
    let host = host();
    assert_eq!(remove(&host, "m-1", true).await, MasterRemoval::ThisHost);
    host.with_world_mut(|world| {
        let ip = "172.30.0.21".parse().expect("an address");
        world.join_node("w-1", "10.20.9.0/24", ip);
    });
    assert_eq!(remove(&host, "w-1", true).await, MasterRemoval::Unknown);
    assert_eq!(host.mutations(), 0);
}

/// Another master has removed this one while it waited for the lock.
#[tokio::test]
async fn a_host_that_is_no_member_any_more_removes_no_other_one() {
    let host = host();
    host.with_world_mut(|world| world.etcd.members.retain(|member| member.name != "m-1"));
    assert_eq!(remove(&host, "m-3", false).await, MasterRemoval::NoMember);
    assert_eq!(host.with_world(|world| world.etcd.members.len()), 2);
}

/// It never started, so it has no name and no node.
#[tokio::test]
async fn a_learner_without_a_name_is_removed_by_its_id_or_its_address() {
    for named in ["172.30.0.14", "2a"] {
        let host = host();
        host.with_world_mut(|world| {
            world.etcd.members.push(learner(0x2a, "172.30.0.14"));
        });
        assert_eq!(remove(&host, "m-4", false).await, MasterRemoval::Unknown);
        let removed = MasterRemoval::Removed {
            voters: 3,
            left: Vec::new(),
        };
        assert_eq!(remove(&host, named, false).await, removed, "{named}");
        assert_eq!(counts(&host), (3, 3), "{named}");
        let keys = host.with_world(|world| world.etcd.keys());
        assert_eq!(keys, [] as [String; 0], "{named}");
        assert_eq!(remove(&host, named, false).await, MasterRemoval::Unknown);
    }
}

/// Its disk was emptied. It has joined again, and its host died before etcd started.
#[tokio::test]
async fn a_learner_without_a_name_is_removed_together_with_its_node() {
    for named in ["m-3", "2a", "172.30.0.13"] {
        let host = host();
        host.with_world_mut(|world| {
            world.etcd.silence("172.30.0.13");
            world.etcd.members.pop();
            world.etcd.members.push(learner(0x2a, "172.30.0.13"));
        });
        let removed = MasterRemoval::Removed {
            voters: 2,
            left: Vec::new(),
        };
        assert_eq!(remove(&host, named, false).await, removed, "{named}");
        assert_eq!(counts(&host), (2, 2), "{named}");
        assert!(!host.with_world(|world| world.has_node("m-3")), "{named}");
    }
}

/// An earlier call was killed after it had removed the member.
#[tokio::test]
async fn an_interrupted_removal_deletes_the_node_also_without_its_label() {
    let host = host();
    host.with_world_mut(|world| {
        world.etcd.members.pop();
        let node = world.cluster.nodes.get_mut("m-3").expect("it is there");
        node.labels.clear();
    });
    let removed = MasterRemoval::Removed {
        voters: 2,
        left: Vec::new(),
    };
    assert_eq!(remove(&host, "m-3", false).await, removed);
    assert_eq!(counts(&host), (2, 2));
    assert!(is_marked(&host).await);
    // A worker has the name meanwhile.
    host.with_world_mut(|world| {
        let ip = "172.30.0.23".parse().expect("an address");
        world.join_node("m-3", "10.20.9.0/24", ip);
        let node = world.cluster.nodes.get_mut("m-3").expect("it is there");
        node.labels.insert(WORKER_LABEL.to_owned(), String::new());
    });
    assert_eq!(remove(&host, "m-3", false).await, MasterRemoval::Before);
    assert_eq!(counts(&host), (2, 3));
}

#[tokio::test]
async fn the_node_of_a_member_is_deleted_also_without_its_label() {
    let host = host();
    host.with_world_mut(|world| {
        let node = world.cluster.nodes.get_mut("m-3").expect("it is there");
        node.labels.clear();
        // The name of this worker's node is also the id of the learner.
        let ip = "172.30.0.21".parse().expect("an address");
        world.join_node("2a", "10.20.9.0/24", ip);
        world.etcd.members.push(learner(0x2a, "172.30.0.14"));
    });
    let removed = MasterRemoval::Removed {
        voters: 2,
        left: Vec::new(),
    };
    for named in ["m-3", "2a"] {
        assert_eq!(remove(&host, named, false).await, removed, "{named}");
    }
    let (members, _) = counts(&host);
    assert_eq!(members, 2);
    assert!(!host.with_world(|world| world.has_node("m-3")));
    assert!(host.with_world(|world| world.has_node("2a")));
}

#[tokio::test]
async fn pods_hold_up_the_removal_of_a_node_that_becomes_ready_during_the_eviction() {
    let host = host();
    let pod = RemainingPod {
        name: "shop/web-1".to_owned(),
        reason: "a budget".to_owned(),
    };
    host.with_world_mut(|world| {
        world.kubernetes.unevictable = vec![pod.clone()];
        world.kubernetes.ready_after_eviction = Some("m-3".to_owned());
    });
    let removal = remove(&host, "m-3", false).await;
    assert_eq!(removal, MasterRemoval::PodsLeft(vec![pod]));
    assert_eq!(counts(&host), (3, 3));
}

/// The new host of this name may still join. The host that was removed may not.
#[tokio::test]
async fn the_host_that_takes_the_place_of_the_removed_one_is_still_awaited() {
    for (member, is_awaited) in [(Some(13), true), (Some(9), false), (None, false)] {
        let host = host();
        let access = ClusterAccess::with(KUBECONFIG.as_ref());
        let expires = host.now() + Duration::from_secs(3600);
        let noted = masters::exported::note(&host, &access, "m-3", member, expires).await;
        noted.expect("the cluster answers");
        let awaited = async || {
            let open = masters::exported::awaited(&host, &access, &[]).await;
            open.expect("the cluster answers").contains_key("m-3")
        };
        // Interrupted before the node is deleted.
        host.set_faults(FaultPlan::none().fail("delete_node", "m-3"));
        let removal = try_remove(&host, &named("m-3", ONE_MINUTE)).await;
        removal.expect_err("the node cannot be deleted");
        assert_eq!(awaited().await, is_awaited, "{member:?}");
        host.set_faults(FaultPlan::none());
        let removal = remove(&host, "m-3", false).await;
        let removed = matches!(removal, MasterRemoval::Removed { voters: 2, .. });
        assert!(removed, "{removal:?}");
        assert_eq!(awaited().await, is_awaited, "{member:?}");
        assert_eq!(is_marked(&host).await, !is_awaited, "{member:?}");
    }
}

/// While etcd elects a leader, the API server answers with an error.
#[tokio::test]
async fn what_is_left_of_a_removal_is_tried_again_after_an_error() {
    for question in ["config_map", "get_key"] {
        let host = host();
        host.set_faults(FaultPlan::none().fail(question, "*").times(2));
        let removal = remove(&host, "m-3", false).await;
        let removed = matches!(removal, MasterRemoval::Removed { voters: 2, .. });
        assert!(removed, "{question}: {removal:?}");
        assert!(is_marked(&host).await);
    }
}

/// A member that has a name goes together with its node.
#[tokio::test]
async fn a_master_is_also_removed_by_its_address() {
    let host = host();
    let removal = remove(&host, "172.30.0.13", false).await;
    let removed = matches!(removal, MasterRemoval::Removed { voters: 2, .. });
    assert!(removed, "{removal:?}");
    assert_eq!(counts(&host), (2, 2));
    assert!(!host.with_world(|world| world.has_node("m-3")));
}

/// Another member fails while the pods are evicted: then the quorum needs the master.
#[tokio::test]
async fn the_quorum_is_looked_at_again_after_the_eviction() {
    let host = host();
    let failing = Some("172.30.0.12".to_owned());
    host.with_world_mut(|world| world.etcd.fails_during_eviction = failing);
    let removal = remove(&host, "m-3", false).await;
    assert!(matches!(removal, MasterRemoval::Refused(_)), "{removal:?}");
    assert_eq!(counts(&host), (3, 3));
}

/// Nothing says who the members are, so a master's node stays.
#[tokio::test]
async fn without_quorum_no_master_is_removed() {
    let host = host();
    host.with_world_mut(|world| world.etcd.states.clear());
    for name in ["m-2", "m-3"] {
        let master = MasterToRemove {
            force: true,
            accepts_quorum_loss: true,
            ..named(name, ONE_MINUTE)
        };
        let removal = try_remove(&host, &master).await;
        removal.expect_err("no member answers with quorum");
    }
    assert_eq!((counts(&host), host.mutations()), ((3, 3), 0));
}
