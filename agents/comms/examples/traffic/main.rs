//! Traffic through tunnels, for the bench `comms` and the soak `tunnels`: the service behind the plane, and programs of a host.
//!
//! `traffic serve ADDRESS:PORT` is the service. The others use the tunnel at a local port and print what they saw; the exit code is 1 if a tunnel fails.
//!
//! To measure:
//!
//! - `traffic down PORT STREAMS BYTES` and `traffic up …` carry so many bytes in all, and print the seconds;
//! - `traffic ping PORT COUNT` exchanges messages of 1 KiB, and prints the median and the 99th percentile in microseconds;
//! - `traffic connect PORT COUNT` opens connections one after the other, each with one exchange;
//! - `traffic idle PORT COUNT` opens connections, prints `open`, and holds them until its input ends.
//!
//! To load:
//!
//! - `traffic hold PORT IDLE ACTIVE SECONDS` opens tunnels, says `open` when all have carried a message, lets the active ones exchange messages for that time, and says how
//!   often and how fast; then it asks each idle one again;
//! - `traffic slow PORT STALLED SECONDS` lets one tunnel exchange messages beside others whose client reads nothing: until these take nothing more, and then for that time. It says how often
//!   and how fast for each of the two, and how many of the others are open at the end;
//! - `traffic cycles PORT COUNT` opens and closes tunnels.

mod load;
mod measure;
mod serve;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Bytes of a message.
const MESSAGE: usize = 1024;
/// Bytes that are read or written at a time.
const PART: usize = 256 * 1024;
/// Connections that are opened at a time.
const OPENING: usize = 64;
/// Time for one answer.
const LIMIT: Duration = Duration::from_secs(60);

/// The first byte of a connection: what the service does with it.
#[repr(u8)]
enum Request {
    /// It sends the number of bytes that follows.
    Down = b'd',
    /// It takes the number of bytes that follows, and says when it has them.
    Up = b'u',
    /// It sends back what comes.
    Echo = b'e',
}

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
        ["serve", address] => serve::serve(address).await,
        [way @ ("down" | "up"), port, streams, bytes] => {
            measure::carry(way, port.parse()?, streams.parse()?, bytes.parse()?).await
        }
        ["ping", port, count] => measure::ping(port.parse()?, count.parse()?).await,
        ["connect", port, count] => measure::connect_often(port.parse()?, count.parse()?).await,
        ["idle", port, count] => measure::idle(port.parse()?, count.parse()?).await,
        ["hold", port, idle, active, seconds] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            load::hold(port.parse()?, idle.parse()?, active.parse()?, seconds).await
        }
        ["slow", port, stalled, seconds] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            load::slow(port.parse()?, stalled.parse()?, seconds).await
        }
        ["cycles", port, count] => load::cycles(port.parse()?, count.parse()?).await,
        _ => bail!("see the comment at its beginning"),
    }
}

async fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that has carried a byte to the service and back. What is sent then comes back.
async fn opened(port: u16) -> Result<TcpStream> {
    opened_on(connect(port)).await
}

/// The same on a connection that is made in another way.
async fn opened_on(connecting: impl Future<Output = Result<TcpStream>>) -> Result<TcpStream> {
    let opening = async {
        let mut stream = connecting.await?;
        stream.write_all(&[Request::Echo as u8, b'a']).await?;
        ensure!(stream.read_u8().await? == b'a', "another byte came back");
        Ok(stream)
    };
    let opened = tokio::time::timeout(LIMIT, opening).await;
    opened.context("no answer in time")?
}

/// So many of them.
async fn all_opened<F>(count: usize, open: impl Fn() -> F) -> Result<Vec<TcpStream>>
where
    F: Future<Output = Result<TcpStream>> + Send + 'static,
{
    let free = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let permit = Arc::clone(&free).acquire_owned().await?;
        let its = open();
        opening.spawn(async move {
            let stream = its.await;
            drop(permit);
            stream
        });
    }
    opening.join_all().await.into_iter().collect()
}

/// One message there and back. Returns how long it took.
async fn exchange(stream: &mut TcpStream) -> Result<Duration> {
    let began = Instant::now();
    let mut back = [0; MESSAGE];
    let exchanged = async {
        stream.write_all(&[7; MESSAGE]).await?;
        stream.read_exact(&mut back).await
    };
    let exchanged = tokio::time::timeout(LIMIT, exchanged).await;
    exchanged.context("no answer in time")??;
    let took = began.elapsed();
    ensure!(back == [7; MESSAGE], "another message came back");
    Ok(took)
}

fn say(text: &str) -> Result<()> {
    println!("{text}");
    Ok(std::io::stdout().flush()?)
}
