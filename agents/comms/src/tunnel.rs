//! One connection to the plane, and the bytes between it and a local program.

mod buffer;
mod read_ahead;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Plane;
use crate::path::PathError;
use crate::path::connect::{ANSWER, authority, reach};
use crate::path::dial::{Dial, Kernel};
use crate::path::proxy::Proxies;

pub use read_ahead::ReadAhead;

/// A TLS connection to the plane.
pub type PlaneStream<S = TcpStream> = TlsStream<ReadAhead<S>>;

/// When the plane takes no more, what a local program still sends is discarded until the answer has ended, and for so long afterwards: the program may
/// read the answer only after its request.
const DISCARDS: Duration = Duration::from_secs(10);
/// When one direction has ended, the other one may be silent for so long.
const HALF_CLOSED: Duration = Duration::from_secs(600);

/// How the plane is reached, for all listeners.
#[derive(Debug, Clone)]
pub struct PlaneRoute {
    /// The management plane.
    pub plane: Plane,
    /// The proxies before it.
    pub proxies: Proxies,
    /// The configuration of TLS.
    pub tls: Arc<ClientConfig>,
}

impl PlaneRoute {
    /// Opens a connection to the service with this server name. Cancel safe.
    ///
    /// # Errors
    /// The plane cannot be reached, or its certificate or this host's is refused. With TLS 1.3, the plane judges this host's certificate later: then
    /// the first read fails ([`RelayError::Plane`]).
    pub async fn open(&self, sni: &ServerName<'static>) -> Result<PlaneStream, PathError> {
        self.open_over(&Kernel, sni).await
    }

    /// The same over another network.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_over<D: Dial>(
        &self,
        dial: &D,
        sni: &ServerName<'static>,
    ) -> Result<PlaneStream<D::Stream>, PathError> {
        let Plane { host, port } = &self.plane;
        let stream = reach(dial, host, *port, self.proxies.to(host)).await?;
        let target = authority(host, *port);
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        match timeout(
            ANSWER,
            connector.connect(sni.clone(), ReadAhead::new(stream)),
        )
        .await
        {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(PathError::Handshake {
                target,
                sni: sni.to_str().into_owned(),
                source,
            }),
            Err(_) => Err(PathError::Timeout {
                what: format!(
                    "complete the TLS handshake with {target} for {}",
                    sni.to_str()
                ),
                seconds: ANSWER.as_secs(),
            }),
        }
    }
}

/// Why a tunnel did not come to its end.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The local program has gone.
    #[error("the local connection broke")]
    Local(#[source] io::Error),
    /// The plane, or something on the way, has gone.
    #[error("the connection to the plane broke")]
    Plane(#[source] io::Error),
    /// One direction has ended, and nothing comes in the other one.
    #[error("one direction has ended, and the other one was silent for {} s", HALF_CLOSED.as_secs())]
    Silent,
}

/// Passes bytes on in both directions until both have ended, and counts them. The end of one direction is passed on, while the other one goes on. If a side
/// breaks, the other side is reset: it must not take what has arrived for everything. A plane that takes no more may still answer: its answer is
/// passed on to its end.
///
/// # Errors
/// A side broke, or is silent after the other one has ended.
///
/// # Cancel safety
/// Both connections are reset.
pub async fn relay(
    mut local: ResetOnDrop<TcpStream>,
    plane: PlaneStream,
    (all_up, all_down): (&AtomicU64, &AtomicU64),
) -> Result<(), RelayError> {
    let mut plane = ResetOnDrop::new(plane);
    let (up, down) = (Meter::new(all_up), Meter::new(all_down));
    let answered = {
        let (mut from_local, mut to_local) = local.stream.split();
        let (mut from_plane, mut to_plane) = tokio::io::split(&mut plane.stream);
        let local = (&mut from_local, &mut to_local);
        carry(local, (&mut from_plane, &mut to_plane), &up, &down).await?
    };
    local.has_ended = true;
    plane.has_ended = answered;
    Ok(())
}

/// Counts the bytes of one direction of a tunnel, and those of all tunnels.
struct Meter<'a> {
    own: AtomicU64,
    all: &'a AtomicU64,
}

impl<'a> Meter<'a> {
    fn new(all: &'a AtomicU64) -> Self {
        Self {
            own: AtomicU64::new(0),
            all,
        }
    }

    fn add(&self, bytes: usize) {
        self.own.fetch_add(bytes as u64, Ordering::Relaxed);
        self.all.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }
}

impl RelayError {
    /// What an error is after the local program has ended its direction: HAProxy ends such a connection of HTTP without a word of TLS. The program is told by a reset, if it still
    /// waits for something.
    fn after_the_local_end(self) -> Self {
        match self {
            Self::Plane(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Local(error)
            }
            other => other,
        }
    }
}

/// Carries both directions. Returns whether the plane took everything.
async fn carry(
    (from_local, to_local): (
        &mut (impl AsyncRead + Unpin),
        &mut (impl AsyncWrite + Unpin),
    ),
    (from_plane, to_plane): (
        &mut (impl AsyncRead + Unpin),
        &mut (impl AsyncWrite + Unpin),
    ),
    up: &Meter<'_>,
    down: &Meter<'_>,
) -> Result<bool, RelayError> {
    let answer_ended = Notify::new();
    let upward = async {
        match pump(from_local, to_plane, up).await {
            Ok(()) => Ok(true),
            Err(PumpError::Read(error)) => Err(RelayError::Local(error)),
            Err(PumpError::Write(_)) => {
                let long_enough = async {
                    answer_ended.notified().await;
                    tokio::time::sleep(DISCARDS).await;
                };
                tokio::select! {
                    () = discard(from_local) => {}
                    () = long_enough => {}
                }
                Ok(false)
            }
        }
    };
    let downward = async {
        match pump(from_plane, to_local, down).await {
            Ok(()) => {
                answer_ended.notify_one();
                Ok(())
            }
            Err(PumpError::Read(error)) => Err(RelayError::Plane(error)),
            Err(PumpError::Write(error)) => Err(RelayError::Local(error)),
        }
    };
    let progress = || up.count() + down.count();
    both(upward, downward, progress).await
}

/// Runs both directions until both have ended or one has failed. After the end of one, the other one has to make progress. Returns what the first one
/// returns.
async fn both<T>(
    first: impl Future<Output = Result<T, RelayError>>,
    second: impl Future<Output = Result<(), RelayError>>,
    progress: impl Fn() -> u64,
) -> Result<T, RelayError> {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    tokio::select! {
        ended = &mut first => {
            let ended = ended?;
            while_it_makes_progress(second, progress)
                .await
                .map_err(RelayError::after_the_local_end)?;
            Ok(ended)
        }
        ended = &mut second => {
            ended?;
            while_it_makes_progress(first, progress).await
        }
    }
}

async fn while_it_makes_progress<T>(
    mut direction: impl Future<Output = Result<T, RelayError>> + Unpin,
    progress: impl Fn() -> u64,
) -> Result<T, RelayError> {
    loop {
        let before = progress();
        match timeout(HALF_CLOSED, &mut direction).await {
            Ok(ended) => return ended,
            Err(_) if progress() == before => return Err(RelayError::Silent),
            Err(_) => {}
        }
    }
}

/// A connection that is reset when it is dropped, unless it has come to its end (`SO_LINGER` of zero, socket(7)).
#[derive(Debug)]
pub struct ResetOnDrop<S: Socket> {
    pub(crate) stream: S,
    has_ended: bool,
}

impl<S: Socket> ResetOnDrop<S> {
    /// A connection that has not come to its end.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            has_ended: false,
        }
    }
}

impl<S: Socket> Drop for ResetOnDrop<S> {
    fn drop(&mut self) {
        if !self.has_ended {
            // If that fails, it ends in the usual way.
            let _ = SockRef::from(self.stream.socket()).set_linger(Some(Duration::ZERO));
        }
    }
}

/// What is a TCP connection below.
pub trait Socket {
    /// That connection.
    fn socket(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Socket for PlaneStream {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0.stream()
    }
}

/// After so many bytes, other tunnels have their turn.
const TURN: usize = 512 * 1024;

/// Why one direction did not come to its end.
enum PumpError {
    Read(io::Error),
    Write(io::Error),
}

/// Passes on what is read, and the end of it, and counts the bytes.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    meter: &Meter<'_>,
) -> Result<(), PumpError> {
    let mut carried = 0;
    loop {
        let read = buffer::read(from).await.map_err(PumpError::Read)?;
        let bytes = read.buffer.filled();
        if bytes.is_empty() {
            return to.shutdown().await.map_err(PumpError::Write);
        }
        let written = async {
            to.write_all(bytes).await?;
            // What TLS has encrypted may still wait in memory.
            to.flush().await
        }
        .await;
        if let Some(error) = read.error {
            return Err(PumpError::Read(error));
        }
        written.map_err(PumpError::Write)?;
        meter.add(bytes.len());
        carried += bytes.len();
        if carried >= TURN {
            carried = 0;
            drop(read.buffer);
            tokio::task::yield_now().await;
        }
    }
}

/// Reads until the end or an error.
async fn discard(from: &mut (impl AsyncRead + Unpin)) {
    while let Ok(read) = buffer::read(from).await {
        if read.buffer.filled().is_empty() || read.error.is_some() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncReadExt as _, ReadBuf, duplex, split};

    use super::*;

    /// A connection that takes no more, or gives no more.
    struct Broken;

    fn broken<T>() -> Poll<io::Result<T>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    impl AsyncWrite for Broken {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            broken()
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            broken()
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            broken()
        }
    }

    impl AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            broken()
        }
    }

    /// Gives bytes, breaks once, and then has nothing more: as the kernel does with a connection that was reset.
    struct BreaksOnce(Vec<io::Result<&'static [u8]>>);

    impl AsyncRead for BreaksOnce {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let next = self.0.pop();
            Poll::Ready(next.unwrap_or(Ok(&[])).map(|bytes| into.put_slice(bytes)))
        }
    }

    #[tokio::test]
    async fn what_was_broken_off_after_some_bytes_is_not_ended() {
        let reset = || Err(io::ErrorKind::ConnectionReset.into());
        let mut from = BreaksOnce(vec![reset(), Ok(b"half")]);
        let (mut to, mut seen) = duplex(100);
        let all = AtomicU64::new(0);
        let ended = pump(&mut from, &mut to, &Meter::new(&all)).await;
        assert!(matches!(ended, Err(PumpError::Read(_))));
        let mut bytes = [0; 4];
        seen.read_exact(&mut bytes)
            .await
            .expect("they were passed on");
        assert_eq!(&bytes, b"half");
        // The other side would take an end for the end of the request.
        let mut rest = [0; 1];
        let end = poll_fn(|context| {
            let mut rest = ReadBuf::new(&mut rest);
            Poll::Ready(Pin::new(&mut seen).poll_read(context, &mut rest).is_ready())
        });
        assert!(!end.await, "its end was passed on");
    }

    /// A service may refuse a long request before its end.
    #[tokio::test]
    async fn an_answer_arrives_as_a_whole_although_the_plane_takes_no_more() {
        let (mut program, local) = duplex(1000);
        let (mut from_local, mut to_local) = split(local);
        let answer = vec![b'a'; 300_000];
        let all = AtomicU64::new(0);
        let (up, down) = (Meter::new(&all), Meter::new(&all));
        let mut from_plane = &answer[..];
        let mut to_plane = Broken;
        let carried = async {
            let local = (&mut from_local, &mut to_local);
            let answered = carry(local, (&mut from_plane, &mut to_plane), &up, &down).await;
            answered.expect("it comes to its end")
        };
        let works = async {
            program
                .write_all(&[b'r'; 100_000])
                .await
                .expect("it is taken");
            program.shutdown().await.expect("it ends");
            let mut read = Vec::new();
            program.read_to_end(&mut read).await.expect("it is whole");
            read.len()
        };
        let (took_all, read) = tokio::join!(carried, works);
        assert_eq!((took_all, read), (false, 300_000));
        assert_eq!(down.count(), 300_000);
    }

    /// Its program must not go on to send what goes nowhere.
    #[tokio::test(start_paused = true)]
    async fn what_is_sent_after_the_end_of_the_answer_is_discarded_for_seconds_only() {
        let (mut program, local) = duplex(10);
        let (mut from_local, mut to_local) = split(local);
        let all = AtomicU64::new(0);
        let (up, down) = (Meter::new(&all), Meter::new(&all));
        let mut from_plane = &b"no"[..];
        let carried = async {
            let local = (&mut from_local, &mut to_local);
            carry(local, (&mut from_plane, &mut Broken), &up, &down).await
        };
        let sends = async {
            loop {
                let _ = program.write_all(b"more").await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let began = tokio::time::Instant::now();
        let took_all = tokio::select! {
            carried = carried => carried.expect("it ends"),
            () = sends => false,
        };
        assert!(!took_all);
        assert_eq!(began.elapsed().as_secs(), DISCARDS.as_secs());
    }

    #[tokio::test]
    async fn a_side_that_breaks_ends_both_directions() {
        let all = AtomicU64::new(0);
        let (up, down) = (Meter::new(&all), Meter::new(&all));
        let (_program, local) = duplex(1000);
        let (mut from_local, mut to_local) = split(local);
        let local = (&mut from_local, &mut to_local);
        let carried = carry(local, (&mut Broken, &mut Vec::new()), &up, &down).await;
        assert!(matches!(carried, Err(RelayError::Plane(_))), "{carried:?}");
        let (_service, plane) = duplex(1000);
        let (mut from_plane, mut to_plane) = split(plane);
        let plane = (&mut from_plane, &mut to_plane);
        let carried = carry((&mut Broken, &mut Vec::new()), plane, &up, &down).await;
        assert!(matches!(carried, Err(RelayError::Local(_))), "{carried:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_end_of_one_direction_the_other_one_may_not_be_silent_for_ever() {
        let all = AtomicU64::new(0);
        let (up, down) = (Meter::new(&all), Meter::new(&all));
        let (mut program, local) = duplex(1000);
        let (mut from_local, mut to_local) = split(local);
        let (mut service, plane) = duplex(1000);
        let (mut from_plane, mut to_plane) = split(plane);
        program.shutdown().await.expect("it ends");
        let carried = async {
            let local = (&mut from_local, &mut to_local);
            carry(local, (&mut from_plane, &mut to_plane), &up, &down).await
        };
        let serves = async {
            for _ in 0..3 {
                tokio::time::sleep(HALF_CLOSED - Duration::from_secs(1)).await;
                service.write_all(b"a").await.expect("it is open");
            }
        };
        let began = tokio::time::Instant::now();
        let (carried, ()) = tokio::join!(carried, serves);
        assert!(matches!(carried, Err(RelayError::Silent)), "{carried:?}");
        assert_eq!(down.count(), 3);
        assert!(began.elapsed() > 3 * HALF_CLOSED, "{:?}", began.elapsed());
    }
}
