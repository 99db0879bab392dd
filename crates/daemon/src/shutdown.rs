//! Signals that ask a daemon to end or to reload.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What signals ask for.
#[derive(Debug)]
pub struct Signals {
    /// Cancelled by SIGTERM or SIGINT.
    pub shutdown: CancellationToken,
    /// Changes with each SIGHUP.
    pub reload: tokio::sync::watch::Receiver<u64>,
}

/// Listens for SIGTERM, SIGINT and SIGHUP from now on. Must run within a tokio runtime.
///
/// # Errors
/// A signal cannot be listened for.
pub fn listen() -> Result<Signals> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let shutdown = CancellationToken::new();
    let (asked, reload) = tokio::sync::watch::channel(0);
    let token = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => asked.send_modify(|count| *count += 1),
            }
        }
        token.cancel();
        crate::systemd::stopping();
        // Keeps the sender: a closed channel would look like a request to reload.
        std::future::pending::<()>().await;
    });
    Ok(Signals { shutdown, reload })
}
