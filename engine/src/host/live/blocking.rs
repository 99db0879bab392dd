//! From asynchronous callers to calls that block, and from any call to one with a deadline.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::host::{HostError, HostResult};

/// Runs `work` where it may block. Cancelling the caller does not stop the work.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> HostResult<T> + Send + 'static,
) -> HostResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(HostError::service("finish before the program ends", error)),
        },
    }
}

/// Gives `call` no longer than `after`. `action` completes "failed to …".
pub(super) async fn within<T>(
    after: Duration,
    action: impl FnOnce() -> String,
    call: impl Future<Output = HostResult<T>>,
) -> HostResult<T> {
    match tokio::time::timeout(after, call).await {
        Ok(result) => result,
        Err(_) => Err(HostError::Deadline {
            action: action(),
            after,
        }),
    }
}

/// For `map_err`: an I/O error about `path` while doing `action`.
pub(super) fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HostError {
    let path = path.to_owned();
    move |source| HostError::File {
        action,
        path,
        source,
    }
}

/// Turns "there is nothing at that path" into `None`.
///
/// A parent that is a file means the same as a parent that is missing: there is nothing at the path.
pub(super) fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
