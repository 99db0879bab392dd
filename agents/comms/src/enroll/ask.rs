//! The request to the plane.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use wire::enrolment::{LARGEST_RESPONSE, NAME, PATH, Refusal, Request, Response, VERSION};

use super::pinned::{Fingerprint, Pinned};
use crate::config::Plane;
use crate::identity;
use crate::path::proxy::Proxies;
use crate::tunnel::{PlaneRoute, PlaneStream};

/// Time for the answer: the plane may have to ask its message queue.
const LIMIT: Duration = Duration::from_secs(60);

/// Sends a request, and returns what the plane answers.
///
/// # Errors
/// The plane cannot be reached, has another root, refuses, or does not answer as a plane does.
pub async fn ask(
    plane: &Plane,
    proxies: &Proxies,
    root: Fingerprint,
    request: &Request,
) -> Result<Response> {
    let name = format!("{NAME}.{}", plane.host);
    let asking = || format!("ask {name} for a certificate");
    let stream = connect(plane, proxies, root, &name).await?;
    let answered = timeout(LIMIT, post(stream, &name, request)).await;
    let answered = answered
        .with_context(|| format!("{}: no answer within {} s", asking(), LIMIT.as_secs()))?;
    let (status, text) = answered.with_context(asking)?;
    if status != StatusCode::OK {
        // The ingress answers for a plane that is being restarted, and for one that is asked too often.
        let comes_again = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        let Ok(Refusal { error, next }) = serde_json::from_slice(&text) else {
            if comes_again.contains(&status) {
                bail!(
                    "{}: it answers with {status}; try again in a minute with the same token",
                    asking()
                );
            }
            bail!(
                "{}: it answers with {status}, and is not the plane's enrolment",
                asking()
            );
        };
        bail!("{}: {}; {}", asking(), line(&error), line(&next));
    }
    // The message of serde may have a secret.
    let response: Response = serde_json::from_slice(&text).map_err(|_| {
        anyhow!(
            "{}: its answer cannot be read; install the pf9-comms of this plane",
            asking()
        )
    })?;
    if response.version != VERSION {
        bail!(
            "{}: its answer has version {}, and this program knows {VERSION}; install the pf9-comms of this plane",
            asking(),
            response.version
        );
    }
    Ok(response)
}

/// A text of the plane as one line for a terminal.
fn line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

async fn connect(
    plane: &Plane,
    proxies: &Proxies,
    root: Fingerprint,
    name: &str,
) -> Result<PlaneStream> {
    let provider = Arc::new(identity::provider());
    let tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(identity::VERSIONS)
        .context("choose the versions of TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::new(root, provider)))
        .with_no_client_auth();
    let route = PlaneRoute {
        plane: plane.clone(),
        proxies: proxies.clone(),
        tls: Arc::new(tls),
    };
    let sni =
        ServerName::try_from(name.to_owned()).with_context(|| format!("use the name {name}"))?;
    route.open(&sni).await.map_err(|error| {
        let next = error.next();
        anyhow!(error).context(format!("reach the plane; {next}"))
    })
}

/// Posts the request, and returns the status and the body of the answer.
async fn post(stream: PlaneStream, name: &str, request: &Request) -> Result<(StatusCode, Bytes)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let body = serde_json::to_vec(request).context("write the request")?;
    let request = hyper::Request::builder()
        .method(Method::POST)
        .uri(PATH)
        .header(HOST, name)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST_RESPONSE)
            .collect()
            .await;
        anyhow::Ok((status, body.map_err(|error| anyhow!(error))?.to_bytes()))
    };
    tokio::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        // It ends after its answer, or with an error that the answer has, too.
        _ = connection => answered.await,
    }
}
