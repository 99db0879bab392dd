//! Work of masters for the cluster: as soon as a node has no pod subnet, a request of a node for a certificate is open, or a worker has
//! joined or left, the command of `nodelet` that settles it runs.
//!
//! It goes on while this host is paused, because other hosts need it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use engine::host::live::{NodeEvent, RequestEvent, watch_certificate_requests, watch_nodes};
use engine::host::{ClusterAccess, HostResult, RequestState};
use engine::kubernetes::NODE_SIGNER;
use engine::kubernetes::workers::needs_care;
use engine::model::doubled;
use tokio::sync::watch;

/// Pauses between attempts that did not settle everything, and between watches.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause before the command runs again for what it has left as it is, if nothing else waits: nodes that no master has admitted may
/// stay so for ever.
const LONGEST_REST: Duration = Duration::from_secs(600);
/// Most waiting objects that are remembered: one is enough to start the command.
const REMEMBERED: usize = 1000;

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClusterWork {
    /// Nodes get their pods' subnets, in place of the controller-manager's `nodeipam`.
    PodSubnets,
    /// Requests of nodes for certificates are decided.
    Certificates,
    /// Workers are labelled and tainted, and the nodes of those that have left are deleted.
    Workers,
}

/// Why work is left to do. Each is empty if none is, or if this host does no such work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ClusterProblems {
    /// Why not all nodes have been given a pod subnet.
    pub(super) subnets: String,
    /// Why not all requests of nodes for certificates are decided.
    pub(super) certificates: String,
    /// Why not all workers are cared for.
    pub(super) workers: String,
}

impl ClusterProblems {
    /// Remembers why this work is left to do; an empty text if none is.
    pub(super) fn set(&mut self, work: ClusterWork, problem: String) {
        *match work {
            ClusterWork::PodSubnets => &mut self.subnets,
            ClusterWork::Certificates => &mut self.certificates,
            ClusterWork::Workers => &mut self.workers,
        } = problem;
    }
}

/// An event about an object that work is done for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    /// It waits for the command.
    Waiting(String),
    /// It does not, or it is gone.
    Settled(String),
    /// All existing objects have been named.
    Listed,
}

impl ClusterWork {
    async fn watch(self, access: &ClusterAccess, mut item: impl FnMut(Item)) -> HostResult<()> {
        match self {
            Self::PodSubnets => watch_nodes(access, None, |event| item(of_node(event))).await,
            Self::Certificates => {
                let event = |event| item(of_request(event));
                watch_certificate_requests(access, NODE_SIGNER, event).await
            }
            Self::Workers => watch_nodes(access, None, |event| item(of_worker(event))).await,
        }
    }
}

fn of_node(event: NodeEvent) -> Item {
    match event {
        NodeEvent::Seen { name, node } if node.pod_cidr.is_none() => Item::Waiting(name),
        NodeEvent::Seen { name, .. } | NodeEvent::Gone { name } => Item::Settled(name),
        NodeEvent::Listed => Item::Listed,
    }
}

fn of_worker(event: NodeEvent) -> Item {
    match event {
        NodeEvent::Seen { name, node } if needs_care(&node) => Item::Waiting(name),
        NodeEvent::Seen { name, .. } | NodeEvent::Gone { name } => Item::Settled(name),
        NodeEvent::Listed => Item::Listed,
    }
}

fn of_request(event: RequestEvent) -> Item {
    match event {
        RequestEvent::Seen(request) => match request.state {
            RequestState::Pending | RequestState::Approved if request.certificate.is_none() => {
                Item::Waiting(request.name)
            }
            RequestState::Pending
            | RequestState::Approved
            | RequestState::Denied(_)
            | RequestState::Failed(_) => Item::Settled(request.name),
        },
        RequestEvent::Gone { name } => Item::Settled(name),
        RequestEvent::Listed => Item::Listed,
    }
}

/// Works until the future is dropped. `run` runs the command and returns whether it settled everything. `none_waits` is called when nothing
/// waits.
pub(super) async fn keep<F: Future<Output = bool>>(
    work: ClusterWork,
    kubeconfig: &Path,
    run: impl FnMut() -> F,
    none_waits: impl FnMut(),
) {
    let (waiting, waits) = watch::channel(BTreeSet::new());
    tokio::select! {
        () = watched(work, kubeconfig, &waiting) => {}
        () = run_with_backoff(waits, run, none_waits) => {}
    }
}

/// Keeps the set of waiting objects up to date.
async fn watched(work: ClusterWork, kubeconfig: &Path, waiting: &watch::Sender<BTreeSet<String>>) {
    let access = ClusterAccess::with(kubeconfig);
    let mut short_watches: u32 = 0;
    loop {
        let began = tokio::time::Instant::now();
        // Names from an earlier watch stay until the list of this watch is complete.
        let mut unconfirmed = waiting.borrow().clone();
        let ended = work
            .watch(&access, |item| note(waiting, &mut unconfirmed, item))
            .await;
        if let Err(error) = ended {
            tracing::debug!("could not {error}");
        }
        if began.elapsed() > LONGEST_PAUSE {
            short_watches = 0;
        }
        short_watches = short_watches.saturating_add(1);
        tokio::time::sleep(doubled(short_watches, FIRST_PAUSE, LONGEST_PAUSE)).await;
    }
}

/// Applies an event. `unconfirmed` has the names from an earlier watch that the list of this watch has not named yet.
fn note(waiting: &watch::Sender<BTreeSet<String>>, unconfirmed: &mut BTreeSet<String>, item: Item) {
    waiting.send_if_modified(|waiting| match item {
        Item::Waiting(name) => {
            unconfirmed.remove(&name);
            waiting.len() < REMEMBERED && waiting.insert(name)
        }
        Item::Settled(name) => waiting.remove(&name),
        Item::Listed => {
            let before = waiting.len();
            waiting.retain(|name| !unconfirmed.contains(name));
            unconfirmed.clear();
            waiting.len() < before
        }
    });
}

/// Runs the command while something waits, with a backoff where that does not help. A new waiting object starts the command at once, also
/// after a failure. A failed run is repeated even if nothing waits any more: it may have left something behind that is no waiting object.
async fn run_with_backoff<F: Future<Output = bool>>(
    mut waits: watch::Receiver<BTreeSet<String>>,
    mut run: impl FnMut() -> F,
    mut none_waits: impl FnMut(),
) {
    let mut failed = false;
    let mut tries: u32 = 0;
    let mut before = BTreeSet::new();
    loop {
        if !failed {
            if waits.borrow().is_empty() {
                none_waits();
            }
            if waits.wait_for(|waiting| !waiting.is_empty()).await.is_err() {
                return;
            }
        }
        let seen = waits.borrow().clone();
        // The backoff is for one state: what helps another one may be quick.
        if seen != before {
            tries = 0;
        }
        tries = tries.saturating_add(1);
        failed = !run().await;
        let longest = match failed {
            true => LONGEST_PAUSE,
            // The watch confirms this in a moment. What the command has left as it is holds up nothing else.
            false => LONGEST_REST,
        };
        let none_waited = seen.is_empty();
        if none_waited && !failed {
            tries = 0;
            before = seen;
            continue;
        }
        let is_news = |waiting: &BTreeSet<String>| {
            !waiting.is_subset(&seen) || (waiting.is_empty() && !none_waited)
        };
        let pause = doubled(tries, FIRST_PAUSE, longest);
        if let Ok(Err(_)) = tokio::time::timeout(pause, waits.wait_for(is_news)).await {
            return;
        }
        if waits.borrow().is_empty() {
            before = BTreeSet::new();
        } else {
            before = seen;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use engine::host::{CertificateRequest, ClusterNode};
    use engine::kubernetes::MASTER_LABEL;
    use engine::kubernetes::workers::{LEFT, WORKER_LABEL};
    use tokio::time::Instant;

    use super::*;

    fn note(lacking: &watch::Sender<BTreeSet<String>>, event: NodeEvent) {
        super::note(lacking, &mut BTreeSet::new(), of_node(event));
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

    fn worker(labels: &[&str], is_marked: bool) -> NodeEvent {
        let labels = labels
            .iter()
            .map(|label| ((*label).to_owned(), String::new()));
        let mark = is_marked.then(|| (LEFT.to_owned(), "2026-01-01T00:00:00Z".to_owned()));
        NodeEvent::Seen {
            name: "w-1".to_owned(),
            node: Box::new(ClusterNode {
                labels: labels.collect(),
                annotations: mark.into_iter().collect(),
                ..ClusterNode::default()
            }),
        }
    }

    #[test]
    fn nodes_without_a_role_and_workers_that_have_left_wait() {
        for (labels, is_marked, waits) in [
            (&[][..], false, true),
            (&[WORKER_LABEL], false, false),
            (&[WORKER_LABEL], true, true),
            (&[MASTER_LABEL], false, false),
            (&[MASTER_LABEL], true, false),
        ] {
            let name = "w-1".to_owned();
            let expected = match waits {
                true => Item::Waiting(name),
                false => Item::Settled(name),
            };
            let item = of_worker(worker(labels, is_marked));
            assert_eq!(item, expected, "{labels:?} {is_marked}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_command_leaves_as_it_is_holds_up_nothing_else() {
        let (lacking, lacks) = watch::channel(BTreeSet::new());
        let began = Instant::now();
        let ran_at = Mutex::new(Vec::new());
        let run = || {
            ran_at.lock().unwrap().push(began.elapsed().as_secs());
            std::future::ready(true)
        };
        let work = run_with_backoff(lacks, run, || {});
        let events = async {
            note(&lacking, seen("foreign", None));
            tokio::time::sleep(Duration::from_secs(5000)).await;
            note(&lacking, seen("new", None));
            tokio::time::sleep(Duration::from_millis(1)).await;
            note(&lacking, seen("new", Some("10.20.0.0/24")));
            tokio::time::sleep(Duration::from_secs(10)).await;
        };
        tokio::select! {
            () = work => panic!("it ends"),
            () = events => {}
        }
        let at = ran_at.into_inner().unwrap();
        let early: Vec<u64> = at.iter().copied().take(6).collect();
        assert_eq!(early, [0, 1, 3, 7, 15, 31]);
        assert!(at.contains(&5000), "{at:?}");
        assert!(at.len() < 30, "{at:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_missing_subnets_is_reported() {
        let (lacking, lacks) = watch::channel(BTreeSet::from(["a".to_owned()]));
        let settled = Mutex::new(0);
        let work = run_with_backoff(
            lacks,
            || std::future::ready(lacking.borrow().is_empty()),
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
            std::future::ready(lacking.borrow().is_empty())
        };
        let work = run_with_backoff(lacks, give, || {});
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
        assert_eq!(at, [10, 11, 13, 17, 25, 41, 73, 133, 193, 253, 310]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_run_holds_up_no_new_object_and_is_repeated_until_it_succeeds() {
        let (lacking, lacks) = watch::channel(BTreeSet::from(["a".to_owned()]));
        let began = Instant::now();
        let ran_at = Mutex::new(Vec::new());
        let run = || {
            let mut at = ran_at.lock().unwrap();
            at.push(began.elapsed().as_secs());
            std::future::ready(began.elapsed() > Duration::from_secs(150))
        };
        let work = run_with_backoff(lacks, run, || {});
        let events = async {
            // In the pause from 63 s to 123 s.
            tokio::time::sleep(Duration::from_secs(100)).await;
            note(&lacking, seen("b", None));
            tokio::time::sleep(Duration::from_secs(10)).await;
            for name in ["a", "b"] {
                note(&lacking, seen(name, Some("10.20.1.0/24")));
            }
            tokio::time::sleep(Duration::from_secs(1000)).await;
        };
        tokio::select! {
            () = work => panic!("it ends"),
            () = events => {}
        }
        let at = ran_at.into_inner().unwrap();
        assert!(at.starts_with(&[0, 1, 3, 7, 15, 31, 63, 100]), "{at:?}");
        // Both have a subnet at 110 s. The run still fails then.
        assert!(at.contains(&110), "{at:?}");
        assert!(
            at.last().is_some_and(|last| (150..300).contains(last)),
            "{at:?}"
        );
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
        let work = run_with_backoff(lacks, give, || {});
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
        let mut note = |event| super::note(&lacking, &mut unconfirmed, of_node(event));
        note(seen("given", Some("10.20.0.0/24")));
        note(seen("lacks", None));
        assert_eq!(*lacks.borrow(), names(&["deleted", "lacks"]));
        note(NodeEvent::Listed);
        assert_eq!(*lacks.borrow(), names(&["lacks"]));
        note(NodeEvent::Listed);
        assert_eq!(*lacks.borrow(), names(&["lacks"]));
    }

    #[test]
    fn a_request_waits_until_it_is_denied_or_has_its_certificate() {
        let request = |state: RequestState, certificate: Option<&[u8]>| {
            of_request(RequestEvent::Seen(Box::new(CertificateRequest {
                name: "a".to_owned(),
                uid: String::new(),
                requester: String::new(),
                groups: Vec::new(),
                signer: NODE_SIGNER.to_owned(),
                request: Vec::new(),
                usages: Vec::new(),
                state,
                certificate: certificate.map(<[u8]>::to_vec),
                created: None,
            })))
        };
        let waiting = Item::Waiting("a".to_owned());
        let settled = Item::Settled("a".to_owned());
        assert_eq!(request(RequestState::Pending, None), waiting);
        assert_eq!(request(RequestState::Approved, None), waiting);
        assert_eq!(request(RequestState::Approved, Some(b"c")), settled);
        assert_eq!(request(RequestState::Denied(String::new()), None), settled);
        assert_eq!(request(RequestState::Failed(String::new()), None), settled);
    }
}
