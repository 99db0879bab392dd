//! The connection to the container runtime.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};

use crate::host::live::blocking::within;
use crate::host::{HostError, HostResult};

/// Where the runtime listens.
const SOCKET: &str = "/var/run/docker.sock";

/// Deadline of a call that only asks or does something small.
pub(in crate::host::live) const USUAL: Duration = Duration::from_secs(30);

/// The connection to the runtime, kept while the runtime answers. It is dropped when the runtime stops answering, because the next runtime
/// may be another version.
#[derive(Debug)]
pub(in crate::host::live) struct DockerClient {
    socket: String,
    /// Never locked during a wait: a call must not wait for the deadline of another call.
    client: Mutex<Option<Docker>>,
}

impl Default for DockerClient {
    fn default() -> Self {
        Self::at(SOCKET)
    }
}

impl DockerClient {
    pub(super) fn at(socket: &str) -> Self {
        Self {
            socket: socket.to_owned(),
            client: Mutex::default(),
        }
    }

    /// Makes one call. `action` completes "failed to …".
    pub(in crate::host::live) async fn call<T, F: Future<Output = Result<T, Error>>>(
        &self,
        action: impl Into<String>,
        after: Duration,
        call: impl FnOnce(Docker) -> F,
    ) -> HostResult<T> {
        self.call_if_there(action.into(), after, call)
            .await?
            .map_err(|(action, error)| HostError::service(action, plain(error)))
    }

    /// The same, with `None` for "no such thing".
    pub(in crate::host::live) async fn find<T, F: Future<Output = Result<T, Error>>>(
        &self,
        action: impl Into<String>,
        call: impl FnOnce(Docker) -> F,
    ) -> HostResult<Option<T>> {
        self.find_within(action, USUAL, call).await
    }

    /// The same, with a deadline of its own.
    pub(in crate::host::live) async fn find_within<T, F: Future<Output = Result<T, Error>>>(
        &self,
        action: impl Into<String>,
        after: Duration,
        call: impl FnOnce(Docker) -> F,
    ) -> HostResult<Option<T>> {
        match self.call_if_there(action.into(), after, call).await? {
            Ok(found) => Ok(Some(found)),
            Err((_, error)) if status(&error) == Some(404) => Ok(None),
            Err((action, error)) => Err(HostError::service(action, plain(error))),
        }
    }

    /// Makes one call; the inner error is an answer of the runtime.
    async fn call_if_there<T, F: Future<Output = Result<T, Error>>>(
        &self,
        action: String,
        after: Duration,
        call: impl FnOnce(Docker) -> F,
    ) -> HostResult<Result<T, (String, Error)>> {
        let answer = within(after, || action.clone(), async {
            let client = self.client().await?;
            Ok(call(client.with_timeout(after)).await)
        })
        .await;
        let lost = match &answer {
            Ok(Ok(_)) => false,
            Ok(Err(error)) => status(error).is_none(),
            Err(_) => true,
        };
        if lost {
            *self.kept() = None;
        }
        match answer? {
            Ok(found) => Ok(Ok(found)),
            // It runs, and has taken the request. The deadline of the client may come first.
            Err(Error::RequestTimeoutError) => Err(HostError::Deadline { action, after }),
            Err(error) if status(&error).is_some() => Ok(Err((action, error))),
            Err(error) => Ok(Err((format!("{action} (does docker.service run?)"), error))),
        }
    }

    async fn client(&self) -> HostResult<Docker> {
        let kept = self.kept().clone();
        if let Some(client) = kept {
            return Ok(client);
        }
        let socket = &self.socket;
        let connect = async {
            Docker::connect_with_unix(socket, USUAL.as_secs(), API_DEFAULT_VERSION)?
                .negotiate_version()
                .await
        };
        let client = connect.await.map_err(|error| {
            HostError::service(
                format!("reach the container runtime at {socket} (does docker.service run?)"),
                plain(error),
            )
        })?;
        *self.kept() = Some(client.clone());
        Ok(client)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Docker>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection to the runtime has failed, and the cause says why. Replaces the message of the client's library, which does not help an
/// operator.
#[derive(Debug)]
struct ConnectionFailed(hyper_util::client::legacy::Error);

impl std::fmt::Display for ConnectionFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection failed")
    }
}

impl std::error::Error for ConnectionFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}

/// The error with a message for operators.
fn plain(error: Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        Error::HyperLegacyError { err } => Box::new(ConnectionFailed(err)),
        other => Box::new(other),
    }
}

/// The HTTP status with which the runtime refused; `None` when it was not the runtime that failed.
pub(in crate::host::live) const fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        // A failure during the work arrives in the body of a successful answer.
        Error::DockerStreamError { .. } => Some(200),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use tokio::time::Instant;

    use super::*;
    use crate::host::live::LiveHost;
    use crate::host::{Containers as _, PRESENCE};

    /// A socket whose listener accepts connections and never answers, and a runtime that uses it.
    fn hung(directory: &tempfile::TempDir) -> (UnixListener, DockerClient) {
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        (listener, DockerClient::at(&socket.display().to_string()))
    }

    /// The connection's own deadline must not end the wait early.
    #[tokio::test(start_paused = true)]
    async fn the_answer_check_waits_for_the_given_timeout() {
        let directory = tempfile::tempdir().expect("a directory");
        let (_listener, runtime) = hung(&directory);
        let host = LiveHost {
            runtime,
            ..LiveHost::new()
        };
        for timeout in [PRESENCE, 3 * PRESENCE] {
            let began = Instant::now();
            let answer = host.container_runtime_within(timeout).await;
            answer.expect_err("the listener does not answer");
            let took = began.elapsed();
            assert!(
                took >= timeout && took < timeout + Duration::from_secs(1),
                "{took:?}"
            );
        }
    }

    /// Its silence may have another cause, such as a container that it cannot end.
    #[tokio::test(start_paused = true)]
    async fn the_error_of_a_late_answer_does_not_ask_whether_the_runtime_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let (_listener, runtime) = hung(&directory);
        let client =
            Docker::connect_with_unix(&runtime.socket, USUAL.as_secs(), API_DEFAULT_VERSION);
        *runtime.kept() = Some(client.expect("the socket is there"));
        let late = |_| async { Err::<(), Error>(Error::RequestTimeoutError) };
        let answer = runtime.call("ask", USUAL, late).await;
        let error = answer.expect_err("it does not answer").to_string();
        assert!(error.starts_with("ask: no answer within"), "{error}");
        assert!(!error.contains('?'), "{error}");
    }

    #[tokio::test]
    async fn a_runtime_that_is_down_is_reported_in_plain_words() {
        let directory = tempfile::tempdir().expect("a directory");
        let (listener, runtime) = hung(&directory);
        drop(listener);
        let answer = runtime.call("ask", USUAL, |docker| async move { docker.version().await });
        let error = answer.await.expect_err("nothing listens");
        let text = crate::model::chain(&error).join(": ");
        assert!(text.contains("Connection refused"), "{text}");
        assert!(
            !text.contains("hyper") && !text.contains("client error"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_waits_for_the_deadline_of_another_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let (_listener, runtime) = hung(&directory);
        let asked = async |after: Duration| {
            let began = Instant::now();
            let answer = runtime.call("ask", after, |docker| async move { docker.version().await });
            answer.await.expect_err("the listener does not answer");
            began.elapsed()
        };
        let (long, short) = tokio::join!(asked(USUAL), asked(PRESENCE));
        assert!(long < USUAL + Duration::from_secs(1), "{long:?}");
        assert!(short < PRESENCE + Duration::from_secs(1), "{short:?}");
    }
}
