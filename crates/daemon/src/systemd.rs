//! Telling systemd how the daemon is (`sd_notify(3)`). Everything here does nothing where systemd did not start us.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// The daemon is up: units ordered after it may start.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The daemon is on its way down.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// Answers systemd's watchdog (`WatchdogSec=`) at half its time, for as long as no part of the daemon hangs. A part that has ended
/// can be had again by a new start alone, but what is at work is not killed for it: `shutdown` is cancelled. Returns at once where no
/// watchdog is asked for, and when `shutdown` is cancelled.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn feed_watchdog(shutdown: CancellationToken, health: Health) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut beat = tokio::time::interval((limit / 2).max(Duration::from_millis(100)));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = beat.tick() => {}
        }
        let ended = health.ended();
        if !ended.is_empty() {
            tracing::error!("{} ended by itself; starting anew", ended.join(", "));
            stopping();
            shutdown.cancel();
            return;
        }
        let problems = health.problems();
        if problems.is_empty() {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(
                "{}; leaving the rest to systemd's watchdog",
                problems.join("; ")
            );
            return;
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}
