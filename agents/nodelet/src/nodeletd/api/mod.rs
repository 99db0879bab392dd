//! The local API: a unix socket for tools and other agents on this host. Only root may open it.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | the state of the host, JSON |
//! | `GET /v1/diff`, `GET /v1/diff?repair=true` | what an apply or a repair would change: events as JSON lines, without a repair those of a run without phases; one request at a time |
//! | `GET /v1/events` | events of changes as they come, one JSON object per line |
//! | `POST /v1/check` | make a pass now |
//! | `POST /v1/repair/PHASE` | restart a phase and what needs it; 409 if nothing may be changed |
//! | `POST /v1/pause?seconds=N&because=TEXT` | change nothing for so long: 200 once it is in force, 202 if a change has to end first, 507 if it is in force but not saved |
//! | `POST /v1/resume` | end the pause: 202, or 507 if the pause is over, but this is not saved |
//! | `GET /metrics` | Prometheus text; on a master also about the cluster, at most 5 minutes old |
//! | `GET /healthz` | `ok` while the daemon works; else 503 and which part is stuck, or that passes fail |
//!
//! The last two are also served on 127.0.0.1 if `METRICS_PORT` names a port. If the API cannot be served, nodeletd reports this and tries
//! again; it holds the host at its role also without the API.
//!
//! `sockets` listens, `connections` limits how many clients are served at a time, and `client` makes the requests of `nodelet`. Not here:
//! what is reported (`status`), and what becomes of a request (`supervisor::requests`). Start with `routes` in this file.

pub(crate) mod client;
pub(in crate::nodeletd) mod connections;

mod sockets;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use daemon::health::Health;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;

use super::supervisor::{FAILED_PASSES, Handles, PendingRequest, Request};
use crate::cli::LONGEST_PAUSE;
use crate::nodeletd::state::disk;
use crate::nodeletd::status::cluster_metrics::{self, ClusterMetrics};
use crate::nodeletd::status::metrics;
use crate::nodeletd::supervisor::worker::Worker;

pub(crate) use sockets::SOCKET;
pub(super) use sockets::serve;

/// The status of the answer if a request is in force, but a restart of nodeletd would forget it.
const NOT_SAVED: StatusCode = StatusCode::INSUFFICIENT_STORAGE;
/// How long the answer to a pause or resume waits until the request is in force: longer than the loop waits for the disk.
const HOLDS: Duration = disk::TIMEOUT.saturating_add(Duration::from_secs(1));

#[derive(Clone)]
struct Shared {
    worker: Worker,
    handles: Handles,
    health: Health,
    /// One at a time: each makes a plan and checks the whole host.
    diffs: Arc<Semaphore>,
    cluster: ClusterMetrics,
}

fn routes() -> Router<Shared> {
    metrics_routes()
        .route("/v1/status", get(status))
        .route("/v1/diff", get(diff))
        .route("/v1/events", get(events))
        .route("/v1/check", post(check))
        .route("/v1/repair/{phase}", post(repair))
        .route("/v1/pause", post(pause))
        .route("/v1/resume", post(resume))
}

fn metrics_routes() -> Router<Shared> {
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(healthz))
}

#[derive(Deserialize)]
struct DiffQuery {
    #[serde(default)]
    repair: bool,
}

async fn diff(State(shared): State<Shared>, Query(query): Query<DiffQuery>) -> Response {
    let Ok(_alone) = shared.diffs.try_acquire() else {
        let said = "another diff is being made; try again\n";
        return (StatusCode::TOO_MANY_REQUESTS, said).into_response();
    };
    let view = shared.handles.view.borrow().clone();
    let last_good = view.is_some_and(|view| view.keeps_last_good);
    match shared.worker.diff(query.repair, last_good).await {
        Ok(lines) => ([("content-type", "application/x-ndjson")], lines).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("could not {error:#}\n"),
        )
            .into_response(),
    }
}

async fn status(State(shared): State<Shared>) -> Response {
    let view = shared.handles.view.borrow().clone();
    match view {
        Some(view) => axum::Json(&*view).into_response(),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the first pass is not over\n",
        )
            .into_response(),
    }
}

async fn events(State(shared): State<Shared>) -> Response {
    let receiver = shared.handles.events.subscribe();
    let lines = futures::stream::unfold(receiver, |mut receiver| async move {
        let line = match receiver.recv().await {
            Ok(line) => format!("{line}\n"),
            Err(RecvError::Lagged(missed)) => {
                format!("{{\"event\":\"missed\",\"count\":{missed}}}\n")
            }
            Err(RecvError::Closed) => return None,
        };
        Some((Ok::<_, Infallible>(line), receiver))
    });
    (
        [("content-type", "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

async fn check(State(shared): State<Shared>) -> Response {
    ask(&shared, Request::Now)
}

async fn repair(State(shared): State<Shared>, UrlPath(phase): UrlPath<String>) -> Response {
    let view = shared.handles.view.borrow().clone();
    let known = view
        .as_ref()
        .is_some_and(|view| view.phases.iter().any(|p| p.phase.as_str() == phase));
    if !known {
        return (
            StatusCode::NOT_FOUND,
            format!("there is no phase `{phase}`\n"),
        )
            .into_response();
    }
    if let Some(why) = view.and_then(|view| view.touches_nothing()) {
        return (
            StatusCode::CONFLICT,
            format!("nothing is repaired: {why}\n"),
        )
            .into_response();
    }
    ask(&shared, Request::Repair(vec![phase]))
}

#[derive(Deserialize)]
struct PauseQuery {
    seconds: u64,
    #[serde(default)]
    because: String,
}

async fn pause(State(shared): State<Shared>, Query(query): Query<PauseQuery>) -> Response {
    let longest = LONGEST_PAUSE.as_secs();
    if query.seconds == 0 || query.seconds > longest {
        let said = format!("a pause takes 1 to {longest} seconds\n");
        return (StatusCode::BAD_REQUEST, said).into_response();
    }
    let because = query.because.chars();
    let pause = Request::Pause {
        time: Duration::from_secs(query.seconds),
        because: because.filter(|one| !one.is_control()).take(200).collect(),
    };
    let (pending, in_force) = pause.pending();
    if let Err(refusal) = send(&shared, pending) {
        return refusal.into_response();
    }
    // The loop takes the request at once, except during a change.
    match tokio::time::timeout(HOLDS, in_force).await {
        Ok(Ok(Ok(()))) => "the pause is in force: nothing is changed\n".into_response(),
        Ok(Ok(Err(problem))) => {
            let said = format!(
                "the pause is in force, but it is not saved, so a restart of nodeletd ends it: {problem}\n"
            );
            (NOT_SAVED, said).into_response()
        }
        _ => {
            let view = shared.handles.view.borrow().clone();
            let doing = view.map_or_else(|| "a change".to_owned(), |view| view.doing.clone());
            let said = format!("the pause begins when the current change has ended: {doing}\n");
            (StatusCode::ACCEPTED, said).into_response()
        }
    }
}

async fn resume(State(shared): State<Shared>) -> Response {
    let (pending, is_over) = Request::Resume.pending();
    if let Err(refusal) = send(&shared, pending) {
        return refusal.into_response();
    }
    match tokio::time::timeout(HOLDS, is_over).await {
        Ok(Ok(Err(problem))) => {
            let said = format!(
                "the pause is over, but this is not saved, so a restart of nodeletd brings the pause back: {problem}\n"
            );
            (NOT_SAVED, said).into_response()
        }
        // During a change, the loop takes the request after the change.
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    let view = shared.handles.view.borrow().clone();
    let mut text = metrics::text(view.as_deref());
    if let Some(view) = view.filter(|view| view.role == "master") {
        let worker = shared.worker.clone();
        let gather = || cluster_metrics::gather(worker, view.keeps_last_good);
        text.push_str(&shared.cluster.text(gather));
    }
    text.into_response()
}

async fn healthz(State(shared): State<Shared>) -> Response {
    let mut problems = shared.health.problems();
    let view = shared.handles.view.borrow().clone();
    let failed = view.map_or(0, |view| view.failed_in_a_row);
    if failed >= FAILED_PASSES {
        problems.push(format!(
            "the last {failed} status passes failed; `nodelet status` says why"
        ));
    }
    if problems.is_empty() {
        "ok".into_response()
    } else {
        let problems = problems.join("\n") + "\n";
        (StatusCode::SERVICE_UNAVAILABLE, problems).into_response()
    }
}

/// An error answer.
type Refusal = (StatusCode, &'static str);

fn ask(shared: &Shared, request: Request) -> Response {
    let (pending, _) = request.pending();
    let sent = send(shared, pending);
    sent.map(|()| StatusCode::ACCEPTED).into_response()
}

/// Passes a request on, or returns the answer that too many requests wait.
fn send(shared: &Shared, pending: PendingRequest) -> Result<(), Refusal> {
    let sent = shared.handles.requests.try_send(pending);
    sent.map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "too many requests wait\n"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::http::Request as HttpRequest;
    use tokio::sync::{broadcast, mpsc, watch};
    use tower::ServiceExt as _;

    use super::*;
    use crate::nodeletd::status::view::View;
    use crate::nodeletd::supervisor::worker::test_worker::test_worker;

    /// The API of a simulated daemon: the view that it shows, and the requests that it receives.
    pub(super) struct SimulatedApi {
        pub(super) shared: Shared,
        view: watch::Sender<Option<Arc<View>>>,
        asked: mpsc::Receiver<PendingRequest>,
    }

    impl SimulatedApi {
        pub(super) fn new() -> Self {
            let (requests, asked) = mpsc::channel(2);
            let (view, seen) = watch::channel(None);
            let shared = Shared {
                worker: test_worker("/nowhere/nodelet"),
                handles: Handles {
                    view: seen,
                    events: broadcast::channel(1).0,
                    requests,
                    metrics_port: watch::channel(0).1,
                    api_problem: watch::channel(String::new()).0,
                },
                health: Health::default(),
                diffs: Arc::new(Semaphore::new(1)),
                cluster: ClusterMetrics::default(),
            };
            Self {
                shared,
                view,
                asked,
            }
        }

        /// Shows a host at rest, after `change`.
        fn shows(&self, change: impl FnOnce(&mut View)) {
            let mut view = View::at_rest();
            change(&mut view);
            self.view.send_replace(Some(Arc::new(view)));
        }

        async fn answers(&self, method: &str, path: &str) -> (u16, String) {
            let request = HttpRequest::builder()
                .method(method)
                .uri(path)
                .body(Body::empty())
                .expect("a request");
            let app = routes().with_state(self.shared.clone());
            let answer = app.oneshot(request).await.expect("it answers");
            let status = answer.status().as_u16();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await;
            let body = body.expect("it is short").to_vec();
            (status, String::from_utf8(body).expect("it is text"))
        }
    }

    #[tokio::test]
    async fn a_repair_request_is_accepted_if_changes_are_allowed() {
        let mut api = SimulatedApi::new();
        assert_eq!(api.answers("GET", "/v1/status").await.0, 503);
        assert_eq!(api.answers("POST", "/v1/repair/etcd-backup").await.0, 404);
        api.shows(|_| {});
        assert_eq!(api.answers("GET", "/v1/status").await.0, 200);
        let (status, said) = api.answers("POST", "/v1/repair/no-such-phase").await;
        assert_eq!(
            (status, said.as_str()),
            (404, "there is no phase `no-such-phase`\n")
        );
        assert_eq!(api.answers("POST", "/v1/repair/etcd-backup").await.0, 202);
        let asked = api.asked.try_recv().expect("it was asked").request;
        assert!(matches!(asked, Request::Repair(phases) if phases == ["etcd-backup"]));

        api.shows(|view| {
            view.paused_until = Some(9);
            view.paused_because = "we move".to_owned();
        });
        let (status, said) = api.answers("POST", "/v1/repair/etcd-backup").await;
        assert_eq!(status, 409);
        assert_eq!(said, "nothing is repaired: paused: we move\n");
        api.shows(|view| "ignore".clone_into(&mut view.desired));
        assert_eq!(api.answers("POST", "/v1/repair/etcd-backup").await.0, 409);
        api.shows(|view| view.is_unassigned = true);
        assert_eq!(api.answers("POST", "/v1/repair/etcd-backup").await.0, 409);
        let lost = "could not read the ledger".to_owned();
        api.shows(|view| view.prevents_changes = Some(lost));
        let (status, said) = api.answers("POST", "/v1/repair/etcd-backup").await;
        assert_eq!(status, 409);
        assert_eq!(said, "nothing is repaired: could not read the ledger\n");
        assert!(api.asked.try_recv().is_err(), "nothing more was asked");
        // With a wrong host name, the settings are refused, and phases are restarted all the same.
        api.shows(|view| view.refused = Some("use the node name=m-2".to_owned()));
        assert_eq!(api.answers("POST", "/v1/repair/etcd-backup").await.0, 202);
        api.asked.try_recv().expect("it was asked");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_has_a_limit_and_its_reason_is_a_line() {
        let mut api = SimulatedApi::new();
        let too_long = format!("/v1/pause?seconds={}", LONGEST_PAUSE.as_secs() + 1);
        for path in [
            "/v1/pause?seconds=0",
            &too_long,
            "/v1/pause?seconds=-1",
            "/v1/pause",
        ] {
            assert_eq!(api.answers("POST", path).await.0, 400, "{path}");
        }
        let path = format!("/v1/pause?seconds=60&because=a%0Ab{}", "c".repeat(300));
        assert_eq!(api.answers("POST", &path).await.0, 202);
        let asked = api.asked.try_recv().expect("it was asked").request;
        let Request::Pause { time, because } = asked else {
            panic!("{asked:?}");
        };
        assert_eq!(time, Duration::from_secs(60));
        assert_eq!(because, format!("ab{}", "c".repeat(198)));
    }

    /// An operator who gets this answer may begin to work on the host.
    #[tokio::test(start_paused = true)]
    async fn a_pause_request_is_answered_when_the_pause_is_in_force() {
        let mut api = SimulatedApi::new();
        api.shows(|view| "attempt 3".clone_into(&mut view.doing));
        // A change is under way, so the request is not taken.
        let (status, said) = api.answers("POST", "/v1/pause?seconds=60").await;
        assert_eq!(status, 202);
        assert!(said.contains("has ended: attempt 3"), "{said}");
        api.asked.try_recv().expect("it still waits");
        let (requests, mut asked) = mpsc::channel::<PendingRequest>(2);
        api.shared.handles.requests = requests;
        let taken = Arc::new(AtomicBool::new(false));
        let holds = Arc::clone(&taken);
        tokio::spawn(async move {
            let asked = asked.recv().await.expect("it is asked");
            tokio::time::sleep(HOLDS / 2).await;
            holds.store(true, Ordering::Relaxed);
            let _ = asked.taken.send(Ok(()));
        });
        let (status, said) = api.answers("POST", "/v1/pause?seconds=60").await;
        assert_eq!(status, 200, "{said}");
        assert!(taken.load(Ordering::Relaxed), "not before");
    }

    /// The operator must know what a restart of nodeletd would do.
    #[tokio::test(start_paused = true)]
    async fn an_unsaved_pause_or_resume_is_no_success() {
        for (path, parts) in [
            (
                "/v1/pause?seconds=60",
                ["in force", "a restart of nodeletd ends it", "no room"],
            ),
            (
                "/v1/resume",
                [
                    "the pause is over",
                    "a restart of nodeletd brings the pause back",
                    "no room",
                ],
            ),
        ] {
            let mut api = SimulatedApi::new();
            let (requests, mut asked) = mpsc::channel::<PendingRequest>(2);
            api.shared.handles.requests = requests;
            tokio::spawn(async move {
                let asked = asked.recv().await.expect("it is asked");
                let problem = "could not write /var/x: no room";
                let _ = asked.taken.send(Err(problem.to_owned()));
            });
            let (status, said) = api.answers("POST", path).await;
            assert_eq!(status, 507, "{said}");
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
    }

    #[tokio::test]
    async fn one_diff_is_made_at_a_time_and_few_requests_wait() {
        let api = SimulatedApi::new();
        let other = Arc::clone(&api.shared.diffs).try_acquire_owned();
        assert_eq!(api.answers("GET", "/v1/diff").await.0, 429);
        drop(other);
        let (status, said) = api.answers("GET", "/v1/diff").await;
        assert_eq!(status, 500);
        assert!(said.contains("could not tell what would change"), "{said}");
        for code in [202, 202, 503] {
            assert_eq!(api.answers("POST", "/v1/check").await.0, code);
        }
    }

    #[tokio::test]
    async fn health_names_what_has_ended() {
        let api = SimulatedApi::new();
        let part = api.shared.health.part("a part", Duration::MAX);
        assert_eq!(api.answers("GET", "/healthz").await, (200, "ok".to_owned()));
        drop(part);
        let answer = api.answers("GET", "/healthz").await;
        assert_eq!(answer, (503, "a part has ended\n".to_owned()));
    }

    #[tokio::test]
    async fn health_names_passes_that_fail_again_and_again() {
        let api = SimulatedApi::new();
        for (failed, status) in [(0, 200), (FAILED_PASSES - 1, 200), (FAILED_PASSES, 503)] {
            api.shows(|view| view.failed_in_a_row = failed);
            let (answered, said) = api.answers("GET", "/healthz").await;
            assert_eq!(answered, status, "{failed}: {said}");
        }
        let (_, said) = api.answers("GET", "/healthz").await;
        assert!(
            said.starts_with("the last 3 status passes failed"),
            "{said}"
        );
    }
}
