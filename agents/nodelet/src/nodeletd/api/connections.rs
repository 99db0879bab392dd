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
    use tokio::sync::mpsc;

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

    #[tokio::test(start_paused = true)]
    async fn idle_clients_use_few_connections_and_delay_no_other() {
        for longest in [Duration::from_secs(5), Duration::MAX] {
            let (knocks, streams) = mpsc::unbounded_channel();
            let accepted = Arc::new(AtomicUsize::new(0));
            let listener = SimulatedApi {
                streams,
                accepted: Arc::clone(&accepted),
            };
            let app = Router::new().route("/healthz", get(async || "ok"));
            let places = Arc::new(Semaphore::new(2));
            let end = CancellationToken::new();
            let serving = tokio::spawn(serve(listener, app, places, longest, end.clone()));
            let connect = || {
                let (ours, theirs) = tokio::io::duplex(1024);
                knocks.send(theirs).expect("it listens");
                ours
            };
            let silent: Vec<DuplexStream> = (0..20).map(|_| connect()).collect();
            let mut asking = connect();
            let asked = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
            asking.write_all(asked).await.expect("it is sent");
            let mut answer = String::new();
            let answered = asking.read_to_string(&mut answer);
            tokio::time::timeout(Duration::from_secs(1), answered)
                .await
                .expect("its turn comes at once")
                .expect("it is answered");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert_eq!(accepted.load(Ordering::Relaxed), 21);
            let mut open = 0;
            for mut one in silent {
                let ends = one.read_u8();
                let moment = Duration::from_millis(1);
                open += usize::from(tokio::time::timeout(moment, ends).await.is_err());
            }
            assert!(open <= 2, "{open}");
            end.cancel();
            serving.await.expect("it ends");
        }
    }
}
