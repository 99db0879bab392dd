//! Connections to the local API: a limited number at a time. A client that opens many of them has to wait, and takes no descriptor that a
//! pass or a change needs. If all places are taken, the oldest connection without a request is closed, so that silent connections do not
//! keep other clients from being answered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Time within which a request has to come.
const HEADER: Duration = Duration::from_secs(10);

/// Takes connections for `app` until `end` is cancelled: as many at a time as there are `places`, each for one request and for `longest`
/// at most. Open connections go on after that.
pub(in crate::nodeletd) async fn serve<L: Listener>(
    mut listener: L,
    app: Router,
    places: Arc<Semaphore>,
    longest: Duration,
    end: CancellationToken,
) {
    let mut silent: VecDeque<IdleConnection> = VecDeque::new();
    loop {
        let next = async {
            let (stream, _) = listener.accept().await;
            silent.retain(IdleConnection::is_one);
            if places.available_permits() == 0
                && let Some(oldest) = silent.pop_front()
            {
                oldest.close.cancel();
            }
            let place = Arc::clone(&places).acquire_owned().await;
            (place, stream)
        };
        let (place, stream) = tokio::select! {
            () = end.cancelled() => return,
            next = next => next,
        };
        let app = TowerToHyperService::new(app.clone());
        let its = IdleConnection::default();
        silent.push_back(its.clone());
        tokio::spawn(async move {
            let has_requested = Arc::clone(&its.has_requested);
            let app = service_fn(move |request| {
                has_requested.store(true, Ordering::Relaxed);
                app.call(request)
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), app);
            // A client that disconnects or takes too long is not logged.
            tokio::select! {
                () = its.close.cancelled() => {}
                _ = tokio::time::timeout(longest, serving) => {}
            }
            its.has_requested.store(true, Ordering::Relaxed);
            drop(place);
        });
    }
}

/// A connection that may not have asked for anything yet.
#[derive(Debug, Clone, Default)]
struct IdleConnection {
    /// It has sent a request, or is closed.
    has_requested: Arc<AtomicBool>,
    close: CancellationToken,
}

impl IdleConnection {
    fn is_one(&self) -> bool {
        !self.has_requested.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::AtomicUsize;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::sync::{Notify, mpsc};
    use tokio::task::JoinHandle;

    use super::*;

    /// A listener that accepts the streams sent to it, and counts them.
    struct SimulatedApi {
        streams: mpsc::UnboundedReceiver<DuplexStream>,
        accepted: Arc<AtomicUsize>,
    }

    impl Listener for SimulatedApi {
        type Io = DuplexStream;
        type Addr = ();

        async fn accept(&mut self) -> (DuplexStream, ()) {
            match self.streams.recv().await {
                Some(stream) => {
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                    (stream, ())
                }
                None => std::future::pending().await,
            }
        }

        fn local_addr(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An API that serves the connections of [`Served::connect`].
    struct Served {
        knocks: mpsc::UnboundedSender<DuplexStream>,
        accepted: Arc<AtomicUsize>,
        end: CancellationToken,
        serving: JoinHandle<()>,
    }

    impl Served {
        fn new(app: Router, places: usize, longest: Duration) -> Self {
            let (knocks, streams) = mpsc::unbounded_channel();
            let accepted = Arc::new(AtomicUsize::new(0));
            let listener = SimulatedApi {
                streams,
                accepted: Arc::clone(&accepted),
            };
            let places = Arc::new(Semaphore::new(places));
            let end = CancellationToken::new();
            let serving = tokio::spawn(serve(listener, app, places, longest, end.clone()));
            Self {
                knocks,
                accepted,
                end,
                serving,
            }
        }

        fn connect(&self) -> DuplexStream {
            let (ours, theirs) = tokio::io::duplex(1024);
            self.knocks.send(theirs).expect("it listens");
            ours
        }

        async fn ask(&self, path: &str) -> DuplexStream {
            let mut asking = self.connect();
            let asked = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            let sent = asking.write_all(asked.as_bytes()).await;
            sent.expect("it is sent");
            asking
        }

        async fn finish(self) {
            self.end.cancel();
            self.serving.await.expect("it ends");
        }
    }

    /// All that comes before the connection is closed.
    async fn answer(asking: &mut DuplexStream, within: Duration) -> String {
        let mut answer = String::new();
        tokio::time::timeout(within, asking.read_to_string(&mut answer))
            .await
            .expect("the connection is closed in time")
            .expect("the answer is text");
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_keeps_its_connection_until_its_time_is_up() {
        const LONGEST: Duration = Duration::from_secs(60);
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begins, goes) = (Arc::clone(&begun), Arc::clone(&go));
        let slow = move || {
            let (begins, goes) = (Arc::clone(&begins), Arc::clone(&goes));
            async move {
                begins.notify_one();
                goes.notified().await;
                "done"
            }
        };
        let app = Router::new().route("/slow", get(slow));
        let served = Served::new(app, 1, LONGEST);
        let mut busy = served.ask("/slow").await;
        begun.notified().await;
        // It waits for the only place. The time is paused: it moves on when the server has nothing else to do.
        let mut next = served.ask("/slow").await;
        let closed = tokio::time::timeout(LONGEST / 2, busy.read_u8()).await;
        assert!(closed.is_err(), "closed during its request: {closed:?}");
        assert_eq!(served.accepted.load(Ordering::Relaxed), 2);
        go.notify_one();
        let answered = answer(&mut busy, LONGEST).await;
        assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
        // This request has no end.
        assert_eq!(answer(&mut next, 2 * LONGEST).await, "");
        served.finish().await;
    }

    #[tokio::test(start_paused = true)]
    async fn idle_clients_use_few_connections_and_delay_no_other() {
        for longest in [Duration::from_secs(5), Duration::MAX] {
            let app = Router::new().route("/healthz", get(async || "ok"));
            let served = Served::new(app, 2, longest);
            let silent: Vec<DuplexStream> = (0..20).map(|_| served.connect()).collect();
            let mut asking = served.ask("/healthz").await;
            // Its turn comes at once.
            let answered = answer(&mut asking, Duration::from_secs(1)).await;
            assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
            assert_eq!(served.accepted.load(Ordering::Relaxed), 21);
            let mut open = 0;
            for mut one in silent {
                let ends = one.read_u8();
                let moment = Duration::from_millis(1);
                open += usize::from(tokio::time::timeout(moment, ends).await.is_err());
            }
            assert!(open <= 2, "{open}");
            served.finish().await;
        }
    }
}
