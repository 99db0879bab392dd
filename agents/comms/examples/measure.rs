//! Both ends of what `cargo xtask bench --only comms` sends through a tunnel.
//!
//! `measure serve ADDRESS:PORT` is the service behind the tunnel. It does what the first byte of a connection says: `d` sends the number of bytes that follows, `u` takes the
//! number of bytes that follows and says when it has them, `e` sends back what comes. The others are local programs, and print what they saw:
//!
//! - `measure down PORT STREAMS BYTES` and `measure up …` carry so many bytes in all, and print the seconds;
//! - `measure ping PORT COUNT` exchanges messages of 1 KiB, and prints the median and the 99th percentile in microseconds;
//! - `measure connect PORT COUNT` opens connections one after the other, each with one exchange;
//! - `measure idle PORT COUNT` opens connections, prints `open`, and holds them until its input ends.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
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
        ["serve", address] => serve(address).await,
        [way @ ("down" | "up"), port, streams, bytes] => {
            let (port, streams, bytes): (u16, u64, u64) =
                (port.parse()?, streams.parse()?, bytes.parse()?);
            let began = Instant::now();
            let mut all = JoinSet::new();
            for _ in 0..streams {
                match *way {
                    "down" => all.spawn(down(port, bytes / streams)),
                    _ => all.spawn(up(port, bytes / streams)),
                };
            }
            let ended: Result<Vec<()>> = all.join_all().await.into_iter().collect();
            ended?;
            say(&format!("{}", began.elapsed().as_secs_f64()))
        }
        ["ping", port, count] => ping(port.parse()?, count.parse()?).await,
        ["connect", port, count] => {
            let port = port.parse()?;
            for _ in 0..count.parse::<u32>()? {
                opened(port).await?;
            }
            Ok(())
        }
        ["idle", port, count] => idle(port.parse()?, count.parse()?).await,
        _ => bail!("see the comment at its beginning"),
    }
}

async fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    match stream.read_u8().await? {
        b'd' => {
            let mut left = stream.read_u64().await?;
            let part = vec![7; PART];
            while left > 0 {
                let length = left.min(PART as u64) as usize;
                stream.write_all(&part[..length]).await?;
                left -= length as u64;
            }
        }
        // Not until the end of the direction: some tunnels do not pass that on.
        b'u' => {
            let mut left = stream.read_u64().await?;
            let mut part = vec![0; PART];
            while left > 0 {
                match stream.read(&mut part).await? {
                    0 => bail!("{left} bytes are missing"),
                    length => left -= length as u64,
                }
            }
            stream.write_u8(b'u').await?;
        }
        b'e' => {
            let mut part = vec![0; MESSAGE];
            loop {
                match stream.read(&mut part).await? {
                    0 => break,
                    length => stream.write_all(&part[..length]).await?,
                }
            }
        }
        other => bail!("{other} is no request"),
    }
    stream.shutdown().await?;
    Ok(())
}

async fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn down(port: u16, bytes: u64) -> Result<()> {
    let mut stream = connect(port).await?;
    stream.write_u8(b'd').await?;
    stream.write_u64(bytes).await?;
    let mut part = vec![0; PART];
    let mut total = 0;
    loop {
        match stream.read(&mut part).await? {
            0 => break,
            length => total += length as u64,
        }
    }
    ensure!(total == bytes, "{total} bytes came instead of {bytes}");
    Ok(())
}

async fn up(port: u16, bytes: u64) -> Result<()> {
    let mut stream = connect(port).await?;
    stream.write_u8(b'u').await?;
    stream.write_u64(bytes).await?;
    let part = vec![7; PART];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(PART as u64) as usize;
        stream.write_all(&part[..length]).await?;
        left -= length as u64;
    }
    ensure!(stream.read_u8().await? == b'u', "another byte came back");
    Ok(())
}

/// A connection that has carried a byte to the service and back.
async fn opened(port: u16) -> Result<TcpStream> {
    let opening = async {
        let mut stream = connect(port).await?;
        stream.write_all(b"ee").await?;
        ensure!(stream.read_u8().await? == b'e', "another byte came back");
        Ok(stream)
    };
    let opened = tokio::time::timeout(LIMIT, opening).await;
    opened.context("no answer in time")?
}

async fn ping(port: u16, count: usize) -> Result<()> {
    let mut stream = opened(port).await?;
    let mut back = [0; MESSAGE];
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        stream.write_all(&[7; MESSAGE]).await?;
        stream.read_exact(&mut back).await?;
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_unstable_by(f64::total_cmp);
    let at = |hundredth: usize| took.get(count * hundredth / 100).copied();
    let (median, late) = at(50).zip(at(99)).context("no message")?;
    say(&format!("{median} {late}"))
}

async fn idle(port: u16, count: usize) -> Result<()> {
    let free = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let permit = Arc::clone(&free).acquire_owned().await?;
        opening.spawn(async move {
            let stream = opened(port).await;
            drop(permit);
            stream
        });
    }
    let all: Result<Vec<TcpStream>> = opening.join_all().await.into_iter().collect();
    let all = all?;
    say("open")?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    drop(all);
    Ok(())
}

fn say(text: &str) -> Result<()> {
    println!("{text}");
    Ok(std::io::stdout().flush()?)
}
