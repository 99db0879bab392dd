//! One HTTP or HTTPS request: a GET, or a POST of JSON.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::host::live::blocking::blocking;
use crate::host::live::error_class::classified;
use crate::host::live::files;
use crate::host::{HostError, HostResult, HttpsRequest, HttpsResponse};

/// A longer body is an error: nothing is concluded from a part of it.
const MAX_BODY: usize = 1024 * 1024;

/// PEM files larger than this are refused.
const MAX_PEM: u64 = 1024 * 1024;

/// Fetches a URL on a new connection, which is closed afterwards.
pub(in crate::host::live) async fn get(request: &HttpsRequest) -> HostResult<HttpsResponse> {
    send(request, Method::GET, "get", Bytes::new()).await
}

/// Sends JSON to a URL on a new connection, which is closed afterwards.
pub(in crate::host::live) async fn post(
    request: &HttpsRequest,
    json: String,
) -> HostResult<HttpsResponse> {
    send(request, Method::POST, "post to", json.into()).await
}

async fn send(
    request: &HttpsRequest,
    method: Method,
    verb: &str,
    content: Bytes,
) -> HostResult<HttpsResponse> {
    let failed = || format!("{verb} {}", request.url);
    let uri: Uri = request
        .url
        .parse()
        .map_err(|error| HostError::service(failed(), error))?;
    let shown = Arc::new(OnceLock::new());
    let tls = tls_config(request, &shown).await?;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector);
    let mut question = Request::builder()
        .method(method)
        .uri(uri)
        .header(hyper::header::ACCEPT, "*/*");
    if !content.is_empty() {
        question = question.header(hyper::header::CONTENT_TYPE, "application/json");
    }
    let question = question
        .body(Full::new(content))
        .map_err(|error| HostError::service(failed(), error))?;
    let answer = client
        .request(question)
        .await
        .map_err(|error| classified(failed(), error))?;
    Ok(HttpsResponse {
        status: answer.status().as_u16(),
        body: body(answer.into_body())
            .await
            .map_err(|error| HostError::service(failed(), error))?
            .ok_or_else(|| HostError::TooMuch {
                who: request.url.clone(),
                limit: MAX_BODY,
            })?,
        certificate: shown.get().cloned(),
    })
}

/// Verifies as usual, and keeps the certificate that a server shows.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    shown: Arc<OnceLock<Vec<u8>>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // An error means that this connection has shown its certificate before.
        let _ = self.shown.set(certificate.to_vec());
        self.usual
            .verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// The body; `None` if it is too long.
async fn body(mut incoming: Incoming) -> Result<Option<String>, hyper::Error> {
    let mut read = Vec::new();
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data);
        }
        if read.len() > MAX_BODY {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8_lossy(&read).into_owned()))
}

/// Trusts only the given roots, and without a file of them no server. They are read for every request, because certificates are rotated.
async fn tls_config(
    request: &HttpsRequest,
    shown: &Arc<OnceLock<Vec<u8>>>,
) -> HostResult<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &request.ca {
        Some(path) => {
            for certificate in certificates(path).await? {
                roots.add(certificate).map_err(|error| bad(path, error))?;
            }
        }
        None if request.url.starts_with("https:") => roots
            .add(root_of_none()?)
            .map_err(|error| HostError::service("set up TLS", error))?,
        None => {}
    }
    // We choose the implementation here, so that this does not depend on what the process installed.
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| HostError::service("set up TLS", error))?;
    let builder = match &request.ca {
        // Plain HTTP, where nothing is ever verified, or a server that is not to be trusted.
        None => builder.with_root_certificates(roots),
        Some(path) => {
            let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| bad(path, error))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Verifier {
                    usual,
                    shown: shown.clone(),
                }))
        }
    };
    match &request.client {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate).await?;
            let pem = pem(key).await?;
            let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| bad(key, error))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| bad(certificate, error))
        }
    }
}

/// A root that has signed no server. Its key is thrown away. TLS needs one root at least.
fn root_of_none() -> HostResult<CertificateDer<'static>> {
    let made = rcgen::generate_simple_self_signed(vec!["none.invalid".to_owned()]);
    let made = made.map_err(|error| HostError::service("set up TLS", error))?;
    Ok(made.cert.der().clone())
}

async fn certificates(path: &Path) -> HostResult<Vec<CertificateDer<'static>>> {
    let pem = pem(path).await?;
    let found = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(path, error))?;
    if found.is_empty() {
        return Err(bad(path, "there is no certificate in it"));
    }
    Ok(found)
}

async fn pem(path: &Path) -> HostResult<Vec<u8>> {
    let owned = path.to_owned();
    let read = blocking(move || files::read(&owned, MAX_PEM)).await?;
    read.ok_or_else(|| HostError::Missing {
        what: path.display().to_string(),
    })
}

/// The content of a file is not what it should be.
fn bad(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> HostError {
    HostError::refused(format!("use {}", path.display()), source)
}
