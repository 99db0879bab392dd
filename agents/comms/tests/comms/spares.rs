//! The spare connections of a listener alone. The test says when the network has changed, and the clock stands still until the test moves it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use comms::activity::Activity;
use comms::spares::{MOST, Spares};
use rustls_pki_types::ServerName;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::advance;

use crate::plane::{Authority, NAMES, Plane};
use crate::tunnels::Host;

/// Time of the machine for what happens without a move of the clock.
const LIMIT: Duration = Duration::from_secs(20);
/// Within so long, it is looked which spare connections are to be replaced.
const LOOKS: Duration = Duration::from_secs(2);

/// As long as this lives, the clock moves with `advance` only. Otherwise tokio moves a paused clock while the runtime waits for a socket, but not while a blocking
/// task runs.
fn clock_stands_still() -> mpsc::Sender<()> {
    let (stands_still, ended) = mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || ended.recv());
    stands_still
}

/// Waits until this holds.
async fn until(holds: impl Fn() -> bool, what: &str) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "{what}");
        tokio::task::yield_now().await;
    }
}

/// The spare connections of a listener, and the network of its host.
struct Kept {
    spares: Arc<Spares>,
    activity: Arc<Activity>,
    network: watch::Sender<u64>,
}

impl Kept {
    /// Those of a listener that is in use.
    async fn new(authority: &Authority, plane: SocketAddr) -> Self {
        let route = Host::new(authority, authority).await.route(plane);
        let sni = ServerName::try_from(NAMES[0]).expect("a name");
        let activity = Arc::<Activity>::default();
        let (network, changes) = watch::channel(0);
        let spares = Spares::new(Arc::new(route), sni, Arc::clone(&activity), changes);
        for _ in 0..2 {
            assert!(spares.take().await.is_none(), "there are none yet");
        }
        Self {
            spares,
            activity,
            network,
        }
    }

    /// How many connections to the plane were made.
    fn made(&self) -> u64 {
        let its = self.activity.report();
        its.full_handshakes + its.resumed_sessions
    }

    /// Waits until all are ready.
    async fn are_ready(&self) {
        until(|| self.spares.count() == MOST, "they are ready").await;
    }

    fn change_the_network(&self) {
        self.network.send_modify(|count| *count += 1);
    }
}

/// A plane and a listener in use, with all its spare connections. The clock has to stand still.
async fn with_spares_ready() -> (Plane, Kept) {
    let authority = Authority::new();
    let plane = Plane::start(&authority).await;
    let kept = Kept::new(&authority, plane.address).await;
    kept.are_ready().await;
    (plane, kept)
}

#[tokio::test(start_paused = true)]
async fn a_spare_connection_from_before_a_change_of_the_network_is_not_used() {
    let _still = clock_stands_still();
    let (_plane, kept) = with_spares_ready().await;
    assert!(kept.spares.take().await.is_some(), "nothing has changed");
    kept.change_the_network();
    assert!(kept.spares.take().await.is_none(), "its path may be gone");
    advance(LOOKS).await;
    kept.are_ready().await;
    assert!(kept.spares.take().await.is_some(), "it is a new one");
}

#[tokio::test(start_paused = true)]
async fn spare_connections_are_replaced_after_a_change_of_the_network() {
    let _still = clock_stands_still();
    let (plane, kept) = with_spares_ready().await;
    let before = kept.made();
    kept.change_the_network();
    advance(LOOKS).await;
    let are_replaced = || kept.made() == before + MOST as u64 && plane.open.len() == MOST;
    until(are_replaced, "others are there, and these have ended").await;
    assert!(kept.spares.take().await.is_some(), "it is a new one");
}

#[tokio::test(start_paused = true)]
async fn a_spare_connection_that_is_taken_is_replaced_at_once() {
    let _still = clock_stands_still();
    let (_plane, kept) = with_spares_ready().await;
    for _ in 0..5 {
        kept.are_ready().await;
        assert!(kept.spares.take().await.is_some(), "they are ready");
    }
    kept.are_ready().await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert_eq!(kept.spares.count(), MOST, "there are no more");
    }
    assert_eq!(kept.made(), 5 + MOST as u64);
}

#[tokio::test(start_paused = true)]
async fn a_plane_that_breaks_off_is_asked_for_spare_connections_with_growing_pauses() {
    let _still = clock_stands_still();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("its address");
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    let kept = Kept::new(&Authority::new(), address).await;
    until(|| asked.load(Ordering::SeqCst) == 1, "it is asked").await;
    for (times, pause) in [(2, 500), (3, 1000), (4, 2000)] {
        let (began, limit) = (tokio::time::Instant::now(), Instant::now());
        while asked.load(Ordering::SeqCst) < times {
            assert!(limit.elapsed() < LIMIT, "it is asked again");
            assert!(kept.spares.take().await.is_none(), "there is none");
            advance(Duration::from_millis(10)).await;
        }
        let waited = began.elapsed();
        assert!(
            waited >= Duration::from_millis(pause),
            "{times}: {waited:?}"
        );
    }
}
