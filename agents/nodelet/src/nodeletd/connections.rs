//! Connections to the local API: a few at a time, and none is held for nothing. Whoever opens many of them waits, and takes no
//! descriptor that a pass or a change needs.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Within it a request has to come.
const HEADER: Duration = Duration::from_secs(10);

/// Takes connections for `app` until `end` is cancelled, as many at a time as there are `places`, each for one request and `longest`
/// at most. Those that are there go on after the end.
pub(super) async fn serve<L: Listener>(
    mut listener: L,
    app: Router,
    places: Arc<Semaphore>,
    longest: Duration,
    end: CancellationToken,
) {
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            let (stream, _) = listener.accept().await;
            (place, stream)
        };
        let (place, stream) = tokio::select! {
            () = end.cancelled() => return,
            next = next => next,
        };
        let app = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), app);
            // Who goes away, or takes too long, is no news.
            let _ = tokio::time::timeout(longest, serving).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::sync::mpsc;

    use super::*;

    /// Gives the streams that it is sent, and counts them.
    struct Played {
        streams: mpsc::UnboundedReceiver<DuplexStream>,
        accepted: Arc<AtomicUsize>,
    }

    impl Listener for Played {
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
    async fn many_that_say_nothing_take_few_places_and_nobodys_turn() {
        for longest in [Duration::from_secs(5), Duration::MAX] {
            let (knocks, streams) = mpsc::unbounded_channel();
            let accepted = Arc::new(AtomicUsize::new(0));
            let listener = Played {
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
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(accepted.load(Ordering::Relaxed), 2);
            let mut answer = String::new();
            let answered = asking.read_to_string(&mut answer);
            tokio::time::timeout(Duration::from_secs(300), answered)
                .await
                .expect("its turn comes")
                .expect("it is answered");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            drop(silent);
            end.cancel();
            serving.await.expect("it ends");
        }
    }
}
