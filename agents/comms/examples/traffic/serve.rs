//! The service behind the plane.

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{MESSAGE, PART, Request};

pub(super) async fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    match stream.read_u8().await? {
        byte if byte == Request::Down as u8 => down(&mut stream).await?,
        byte if byte == Request::Up as u8 => up(&mut stream).await?,
        byte if byte == Request::Echo as u8 => echo(&mut stream).await?,
        other => bail!("{other} is no request"),
    }
    stream.shutdown().await?;
    Ok(())
}

async fn down(stream: &mut TcpStream) -> Result<()> {
    let mut left = stream.read_u64().await?;
    let part = vec![7; PART];
    while left > 0 {
        let length = left.min(PART as u64) as usize;
        stream.write_all(&part[..length]).await?;
        left -= length as u64;
    }
    Ok(())
}

/// Not until the end of the direction: some tunnels do not pass that on.
async fn up(stream: &mut TcpStream) -> Result<()> {
    let mut left = stream.read_u64().await?;
    let mut part = vec![0; PART];
    while left > 0 {
        match stream.read(&mut part).await? {
            0 => bail!("{left} bytes are missing"),
            length => left -= length as u64,
        }
    }
    Ok(stream.write_u8(Request::Up as u8).await?)
}

async fn echo(stream: &mut TcpStream) -> Result<()> {
    let mut part = vec![0; MESSAGE];
    loop {
        match stream.read(&mut part).await? {
            0 => return Ok(()),
            length => stream.write_all(&part[..length]).await?,
        }
    }
}
