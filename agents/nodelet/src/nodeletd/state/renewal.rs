//! Which component's certificates are renewed next, and what is reported of renewals that fail. A failed renewal is not a failed attempt:
//! the old certificate stays in use, nothing is restarted for it, and the next component is tried after a pause.

use std::time::Duration;

use tokio::time::Instant;

use crate::nodeletd::state::retry::{Retries, backoff};
use crate::nodeletd::supervisor::worker::Change;

/// Renewals that failed since the last successful one.
#[derive(Debug, Default)]
pub(in crate::nodeletd) struct RenewalQueue {
    failed: Retries,
    problem: String,
}

impl RenewalQueue {
    /// The component to renew now, of those with a certificate that is due; `None` during the pause after a failure. A component that
    /// cannot be renewed does not block the others.
    pub(in crate::nodeletd) fn next<'a>(
        &self,
        due: &'a [String],
        interval: Duration,
        now: Instant,
    ) -> Option<&'a str> {
        let pause = pause(self.failed.count, interval);
        if !self.failed.left(pause, now).is_zero() {
            return None;
        }
        let turn = usize::try_from(self.failed.count).unwrap_or(0) % due.len().max(1);
        due.get(turn).map(String::as_str)
    }

    /// Records how a renewal ended.
    pub(in crate::nodeletd) fn ended(&mut self, component: &str, change: Change, now: Instant) {
        match change {
            Change::Done => *self = Self::default(),
            // A renewal that is killed again and again would otherwise be tried without a pause.
            Change::Failed | Change::Refused | Change::Interrupted => {
                self.failed.add(now);
                let before = match self.failed.count {
                    0 | 1 => String::new(),
                    count => format!(" ({count} renewals in a row have failed)"),
                };
                self.problem = format!(
                    "renewing the certificates of {component} failed{before}; see `nodelet history`, or try `nodelet certs renew {component}`"
                );
            }
            Change::Busy => {}
        }
    }

    /// What is wrong; empty when nothing is.
    pub(in crate::nodeletd) fn problem(&self, due: &[String]) -> String {
        if due.is_empty() {
            String::new()
        } else {
            self.problem.clone()
        }
    }
}

/// The pause as between attempts, then doubled further, up to sixty intervals (an hour): each failed renewal is rolled back, and the old
/// certificate is good for two fifths of its life.
fn pause(failed: u32, interval: Duration) -> Duration {
    const LONG: u32 = 7;
    let doublings = failed.saturating_sub(LONG).min(10);
    backoff(failed, interval)
        .saturating_mul(1 << doublings)
        .min(interval * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_cannot_be_renewed_does_not_block_others() {
        let due = ["etcd".to_owned(), "kubelet".to_owned()];
        let minute = Duration::from_secs(60);
        let began = Instant::now();
        let later = began + Duration::from_secs(5);
        let mut renewals = RenewalQueue::default();
        assert_eq!(renewals.next(&due, minute, began), Some("etcd"));
        let mut killed = RenewalQueue::default();
        killed.ended("etcd", Change::Interrupted, began);
        assert_eq!(killed.next(&due, minute, began), None, "also after a kill");
        renewals.ended("etcd", Change::Failed, began);
        assert_eq!(renewals.next(&due, minute, began), None, "not at once");
        assert!(renewals.problem(&due).contains("of etcd failed; see"));
        assert_eq!(renewals.next(&due, minute, later), Some("kubelet"));
        renewals.ended("kubelet", Change::Failed, later);
        let problem = renewals.problem(&due);
        let wanted = "of kubelet failed (2 renewals in a row have failed); see";
        assert!(problem.contains(wanted), "{problem}");
        renewals.ended("kubelet", Change::Done, later);
        assert_eq!(renewals.next(&due[..1], minute, later), Some("etcd"));
        assert_eq!(renewals.problem(&due), "");
        assert_eq!(renewals.next(&[], minute, later), None);
    }
}
