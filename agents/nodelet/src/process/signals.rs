//! SIGINT, SIGTERM and SIGHUP ask a run to end at its next safe point; a second signal has no effect.
//!
//! Not here: the signals of a daemon, for which SIGHUP means a reload (`daemon::shutdown`).

use std::io::Write as _;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels the token at the first signal.
pub(crate) fn cancel_on_signal() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    // A closed terminal sends SIGHUP: this run, too, must not end in the middle of a step.
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let asked = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        asked.cancel();
        // The terminal may be closed, so a write error is ignored.
        let _ = writeln!(
            std::io::stderr(),
            "nodelet: asked to end; finishing the current step"
        );
    });
    Ok(token)
}
