//! The way to the plane over a simulated network, in which something breaks at each step of an attempt.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use comms::config::{IdentityFiles, Plane};
use comms::identity::Identity;
use comms::path::PathError;
use comms::path::dial::Dial;
use comms::path::proxy::{Proxies, ProxySettings};
use comms::path::retry::retried;
use comms::tunnel::PlaneRoute;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::io::{AsyncWriteExt as _, BufReader, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use turmoil::net::{TcpListener, TcpStream};

use crate::plane::{Authority, NAMES, acceptor};

const PORT: u16 = 443;
const PROXY_PORT: u16 = 3128;
/// What is broken is mended after this time.
const BROKEN: Duration = Duration::from_secs(1);
/// An attempt ends within this time: the time for further ones, and the last one with all its steps.
const LONGEST: Duration = Duration::from_secs(5 + 4 * 10);
/// A step of the simulation.
const TICK: Duration = Duration::from_millis(5);

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The host at the other end of the connection, or the proxy's, dies and comes back.
    Death(&'static str),
    /// What is sent between this host and the next one gets lost.
    Silence,
    /// The step itself fails: the lookup of a name, or a connection is reset.
    Failure,
}

/// The network of the simulation. Counts what happens on it, and tells when it is time for the fault.
#[derive(Clone, Default)]
struct Simulated {
    events: Arc<AtomicUsize>,
    /// The event at which something breaks.
    breaks_at: Option<usize>,
    /// That event fails, and nothing else breaks.
    fails: bool,
    /// Set with that event.
    breaks: Arc<tokio::sync::Notify>,
}

impl Simulated {
    /// Counts an event. An error of this kind if it fails.
    fn event(&self, kind: io::ErrorKind) -> io::Result<()> {
        if Some(self.events.fetch_add(1, Ordering::Relaxed)) != self.breaks_at {
            return Ok(());
        }
        if self.fails {
            return Err(kind.into());
        }
        self.breaks.notify_one();
        Ok(())
    }
}

impl Dial for Simulated {
    type Stream = Watched;

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.event(io::ErrorKind::NotFound)?;
        Ok(vec![SocketAddr::new(turmoil::lookup(host), port)])
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Watched> {
        self.event(io::ErrorKind::ConnectionRefused)?;
        let stream = TcpStream::connect(address).await?;
        self.event(io::ErrorKind::ConnectionReset)?;
        Ok(Watched {
            stream,
            network: self.clone(),
            is_reset: false,
        })
    }
}

/// A connection of which each part that is read or written is an event.
struct Watched {
    stream: TcpStream,
    network: Simulated,
    is_reset: bool,
}

impl Watched {
    fn event(&mut self) -> io::Result<()> {
        let kind = io::ErrorKind::ConnectionReset;
        let its = self.network.event(kind);
        self.is_reset |= its.is_err();
        match self.is_reset {
            true => Err(kind.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if let Err(error) = self.event() {
            buffer.set_filled(filled);
            return Poll::Ready(Err(error));
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.event()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The plane: sends back what it gets.
async fn plane(acceptor: TlsAcceptor) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            let (mut from, mut to) = tokio::io::split(stream);
            tokio::io::copy(&mut from, &mut to).await
        });
    }
}

/// The answer of the proxy.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
/// What it says to its first client in place of that. Then it ends the connection.
type Spoilt = Arc<Mutex<Option<Vec<u8>>>>;

/// A proxy. If it does not reach the plane, it says so.
async fn proxy(spoilt: Spoilt) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PROXY_PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let spoilt = Arc::clone(&spoilt);
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                if stream.read_line(&mut line).await? == 0 {
                    return Ok(());
                }
            }
            let spoilt = spoilt.lock().expect("no other thread").take();
            if let Some(spoilt) = spoilt {
                stream.write_all(&spoilt).await?;
                return stream.shutdown().await;
            }
            let Ok(mut plane) = TcpStream::connect(("plane", PORT)).await else {
                return stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
            };
            stream.write_all(ANSWER).await?;
            tokio::io::copy_bidirectional(&mut stream, &mut plane).await?;
            io::Result::Ok(())
        });
    }
}

/// The authority of a plane, and a host that it knows.
struct Enrolled {
    _directory: TempDir,
    acceptor: TlsAcceptor,
    tls: Arc<rustls::ClientConfig>,
}

impl Enrolled {
    fn new() -> Self {
        let authority = Authority::new();
        let directory = tempfile::tempdir().expect("a directory");
        let (certificate, key) = authority.issue("host-1", &[]);
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("it is written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, mode).expect("its mode is set");
            path
        };
        let files = IdentityFiles {
            certificate: write("host.crt", &certificate),
            key: write("host.key", &key),
            roots: write("roots.crt", &authority.root()),
        };
        let identity = Identity::read(&files, SystemTime::now()).expect("it is right");
        Self {
            acceptor: acceptor(&authority, authority.issue("plane", NAMES)),
            tls: identity.tls,
            _directory: directory,
        }
    }

    fn route(&self, through_proxy: bool) -> PlaneRoute {
        let url = match through_proxy {
            true => format!("http://proxy:{PROXY_PORT}"),
            false => "none".to_owned(),
        };
        let settings = ProxySettings {
            url: Some(url),
            ..ProxySettings::default()
        };
        PlaneRoute {
            plane: Plane {
                host: "plane".to_owned(),
                port: PORT,
            },
            proxies: Proxies::new(&settings).expect("they are right"),
            tls: Arc::clone(&self.tls),
        }
    }

    fn network(&self) -> turmoil::Sim<'static> {
        self.network_with(Spoilt::default())
    }

    fn network_with(&self, spoilt: Spoilt) -> turmoil::Sim<'static> {
        let mut sim = turmoil::Builder::new()
            .tick_duration(TICK)
            .max_message_latency(TICK)
            .simulation_duration(Duration::from_secs(600))
            .rng_seed(7)
            .build();
        let its = self.acceptor.clone();
        sim.host("plane", move || plane(its.clone()));
        sim.host("proxy", move || proxy(Arc::clone(&spoilt)));
        sim
    }
}

/// How an attempt went.
#[derive(Debug)]
struct Attempt {
    error: Option<PathError>,
    took: Duration,
    again: usize,
    /// Whether bytes went there and back afterwards.
    carries: bool,
}

/// Makes attempts until one succeeds, as a listener does, and lets the plane send a few bytes back.
async fn attempt(
    route: &PlaneRoute,
    network: &Simulated,
    changes: watch::Receiver<u64>,
) -> Attempt {
    let sni = ServerName::try_from(NAMES[0]).expect("a name");
    let (again, began) = (AtomicUsize::new(0), Instant::now());
    let (_kept, configuration) = watch::channel(());
    let open = || route.open_over(network, &sni);
    let count = || {
        again.fetch_add(1, Ordering::Relaxed);
    };
    // The same in each run, so that one that fails can be repeated.
    let mut parts = [0.9, 0.5, 0.7, 0.6, 0.8].into_iter().cycle();
    let part = || parts.next().unwrap_or(0.5);
    let opened = retried(open, configuration, changes, count, part).await;
    let took = began.elapsed();
    let again = again.load(Ordering::Relaxed);
    let mut carries = false;
    let error = match opened {
        Err(error) => Some(error),
        Ok(mut stream) => {
            let exchanged = async {
                stream.write_all(b"ping").await?;
                let mut back = [0; 4];
                stream.read_exact(&mut back).await?;
                io::Result::Ok(back)
            };
            let exchanged = tokio::time::timeout(LONGEST, exchanged).await;
            if let Ok(Ok(back)) = exchanged {
                assert_eq!(&back, b"ping");
                carries = true;
            }
            None
        }
    };
    Attempt {
        error,
        took,
        again,
        carries,
    }
}

/// Makes an attempt in which something breaks at an event, and another one when all is well again. Gives the first one, and how many events there were.
fn broken_at(
    enrolled: &Enrolled,
    through_proxy: bool,
    fault: Fault,
    event: Option<usize>,
) -> (Attempt, usize) {
    let network = Simulated {
        breaks_at: event,
        fails: fault == Fault::Failure,
        ..Simulated::default()
    };
    let route = enrolled.route(through_proxy);
    let mut sim = enrolled.network();
    let (sender, mut outcome) = tokio::sync::mpsc::unbounded_channel();
    let (breaks, its) = (Arc::clone(&network.breaks), network.clone());
    let next = if through_proxy { "proxy" } else { "plane" };
    sim.client("host", async move {
        let (_kept, changes) = watch::channel(0);
        let attempting = attempt(&route, &its, changes.clone());
        let silence = async {
            its.breaks.notified().await;
            turmoil::partition("host", next);
            tokio::time::sleep(BROKEN).await;
            turmoil::repair("host", next);
            std::future::pending::<()>().await;
        };
        let first = match fault {
            Fault::Death(_) | Fault::Failure => attempting.await,
            Fault::Silence => {
                tokio::select! { done = attempting => done, () = silence => unreachable!() }
            }
        };
        let events = its.events.load(Ordering::Relaxed);
        turmoil::repair("host", next);
        tokio::time::sleep(BROKEN * 2).await;
        let second = attempt(&route, &Simulated::default(), changes).await;
        assert!(second.carries && second.again == 0, "{second:?}");
        let _ = sender.send((first, events));
        Ok(())
    });
    let mut comes_back = None;
    loop {
        let done = sim.step().expect("no program of the simulation fails");
        let now = sim.elapsed();
        if let Fault::Death(of) = fault {
            // A permit is there from the event on.
            let is_due = std::pin::pin!(breaks.notified()).enable();
            if is_due {
                sim.crash(of);
                comes_back = Some(now + BROKEN);
            }
            if comes_back.is_some_and(|at| at <= now) {
                sim.bounce(of);
                comes_back = None;
            }
        }
        if done {
            return outcome.try_recv().expect("it has ended");
        }
    }
}

#[test]
fn what_breaks_at_any_step_is_waited_out_or_named() {
    let enrolled = Enrolled::new();
    for (through_proxy, faults) in [
        (
            false,
            &[Fault::Death("plane"), Fault::Silence, Fault::Failure][..],
        ),
        (
            true,
            &[
                Fault::Death("plane"),
                Fault::Death("proxy"),
                Fault::Silence,
                Fault::Failure,
            ],
        ),
    ] {
        for &fault in faults {
            let (well, events) = broken_at(&enrolled, through_proxy, fault, None);
            assert!(well.carries && well.again == 0, "{well:?}");
            assert!(events > 6, "{events}");
            for event in 0..events {
                let (broken, _) = broken_at(&enrolled, through_proxy, fault, Some(event));
                let at = format!("{fault:?} at {event} of {events}, {through_proxy}: {broken:?}");
                assert!(broken.took <= LONGEST, "{at}");
                match (&fault, &broken.error) {
                    // It is back before the attempts end.
                    (Fault::Death(_), error) => assert!(error.is_none(), "{at}"),
                    // The next attempt succeeds. What breaks later is no matter of attempts.
                    (Fault::Failure, error) => {
                        assert!(error.is_none() && broken.again <= 1, "{at}");
                        assert!(broken.carries || broken.again == 0, "{at}");
                    }
                    (Fault::Silence, None) => {}
                    (Fault::Silence, Some(PathError::Timeout { what, .. })) => {
                        let names = ["connect to ", "through proxy", "TLS handshake"];
                        assert!(names.iter().any(|name| what.contains(name)), "{at}");
                    }
                    (Fault::Silence, Some(_)) => panic!("{at}"),
                }
            }
        }
    }
}

/// An attempt through a proxy that says this to its first client.
fn spoilt_by(enrolled: &Enrolled, answer: Vec<u8>) -> Attempt {
    let mut sim = enrolled.network_with(Arc::new(Mutex::new(Some(answer))));
    let route = enrolled.route(true);
    let (sender, mut outcome) = tokio::sync::mpsc::unbounded_channel();
    sim.client("host", async move {
        let (_kept, changes) = watch::channel(0);
        let made = attempt(&route, &Simulated::default(), changes).await;
        let _ = sender.send(made);
        Ok(())
    });
    sim.run().expect("no program of the simulation fails");
    outcome.try_recv().expect("it has ended")
}

#[test]
fn a_proxy_with_half_an_answer_is_asked_again_and_one_with_a_wrong_answer_is_named() {
    let enrolled = Enrolled::new();
    for at in 0..ANSWER.len() {
        let half = spoilt_by(&enrolled, ANSWER[..at].to_vec());
        assert!(half.carries && half.again == 1, "{at}: {half:?}");
        let mut wrong = ANSWER.to_vec();
        wrong[at] = 0;
        let wrong = spoilt_by(&enrolled, wrong);
        let Some(PathError::Proxy { problem, .. }) = &wrong.error else {
            panic!("{at}: {wrong:?}")
        };
        assert!(problem.contains("no HTTP"), "{at}: {wrong:?}");
        assert_eq!(wrong.again, 0, "{at}: {wrong:?}");
    }
}

#[test]
fn a_change_of_the_network_ends_a_pause() {
    let enrolled = Enrolled::new();
    let route = enrolled.route(false);
    // At any moment of a pause.
    for tenths in 10..20 {
        let back = Duration::from_millis(100) * tenths;
        let mut sim = enrolled.network();
        let (told, changes) = watch::channel(0);
        let route = route.clone();
        sim.client("host", async move {
            let made = attempt(&route, &Simulated::default(), changes).await;
            assert!(made.carries, "{made:?}");
            assert!(made.again > 0, "{made:?}");
            assert!(made.took < back + BROKEN / 5, "{made:?}");
            Ok(())
        });
        sim.crash("plane");
        let mut is_back = false;
        while !sim.step().expect("no program of the simulation fails") {
            if !is_back && sim.elapsed() >= back {
                sim.bounce("plane");
                // It listens one step later.
                sim.step().expect("no program of the simulation fails");
                told.send_replace(1);
                is_back = true;
            }
        }
    }
}
