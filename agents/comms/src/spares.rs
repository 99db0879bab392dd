//! Connections to the plane that are made before they are needed, so that a local program does not wait for a handshake.
//!
//! Only a listener in use has some, and only young ones: the ingress of the plane opens its backend at the first byte, and waits for that byte for a limited time. After a change of the network
//! they are replaced: of a connection whose address or route is gone, the kernel says for a long time that it is open.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::activity::Activity;
use crate::path::PathError;
use crate::path::retry::random_part;
use crate::tunnel::{PlaneRoute, PlaneStream};

/// Most spare connections of a listener.
pub const MOST: usize = 2;
/// An older one is not used. The ingress has to wait longer for the first byte.
pub const OLDEST: Duration = Duration::from_secs(20);
/// A listener is in use if it has had so many connections in this time.
const IN_USE: (usize, Duration) = (2, Duration::from_secs(30));
/// How often old ones, and those from before a change of the network, are replaced.
const LOOK: Duration = Duration::from_secs(1);
/// The longest first pause after one that could not be made. Each further pause may be twice as long, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Parts in which the tickets of TLS may arrive.
const MOST_PARTS: usize = 8;

/// The spare connections of a listener.
#[derive(Debug)]
pub struct Spares {
    route: Arc<PlaneRoute>,
    sni: ServerName<'static>,
    activity: Arc<Activity>,
    /// Changes with the network of this host.
    network: watch::Receiver<u64>,
    ready: Mutex<VecDeque<Spare>>,
    /// Notified when one was taken: it is to be replaced.
    taken: Arc<Notify>,
    /// The last connections of the listener, at most as many as make it one in use.
    uses: Mutex<VecDeque<Instant>>,
    is_kept: AtomicBool,
    /// Another configuration has taken its place.
    is_retired: AtomicBool,
}

/// A connection that is ready.
#[derive(Debug)]
struct Spare {
    made: Instant,
    /// [`Spares::network`] before it was made.
    network: u64,
    stream: PlaneStream,
}

impl Spares {
    /// None yet. Their handshakes are counted in `activity`. `network` changes with the network of this host.
    #[must_use]
    pub fn new(
        route: Arc<PlaneRoute>,
        sni: ServerName<'static>,
        activity: Arc<Activity>,
        network: watch::Receiver<u64>,
    ) -> Arc<Self> {
        Arc::new(Self {
            route,
            sni,
            activity,
            network,
            ready: Mutex::default(),
            taken: Arc::default(),
            uses: Mutex::default(),
            is_kept: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
        })
    }

    /// A connection that is ready, was made since the last change of the network, and is still open; `None` if there is none. The listener counts as used. Cancel safe.
    pub async fn take(self: &Arc<Self>) -> Option<PlaneStream> {
        let now = Instant::now();
        {
            let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
            uses.push_back(now);
            if uses.len() > IN_USE.0 {
                uses.pop_front();
            }
        }
        if self.is_in_use() && !self.is_kept.swap(true, Ordering::AcqRel) {
            tokio::spawn(keep(Arc::downgrade(self)));
        }
        let first = self.first_open().await;
        // A plane that ends them at once is not asked for more before the next look.
        if first.is_some() {
            self.taken.notify_one();
        }
        first
    }

    async fn first_open(&self) -> Option<PlaneStream> {
        loop {
            let next = self.ready().pop_front();
            let mut spare = next?;
            // It may have been made on another thread.
            if self.may_work(&spare)
                && spare.stream.get_mut().0.take_over().is_ok()
                && is_open(&mut spare.stream).await
            {
                return Some(spare.stream);
            }
        }
    }

    /// Ends those that are ready, and makes no more. Tunnels of before a reload may have this value for long.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
        self.ready().clear();
    }

    /// How many are ready.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ready().len()
    }

    /// Ends those that are not to be used any more, and makes others while the listener is in use.
    async fn fill(&self) -> Result<(), PathError> {
        self.ready().retain(|spare| self.may_work(spare));
        while self.is_in_use() && self.count() < MOST {
            // Before: a change that comes meanwhile may be one of its path.
            let network = *self.network.borrow();
            let stream = self.route.open(&self.sni).await?;
            let kind = stream.get_ref().1.handshake_kind();
            self.activity.handshake(kind);
            self.ready().push_back(Spare {
                made: Instant::now(),
                network,
                stream,
            });
        }
        Ok(())
    }

    /// Whether a spare connection is young, and its path is the one of now.
    fn may_work(&self, spare: &Spare) -> bool {
        spare.made.elapsed() < OLDEST && spare.network == *self.network.borrow()
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, VecDeque<Spare>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in_use(&self) -> bool {
        if self.is_retired.load(Ordering::Acquire) {
            return false;
        }
        let uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let first = uses.front().filter(|_| uses.len() == IN_USE.0);
        first.is_some_and(|first| first.elapsed() < IN_USE.1)
    }
}

/// Keeps the number of spare connections while the listener is in use. If the plane cannot be reached, the next connection reports that, and the next attempt
/// to make a spare one comes after a pause.
async fn keep(spares: Weak<Spares>) {
    let mut pause = PAUSE;
    loop {
        let Some(its) = spares.upgrade() else {
            return;
        };
        let is_reached = its.fill().await.is_ok();
        if !its.is_in_use() {
            its.is_kept.store(false, Ordering::Release);
            its.ready().clear();
            return;
        }
        if is_reached {
            pause = PAUSE;
            let taken = Arc::clone(&its.taken);
            drop(its);
            tokio::select! {
                () = taken.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        } else {
            its.ready().clear();
            drop(its);
            // Connections do not end this pause: each of them makes attempts of its own.
            tokio::time::sleep(pause.mul_f64(random_part())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether the plane has neither ended the connection nor sent anything: it speaks second. Tickets of TLS are taken on the way. The kernel is asked: the
/// runtime may not know yet what has arrived.
async fn is_open(stream: &mut PlaneStream) -> bool {
    for _ in 0..MOST_PARTS {
        if has_spoken(stream).await {
            return false;
        }
        let tcp = stream.get_ref().0.stream();
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        match SockRef::from(tcp).peek(&mut byte) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
        if tcp.readable().await.is_err() {
            return false;
        }
    }
    false
}

/// Whether a read gives bytes, an end or an error.
async fn has_spoken(stream: &mut PlaneStream) -> bool {
    let mut byte = [0; 1];
    let mut buffer = ReadBuf::new(&mut byte);
    poll_fn(|context| {
        let read = Pin::new(&mut *stream).poll_read(context, &mut buffer);
        Poll::Ready(read.is_ready())
    })
    .await
}
