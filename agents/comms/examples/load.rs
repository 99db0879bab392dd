//! Load on tunnels, for the soak `tunnels`: an echo server behind the plane, and clients on a host.
//!
//! `load echo ADDRESS:PORT` sends back what it gets. `load hold PORT IDLE ACTIVE SECONDS` opens tunnels, says `open` when all have carried a message, lets the active ones
//! exchange messages for that time, and says how often and how fast; then it asks each idle one again. `load slow PORT STALLED SECONDS` does the same with one tunnel beside
//! others whose client reads nothing. `load cycles PORT COUNT` opens and closes tunnels. The exit code is 1 if a tunnel fails.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Bytes of a message.
const MESSAGE: usize = 1024;
/// Tunnels that are opened at a time.
const OPENING: usize = 64;
/// Time for one answer.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[&str]) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    match arguments {
        ["echo", address] => echo(address).await,
        ["hold", port, idle, active, seconds] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            hold(port.parse()?, idle.parse()?, active.parse()?, seconds).await
        }
        ["slow", port, stalled, seconds] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            slow(port.parse()?, stalled.parse()?, seconds).await
        }
        ["cycles", port, count] => cycles(port.parse()?, count.parse()?).await,
        _ => bail!("see the comment at its beginning"),
    }
}

async fn echo(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await?;
            to.shutdown().await
        });
    }
}

/// One message there and back.
async fn exchange(stream: &mut TcpStream) -> Result<Duration> {
    let began = Instant::now();
    let exchanged = async {
        stream.write_all(&[7; MESSAGE]).await?;
        let mut back = [0; MESSAGE];
        stream.read_exact(&mut back).await?;
        anyhow::ensure!(back == [7; MESSAGE], "another message came back");
        Ok(())
    };
    tokio::time::timeout(LIMIT, exchanged)
        .await
        .context("no answer in time")??;
    Ok(began.elapsed())
}

async fn open(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    exchange(&mut stream).await?;
    Ok(stream)
}

/// Opens so many tunnels. Each has carried a message.
async fn opened(port: u16, count: usize) -> Result<Vec<TcpStream>> {
    let free = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let permit = Arc::clone(&free).acquire_owned().await?;
        opening.spawn(async move {
            let stream = open(port).await;
            drop(permit);
            stream
        });
    }
    opening.join_all().await.into_iter().collect()
}

/// Exchanges messages until the time is over. Returns how long each took.
async fn busy(mut stream: TcpStream, until: Instant) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    while Instant::now() < until {
        took.push(exchange(&mut stream).await?);
    }
    Ok(took)
}

async fn hold(port: u16, idle: usize, active: usize, time: Duration) -> Result<()> {
    let mut quiet = opened(port, idle).await.context("open idle tunnels")?;
    say("idle")?;
    let active = opened(port, active).await.context("open active tunnels")?;
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

async fn slow(port: u16, stalled: usize, time: Duration) -> Result<()> {
    let mut other = open(port).await?;
    let mut stuck = JoinSet::new();
    for mut stream in opened(port, stalled).await? {
        stuck.spawn(async move {
            // The echo comes back and is never read: soon nothing more is taken.
            while stream.write_all(&[1; 65_536]).await.is_ok() {}
        });
    }
    let until = Instant::now() + time;
    let mut took = Vec::new();
    while Instant::now() < until {
        took.push(exchange(&mut other).await?);
    }
    report(&mut took)
}

async fn cycles(port: u16, count: usize) -> Result<()> {
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
            let mut stream = open(port).await?;
            stream.shutdown().await?;
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
            Ok(())
        }
        2 => {
            let stream = open(port).await?;
            Ok(stream.set_zero_linger()?)
        }
        _ => {
            TcpStream::connect(("127.0.0.1", port)).await?;
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

fn say(text: &str) -> Result<()> {
    println!("{text}");
    Ok(std::io::stdout().flush()?)
}
