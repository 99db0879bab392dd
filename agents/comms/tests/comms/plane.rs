//! A management plane for tests: an authority, a TLS server that echoes, and a proxy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// An authority that signs certificates of hosts and of the plane.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "the plane");
        let key = KeyPair::generate().expect("a key");
        Self { params, key }
    }

    /// Its certificate, PEM.
    pub(crate) fn root(&self) -> String {
        self.params.self_signed(&self.key).expect("a root").pem()
    }

    /// A certificate with this common name, and its key, PEM.
    pub(crate) fn issue(&self, name: &str, dns_names: &[&str]) -> (String, String) {
        self.issue_until(name, dns_names, 2100)
    }

    /// The same, for a certificate that ends with the beginning of a year.
    pub(crate) fn issue_until(
        &self,
        name: &str,
        dns_names: &[&str],
        year: i32,
    ) -> (String, String) {
        let names: Vec<String> = dns_names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// A free port of loopback.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The names of the service.
pub(crate) const NAMES: &[&str] = &["echo.plane.test"];

/// What the server does with each connection.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Echoes,
    CutsAfter(usize),
}

/// A server that sends back what it gets.
pub(crate) struct Plane {
    pub(crate) address: SocketAddr,
    /// Cancelled, it accepts no more connections.
    pub(crate) closed: CancellationToken,
    /// A change ends the connections of that time on which nothing was said.
    pub(crate) impatient: watch::Sender<()>,
    /// Connections that are open.
    pub(crate) open: TaskTracker,
    clients: Arc<Mutex<Vec<String>>>,
}

impl Plane {
    pub(crate) async fn start(authority: &Authority) -> Self {
        Self::start_with(authority, Manner::Echoes, ANY).await
    }

    /// At this address.
    pub(crate) async fn start_at(authority: &Authority, address: SocketAddr) -> Self {
        Self::start_with(authority, Manner::Echoes, address).await
    }

    /// Cuts each connection after so many bytes, without a word.
    pub(crate) async fn start_cutting(authority: &Authority, after: usize) -> Self {
        Self::start_with(authority, Manner::CutsAfter(after), ANY).await
    }

    /// With a certificate of itself that ended a while ago.
    pub(crate) async fn start_expired(authority: &Authority) -> Self {
        let certificate = authority.issue_until("plane", NAMES, 2020);
        Self::start_as(authority, certificate, Manner::Echoes, ANY).await
    }

    async fn start_with(authority: &Authority, manner: Manner, address: SocketAddr) -> Self {
        let certificate = authority.issue("plane", NAMES);
        Self::start_as(authority, certificate, manner, address).await
    }

    async fn start_as(
        authority: &Authority,
        certificate: (String, String),
        manner: Manner,
        address: SocketAddr,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let clients = Arc::new(Mutex::new(Vec::new()));
        let acceptor = acceptor(authority, certificate);
        let seen = Arc::clone(&clients);
        let (closed, open) = (CancellationToken::new(), TaskTracker::new());
        let (impatient, ends_idle) = watch::channel(());
        let (ends, tasks) = (closed.clone(), open.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = ends.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else { return };
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                let mut of_now = ends_idle.clone();
                of_now.mark_unchanged();
                tasks.spawn(echo(acceptor, stream, manner, seen, of_now));
            }
        });
        Self {
            address,
            closed,
            impatient,
            open,
            clients,
        }
    }

    /// The subjects of the clients, each once.
    pub(crate) fn clients(&self) -> Vec<String> {
        let mut all = self
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        all.sort();
        all.dedup();
        all
    }
}

pub(crate) fn acceptor(authority: &Authority, (certificate, key): (String, String)) -> TlsAcceptor {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(der(&authority.root())).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(vec![der(&certificate)], key)
        .expect("a certificate");
    TlsAcceptor::from(Arc::new(config))
}

async fn echo(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    manner: Manner,
    seen: Arc<Mutex<Vec<String>>>,
    mut ends_idle: watch::Receiver<()>,
) {
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    assert_eq!(stream.get_ref().1.server_name(), Some("echo.plane.test"));
    if let Some(certificate) = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
    {
        let (_, parsed) = X509Certificate::from_der(certificate).expect("a certificate");
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(parsed.subject().to_string());
    }
    let mut buffer = vec![0; 8192];
    let mut total = 0;
    loop {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read,
            changed = ends_idle.changed(), if total == 0 => {
                // Without a sender, the test is over.
                drop(changed);
                return;
            }
        };
        let Ok(length @ 1..) = read else { break };
        total += length;
        if stream.write_all(&buffer[..length]).await.is_err() {
            return;
        }
        let _ = stream.flush().await;
        if matches!(manner, Manner::CutsAfter(most) if total >= most) {
            // Dropped without `close_notify`.
            return;
        }
    }
    let _ = stream.shutdown().await;
}

/// A proxy that knows the method CONNECT.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    carried: Arc<AtomicUsize>,
}

impl Proxy {
    /// How many connections it has let through.
    pub(crate) fn carried(&self) -> usize {
        self.carried.load(Ordering::SeqCst)
    }
}

/// Starts a proxy that wants these credentials, or none.
pub(crate) async fn proxy(credentials: Option<&str>) -> Proxy {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("its address");
    let wanted = credentials.map(|its| {
        let word = base64::engine::general_purpose::STANDARD.encode(its);
        format!("Proxy-Authorization: Basic {word}")
    });
    let carried = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&carried);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(tunnel(stream, wanted.clone(), Arc::clone(&counter)));
        }
    });
    Proxy { address, carried }
}

async fn tunnel(stream: TcpStream, wanted: Option<String>, carried: Arc<AtomicUsize>) {
    let mut stream = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    if wanted.is_some_and(|wanted| !lines.contains(&wanted)) {
        let _ = stream
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            .await;
        return;
    }
    let target = lines[0]
        .split_whitespace()
        .nth(1)
        .expect("a target")
        .to_owned();
    let mut plane = TcpStream::connect(target).await.expect("the plane");
    carried.fetch_add(1, Ordering::SeqCst);
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut plane).await;
}
