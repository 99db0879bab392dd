//! TCP connections to a host with several addresses, and the method CONNECT of a proxy.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::PathError;
use super::dial::Dial;
use super::proxy::Proxy;

/// Time for a connection to the plane, or to a proxy.
const CONNECT: Duration = Duration::from_secs(10);
/// Time for the answer of a proxy, and for a TLS handshake.
pub const ANSWER: Duration = Duration::from_secs(10);
/// The next address is tried after this time, while the one before is still tried (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Longest head of an answer of a proxy, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;
/// Most header fields of it.
const MOST_FIELDS: usize = 100;

/// Connects to a host, through the proxy if there is one. Cancel safe.
///
/// # Errors
/// No address of the host or of the proxy takes a connection, or the proxy refuses.
pub async fn reach<D: Dial>(
    dial: &D,
    host: &str,
    port: u16,
    proxy: Option<&Proxy>,
) -> Result<D::Stream, PathError> {
    let Some(proxy) = proxy else {
        return tcp(dial, host, port, false).await;
    };
    let mut stream = tcp(dial, &proxy.host, proxy.port, true).await?;
    let target = authority(host, port);
    let asked = timeout(ANSWER, ask(&mut stream, &target, proxy)).await;
    match asked {
        Ok(Ok(())) => Ok(stream),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(PathError::Timeout {
            what: format!("reach {target} through proxy {proxy}"),
            seconds: ANSWER.as_secs(),
        }),
    }
}

/// `HOST:PORT`, with brackets around an IPv6 address.
#[must_use]
pub fn authority(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

async fn tcp<D: Dial>(
    dial: &D,
    host: &str,
    port: u16,
    is_proxy: bool,
) -> Result<D::Stream, PathError> {
    let name = authority(host, port);
    let late = |what: String| PathError::Timeout {
        what,
        seconds: CONNECT.as_secs(),
    };
    let found = timeout(CONNECT, dial.resolve(host, port)).await;
    let found = found.map_err(|_| late(format!("resolve {host}")))?;
    let addresses = found.map_err(|source| PathError::Resolve {
        name: host.to_owned(),
        source,
    })?;
    let connected = timeout(CONNECT, first_of(dial, interleaved(addresses))).await;
    connected
        .map_err(|_| late(format!("connect to {name}")))?
        .map_err(|tried| PathError::Connect {
            host: name,
            is_proxy,
            tried,
        })
}

/// Addresses of the two families in turn, each in its order.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|its| its.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

/// The first connection to one of the addresses; each next one is tried a moment later, or as soon as one has failed.
async fn first_of<D: Dial>(
    dial: &D,
    addresses: Vec<SocketAddr>,
) -> Result<D::Stream, Vec<(SocketAddr, io::Error)>> {
    let mut waiting = addresses.into_iter();
    let mut trying = FuturesUnordered::new();
    let mut tried = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            trying.push(async move { (address, dial.connect(address).await) });
        }
        let wait = match waiting.len() {
            0 => Duration::MAX,
            _ => STAGGER,
        };
        match timeout(wait, trying.next()).await {
            Ok(Some((_, Ok(stream)))) => return Ok(stream),
            Ok(Some((address, Err(error)))) => tried.push((address, error)),
            Ok(None) => return Err(tried),
            Err(_) => {}
        }
    }
}

/// Asks a proxy for a connection (RFC 9110, section 9.3.6).
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    target: &str,
    proxy: &Proxy,
) -> Result<(), PathError> {
    let problem = |problem: String| PathError::Proxy {
        proxy: proxy.to_string(),
        target: target.to_owned(),
        problem,
    };
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(credentials) = &proxy.credentials {
        let word = STANDARD.encode(credentials.basic());
        request.push_str(&format!("Proxy-Authorization: Basic {word}\r\n"));
    }
    request.push_str("\r\n");
    let broke = |source: io::Error| PathError::ProxyBroke {
        proxy: proxy.to_string(),
        target: target.to_owned(),
        source,
    };
    let sent = stream.write_all(request.as_bytes()).await;
    sent.map_err(broke)?;
    let mut head = Vec::new();
    loop {
        let read = stream.read_buf(&mut head).await.map_err(broke)?;
        if read == 0 {
            return Err(broke(io::ErrorKind::UnexpectedEof.into()));
        }
        match answer(&head).map_err(problem)? {
            Some(200..300) => return Ok(()),
            Some(status) => {
                return Err(PathError::Refused {
                    proxy: proxy.to_string(),
                    target: target.to_owned(),
                    status,
                });
            }
            None => {}
        }
    }
}

/// The status of a complete answer; `None` if there is more to read.
///
/// # Errors
/// What is wrong with it.
fn answer(head: &[u8]) -> Result<Option<u16>, String> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(head) {
        Ok(httparse::Status::Complete(length)) => {
            let status = response.code.unwrap_or_default();
            // The plane speaks second, so nothing may follow a good answer.
            if (200..300).contains(&status) && length != head.len() {
                return Err("it sends data after its answer".to_owned());
            }
            Ok(Some(status))
        }
        Ok(httparse::Status::Partial) if head.len() >= LONGEST_HEAD => {
            Err(format!("its answer has more than {LONGEST_HEAD} bytes"))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(format!("its answer is no HTTP: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::super::dial::Kernel;
    use super::*;

    #[test]
    fn families_alternate() {
        let v4 = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = |port| SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let order = interleaved(vec![v6(1), v6(2), v6(3), v4(4)]);
        assert_eq!(order, [v6(1), v4(4), v6(2), v6(3)]);
        assert_eq!(interleaved(Vec::new()), []);
    }

    #[test]
    fn an_answer_is_complete_at_its_empty_line() {
        let good = b"HTTP/1.1 200 Connection established\r\nVia: p\r\n\r\n";
        for end in 0..good.len() {
            assert_eq!(answer(&good[..end]), Ok(None), "{end}");
        }
        assert_eq!(answer(good), Ok(Some(200)));
        assert_eq!(answer(b"HTTP/1.0 407 No\r\n\r\n<html>"), Ok(Some(407)));
        let after = [&good[..], b"x"].concat();
        assert!(
            answer(&after)
                .expect_err("more")
                .contains("after its answer")
        );
        assert!(
            answer(b"SSH-2.0-x\r\n")
                .expect_err("no HTTP")
                .contains("no HTTP")
        );
        let long = format!("HTTP/1.1 200 {}", "x".repeat(LONGEST_HEAD));
        assert!(
            answer(long.as_bytes())
                .expect_err("long")
                .contains("more than")
        );
    }

    #[test]
    fn an_address_in_brackets() {
        assert_eq!(authority("plane.example", 443), "plane.example:443");
        assert_eq!(authority("2001:db8::1", 443), "[2001:db8::1]:443");
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = answer(&bytes);
            let _ = answer(&[b"HTTP/1.1 200 OK\r\n", &bytes[..]].concat());
        }

        #[test]
        fn an_answer_of_any_length_is_read_quickly(
            head in bounds::content(LONGEST_HEAD, &[
                "HTTP/1.1 200 OK\r\n", "A: b\r\n", "A", ":", " ", "\r\n", "\n", "\t",
            ]),
        ) {
            let status = bounds::quickly(|| answer(&head));
            prop_assert!(status != Ok(None) || head.len() < LONGEST_HEAD);
        }
    }

    #[tokio::test]
    async fn a_refused_address_does_not_hinder_the_next_one() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let good = listener.local_addr().expect("its address");
        // Nothing listens on that address.
        let bad = SocketAddr::from((IpAddr::from([127, 9, 9, 9]), good.port()));
        let stream = first_of(&Kernel, vec![bad, good])
            .await
            .expect("the second one");
        assert_eq!(stream.peer_addr().expect("an address"), good);
        let tried = first_of(&Kernel, vec![bad]).await.expect_err("none");
        assert_eq!(tried.len(), 1);
        assert!(
            first_of(&Kernel, Vec::new())
                .await
                .expect_err("none")
                .is_empty()
        );
    }
}
