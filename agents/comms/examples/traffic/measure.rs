//! How fast a tunnel is.

use std::io::Read as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::{PART, Request, all_opened, connect, exchange, opened, say};

/// Carries so many bytes in all.
pub(super) async fn carry(way: &str, port: u16, streams: u64, bytes: u64) -> Result<()> {
    let began = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..streams {
        match way {
            "down" => all.spawn(down(port, bytes / streams)),
            _ => all.spawn(up(port, bytes / streams)),
        };
    }
    let ended: Result<Vec<()>> = all.join_all().await.into_iter().collect();
    ended?;
    say(&began.elapsed().as_secs_f64().to_string())
}

async fn down(port: u16, bytes: u64) -> Result<()> {
    let mut stream = connect(port).await?;
    stream.write_u8(Request::Down as u8).await?;
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
    stream.write_u8(Request::Up as u8).await?;
    stream.write_u64(bytes).await?;
    let part = vec![7; PART];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(PART as u64) as usize;
        stream.write_all(&part[..length]).await?;
        left -= length as u64;
    }
    let answer = stream.read_u8().await?;
    ensure!(answer == Request::Up as u8, "another byte came back");
    Ok(())
}

pub(super) async fn ping(port: u16, count: usize) -> Result<()> {
    let mut stream = opened(port).await?;
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        took.push(exchange(&mut stream).await?.as_secs_f64() * 1e6);
    }
    took.sort_unstable_by(f64::total_cmp);
    let at = |hundredth: usize| took.get(count * hundredth / 100).copied();
    let (median, late) = at(50).zip(at(99)).context("no message")?;
    say(&format!("{median} {late}"))
}

/// Opens connections one after the other.
pub(super) async fn connect_often(port: u16, count: u32) -> Result<()> {
    for _ in 0..count {
        opened(port).await?;
    }
    Ok(())
}

/// Holds connections until the input ends.
pub(super) async fn idle(port: u16, count: usize) -> Result<()> {
    let all = all_opened(count, || opened(port)).await?;
    say("open")?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    drop(all);
    Ok(())
}
