//! Reports the daemon's state to systemd (`sd_notify(3)`). Does nothing if systemd did not start us.

use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// The daemon is up: units ordered after it may start.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The daemon is stopping.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// Answers systemd's watchdog (`WatchdogSec=`) at half its time, for as long as no part of the daemon hangs. If a part has ended, only a
/// new start of the daemon brings it back; then `shutdown` is cancelled, so that work under way is not killed. Does nothing if no
/// watchdog is asked for, and ends when `shutdown` is cancelled.
///
/// It has a thread of its own: a write to a disk that stalls, or to a log that is not read, may block any other thread for longer than
/// systemd waits. `health` tells whether the daemon makes progress; it has a deadline for each part.
///
/// # Errors
/// The thread cannot be started.
pub fn feed_watchdog(shutdown: CancellationToken, health: Health) -> std::io::Result<()> {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return Ok(());
    };
    let every = (limit / 2).max(Duration::from_millis(100));
    start(every, shutdown, health, tell).map(drop)
}

/// Feeds the watchdog in a thread of its own: the daemon's own threads may wait for a disk.
fn start(
    every: Duration,
    shutdown: CancellationToken,
    health: Health,
    tell: impl FnMut(&[NotifyState<'_>]) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(move || feed(every, &shutdown, &health, tell))
}

fn feed(
    every: Duration,
    shutdown: &CancellationToken,
    health: &Health,
    mut tell: impl FnMut(&[NotifyState<'_>]),
) {
    while !shutdown.is_cancelled() {
        let ended = health.ended();
        if !ended.is_empty() {
            tell(&[NotifyState::Stopping]);
            shutdown.cancel();
            tracing::error!("{} ended by itself; the daemon stops", ended.join(", "));
            return;
        }
        let problems = health.problems();
        if !problems.is_empty() {
            tracing::error!(
                "{}; no longer answering systemd's watchdog",
                problems.join("; ")
            );
            return;
        }
        tell(&[NotifyState::Watchdog]);
        std::thread::sleep(every);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "could not notify systemd");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    /// Ends a test that waits in vain.
    const LONG: Duration = Duration::from_secs(60);

    fn name(state: &[NotifyState<'_>]) -> String {
        state.iter().map(ToString::to_string).collect()
    }

    /// The daemon's thread is blocked, as by a write to a disk that stalls: here it only waits for the watchdog to be fed.
    #[test]
    fn the_watchdog_is_fed_while_the_daemon_waits_for_a_disk() {
        let (health, shutdown) = (Health::default(), CancellationToken::new());
        let beat = health.part("the loop", Duration::from_secs(3600));
        let (fed, feeds) = mpsc::channel();
        let watchdog = start(SOON, shutdown.clone(), health, move |state| {
            // At the end the test no longer listens.
            let _ = fed.send(name(state));
        })
        .expect("a thread");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            for _ in 0..5 {
                let feed = feeds.recv_timeout(LONG).expect("it is fed");
                assert_eq!(feed, "WATCHDOG=1");
            }
        });
        shutdown.cancel();
        watchdog.join().expect("it ends");
        beat.finish();
    }

    #[test]
    fn the_watchdog_stops_for_a_hanging_part_and_the_daemon_ends_with_a_part() {
        let (health, shutdown) = (Health::default(), CancellationToken::new());
        let mut messages = Vec::new();
        let beat = health.part("the loop", Duration::ZERO);
        feed(SOON, &shutdown, &health, |state| messages.push(name(state)));
        assert!(!shutdown.is_cancelled());
        beat.within(Duration::from_secs(3600));
        drop(beat);
        feed(SOON, &shutdown, &health, |state| messages.push(name(state)));
        assert!(shutdown.is_cancelled());
        assert_eq!(messages, ["STOPPING=1"]);
    }
}
