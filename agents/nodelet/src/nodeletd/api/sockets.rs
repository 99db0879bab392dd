//! Serves the API on its unix socket, and metrics and health on loopback.

use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use daemon::health::Health;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Shared, metrics_routes, routes};
use crate::nodeletd::api::connections;
use crate::nodeletd::status::cluster_metrics::ClusterMetrics;
use crate::nodeletd::supervisor::Handles;
use crate::nodeletd::supervisor::worker::Worker;

/// Where it listens.
pub(crate) const SOCKET: &str = "/run/pf9/nodeletd.sock";
/// Connections at a time: listeners to events stay for as long as they like.
const PLACES: usize = 64;
/// Connections at a time on loopback, which every process of the host can reach, and how long each may take.
const PLACES_FOR_ALL: usize = 8;
const TIME_FOR_ALL: Duration = Duration::from_secs(10);
/// Interval of the check that the socket still exists.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// First pause before a socket that could not be made is tried again. It doubles up to [`AGAIN`], which is also the pause of the port.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(60);

/// Serves until `shutdown` is cancelled.
pub(crate) async fn serve(
    worker: Worker,
    handles: Handles,
    health: Health,
    shutdown: CancellationToken,
) {
    // It may wait for any time, but must not end.
    let beat = health.part("the local API", Duration::MAX);
    let shared = Shared {
        worker,
        handles,
        health,
        diffs: Arc::new(Semaphore::new(1)),
        cluster: ClusterMetrics::default(),
    };
    tokio::spawn(loopback(shared.clone(), shutdown.clone()));
    local(Path::new(SOCKET), shared, &shutdown).await;
    beat.finish();
}

/// Serves on the socket. Makes it again if it was removed, and tries again if it could not be made.
async fn local(path: &Path, shared: Shared, shutdown: &CancellationToken) {
    let problem = shared.handles.api_problem.clone();
    let app = routes().with_state(shared);
    let places = Arc::new(Semaphore::new(PLACES));
    let mut pause = FIRST_PAUSE;
    while !shutdown.is_cancelled() {
        let listener = match bind(path) {
            Ok(listener) => listener,
            Err(error) => {
                let message = format!("nodeletd accepts no requests: could not {error:#}");
                if *problem.borrow() != message {
                    tracing::error!("{message}; trying again");
                    problem.send_replace(message);
                }
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(AGAIN);
                continue;
            }
        };
        problem.send_replace(String::new());
        pause = FIRST_PAUSE;
        let end = shutdown.child_token();
        // Clients that listen to events keep their connection.
        let (app, places) = (app.clone(), Arc::clone(&places));
        let serving = connections::serve(listener, app, places, Duration::MAX, end.clone());
        tokio::join!(serving, lost(path, end));
    }
}

/// Waits until the present socket was removed or replaced, and cancels `end` then. Also returns when `end` is cancelled.
async fn lost(path: &Path, end: CancellationToken) {
    let on_disk = || {
        std::fs::symlink_metadata(path)
            .ok()
            .map(|said| (said.dev(), said.ino()))
    };
    let ours = on_disk();
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = interval.tick() => {}
        }
        if on_disk() != ours {
            tracing::warn!(
                "{} was removed or replaced; it is made again",
                path.display()
            );
            end.cancel();
            return;
        }
    }
}

/// A socket from an earlier run is not in use: the lock allows only one nodeletd.
fn bind(path: &Path) -> Result<UnixListener> {
    let directory = path.parent().context("the socket has a directory")?;
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    if path.is_dir() {
        bail!(
            "listen on {0}: a directory is in its place; make sure that it is not needed and remove it (`rmdir {0}`)",
            path.display()
        );
    }
    daemon::files::removed(std::fs::remove_file(path))
        .with_context(|| format!("remove the old {}", path.display()))?;
    let listener =
        UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("close {} to others", path.display()))?;
    Ok(listener)
}

/// Serves metrics on loopback, on the port that the settings name at present.
async fn loopback(shared: Shared, shutdown: CancellationToken) {
    // It may wait for any time, but must not end.
    let beat = shared.health.part("metrics on loopback", Duration::MAX);
    let mut port = shared.handles.metrics_port.clone();
    let places = Arc::new(Semaphore::new(PLACES_FOR_ALL));
    while !shutdown.is_cancelled() {
        let now = *port.borrow_and_update();
        let end = shutdown.child_token();
        let serving = async {
            if now == 0 {
                return std::future::pending().await;
            }
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, now)).await?;
            let app = metrics_routes().with_state(shared.clone());
            let (places, end) = (Arc::clone(&places), end.clone());
            connections::serve(listener, app, places, TIME_FOR_ALL, end).await;
            std::io::Result::Ok(())
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            changed = port.changed() => if changed.is_err() { break },
            served = serving => {
                if let Err(error) = served {
                    tracing::error!("could not serve metrics on 127.0.0.1:{now}: {error}; trying again in a minute");
                }
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    _ = port.changed() => {}
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
        end.cancel();
    }
    beat.finish();
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::watch;

    use super::super::tests::SimulatedApi;
    use super::*;

    /// A process that can write to the socket can stop and start this host's node.
    #[tokio::test]
    async fn the_socket_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("nodeletd.sock");
        let _listener = bind(&path).expect("it listens");
        let mode = path.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    /// Every process of the host can reach the port, so the status and all requests for changes are on the socket alone.
    #[tokio::test]
    async fn loopback_has_metrics_and_health_and_nothing_else() {
        // Another listener has the port on another address, so a listener on all addresses would fail.
        let other = std::net::TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), 0)).expect("a port");
        let port = other.local_addr().expect("an address").port();
        let mut api = SimulatedApi::new();
        let (_setting, metrics_port) = watch::channel(port);
        api.shared.handles.metrics_port = metrics_port;
        let end = CancellationToken::new();
        let serving = tokio::spawn(loopback(api.shared.clone(), end.clone()));
        for (request, status) in [
            ("GET /healthz", 200),
            ("GET /metrics", 200),
            ("GET /v1/status", 404),
            ("GET /v1/diff", 404),
            ("GET /v1/events", 404),
            ("POST /v1/check", 404),
            ("POST /v1/repair/etcd", 404),
            ("POST /v1/pause?seconds=60", 404),
            ("POST /v1/resume", 404),
        ] {
            let answer = tokio::time::timeout(TIME_FOR_ALL, answer(port, request));
            let answer = answer.await.expect("it listens on 127.0.0.1 alone");
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}: {answer}"
            );
        }
        end.cancel();
        serving.await.expect("it ends");
    }

    /// Asks on loopback, as soon as something listens there.
    async fn answer(port: u16, request: &str) -> String {
        let mut stream = loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n");
        let sent = stream.write_all(request.as_bytes()).await;
        sent.expect("it is sent");
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer).await;
        read.expect("it is answered");
        answer
    }

    /// A full /run, or a directory in place of the socket: the daemon goes on, and serves its API once it can.
    #[tokio::test(start_paused = true)]
    async fn a_failed_socket_is_reported_and_created_later() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("nodeletd.sock");
        std::fs::create_dir(&path).expect("it is made");
        let api = SimulatedApi::new();
        let mut problem = api.shared.handles.api_problem.subscribe();
        let end = CancellationToken::new();
        let (shared, at, ends) = (api.shared.clone(), path.clone(), end.clone());
        let serving = tokio::spawn(async move { local(&at, shared, &ends).await });
        let message = problem.wait_for(|message| !message.is_empty()).await;
        let message = message.expect("it serves").clone();
        assert!(message.contains("a directory is in its place"), "{message}");
        std::fs::remove_dir(&path).expect("it is removed");
        let waited = tokio::time::timeout(2 * AGAIN, problem.wait_for(String::is_empty));
        waited.await.expect("it is tried again").expect("it serves");
        let on_disk = path.metadata().expect("it is there").file_type();
        assert!(on_disk.is_socket());
        end.cancel();
        serving.await.expect("it ends");
    }
}
