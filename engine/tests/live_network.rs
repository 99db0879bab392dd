//! `LiveHost` against a real TLS server on loopback.

#![expect(
    clippy::disallowed_methods,
    reason = "a test looks at the machine itself"
)]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use engine::host::live::LiveHost;
use engine::host::{HostError, HttpsRequest, Network};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// A certificate authority, and files signed by it.
struct Pki {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    root: rcgen::Certificate,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let root = params.self_signed(&key).expect("root");
        let directory = tempfile::tempdir().expect("tempdir");
        std::fs::write(directory.path().join("ca.crt"), root.pem()).expect("write");
        Self {
            directory,
            issuer: Issuer::new(params, key),
            root,
        }
    }

    fn leaf(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let params = CertificateParams::new(vec![name.to_owned()]).expect("params");
        let key = KeyPair::generate().expect("key");
        (params.signed_by(&key, &self.issuer).expect("leaf"), key)
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    fn client(&self) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.leaf("client");
        let at = |name: &str| self.directory.path().join(name);
        std::fs::write(at("client.crt"), certificate.pem()).expect("write");
        std::fs::write(at("client.key"), key.serialize_pem()).expect("write");
        (at("client.crt"), at("client.key"))
    }

    /// Serves `answer` to everyone who shows a certificate of ours.
    fn serve(&self, answer: Vec<u8>) -> SocketAddr {
        let (certificate, key) = self.leaf("127.0.0.1");
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).expect("root");
        let provider = Arc::new(default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .expect("verifier");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("key"),
            )
            .expect("config");
        let config = Arc::new(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = listener.local_addr().expect("address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(Arc::clone(&config)).expect("connection");
                let mut tls = StreamOwned::new(connection, stream);
                let mut question = [0; 1024];
                if tls.read(&mut question).is_ok() {
                    let _ = tls.write_all(&answer);
                    tls.conn.send_close_notify();
                    let _ = tls.flush();
                }
            }
        });
        address
    }
}

fn request(url: String, ca: Option<PathBuf>, client: Option<(PathBuf, PathBuf)>) -> HttpsRequest {
    HttpsRequest {
        url,
        ca,
        client,
        timeout: Duration::from_secs(5),
    }
}

/// The whole chain, as the edge prints it.
fn chain(error: &HostError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

fn http(status: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[tokio::test]
async fn a_trusted_server_counts_as_answering_with_any_status() {
    let pki = Pki::new();
    let host = LiveHost::new();
    for (status, code) in [("200 OK", 200), ("503 Service Unavailable", 503)] {
        let address = pki.serve(http(status, "ok"));
        let request = request(
            format!("https://{address}/healthz"),
            Some(pki.ca()),
            Some(pki.client()),
        );
        let answer = host.https_get(&request).await.expect("get");
        assert_eq!((answer.status, answer.body.as_str()), (code, "ok"));
    }
}

/// While an authority is replaced, the file has two roots of the same name, and a server shows a certificate of either.
#[tokio::test]
async fn every_root_in_a_file_is_trusted() {
    let (first, second) = (Pki::new(), Pki::new());
    let read = |pki: &Pki| std::fs::read_to_string(pki.ca()).expect("read");
    let both = first.directory.path().join("both.crt");
    std::fs::write(&both, [read(&first), read(&second)].concat()).expect("write");
    for pki in [&first, &second] {
        let address = pki.serve(http("200 OK", "ok"));
        let url = format!("https://{address}/readyz");
        let request = request(url, Some(both.clone()), Some(pki.client()));
        let answer = LiveHost::new().https_get(&request).await.expect("get");
        assert_eq!(answer.status, 200);
    }
}

/// Nothing is concluded from a part of an answer.
#[tokio::test]
async fn a_body_is_whole_or_an_error() {
    let pki = Pki::new();
    let get = async |length: usize| {
        let address = pki.serve(http("200 OK", &"x".repeat(length)));
        let request = request(
            format!("https://{address}/"),
            Some(pki.ca()),
            Some(pki.client()),
        );
        LiveHost::new().https_get(&request).await
    };
    let answer = get(1024 * 1024)
        .await
        .expect("a body of the longest length");
    assert_eq!(answer.body.len(), 1024 * 1024);
    let error = get(1024 * 1024 + 1).await.expect_err("a longer one");
    assert!(chain(&error).contains("1048576"), "{}", chain(&error));
}

#[tokio::test]
async fn unknown_certificates_are_refused_on_both_sides() {
    let (pki, other) = (Pki::new(), Pki::new());
    let address = pki.serve(http("200 OK", "ok"));
    let host = LiveHost::new();
    let url = format!("https://{address}/");
    let stranger = request(url.clone(), Some(other.ca()), Some(pki.client()));
    let error = host.https_get(&stranger).await.expect_err("unknown issuer");
    assert!(
        chain(&error).contains("invalid peer certificate"),
        "{}",
        chain(&error)
    );
    let anonymous = request(url.clone(), Some(pki.ca()), None);
    let error = host
        .https_get(&anonymous)
        .await
        .expect_err("no certificate");
    assert!(
        chain(&error).contains("CertificateRequired"),
        "{}",
        chain(&error)
    );
    let error = host
        .https_get(&request(url, None, None))
        .await
        .expect_err("no roots");
    assert!(
        chain(&error).contains("invalid peer certificate"),
        "{}",
        chain(&error)
    );
    assert!(error.is_answer(), "a server is there");
}

#[tokio::test]
async fn plain_http_needs_no_roots() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = listener.local_addr().expect("address");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(&http("200 OK", "up"));
    });
    let answer = LiveHost::new()
        .https_get(&request(format!("http://{address}/"), None, None))
        .await;
    assert_eq!(answer.expect("get").body, "up");
}

#[tokio::test]
async fn a_refusal_differs_from_no_answer() {
    let host = LiveHost::new();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = silent.local_addr().expect("address");
    host.tcp_connect(address, Duration::from_secs(5))
        .await
        .expect("connect");
    let mut slow = request(format!("http://{address}/"), None, None);
    slow.timeout = Duration::from_millis(200);
    let started = Instant::now();
    assert!(matches!(
        host.https_get(&slow).await,
        Err(HostError::Deadline { .. })
    ));
    assert!(started.elapsed() < Duration::from_secs(2));
    drop(silent);
    let error = host
        .tcp_connect(address, Duration::from_secs(5))
        .await
        .expect_err("closed");
    assert!(chain(&error).contains("refused"), "{}", chain(&error));
    let error = host.https_get(&slow).await.expect_err("closed");
    assert!(chain(&error).contains("refused"), "{}", chain(&error));
}

#[tokio::test]
async fn bad_files_are_named() {
    let pki = Pki::new();
    let empty = pki.directory.path().join("empty.crt");
    std::fs::write(&empty, "").expect("write");
    let host = LiveHost::new();
    for (ca, expected) in [
        (empty.as_path(), "there is no certificate in it"),
        (Path::new("/no/such/ca.crt"), "find /no/such/ca.crt"),
    ] {
        let request = request("https://127.0.0.1:1/".into(), Some(ca.into()), None);
        let error = host.https_get(&request).await.expect_err("bad roots");
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
}

#[tokio::test]
async fn the_loopback_link_is_seen() {
    let host = LiveHost::new();
    let link = host.link("lo").await.expect("link").expect("there");
    assert!(link.up);
    assert!(
        link.addresses
            .contains(&(IpAddr::V4(Ipv4Addr::LOCALHOST), 8)),
        "{link:?}"
    );
    assert_eq!(host.link("no-such-link").await.expect("link"), None);
    host.remove_link("no-such-link").await.expect("fine");
}
