//! Requests to the daemon of this host, over its socket.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::nodeletd::api::{NOT_SAVED, SOCKET};
use crate::nodeletd::single_instance;
use crate::nodeletd::status::view::View;

/// Bound on an answer, in bytes.
const LIMIT: usize = 8 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);

/// No daemon answers.
#[derive(Debug, thiserror::Error)]
#[error(
    "ask nodeletd through {SOCKET}: it does not run (`systemctl status pf9-nodeletd` says why)"
)]
pub(crate) struct NotThere(#[source] std::io::Error);

/// The daemon accepts the connection, but does not answer in time.
#[derive(Debug, thiserror::Error)]
#[error(
    "ask nodeletd through {SOCKET}: no answer within {} s; `journalctl --unit pf9-nodeletd` shows what it does, `systemctl restart pf9-nodeletd` starts it again",
    TIMEOUT.as_secs()
)]
pub(crate) struct NoAnswer;

/// The request is in force, but a restart of the daemon ends it.
#[derive(Debug, thiserror::Error)]
#[error("ask nodeletd: {0}")]
pub(crate) struct NotSaved(String);

/// The state of the host.
///
/// # Errors
/// No daemon answers, or its first pass is not over.
pub(crate) async fn status() -> Result<View> {
    let answer = ask(Method::GET, "/v1/status").await?;
    serde_json::from_slice(&answer).context("parse the answer of nodeletd")
}

/// Sends a request to the daemon. Returns its answer, for people.
///
/// # Errors
/// No daemon answers, or it refuses.
pub(crate) async fn post(path: &str) -> Result<String> {
    let answer = ask(Method::POST, path).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn ask(method: Method, path: &str) -> Result<Bytes> {
    in_time(exchange(method, path)).await
}

/// The answer of the daemon, if it comes within [`TIMEOUT`].
async fn in_time(answer: impl Future<Output = Result<Bytes>>) -> Result<Bytes> {
    tokio::time::timeout(TIMEOUT, answer)
        .await
        .map_err(|_| NoAnswer)?
}

async fn exchange(method: Method, path: &str) -> Result<Bytes> {
    let stream = UnixStream::connect(SOCKET).await.map_err(|error| {
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            anyhow::Error::new(error)
                .context(format!("ask nodeletd through {SOCKET}: only root may"))
        } else if single_instance::runs() {
            anyhow::Error::new(error).context(format!(
                "ask nodeletd through {SOCKET}: it runs, and makes its socket again as soon as it can (`journalctl --unit pf9-nodeletd` shows what prevents it)"
            ))
        } else {
            NotThere(error).into()
        }
    })?;
    exchange_over(stream, method, path).await
}

/// Sends one request over a connection and reads the answer.
async fn exchange_over(stream: UnixStream, method: Method, path: &str) -> Result<Bytes> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("talk to nodeletd")?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "nodeletd")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("ask nodeletd")?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LIMIT)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("read what nodeletd says: {error}"))?
        .to_bytes();
    connection.abort();
    let text = || String::from_utf8_lossy(&body).trim().to_owned();
    if status == NOT_SAVED {
        return Err(NotSaved(text()).into());
    }
    if !status.is_success() {
        bail!("ask nodeletd: {}", text());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Answers one request with this many bytes.
    async fn serve(stream: UnixStream, length: usize) {
        let body = vec![b'x'; length];
        serve_text(stream, "200 OK", &body).await;
    }

    async fn read_request(stream: &mut UnixStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("a request"));
        }
    }

    async fn serve_text(mut stream: UnixStream, status: &str, body: &[u8]) {
        read_request(&mut stream).await;
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
        // A client that refuses the answer closes the connection.
        let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    }

    #[tokio::test]
    async fn an_answer_above_the_limit_is_refused() {
        for (length, is_read) in [(LIMIT, true), (LIMIT + 1, false)] {
            let (ours, theirs) = UnixStream::pair().expect("two ends");
            let serving = tokio::spawn(serve(theirs, length));
            let answer = exchange_over(ours, Method::GET, "/v1/status").await;
            let read = answer.as_ref().map(Bytes::len);
            assert_eq!(read.is_ok(), is_read, "{length}: {read:?}");
            serving.await.expect("it ends");
        }
    }

    /// A command may go on with such a pause, so it must be able to tell this error from others.
    #[tokio::test]
    async fn a_request_that_is_in_force_but_not_saved_is_an_error_of_its_own() {
        for (status, is_in_force) in [
            ("507 Insufficient Storage", true),
            ("503 Service Unavailable", false),
        ] {
            let (ours, theirs) = UnixStream::pair().expect("two ends");
            let serving = tokio::spawn(serve_text(theirs, status, b"it is not saved\n"));
            let answer = exchange_over(ours, Method::POST, "/v1/pause?seconds=60").await;
            let error = answer.expect_err("it is an error");
            assert_eq!(error.is::<NotSaved>(), is_in_force, "{status}");
            assert_eq!(format!("{error:#}"), "ask nodeletd: it is not saved");
            serving.await.expect("it ends");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_hangs_has_a_next_step() {
        let (ours, mut theirs) = UnixStream::pair().expect("two ends");
        let hanging = tokio::spawn(async move {
            read_request(&mut theirs).await;
            // From here on, time passes only while all wait.
            tokio::time::pause();
            std::future::pending::<()>().await;
        });
        let answer = in_time(exchange_over(ours, Method::GET, "/v1/status")).await;
        let error = answer.expect_err("the daemon does not answer");
        assert!(error.is::<NoAnswer>(), "{error:#}");
        assert!(!hanging.is_finished(), "the connection stays open");
        hanging.abort();
        let error = format!("{error:#}");
        assert!(error.contains("no answer within 10 s"), "{error}");
        assert!(error.contains("systemctl restart pf9-nodeletd"), "{error}");
    }
}
