//! A client of HTTPS with a certificate of its own. It tries nothing again.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::resource::pki::certificate_paths;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::header::CONTENT_TYPE;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use lab::Host;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Maximum size of an answer in bytes.
const MOST: usize = 16 * 1024 * 1024;

/// Whom a client trusts, and what it shows.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Roots of the server, in PEM.
    pub roots: String,
    /// The client's certificate, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
}

impl Credentials {
    /// Those of a certificate that the role has on a host.
    ///
    /// # Panics
    /// The host does not have it.
    #[must_use]
    pub fn of(host: &Host, certificate: &str) -> Self {
        let paths = certificate_paths(certificate);
        let text = |path: &Path| {
            let content = host
                .get(&path.to_string_lossy())
                .expect("the file is there");
            String::from_utf8(content).expect("a text")
        };
        Self {
            roots: text(&paths.trust),
            certificate: text(&paths.certificate),
            key: text(&paths.key),
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// What it says, for messages: its status, and the beginning of its body.
    #[must_use]
    pub fn told(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let begin: String = body.trim().chars().take(300).collect();
        format!("status {}: {begin}", self.status)
    }
}

/// The client. A copy has the same connections.
#[derive(Debug, Clone)]
pub struct HttpsClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl HttpsClient {
    /// A client that keeps so many connections to each server. With 0, each request is on a new connection.
    ///
    /// # Panics
    /// The certificates or the key are invalid.
    #[must_use]
    pub fn new(credentials: &Credentials, kept: usize) -> Self {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(credentials))
            .https_only()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(kept)
            .pool_idle_timeout(None)
            .retry_canceled_requests(false)
            .build(connector);
        Self(client)
    }

    /// Requests this URL.
    ///
    /// # Errors
    /// There is no whole answer within `limit`.
    pub async fn get(&self, url: &str, limit: Duration) -> Result<Answer, String> {
        self.send(Request::get(url).body(Full::default()), limit)
            .await
    }

    /// Posts a text of JSON.
    ///
    /// # Errors
    /// There is no whole answer within `limit`.
    pub async fn post(&self, url: &str, json: String, limit: Duration) -> Result<Answer, String> {
        let request = Request::post(url).header(CONTENT_TYPE, "application/json");
        self.send(request.body(Full::from(json)), limit).await
    }

    async fn send(
        &self,
        request: hyper::http::Result<Request<Full<Bytes>>>,
        limit: Duration,
    ) -> Result<Answer, String> {
        let request = request.map_err(|error| told(&error))?;
        let answered = tokio::time::timeout(limit, async {
            let answer = self.0.request(request).await;
            let answer = answer.map_err(|error| told(&error))?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), MOST).collect().await;
            let body = body.map_err(|error| told(&*error))?.to_bytes();
            Ok::<_, String>(Answer { status, body })
        });
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
        }
    }
}

fn told(error: &(dyn Error + 'static)) -> String {
    engine::model::chain(error).join(": ")
}

fn tls(credentials: &Credentials) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(credentials.roots.as_bytes()) {
        roots.add(root.expect("a certificate")).expect("a root");
    }
    let chain = CertificateDer::pem_slice_iter(credentials.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .expect("certificates");
    let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).expect("a key");
    let mut tls = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("the provider has them")
    .with_root_certificates(roots)
    .with_client_auth_cert(chain, key)
    .expect("the key fits");
    // Every new connection makes a full handshake, without a session ticket of an earlier one.
    tls.resumption = rustls::client::Resumption::disabled();
    tls
}
