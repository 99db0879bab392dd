//! What many tunnels, and bad ones, do to each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{OPENING, all_opened, connect, exchange, opened, opened_on, say};

/// Tunnels that have taken nothing for so long are full.
const QUIET: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Time limit until they are full.
const FILLED: Duration = Duration::from_secs(180);

/// Exchanges messages until the time is over. Returns how long each took.
async fn busy(mut stream: TcpStream, until: Instant) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    while Instant::now() < until {
        took.push(exchange(&mut stream).await?);
    }
    Ok(took)
}

/// Active tunnels beside idle ones.
pub(super) async fn hold(port: u16, idle: usize, active: usize, time: Duration) -> Result<()> {
    let quiet = all_opened(idle, || opened(port)).await;
    let mut quiet = quiet.context("open idle tunnels")?;
    say("idle")?;
    let active = all_opened(active, || opened(port)).await;
    let active = active.context("open active tunnels")?;
    say("open")?;
    let until = Instant::now() + time;
    let mut working = JoinSet::new();
    for stream in active {
        working.spawn(busy(stream, until));
    }
    let all: Result<Vec<Vec<Duration>>> = working.join_all().await.into_iter().collect();
    report(&mut all.context("use active tunnels")?.concat())?;
    for stream in &mut quiet {
        exchange(stream).await.context("use an idle tunnel again")?;
    }
    say("all idle tunnels answer")
}

/// A tunnel beside others whose clients read nothing: while they fill all buffers on their way, and then for this time.
pub(super) async fn slow(port: u16, stalled: usize, time: Duration) -> Result<()> {
    let mut other = opened(port).await?;
    let all = all_opened(stalled, || opened_on(with_small_buffers(port))).await;
    let taken = Arc::new(AtomicU64::new(0));
    let mut stuck = JoinSet::new();
    for mut stream in all.context("open stalled tunnels")? {
        let taken = Arc::clone(&taken);
        stuck.spawn(async move {
            // The echo comes back and is never read: soon nothing more is taken. A write fails when the tunnel ends.
            while let Ok(length) = stream.write(&[1; 65_536]).await {
                taken.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
    }
    let full = tokio::spawn(until_full(taken));
    let mut filling = Vec::new();
    while !full.is_finished() {
        filling.push(exchange(&mut other).await?);
    }
    full.await??;
    report(&mut filling)?;
    report(&mut busy(other, Instant::now() + time).await?)?;
    while stuck.try_join_next().is_some() {}
    say(&format!("{} stalled tunnels are open", stuck.len()))
}

/// Waits until tunnels take nothing more. `taken` counts the bytes that they took.
async fn until_full(taken: Arc<AtomicU64>) -> Result<()> {
    let quiet = async {
        let (mut seen, mut since) = (0, Instant::now());
        while since.elapsed() < QUIET {
            tokio::time::sleep(LOOK).await;
            let now = taken.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
    };
    let quiet = tokio::time::timeout(FILLED, quiet).await;
    quiet.context("the stalled tunnels still take bytes")
}

/// A connection for which the kernel keeps little: there may be thousands that are stuck.
async fn with_small_buffers(port: u16) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    socket.set_send_buffer_size(4096)?;
    Ok(socket.connect(([127, 0, 0, 1], port).into()).await?)
}

pub(super) async fn cycles(port: u16, count: usize) -> Result<()> {
    let free = Arc::new(Semaphore::new(OPENING));
    let mut all = JoinSet::new();
    for at in 0..count {
        let permit = Arc::clone(&free).acquire_owned().await?;
        all.spawn(async move {
            let ended = cycle(port, at).await;
            drop(permit);
            ended
        });
        while let Some(ended) = all.try_join_next() {
            ended??;
        }
    }
    all.join_all().await.into_iter().collect()
}

/// Opens a tunnel and ends it: after an exchange, with a reset, or before a byte.
async fn cycle(port: u16, at: usize) -> Result<()> {
    match at % 4 {
        0 | 1 => {
            let mut stream = opened(port).await?;
            exchange(&mut stream).await?;
            stream.shutdown().await?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
            Ok(())
        }
        2 => {
            let stream = opened(port).await?;
            Ok(stream.set_zero_linger()?)
        }
        _ => {
            connect(port).await?;
            Ok(())
        }
    }
}

fn report(took: &mut [Duration]) -> Result<()> {
    took.sort_unstable();
    let at = |part: usize| {
        let index = (took.len() * part / 1000).min(took.len().saturating_sub(1));
        took.get(index).map_or(0, Duration::as_micros)
    };
    say(&format!(
        "{} messages, median {} us, 99th percentile {} us, longest {} us",
        took.len(),
        at(500),
        at(990),
        at(1000)
    ))
}
