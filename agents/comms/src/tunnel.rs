//! One connection to the plane, and the bytes between it and a local program.

mod buffer;
mod read_ahead;
mod source;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

pub use buffer::most_memory;
pub use read_ahead::ReadAhead;
use source::Source;

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
        let stream = reach(dial, host, *port, self.proxies.to(host, *port)).await?;
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
    /// The plane has ended the connection before it said anything.
    #[error("the plane ended it without an answer")]
    Unanswered,
    /// One direction has ended, and nothing comes in the other one.
    #[error("one direction has ended, and the other one was silent for {} s", HALF_CLOSED.as_secs())]
    Silent,
}

/// Passes bytes on in both directions until both have ended, and counts them. The end of one direction is passed on, while the other one goes on. If a side
/// breaks, the other side is reset: it must not take what has arrived for everything. A plane that takes no more may still answer: its answer is
/// passed on to its end.
///
/// # Errors
/// A side broke, or is silent after the other one has ended, or the plane has not answered: the program sees its end if it came without an error.
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
    let end = {
        let (mut from_local, mut to_local) = local.stream.split();
        let (mut from_plane, mut to_plane) = tokio::io::split(&mut plane.stream);
        let local = (&mut from_local, &mut to_local);
        carry(local, (&mut from_plane, &mut to_plane), &up, &down).await?
    };
    local.has_ended = true;
    plane.has_ended = end.took_all;
    match end.is_unanswered {
        true => Err(RelayError::Unanswered),
        false => Ok(()),
    }
}

/// How both directions have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    /// Whether the plane took everything.
    took_all: bool,
    /// Whether the plane ended the connection without a byte, although it was asked something or its time was not over.
    is_unanswered: bool,
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

/// Whether an error is the end of a connection at its other side.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}

/// Carries both directions.
async fn carry(
    (from_local, to_local): (&mut impl Source, &mut (impl AsyncWrite + Unpin)),
    (from_plane, to_plane): (&mut impl Source, &mut (impl AsyncWrite + Unpin)),
    up: &Meter<'_>,
    down: &Meter<'_>,
) -> Result<End, RelayError> {
    let answer_ended = Notify::new();
    let (local_has_ended, is_unanswered) = (AtomicBool::new(false), AtomicBool::new(false));
    // A program that ends a connection on which it said nothing has looked whether there is a listener.
    let unanswered = || {
        let is_asked = up.count() > 0 || !local_has_ended.load(Ordering::Relaxed);
        is_asked && down.count() == 0
    };
    let upward = async {
        match pump(from_local, to_plane, up).await {
            Ok(()) => {
                local_has_ended.store(true, Ordering::Relaxed);
                Ok(true)
            }
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
                is_unanswered.store(unanswered(), Ordering::Relaxed);
                answer_ended.notify_one();
                Ok(())
            }
            Err(PumpError::Read(error)) if is_end(&error) && unanswered() => {
                Err(RelayError::Unanswered)
            }
            Err(PumpError::Read(error)) => Err(RelayError::Plane(error)),
            Err(PumpError::Write(error)) => Err(RelayError::Local(error)),
        }
    };
    let progress = || up.count() + down.count();
    let took_all = both(upward, downward, progress).await?;
    Ok(End {
        took_all,
        is_unanswered: is_unanswered.load(Ordering::Relaxed),
    })
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

/// Passes on what is read, and the end of it, and counts the bytes. While the other side takes nothing, nothing is read: then only [`Source::reset`] tells that a program has gone.
async fn pump(
    from: &mut impl Source,
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
        };
        let written = tokio::select! {
            biased;
            written = written => written,
            error = from.reset() => return Err(PumpError::Read(error)),
        };
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
