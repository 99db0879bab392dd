//! The drain of `LiveHost` against a small API server on loopback.

#![expect(
    clippy::disallowed_methods,
    reason = "a test looks at the machine itself"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use engine::host::live::LiveHost;
use engine::host::{Cluster as _, ClusterAccess, HostResult, RemainingPod};
use serde_json::{Value, json};

const NODE: &str = "master-1";
/// Longer than any test needs whose pods all go.
const LONG: Duration = Duration::from_secs(60);
/// For tests in which a pod stays.
const SHORT: Duration = Duration::from_millis(400);

/// Enough to ask twice for two dozen pods on a busy machine.
const TWO_TURNS: Duration = Duration::from_secs(6);
const BUDGET: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const TWO_BUDGETS: &str = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";

/// What becomes of a pod that is to be evicted.
#[derive(Clone)]
enum Fate {
    Goes,
    /// The API server answers so, and the pod stays.
    Refused(u16, &'static str),
    /// Refused so often by a budget, and goes then.
    GoesAfter(u32),
    /// It is to be deleted, and does not end.
    Lingers,
    /// Another client has deleted it since it was listed.
    GoneMeanwhile,
    /// The connection breaks before the answer.
    Unanswered,
}

/// In place of a status: the connection is closed without an answer.
const NO_ANSWER: u16 = 0;

#[derive(Clone)]
struct FakePod {
    metadata: Value,
    phase: &'static str,
    fate: Fate,
}

fn pod(name: &str, fate: Fate) -> FakePod {
    FakePod {
        metadata: json!({ "name": name, "namespace": "shop", "uid": format!("uid-{name}") }),
        phase: "Running",
        fate,
    }
}

fn daemon_pod(name: &str) -> FakePod {
    let mut pod = pod(name, Fate::Goes);
    pod.metadata["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "d", "controller": true,
    }]);
    pod
}

#[derive(Default)]
struct Api {
    pods: BTreeMap<String, FakePod>,
    /// Names of the pods whose eviction was asked for, in order.
    asked: Vec<String>,
    /// Pods in each page that was sent.
    pages: Vec<usize>,
    /// Lists that are answered with this status before one is answered well.
    failing_lists: (u32, u16),
    /// As many times the second page is not known any more.
    expired_pages: u32,
}

/// An API server that knows pods, evictions and nothing else.
struct Server {
    api: Arc<Mutex<Api>>,
    directory: tempfile::TempDir,
}

impl Server {
    fn with(pods: impl IntoIterator<Item = FakePod>) -> Self {
        let name = |pod: &FakePod| pod.metadata["name"].as_str().expect("a name").to_owned();
        let pods = pods.into_iter().map(|pod| (name(&pod), pod)).collect();
        let api = Arc::new(Mutex::new(Api {
            pods,
            ..Api::default()
        }));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = listener.local_addr().expect("address");
        let served = Arc::clone(&api);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                thread::spawn(move || serve(stream, &served));
            }
        });
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig(address)).expect("write");
        Self { api, directory }
    }

    async fn drain(&self, timeout: Duration) -> HostResult<Vec<RemainingPod>> {
        self.drain_of(None, timeout).await
    }

    /// The drain of a host on which containers of the pods with these uids run.
    async fn drain_of(
        &self,
        running: Option<&BTreeSet<String>>,
        timeout: Duration,
    ) -> HostResult<Vec<RemainingPod>> {
        let access = ClusterAccess {
            kubeconfig: self.directory.path().join("kubeconfig"),
        };
        let host = LiveHost::new();
        host.evict_pods(&access, NODE, running, timeout).await
    }

    fn api(&self) -> std::sync::MutexGuard<'_, Api> {
        self.api.lock().expect("no test panics with it")
    }

    /// Names of the pods that are left.
    fn left(&self) -> Vec<String> {
        self.api().pods.keys().cloned().collect()
    }
}

fn kubeconfig(address: SocketAddr) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        "clusters": [{ "name": "c", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "u", "user": {} }],
    })
    .to_string()
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, api: &Mutex<Api>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut first = String::new();
        reader.read_line(&mut first).ok()?;
        let mut words = first.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            if header.trim().is_empty() {
                break;
            }
            let (name, value) = header.split_once(':')?;
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let (code, answer) = {
            let mut api = api.lock().ok()?;
            match method.as_str() {
                "GET" => api.list(&target),
                _ => api.evict(&target, &serde_json::from_slice(&body).ok()?),
            }
        };
        if code == NO_ANSWER {
            return None;
        }
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

fn failure(code: u16, message: &str) -> (u16, Value) {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "metadata": {},
        "code": code, "message": message, "reason": "",
    });
    (code, status)
}

impl Api {
    fn list(&mut self, target: &str) -> (u16, Value) {
        let (path, query) = target.split_once('?').expect("a list has a query");
        assert_eq!(path, "/api/v1/pods");
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), decoded(value)))
            .collect();
        if self.failing_lists.0 > 0 {
            self.failing_lists.0 -= 1;
            return failure(self.failing_lists.1, "not now");
        }
        let selected = |pod: &FakePod| {
            query["fieldSelector"].split(',').all(|one| {
                if let Some((field, value)) = one.split_once("!=") {
                    assert_eq!(field, "status.phase");
                    pod.phase != value
                } else {
                    assert_eq!(one, format!("spec.nodeName={NODE}"));
                    true
                }
            })
        };
        let limit: usize = query["limit"].parse().expect("a number");
        let from = query.get("continue").cloned().unwrap_or_default();
        if !from.is_empty() && self.expired_pages > 0 {
            self.expired_pages -= 1;
            return failure(410, "The provided continue parameter is too old");
        }
        let all: Vec<(&String, &FakePod)> = self
            .pods
            .iter()
            .filter(|(name, pod)| **name > from && selected(pod))
            .collect();
        let page = &all[..all.len().min(limit)];
        let next = match page.last() {
            Some((name, _)) if page.len() < all.len() => (*name).clone(),
            _ => String::new(),
        };
        let items: Vec<Value> = page
            .iter()
            .map(|(_, pod)| {
                json!({
                    "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                    "metadata": pod.metadata,
                })
            })
            .collect();
        let list = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
            "metadata": { "continue": next, "resourceVersion": "1" },
            "items": items,
        });
        self.pages.push(page.len());
        (200, list)
    }

    fn evict(&mut self, target: &str, eviction: &Value) -> (u16, Value) {
        let name = target
            .trim_start_matches("/api/v1/namespaces/shop/pods/")
            .trim_end_matches("/eviction")
            .to_owned();
        assert_eq!(eviction["apiVersion"], "policy/v1beta1");
        self.asked.push(name.clone());
        let Some(pod) = self.pods.get_mut(&name) else {
            return failure(404, "there is no such pod");
        };
        let uid = &eviction["deleteOptions"]["preconditions"]["uid"];
        if *uid != pod.metadata["uid"] {
            return failure(409, "the uid in the precondition does not match");
        }
        match pod.fate.clone() {
            Fate::Refused(code, message) => return failure(code, message),
            Fate::Unanswered => return (NO_ANSWER, Value::Null),
            Fate::GoesAfter(0) | Fate::Goes => {
                self.pods.remove(&name);
            }
            Fate::GoesAfter(times) => {
                pod.fate = Fate::GoesAfter(times - 1);
                return failure(429, BUDGET);
            }
            Fate::Lingers => {
                pod.metadata["deletionTimestamp"] = json!("2026-03-04T05:06:07Z");
                pod.metadata["deletionGracePeriodSeconds"] = json!(30);
                pod.metadata["finalizers"] = json!(["shop.example/backup"]);
            }
            Fate::GoneMeanwhile => {
                self.pods.remove(&name);
                return failure(404, "there is no such pod");
            }
        }
        let done =
            json!({ "apiVersion": "v1", "kind": "Status", "status": "Success", "metadata": {} });
        (201, done)
    }
}

/// A value of a query without its percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                let hex = String::from_utf8(hex).expect("two digits");
                u8::from_str_radix(&hex, 16).expect("two digits")
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).expect("text")
}

/// Their kubelet is stopped, so it does not report their end. The stop of an earlier clean has ended them.
#[tokio::test]
async fn a_pod_that_is_deleted_and_does_not_run_is_not_awaited() {
    let server = Server::with(["a", "b"].map(|name| pod(name, Fate::Lingers)));
    let none = BTreeSet::new();
    let left = server.drain_of(Some(&none), LONG).await;
    assert_eq!(left.expect("the pods are known"), []);
    assert_eq!(server.api().asked.len(), 2, "each is deleted before");
    let running = BTreeSet::from(["uid-b".to_owned()]);
    let left = server.drain_of(Some(&running), SHORT).await;
    let left = left.expect("the pods are known");
    let left: Vec<&str> = left.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(left, ["shop/b"]);
    let left = server.drain(SHORT).await.expect("the pods are known");
    assert_eq!(left.len(), 2, "it is not known which of them run");
}

/// One round takes as many pods, and the others come behind them.
#[tokio::test]
async fn pods_behind_two_thousand_that_have_ended_are_evicted() {
    let ended = (0..2000).map(|number| {
        let mut job = pod(&format!("job-{number:04}"), Fate::Lingers);
        job.metadata["deletionTimestamp"] = json!("2026-03-04T05:06:07Z");
        job
    });
    let server = Server::with(ended.chain([pod("web", Fate::Goes)]));
    let none = BTreeSet::new();
    let left = server.drain_of(Some(&none), LONG).await;
    assert_eq!(left.expect("the pods are known"), []);
    assert_eq!(server.api().asked, ["web"]);
}

#[tokio::test]
async fn one_eviction_that_fails_keeps_no_other_pod_from_being_evicted() {
    let others = (0..20).map(|number| pod(&format!("web-{number}"), Fate::Goes));
    let stuck = [
        pod("a-two-budgets", Fate::Refused(500, TWO_BUDGETS)),
        pod("b-budget", Fate::Refused(429, BUDGET)),
        pod("c-gone", Fate::GoneMeanwhile),
        pod("d-forbidden", Fate::Refused(403, "not for you")),
    ];
    let server = Server::with(stuck.into_iter().chain(others));
    let left = server.drain(TWO_TURNS).await.expect("the pods are known");
    let remaining_names: Vec<String> = left
        .iter()
        .map(|pod| format!("{}: {}", pod.name, pod.reason))
        .collect();
    assert_eq!(
        remaining_names,
        [
            format!(
                "shop/a-two-budgets: the API server refuses its eviction: {TWO_BUDGETS} (status 500)"
            ),
            format!("shop/b-budget: the API server refuses its eviction: {BUDGET} (status 429)"),
            "shop/d-forbidden: the API server refuses its eviction: not for you (status 403)"
                .to_owned(),
        ]
    );
    assert_eq!(server.left(), ["a-two-budgets", "b-budget", "d-forbidden"]);
    let asked = server.api().asked.clone();
    let times = |name: &str| asked.iter().filter(|one| *one == name).count();
    assert!(
        times("a-two-budgets") > 1,
        "it is asked for again: {asked:?}"
    );
}

#[tokio::test]
async fn a_budget_is_waited_for() {
    let server = Server::with([pod("first", Fate::GoesAfter(3)), pod("second", Fate::Goes)]);
    assert_eq!(server.drain(LONG).await.expect("drained"), []);
    assert_eq!(server.left(), [""; 0]);
}

#[tokio::test]
async fn pods_behind_finished_ones_and_behind_the_first_page_are_evicted() {
    let finished = (0..1500).map(|number| FakePod {
        phase: if number % 2 == 0 {
            "Succeeded"
        } else {
            "Failed"
        },
        ..pod(&format!("job-{number:04}"), Fate::Goes)
    });
    let running = (0..600).map(|number| pod(&format!("web-{number:03}"), Fate::Goes));
    let server = Server::with(finished.chain(running));
    server.api().expired_pages = 1;
    assert_eq!(server.drain(LONG).await.expect("drained"), []);
    assert_eq!(server.left().len(), 1500, "finished pods are left alone");
    let api = server.api();
    assert_eq!(api.asked.len(), 600);
    assert!(
        api.pages.iter().all(|page| *page <= 250),
        "a page has a bound: {:?}",
        api.pages
    );
}

/// Nothing on the first page can be evicted, so a drain that reads no further takes the node for an empty one.
#[tokio::test]
async fn pods_behind_a_page_of_pods_that_stay_are_evicted() {
    let agents = (0..250).map(|number| daemon_pod(&format!("agent-{number:03}")));
    let server = Server::with(agents.chain([pod("web", Fate::Goes)]));
    assert_eq!(server.drain(LONG).await.expect("drained"), []);
    assert_eq!(server.api().asked, ["web"]);
    assert_eq!(server.left().len(), 250);
}

#[tokio::test]
async fn an_eviction_without_an_answer_is_the_reason_why_a_pod_is_left() {
    let server = Server::with([pod("db", Fate::Unanswered), pod("web", Fate::Goes)]);
    let left = server.drain(TWO_TURNS).await.expect("the pods are known");
    let [db] = left.as_slice() else {
        panic!("{left:?}");
    };
    assert_eq!(db.name, "shop/db");
    assert!(db.reason.starts_with("evict pod shop/db"), "{}", db.reason);
}

#[tokio::test]
async fn static_pods_and_those_of_daemon_sets_stay() {
    let mut mirror = pod("k8s-master-master-1", Fate::Goes);
    mirror.metadata["annotations"] = json!({ "kubernetes.io/config.mirror": "4f5e" });
    let agent = daemon_pod("agent-x2x5z");
    let mut set = pod("web-7d9f", Fate::Goes);
    set.metadata["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "r", "controller": true,
    }]);
    let server = Server::with([mirror, agent, set]);
    assert_eq!(server.drain(LONG).await.expect("drained"), []);
    assert_eq!(server.api().asked, ["web-7d9f"]);
}

#[tokio::test]
async fn a_pod_that_never_ends_is_named_with_its_reason() {
    let server = Server::with([pod("db", Fate::Lingers), pod("web", Fate::Goes)]);
    let left = server.drain(TWO_TURNS).await.expect("the pods are known");
    let [db] = left.as_slice() else {
        panic!("{left:?}");
    };
    assert_eq!(db.name, "shop/db");
    for part in [
        "grace period 30 s",
        "finalizers keep it: shop.example/backup",
    ] {
        assert!(db.reason.contains(part), "{part} in {}", db.reason);
    }
    // Pods are asked to go at the same time, in no order.
    let mut asked = server.api().asked.clone();
    asked.sort();
    assert_eq!(
        asked,
        ["db", "web"],
        "once is enough for a pod on its way out"
    );
}

/// A pod that ignores SIGTERM is killed at the end of its grace period, which often is as long as the time of the drain.
#[tokio::test]
async fn a_pod_that_is_killed_when_the_time_is_up_is_waited_for() {
    let mut stubborn = pod("db", Fate::Lingers);
    stubborn.metadata["deletionTimestamp"] = json!("2026-03-04T05:06:07Z");
    stubborn.metadata["deletionGracePeriodSeconds"] = json!(0);
    let server = Server::with([stubborn]);
    let api = Arc::clone(&server.api);
    let killed = thread::spawn(move || {
        thread::sleep(3 * SHORT);
        api.lock().expect("no test panics with it").pods.clear();
    });
    let left = server.drain(SHORT).await.expect("the pods are known");
    assert!(left.is_empty(), "{left:?}");
    killed.join().expect("it was killed");
}

/// A longer wait is of no use if the grace period ends later, or if a finalizer keeps the pod.
#[tokio::test]
async fn a_pod_that_is_not_killed_when_the_time_is_up_is_not_waited_for() {
    for (grace, finalizers) in [(30, json!([])), (0, json!(["shop.example/backup"]))] {
        let mut stubborn = pod("db", Fate::Lingers);
        stubborn.metadata["deletionTimestamp"] = json!("2026-03-04T05:06:07Z");
        stubborn.metadata["deletionGracePeriodSeconds"] = json!(grace);
        stubborn.metadata["finalizers"] = finalizers;
        let server = Server::with([stubborn]);
        let begun = std::time::Instant::now();
        let left = server.drain(SHORT).await.expect("the pods are known");
        assert_eq!(left.len(), 1, "{left:?}");
        // The longer wait is 10 s.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}

/// If kubelet is down, nothing kills the pod. The drain must end all the same.
#[tokio::test]
async fn a_pod_that_nothing_kills_is_waited_for_only_once() {
    let mut stubborn = pod("db", Fate::Lingers);
    stubborn.metadata["deletionTimestamp"] = json!("2026-03-04T05:06:07Z");
    stubborn.metadata["deletionGracePeriodSeconds"] = json!(0);
    let server = Server::with([stubborn]);
    // The longer wait is 10 s.
    let drain = tokio::time::timeout(LONG / 2, server.drain(SHORT)).await;
    let left = drain.expect("it ends").expect("the pods are known");
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_list_that_fails_is_never_taken_for_an_empty_node() {
    let server = Server::with([pod("web", Fate::Goes)]);
    server.api().failing_lists = (2, 503);
    assert_eq!(server.drain(LONG).await.expect("drained"), []);
    assert_eq!(server.left(), [""; 0]);

    let server = Server::with([pod("web", Fate::Goes)]);
    server.api().failing_lists = (u32::MAX, 500);
    let error = server.drain(SHORT).await.expect_err("nothing is known");
    assert!(
        error.to_string().contains("list the pods of node master-1"),
        "{error}"
    );
    // A refusal ends the drain early: the whole time would be a minute.
    server.api().failing_lists = (u32::MAX, 403);
    let before = server.api().asked.len();
    server.drain(LONG).await.expect_err("it is forbidden");
    let lists = u32::MAX - server.api().failing_lists.0;
    assert!(lists < 10, "{lists} lists");
    assert_eq!(server.api().asked.len(), before);
}
