//! The first message of a client, however it arrives.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::client::{Host, Stranger, answer};
use crate::running::Plane;

const REQUEST: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Sends each byte in a segment of its own.
struct Bytewise(TcpStream);

impl AsyncWrite for Bytewise {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let first = &bytes[..bytes.len().min(1)];
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, first));
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl AsyncRead for Bytewise {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_routed_in_many_segments_and_in_several_records() {
    let plane = Plane::start().await;
    let host = Host::enrolled(&plane, "host-1").await;
    // A record has at most 16 KiB: protocols that the plane does not know fill more than one.
    for protocols in [0, 100] {
        for (certificate, name, wanted) in [
            (Some(&host), "rest.plane.test", "GET /healthz"),
            (None, "enroll.plane.test", "ok\n"),
            (None, "rest.plane.test", ""),
        ] {
            let mut client = Stranger::new(&plane, certificate);
            client.offer((0..protocols).map(|number| format!("{number:0250}").into_bytes()));
            let stream = TcpStream::connect(plane.address).await.expect("it listens");
            stream.set_nodelay(true).expect("it can be set");
            let tls = client.handshake(name, Bytewise(stream)).await;
            let said = match tls {
                Ok(tls) => answer(tls, REQUEST).await,
                // The plane may refuse at once.
                Err(_) if wanted.is_empty() => String::new(),
                Err(error) => panic!("{name}, {protocols}: {error}"),
            };
            assert!(said.contains(wanted), "{name}, {protocols}: {said}");
            assert_eq!(said.is_empty(), wanted.is_empty(), "{name}, {protocols}");
        }
    }
}
