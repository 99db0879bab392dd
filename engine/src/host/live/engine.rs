//! The connection to the container engine.

use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::sync::Mutex;

use super::blocking::within;
use crate::host::{HostError, HostResult};

/// Where the engine listens.
const SOCKET: &str = "/var/run/docker.sock";

/// Deadline of a call that only asks or does something small.
pub(super) const USUAL: Duration = Duration::from_secs(30);

/// The engine, once it answered. Forgotten when it stops answering: whoever answers next may be another version.
#[derive(Debug, Default)]
pub(super) struct Engine {
    client: Mutex<Option<Docker>>,
}

impl Engine {
    /// Makes one call. `action` completes "failed to …".
    pub(super) async fn call<T, F: Future<Output = Result<T, Error>>>(
        &self,
        action: impl Into<String>,
        after: Duration,
        call: impl FnOnce(Docker) -> F,
    ) -> HostResult<T> {
        self.call_if_there(action.into(), after, call)
            .await?
            .map_err(|(action, error)| HostError::service(action, error))
    }

    /// The same, with `None` for "no such thing".
    pub(super) async fn find<T, F: Future<Output = Result<T, Error>>>(
        &self,
        action: impl Into<String>,
        call: impl FnOnce(Docker) -> F,
    ) -> HostResult<Option<T>> {
        self.find_within(action, USUAL, call).await
    }

    /// The same, with a deadline of its own.
    pub(super) async fn find_within<T, F: Future<Output = Result<T, Error>>>(
        &self,
        action: impl Into<String>,
        after: Duration,
        call: impl FnOnce(Docker) -> F,
    ) -> HostResult<Option<T>> {
        match self.call_if_there(action.into(), after, call).await? {
            Ok(found) => Ok(Some(found)),
            Err((_, error)) if status(&error) == Some(404) => Ok(None),
            Err((action, error)) => Err(HostError::service(action, error)),
        }
    }

    /// Makes one call; the inner error is an answer of the engine.
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
            *self.client.lock().await = None;
        }
        Ok(answer?.map_err(|error| match status(&error) {
            Some(_) => (action, error),
            None => (format!("{action} (does docker.service run?)"), error),
        }))
    }

    async fn client(&self) -> HostResult<Docker> {
        let mut kept = self.client.lock().await;
        if let Some(client) = &*kept {
            return Ok(client.clone());
        }
        let connect = async {
            Docker::connect_with_unix(SOCKET, USUAL.as_secs(), API_DEFAULT_VERSION)?
                .negotiate_version()
                .await
        };
        let client = connect.await.map_err(|error| {
            HostError::service(
                format!("reach the container engine at {SOCKET} (does docker.service run?)"),
                error,
            )
        })?;
        *kept = Some(client.clone());
        Ok(client)
    }
}

/// The HTTP status with which the engine refused; `None` when it was not the engine that failed.
pub(super) const fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        // A failure while it works arrives in the body of a success.
        Error::DockerStreamError { .. } => Some(200),
        _ => None,
    }
}
