//! Tries in a row without success, and the growing pauses between them.

use std::time::Duration;

use engine::model::doubled;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Tries in a row. Only their number is saved: a time of the monotonic clock has no meaning after a boot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::nodeletd) struct Retries {
    pub(in crate::nodeletd) count: u32,
    /// When the last one ended; `None` if this is not known.
    #[serde(skip)]
    pub(in crate::nodeletd) ended: Option<Instant>,
}

impl Retries {
    /// Counts a try that has ended.
    pub(in crate::nodeletd) fn add(&mut self, now: Instant) {
        self.count = self.count.saturating_add(1);
        self.ended = Some(now);
    }

    /// Rest of a pause after the last try; zero if the end of that try is not known.
    pub(in crate::nodeletd) fn left(&self, pause: Duration, now: Instant) -> Duration {
        let waited = self.ended.map(|ended| now.saturating_duration_since(ended));
        waited.map_or(Duration::ZERO, |waited| pause.saturating_sub(waited))
    }
}

/// Pause after so many failed attempts in a row, before jitter: none before the first, then a twelfth of the interval
/// between passes, doubled each time, at most five intervals. With the usual minute: 5 s, 10 s, 20 s … 5 min.
pub(in crate::nodeletd) fn backoff(attempts: u32, interval: Duration) -> Duration {
    doubled(attempts, interval / 12, interval * 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn pauses_double_up_to_five_intervals() {
        let pauses: Vec<u64> = (0..10).map(|n| backoff(n, MINUTE).as_secs()).collect();
        assert_eq!(pauses, [0, 5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(backoff(u32::MAX, MINUTE), Duration::from_secs(300));
    }

    #[test]
    fn a_pause_is_counted_from_the_end_of_the_last_try() {
        let began = Instant::now();
        let later = began + Duration::from_secs(20);
        let mut retries = Retries::default();
        assert_eq!(retries.left(MINUTE, began), Duration::ZERO);
        retries.add(began);
        assert_eq!(retries.left(MINUTE, began), MINUTE);
        assert_eq!(retries.left(MINUTE, later), Duration::from_secs(40));
        assert_eq!(retries.left(MINUTE, later + MINUTE), Duration::ZERO);
    }

    #[test]
    fn the_saved_form_is_the_count() {
        let mut retries = Retries::default();
        retries.add(Instant::now());
        let saved = serde_json::to_string(&retries).expect("JSON");
        assert_eq!(saved, "1");
        let read: Retries = serde_json::from_str(&saved).expect("read back");
        assert_eq!((read.count, read.ended), (1, None));
    }
}
