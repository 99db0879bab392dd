//! TLS handshakes in memory: an issued certificate is accepted where it should be, and refused elsewhere.

use std::sync::Arc;

use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::*;
use crate::host::Clock as _;

/// The fake host's clock at one moment.
#[derive(Debug)]
struct At(Duration);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0))
    }
}

fn clock(host: &FakeHost) -> Arc<At> {
    let now = host.now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    Arc::new(At(now.expect("it is later than 1970")))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(host: &FakeHost, path: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(text(host, path).as_bytes()).expect("a certificate");
    roots.add(root).expect("an authority");
    Arc::new(roots)
}

fn identity(host: &FakeHost, path: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let directory = format!("/etc/pf9/kube.d/certs/{path}");
    let certificate = text(host, &format!("{directory}/request.crt"));
    let key = text(host, &format!("{directory}/request.key"));
    (
        vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")],
        PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key"),
    )
}

/// A handshake in which both sides show a certificate and trust their own `ca.crt`.
fn handshake(host: &FakeHost, server: &str, client: &str, name: &str) -> Result<(), rustls::Error> {
    let trust = |path: &str| roots(host, &format!("/etc/pf9/kube.d/certs/{path}/ca.crt"));
    let (chain, key) = identity(host, server);
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(trust(server), provider())
            .build()
            .expect("a verifier");
    let server_config = ServerConfig::builder_with_details(provider(), clock(host))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    let (chain, key) = identity(host, client);
    let client_config = ClientConfig::builder_with_details(provider(), clock(host))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(trust(client))
        .with_client_auth_cert(chain, key)?;
    let mut server = ServerConnection::new(Arc::new(server_config))?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(client_config), name)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).expect("memory");
        server.read_tls(&mut flight.as_slice()).expect("memory");
        server.process_new_packets()?;
        let mut flight = Vec::new();
        server.write_tls(&mut flight).expect("memory");
        client.read_tls(&mut flight.as_slice()).expect("memory");
        client.process_new_packets()?;
    }
    Ok(())
}

async fn host() -> FakeHost {
    let host = with_certificate().await;
    apply(&host, &admin()).await;
    apply(
        &host,
        &CertificateSpec {
            path: "etcd/peer".to_owned(),
            usage: Usage::Peer,
            ..apiserver()
        },
    )
    .await;
    host
}

#[tokio::test]
async fn every_name_and_address_is_accepted() {
    let host = host().await;
    for name in ["localhost", "kubernetes.default.svc", "10.0.0.7", "fd00::7"] {
        assert_eq!(
            handshake(&host, "apiserver", "admin", name),
            Ok(()),
            "{name}"
        );
        assert_eq!(
            handshake(&host, "etcd/peer", "etcd/peer", name),
            Ok(()),
            "{name}"
        );
    }
    for name in ["kubernetes", "10.0.0.8", "::1"] {
        assert!(
            handshake(&host, "apiserver", "admin", name).is_err(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn usages_are_kept_apart() {
    let host = host().await;
    let client_as_server = CertificateSpec {
        usage: Usage::Client,
        path: "wrong".to_owned(),
        ..apiserver()
    };
    apply(&host, &client_as_server).await;
    assert!(handshake(&host, "wrong", "admin", "localhost").is_err());
    assert!(
        handshake(&host, "apiserver", "apiserver", "localhost").is_err(),
        "a server certificate is no client certificate"
    );
}

#[tokio::test]
async fn an_expired_certificate_and_another_authority_are_refused() {
    let host = host().await;
    let later = host.fork();
    advance(&later, DAY * 91);
    assert!(handshake(&later, "apiserver", "admin", "localhost").is_err());
    apply(&later, &apiserver()).await;
    apply(&later, &admin()).await;
    assert_eq!(handshake(&later, "apiserver", "admin", "localhost"), Ok(()));

    apply(
        &host,
        &AuthoritySpec {
            name: "etcd".to_owned(),
            ..cluster()
        },
    )
    .await;
    apply(
        &host,
        &CertificateSpec {
            authority: "etcd".to_owned(),
            ..admin()
        },
    )
    .await;
    assert!(handshake(&host, "apiserver", "admin", "localhost").is_err());
}
