//! Whose certificates are renewed next, and what to tell of renewals that fail. A failed renewal is no failed attempt: the
//! old certificate stands, nothing is restarted for it, and the next one due is tried after a pause.

use std::time::Duration;

use tokio::time::Instant;

use super::decide::backoff;
use super::worker::Change;

/// RenewalQueue that failed since the last that did not.
#[derive(Debug, Default)]
pub(super) struct RenewalQueue {
    failed: u32,
    /// When the last one ended.
    last: Option<Instant>,
    problem: String,
}

impl RenewalQueue {
    /// The component to renew now, of those with something due; `None` while a pause after a failure lasts. One that
    /// cannot be renewed does not keep the others from it.
    pub(super) fn next<'a>(
        &self,
        due: &'a [String],
        interval: Duration,
        now: Instant,
    ) -> Option<&'a str> {
        let waited = self.last.map(|last| now.saturating_duration_since(last));
        if waited.is_some_and(|waited| waited < pause(self.failed, interval)) {
            return None;
        }
        let turn = usize::try_from(self.failed).unwrap_or(0) % due.len().max(1);
        due.get(turn).map(String::as_str)
    }

    /// Takes note of how one ended.
    pub(super) fn ended(&mut self, component: &str, change: Change, now: Instant) {
        match change {
            Change::Done => *self = Self::default(),
            // One that is killed again and again would otherwise be tried without an end.
            Change::Failed | Change::Refused | Change::Interrupted => {
                self.failed = self.failed.saturating_add(1);
                self.last = Some(now);
                self.problem = format!(
                    "renewing the certificates of {component} failed, the {} in a row; see `nodelet history`, or try `nodelet certs renew {component}`",
                    ordinal(self.failed)
                );
            }
            Change::Busy => {}
        }
    }

    /// Nothing is due: whoever has renewed it, what failed is no news any more.
    pub(super) fn nothing_due(&mut self) {
        *self = Self::default();
    }

    /// What is wrong; empty when nothing is.
    pub(super) fn problem(&self, due: &[String]) -> String {
        if due.is_empty() {
            String::new()
        } else {
            self.problem.clone()
        }
    }
}

/// As between attempts, and then doubled on up to sixty intervals (an hour): what fails is taken back each time, and the old
/// certificate is good for two fifths of its life.
fn pause(failed: u32, interval: Duration) -> Duration {
    const LONG: u32 = 7;
    let doublings = failed.saturating_sub(LONG).min(10);
    backoff(failed, interval)
        .saturating_mul(1 << doublings)
        .min(interval * 60)
}

fn ordinal(number: u32) -> String {
    match number {
        1 => "first".to_owned(),
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        _ => format!("{number}th"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_cannot_be_renewed_holds_up_no_other() {
        let due = ["etcd".to_owned(), "kubelet".to_owned()];
        let minute = Duration::from_secs(60);
        let began = Instant::now();
        let later = began + Duration::from_secs(5);
        let mut renewals = RenewalQueue::default();
        assert_eq!(renewals.next(&due, minute, began), Some("etcd"));
        let mut killed = RenewalQueue::default();
        killed.ended("etcd", Change::Interrupted, began);
        assert_eq!(killed.next(&due, minute, began), None, "nor one killed");
        renewals.ended("etcd", Change::Failed, began);
        assert_eq!(renewals.next(&due, minute, began), None, "not at once");
        assert!(renewals.problem(&due).contains("of etcd failed"));
        assert_eq!(renewals.next(&due, minute, later), Some("kubelet"));
        renewals.ended("kubelet", Change::Done, later);
        assert_eq!(renewals.next(&due[..1], minute, later), Some("etcd"));
        assert_eq!(renewals.problem(&due), "");
        assert_eq!(renewals.next(&[], minute, later), None);
    }
}
