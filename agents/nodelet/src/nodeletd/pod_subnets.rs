//! Pod subnets for the nodes of the cluster: as soon as a node has none, `nodelet pod-subnets` gives it one.
//!
//! Runs on the masters, in place of the controller-manager's `nodeipam`. It goes on while this host is paused, because other hosts need
//! it.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::host::ClusterAccess;
use engine::host::live::{NodeEvent, watch_nodes};
use engine::model::doubled;
use tokio::sync::watch;

use crate::pass::Allocation;

/// Pauses between attempts that did not give each node a subnet, and between watches.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Most nodes without a subnet that are remembered: one is enough to start an allocation.
const REMEMBERED: usize = 1000;

/// Allocates until the future is dropped. `give` runs the command and returns whether all nodes have a subnet. `none_lacks` is called when
/// every node has one.
pub(super) async fn keep<F: Future<Output = bool>>(
    allocation: &Allocation,
    give: impl FnMut() -> F,
    none_lacks: impl FnMut(),
) {
    let (lacking, lacks) = watch::channel(BTreeSet::new());
    tokio::select! {
        () = watched(allocation, &lacking) => {}
        () = allocate_with_backoff(lacks, give, none_lacks) => {}
    }
}

/// Keeps the set of nodes without a subnet up to date.
async fn watched(allocation: &Allocation, lacking: &watch::Sender<BTreeSet<String>>) {
    let access = ClusterAccess::with(&allocation.kubeconfig);
    let mut short_watches: u32 = 0;
    loop {
        let began = tokio::time::Instant::now();
        // Names from an earlier watch stay until the list of this watch is complete.
        let mut unconfirmed = lacking.borrow().clone();
        let ended = watch_nodes(&access, None, |event| {
            note(lacking, &mut unconfirmed, event)
        })
        .await;
        if let Err(error) = ended {
            tracing::debug!("not watching the nodes: {error}");
        }
        if began.elapsed() > LONGEST_PAUSE {
            short_watches = 0;
        }
        short_watches = short_watches.saturating_add(1);
        tokio::time::sleep(doubled(short_watches, FIRST_PAUSE, LONGEST_PAUSE)).await;
    }
}

/// Applies an event. `unconfirmed` has the names from an earlier watch that the list of this watch has not named yet.
fn note(
    lacking: &watch::Sender<BTreeSet<String>>,
    unconfirmed: &mut BTreeSet<String>,
    event: NodeEvent,
) {
    lacking.send_if_modified(|lacking| match event {
        NodeEvent::Seen { name, node } if node.pod_cidr.is_none() => {
            unconfirmed.remove(&name);
            lacking.len() < REMEMBERED && lacking.insert(name)
        }
        NodeEvent::Seen { name, .. } | NodeEvent::Gone { name } => lacking.remove(&name),
        NodeEvent::Listed => {
            let before = lacking.len();
            lacking.retain(|name| !unconfirmed.contains(name));
            unconfirmed.clear();
            lacking.len() < before
        }
    });
}

/// Allocates while a node lacks a subnet, with a backoff where that does not help.
async fn allocate_with_backoff<F: Future<Output = bool>>(
    mut lacks: watch::Receiver<BTreeSet<String>>,
    mut give: impl FnMut() -> F,
    mut none_lacks: impl FnMut(),
) {
    let mut tries: u32 = 0;
    loop {
        if lacks.borrow().is_empty() {
            none_lacks();
        }
        if lacks.wait_for(|lacking| !lacking.is_empty()).await.is_err() {
            return;
        }
        tries = tries.saturating_add(1);
        let pause = doubled(tries, FIRST_PAUSE, LONGEST_PAUSE);
        if give().await {
            // The watch confirms this in a moment.
            let all_assigned = lacks.wait_for(BTreeSet::is_empty);
            if tokio::time::timeout(pause, all_assigned).await.is_ok() {
                tries = 0;
            }
        } else {
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use engine::host::ClusterNode;
    use tokio::time::Instant;

    use super::*;

    fn note(lacking: &watch::Sender<BTreeSet<String>>, event: NodeEvent) {
        super::note(lacking, &mut BTreeSet::new(), event);
    }

    fn seen(name: &str, subnet: Option<&str>) -> NodeEvent {
        NodeEvent::Seen {
            name: name.to_owned(),
            node: Box::new(ClusterNode {
                pod_cidr: subnet.map(str::to_owned),
                ..ClusterNode::default()
            }),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_missing_subnets_is_reported() {
        let (lacking, lacks) = watch::channel(BTreeSet::from(["a".to_owned()]));
        let settled = Mutex::new(0);
        let work = allocate_with_backoff(
            lacks,
            || std::future::ready(false),
            || *settled.lock().unwrap() += 1,
        );
        let events = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(*settled.lock().unwrap(), 0);
            note(
                &lacking,
                NodeEvent::Gone {
                    name: "a".to_owned(),
                },
            );
            tokio::time::sleep(LONGEST_PAUSE).await;
        };
        tokio::select! {
            () = work => panic!("it ends"),
            () = events => {}
        }
        assert_eq!(*settled.lock().unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn subnet_allocation_starts_at_once_and_retries_with_backoff() {
        let (lacking, lacks) = watch::channel(BTreeSet::new());
        let began = Instant::now();
        let given_at = Mutex::new(Vec::new());
        let give = || {
            given_at.lock().unwrap().push(began.elapsed().as_secs());
            std::future::ready(false)
        };
        let work = allocate_with_backoff(lacks, give, || {});
        let events = async {
            note(&lacking, seen("a", Some("10.20.0.0/24")));
            tokio::time::sleep(Duration::from_secs(10)).await;
            note(&lacking, seen("b", None));
            tokio::time::sleep(Duration::from_secs(300)).await;
            note(&lacking, seen("b", Some("10.20.1.0/24")));
            tokio::time::sleep(Duration::from_secs(300)).await;
        };
        tokio::select! {
            () = work => panic!("it ends"),
            () = events => {}
        }
        let at = given_at.into_inner().unwrap();
        assert_eq!(at, [10, 11, 13, 17, 25, 41, 73, 133, 193, 253]);
    }

    #[tokio::test(start_paused = true)]
    async fn allocation_does_not_wait_after_a_success() {
        let (lacking, lacks) = watch::channel(BTreeSet::new());
        let given_to = Mutex::new(Vec::new());
        let give = || {
            let nodes: Vec<String> = lacking.borrow().iter().cloned().collect();
            for node in &nodes {
                note(&lacking, seen(node, Some("10.20.1.0/24")));
            }
            given_to.lock().unwrap().extend(nodes);
            std::future::ready(true)
        };
        let began = Instant::now();
        let work = allocate_with_backoff(lacks, give, || {});
        let events = async {
            for name in ["a", "b", "c"] {
                note(&lacking, seen(name, None));
                while !lacking.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::select! {
            () = work => panic!("it ends"),
            () = events => {}
        }
        assert_eq!(given_to.into_inner().unwrap(), ["a", "b", "c"]);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_deleted_node_lacks_no_subnet() {
        let (lacking, lacks) = watch::channel(BTreeSet::new());
        note(&lacking, seen("a", None));
        note(&lacking, NodeEvent::Listed);
        assert_eq!(lacks.borrow().len(), 1);
        note(
            &lacking,
            NodeEvent::Gone {
                name: "a".to_owned(),
            },
        );
        assert!(lacks.borrow().is_empty());
    }

    #[test]
    fn a_new_watch_forgets_a_node_when_its_list_is_complete() {
        let names = |names: &[&str]| -> BTreeSet<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let (lacking, lacks) = watch::channel(names(&["deleted", "given", "lacks"]));
        let mut unconfirmed = lacks.borrow().clone();
        let mut note = |event| super::note(&lacking, &mut unconfirmed, event);
        note(seen("given", Some("10.20.0.0/24")));
        note(seen("lacks", None));
        assert_eq!(*lacks.borrow(), names(&["deleted", "lacks"]));
        note(NodeEvent::Listed);
        assert_eq!(*lacks.borrow(), names(&["lacks"]));
        note(NodeEvent::Listed);
        assert_eq!(*lacks.borrow(), names(&["lacks"]));
    }
}
