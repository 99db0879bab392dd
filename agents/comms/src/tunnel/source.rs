//! Where bytes come from, and whether it is still there.

use std::io;

use tokio::io::{AsyncRead, Interest};
use tokio::net::tcp;

/// What bytes are read from.
pub(super) trait Source: AsyncRead + Unpin {
    /// Completes when the other side has reset the connection, also while nothing is read from it. A source that does not tell it is silent. Cancel safe.
    fn reset(&self) -> impl Future<Output = io::Error> + Send {
        std::future::pending()
    }
}

impl Source for tcp::ReadHalf<'_> {
    async fn reset(&self) -> io::Error {
        let found = match self.as_ref().ready(Interest::ERROR).await {
            Ok(_) => self.as_ref().take_error(),
            Err(error) => Err(error),
        };
        let found = found.unwrap_or_else(Some);
        found.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    }
}

// TLS: what breaks below it is seen when it is read.
impl<S: AsyncRead> Source for tokio::io::ReadHalf<S> {}
