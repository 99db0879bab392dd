//! What a listener has carried since the start of the daemon, and what went wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::HandshakeKind;
use tokio::time::Instant;
use wire::comms::{ErrorCount, Listener};

use crate::permits::{Counter, UserCounters};

/// A cause is logged at most once in this time for each listener.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The counters of a listener. They outlive a reload.
#[derive(Debug, Default)]
pub struct Activity {
    /// Open tunnels.
    pub open: Arc<Counter>,
    /// Open tunnels of each user, if the listener limits them.
    pub open_of_users: Arc<UserCounters>,
    /// Local connections that were accepted.
    pub accepted: AtomicU64,
    /// Bytes to the plane.
    pub up: AtomicU64,
    /// Bytes from the plane.
    pub down: AtomicU64,
    /// Tunnels that began with a spare connection.
    pub spares_used: AtomicU64,
    /// Attempts to reach the plane that were made again.
    pub retries: AtomicU64,
    full: AtomicU64,
    resumed: AtomicU64,
    errors: Mutex<BTreeMap<&'static str, Failures>>,
}

/// Errors with the same cause.
#[derive(Debug)]
struct Failures {
    count: u64,
    last: String,
    next: &'static str,
    at: SystemTime,
    logged: Instant,
    /// Since it was logged.
    hidden: u64,
}

impl Activity {
    /// Counts a TLS handshake.
    pub fn handshake(&self, kind: Option<HandshakeKind>) {
        let counter = match kind {
            Some(HandshakeKind::Resumed) => &self.resumed,
            _ => &self.full,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an error of this listener. Each cause is logged at most once a minute, with the number of errors in between.
    pub fn failed(&self, listener: &str, cause: &'static str, what: String, next: &'static str) {
        let now = Instant::now();
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let first = Failures {
            count: 0,
            last: String::new(),
            next,
            at: SystemTime::now(),
            logged: now,
            hidden: 0,
        };
        let failures = errors.entry(cause).or_insert(first);
        failures.count += 1;
        failures.at = SystemTime::now();
        failures.next = next;
        failures.last.clone_from(&what);
        if failures.count > 1 && now.duration_since(failures.logged) < LOG_INTERVAL {
            failures.hidden += 1;
            return;
        }
        failures.logged = now;
        let hidden = std::mem::take(&mut failures.hidden);
        drop(errors);
        match hidden {
            0 => tracing::warn!("{listener}: could not {what}; {next}"),
            hidden => tracing::warn!(
                "{listener}: could not {what} ({hidden} more times since the last message); {next}"
            ),
        }
    }

    /// What is reported of it. Name, addresses, server name and limit are the caller's.
    #[must_use]
    pub fn report(&self) -> Listener {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let errors = errors.iter().map(|(cause, failures)| ErrorCount {
            cause: (*cause).to_owned(),
            count: failures.count,
            last: failures.last.clone(),
            next: failures.next.to_owned(),
            at: seconds(failures.at),
        });
        Listener {
            open: self.open.count() as u64,
            accepted: count(&self.accepted),
            bytes_up: count(&self.up),
            bytes_down: count(&self.down),
            full_handshakes: count(&self.full),
            resumed_sessions: count(&self.resumed),
            spares_used: count(&self.spares_used),
            retries: count(&self.retries),
            errors: errors.collect(),
            ..Listener::default()
        }
    }
}

/// Seconds since 1970.
#[must_use]
pub fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_cause_with_the_last_one() {
        let activity = Activity::default();
        for text in ["connect to a", "connect to b"] {
            activity.failed("amqp", "connect", text.to_owned(), "check the network");
        }
        activity.failed("amqp", "resolve", "resolve plane".to_owned(), "check DNS");
        activity.handshake(Some(HandshakeKind::Full));
        activity.handshake(Some(HandshakeKind::Resumed));
        let report = activity.report();
        let errors: Vec<(&str, u64, &str)> = report
            .errors
            .iter()
            .map(|its| (its.cause.as_str(), its.count, its.last.as_str()))
            .collect();
        assert_eq!(
            errors,
            [
                ("connect", 2, "connect to b"),
                ("resolve", 1, "resolve plane")
            ]
        );
        assert_eq!((report.full_handshakes, report.resumed_sessions), (1, 1));
    }
}
