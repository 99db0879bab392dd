//! How names are looked up and TCP connections are made: by the kernel, or in the tests by a simulated network.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Most addresses of a host that are tried.
const MOST_ADDRESSES: usize = 4;
/// So many names are looked up at a time: a lookup has a thread, and cannot be ended.
static LOOKUPS: Semaphore = Semaphore::const_new(8);
/// A dead path is noticed by these probes only while no data is on its way; otherwise after about a quarter of an hour, as with any TCP connection. There is no
/// `TCP_USER_TIMEOUT`: it would also end connections whose service takes no data for a while, as a message broker does with a busy publisher.
///
/// A silent connection is probed after this time, and then at these intervals. Firewalls forget connections after a few minutes of silence.
const SILENT: Duration = Duration::from_secs(30);
const PROBES: Duration = Duration::from_secs(10);
const MOST_PROBES: u32 = 3;

/// A network with names.
pub trait Dial: Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;

    /// The addresses of a host, at most four. Cancel safe.
    ///
    /// # Errors
    /// The name is not known, or cannot be looked up.
    fn resolve(
        &self,
        host: &str,
        port: u16,
    ) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Connects to an address. Cancel safe.
    ///
    /// # Errors
    /// Nothing listens there, or there is no way to it.
    fn connect(&self, address: SocketAddr)
    -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// The network of this host.
#[derive(Debug, Clone, Copy)]
pub struct Kernel;

impl Dial for Kernel {
    type Stream = TcpStream;

    /// A lookup that is not needed any more keeps its permit until it ends.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
        let host = host.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            drop(permit);
            found.map(|found| found.take(MOST_ADDRESSES).collect())
        });
        lookup.await.map_err(io::Error::other)?
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        // Without these options it works as well.
        let _ = stream.set_nodelay(true);
        let keepalive = TcpKeepalive::new()
            .with_time(SILENT)
            .with_interval(PROBES)
            .with_retries(MOST_PROBES);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_probed_and_does_not_collect_small_parts() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("its address");
        let stream = Kernel.connect(address).await.expect("it connects");
        assert!(stream.nodelay().expect("the kernel tells"));
        let its = SockRef::from(&stream);
        assert!(its.keepalive().expect("the kernel tells"));
        let time = its.tcp_keepalive_time().expect("the kernel tells");
        let interval = its.tcp_keepalive_interval().expect("the kernel tells");
        let probes = its.tcp_keepalive_retries().expect("the kernel tells");
        assert_eq!((time, interval, probes), (SILENT, PROBES, MOST_PROBES));
    }
}
