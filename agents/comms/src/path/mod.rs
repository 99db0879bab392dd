//! The way to the management plane: a TCP connection, direct or through a proxy.
//!
//! [`proxy`] chooses the proxy and has its credentials, [`mod@connect`] makes TCP connections with what [`dial`] gives, and asks a proxy for one. [`retry`] makes further
//! attempts, the next one soon if [`network`] tells of a change.

pub mod connect;
pub mod dial;
pub mod network;
pub mod proxy;
pub mod retry;

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

/// Why the plane cannot be reached. `Display` says what was tried; [`PathError::next`] the next thing to try.
#[derive(Debug, Error)]
pub enum PathError {
    /// A name has no address.
    #[error("resolve {name}")]
    Resolve {
        /// The name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// No address of a host takes a connection.
    #[error("connect to {host}: {}", all_tried(.tried))]
    Connect {
        /// The host with its port.
        host: String,
        /// Whether it is a proxy.
        is_proxy: bool,
        /// Its addresses, each with the reason.
        tried: Vec<(SocketAddr, io::Error)>,
    },
    /// The proxy refuses a connection to the plane.
    #[error("reach {target} through proxy {proxy}: it answers with status {status}")]
    Refused {
        /// The proxy.
        proxy: String,
        /// The plane.
        target: String,
        /// The status of its answer.
        status: u16,
    },
    /// The proxy gives no answer that can be understood.
    #[error("reach {target} through proxy {proxy}: {problem}")]
    Proxy {
        /// The proxy.
        proxy: String,
        /// The plane.
        target: String,
        /// What is wrong.
        problem: String,
    },
    /// The connection to the proxy breaks before its answer: it is being restarted, for example.
    #[error("reach {target} through proxy {proxy}: the connection broke before its answer")]
    ProxyBroke {
        /// The proxy.
        proxy: String,
        /// The plane.
        target: String,
        /// Why.
        source: io::Error,
    },
    /// The TLS handshake fails.
    #[error("complete the TLS handshake with {target} for {sni}")]
    Handshake {
        /// The plane.
        target: String,
        /// The server name.
        sni: String,
        /// Why.
        source: io::Error,
    },
    /// Something takes too long.
    #[error("{what}: no answer within {seconds} s")]
    Timeout {
        /// What takes too long.
        what: String,
        /// The time limit.
        seconds: u64,
    },
}

fn all_tried(all: &[(SocketAddr, io::Error)]) -> String {
    let all: Vec<String> = all
        .iter()
        .map(|(address, error)| format!("{address}: {error}"))
        .collect();
    all.join("; ")
}

impl PathError {
    /// The next thing to try.
    #[must_use]
    pub fn next(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "check `plane.host`, or the proxy's name, and /etc/resolv.conf",
            Self::Connect { is_proxy: true, .. } => {
                "check that the proxy runs, and its port (`proxy.url`)"
            }
            Self::Connect { .. } => {
                "check that outbound TCP connections to this port are allowed, or set a proxy"
            }
            Self::Refused { status: 407, .. } => {
                "set the proxy's user and password (`proxy.credentials`)"
            }
            Self::Refused { status: 500.., .. } => {
                "the proxy cannot reach the plane: check `plane.host`, and the log of the proxy"
            }
            Self::Refused { .. } => "ask for a rule of the proxy that allows CONNECT to the plane",
            Self::Proxy { .. } => "check that it is an HTTP proxy, and its port",
            Self::ProxyBroke { .. } => "check that the proxy runs, and its log",
            Self::Handshake { source, .. } => handshake(source),
            Self::Timeout { .. } => "check the network, and the load of the plane or of the proxy",
        }
    }

    /// Whether a later attempt may succeed without a change of the configuration.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::ProxyBroke { .. }
            | Self::Timeout { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Proxy { .. } => false,
            // A server that ends the connection is being restarted; one that has another certificate is not.
            Self::Handshake { source, .. } => tls(source).is_none(),
        }
    }

    /// A short name of the cause, the same for all errors of a kind: for counters and for the log.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "resolve",
            Self::Connect { .. } => "connect",
            Self::Refused { .. } => "proxy-refused",
            Self::Proxy { .. } | Self::ProxyBroke { .. } => "proxy",
            Self::Handshake { .. } => "handshake",
            Self::Timeout { .. } => "timeout",
        }
    }
}

/// The next thing to try after an error of TLS.
pub(crate) fn handshake(error: &io::Error) -> &'static str {
    match tls(error) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "check the clock, `sni` of the listener, and that the roots of this host are those of the plane"
        }
        Some(rustls::Error::AlertReceived(_)) => {
            "the plane refuses: enrol the host again if its certificate was revoked or has expired"
        }
        _ => "check that the plane, and no other server, answers on its port",
    }
}

/// The error of TLS in an error of a connection.
fn tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
