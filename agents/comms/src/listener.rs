//! Accepts local connections for one service, and starts a tunnel for each that is allowed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::activity::Activity;
use crate::config::Listener;
use crate::owner;
use crate::path::handshake;
use crate::path::retry::{random_part, retried};
use crate::permits::Counter;
use crate::spares::Spares;
use crate::threads::Threads;
use crate::tunnel::{PlaneRoute, RelayError, ResetOnDrop, relay};

/// What to try when a connection cannot be accepted.
const DESCRIPTORS: &str = "check the file descriptors of pf9-comms (`LimitNOFILE`)";
/// What to try when a connection to the plane breaks.
const BROKEN: &str = "check the network, and whether the service of the plane was restarted";
/// What to try when the plane does not answer at all.
const UNANSWERED: &str = "check `sni`, whether the service of the plane runs, whether this host was revoked (`planectl host list` on the plane; if it has no valid certificate, enrol the host again), and whether this host has more connections than the plane allows one host";
/// Pause after a connection that could not be accepted: file descriptors may be used up.
const PAUSE: Duration = Duration::from_millis(200);

/// What a listener needs for its connections. A reload replaces it; connections keep theirs.
#[derive(Debug)]
pub struct Service {
    /// What the configuration says.
    pub listener: Listener,
    /// How the plane is reached.
    pub route: Arc<PlaneRoute>,
    /// Connections to the plane that are ready.
    pub spares: Arc<Spares>,
    /// What it has carried.
    pub activity: Arc<Activity>,
    /// Most connections of all listeners.
    pub all_connections: usize,
}

/// What all listeners share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The open connections of all listeners.
    pub open: Arc<Counter>,
    /// The open tunnels.
    pub tunnels: TaskTracker,
    /// What carries them.
    pub threads: Arc<Threads>,
    /// Cancelled when tunnels are ended that have not ended by themselves.
    pub end: CancellationToken,
    /// Changes with the network of this host.
    pub network: watch::Receiver<u64>,
}

/// Accepts connections until `stop` is cancelled. Cancel safe: open tunnels go on.
pub async fn serve(
    socket: TcpListener,
    service: watch::Receiver<Arc<Service>>,
    shared: Shared,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        let present = service.clone();
        let service = Arc::clone(&service.borrow());
        match accepted {
            Ok((stream, client)) => {
                // Its thread takes it over.
                let stream = stream.into_std();
                service.activity.accepted.fetch_add(1, Ordering::Relaxed);
                let shared_by_it = shared.clone();
                let task = async move {
                    let stream = match stream.and_then(TcpStream::from_std) {
                        Ok(stream) => ResetOnDrop::new(stream),
                        Err(error) => return cannot_accept(&service, &error),
                    };
                    let end = shared_by_it.end.clone();
                    tokio::select! {
                        () = end.cancelled() => {}
                        () = carry(stream, client, (&service, present), &shared_by_it) => {}
                    }
                };
                shared.threads.spawn(shared.tunnels.track_future(task));
            }
            Err(error) => {
                cannot_accept(&service, &error);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
}

fn cannot_accept(service: &Service, error: &io::Error) {
    let what = format!("accept a connection: {error}");
    let name = &service.listener.name;
    service.activity.failed(name, "accept", what, DESCRIPTORS);
}

/// Carries one connection, or refuses it with a reset. `present` is the service after reloads.
async fn carry(
    local: ResetOnDrop<TcpStream>,
    client: SocketAddr,
    (service, present): (&Service, watch::Receiver<Arc<Service>>),
    shared: &Shared,
) {
    let listener = &service.listener;
    let failed = |cause: &'static str, what: String, next: &'static str| {
        service.activity.failed(&listener.name, cause, what, next);
    };
    let _ = local.stream.set_nodelay(true);
    let server = match local.stream.local_addr() {
        Ok(server) => server,
        Err(error) => return cannot_accept(service, &error),
    };
    // With `route_localnet`, packets of other hosts may get here.
    if !client.ip().is_loopback() {
        let what = format!("carry a connection of {client}: it is no program of this host");
        return failed(
            "another-host",
            what,
            "find out why packets of other hosts reach loopback addresses of this one",
        );
    }
    let asks = listener.asks_for_users();
    let asked = asks.then(|| owner::of_connection(client, server));
    let user = match asked.transpose() {
        Ok(None) => None,
        // Another program may have the port by now: then this connection is gone.
        Ok(Some(Some(uid))) if listener.users.allow(uid) => {
            if local.stream.peer_addr().is_err() {
                return;
            }
            Some(uid)
        }
        Ok(Some(Some(uid))) => {
            let what = format!("carry a connection of the user with id {uid}");
            return failed(
                "user",
                what,
                "name the user in `users` of this listener if it may speak as this host",
            );
        }
        // Its program has gone already, so it is not known who made it.
        Ok(Some(None)) => return,
        Err(error) => {
            let what = format!("find the user of a connection: {error}");
            return failed(
                "owner",
                what,
                "check the memory and the file descriptors of this host",
            );
        }
    };
    // What was open before the configuration had this limit does not count: its users are not known.
    let _of_user = match user.filter(|_| listener.limits_users()) {
        None => None,
        Some(uid) => {
            let its = &service.activity.open_of_users;
            let Some(permit) = its.acquire(uid, listener.connections_per_user) else {
                let what = format!(
                    "take another connection of the user with id {uid}: it has as many as `connections_per_user` allows"
                );
                return failed(
                    "user-full",
                    what,
                    "find out which program of this user keeps its connections, or raise `connections_per_user` of this listener",
                );
            };
            Some(permit)
        }
    };
    let own = service.activity.open.acquire(listener.connections);
    let all = shared.open.acquire(service.all_connections);
    let (Some(_own), Some(_all)) = (own, all) else {
        let what = "take another connection: there are as many as `connections` allows".to_owned();
        return failed(
            "full",
            what,
            "raise `connections`, or find out which program keeps its connections",
        );
    };
    let attempt = || {
        // An earlier attempt may have failed because of what a reload has changed.
        let its = Arc::clone(&present.borrow());
        async move {
            match its.spares.take().await {
                Some(spare) => {
                    its.activity.spares_used.fetch_add(1, Ordering::Relaxed);
                    Ok(spare)
                }
                None => {
                    let made = its.route.open(&its.listener.sni).await;
                    if let Ok(made) = &made {
                        its.activity.handshake(made.get_ref().1.handshake_kind());
                    }
                    made
                }
            }
        }
    };
    let again = || {
        service.activity.retries.fetch_add(1, Ordering::Relaxed);
    };
    let (configuration, network) = (present.clone(), shared.network.clone());
    let open = retried(attempt, configuration, network, again, random_part);
    let opened = tokio::select! {
        opened = open => opened,
        // Its program does not wait any more.
        _ = local.stream.ready(Interest::ERROR) => return,
    };
    let plane = match opened {
        Ok(plane) => plane,
        Err(error) => {
            return failed(error.cause(), with_causes(&error), error.next());
        }
    };
    let all = (&service.activity.up, &service.activity.down);
    match relay(local, plane, all).await {
        Ok(()) => {}
        // Programs end connections as they like.
        Err(error @ RelayError::Local(_)) => {
            tracing::debug!("{}: {}", listener.name, with_causes(&error));
        }
        Err(error @ RelayError::Unanswered) => {
            let what = format!("carry a connection to its end: {error}");
            failed("no-answer", what, UNANSWERED);
        }
        Err(error @ RelayError::Silent) => {
            let what = format!("carry a connection to its end: {error}");
            failed(
                "silent",
                what,
                "find out why its program, or the service, does not end it",
            );
        }
        Err(RelayError::Plane(error)) => {
            let next = handshake(&error);
            let is_tls = error.get_ref().is_some_and(|its| its.is::<rustls::Error>());
            // With TLS 1.3, the plane refuses the certificate of this host only now.
            let cause = if is_tls { "refused" } else { "broken" };
            let what = format!("carry a connection to its end: {}", with_causes(&error));
            failed(cause, what, if is_tls { next } else { BROKEN });
        }
    }
}

/// An error with its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
