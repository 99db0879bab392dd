//! Counts changes in a row that were interrupted, most often killed because memory was short. It is unknown whether they would have
//! helped, so none counts as a failed attempt; but while this goes on nothing is repaired, so it is reported.

use tokio::time::Instant;

use super::retry::Retries;
use crate::nodeletd::supervisor::worker::Change;

/// So many in a row are reported.
const OFTEN: u32 = 3;

/// Interrupted changes since the last one that finished.
#[derive(Debug, Default)]
pub(in crate::nodeletd) struct InterruptedRuns {
    row: Retries,
    problem: String,
}

impl InterruptedRuns {
    /// Records how `nodelet` with these arguments ended, and its message.
    pub(in crate::nodeletd) fn ended(
        &mut self,
        words: &str,
        change: Change,
        message: &str,
        now: Instant,
    ) {
        match change {
            Change::Interrupted => {
                self.row.add(now);
                if self.row.count >= OFTEN {
                    let why = if message.is_empty() {
                        "it was asked to end"
                    } else {
                        message
                    };
                    self.problem = format!(
                        "`nodelet {words}` was interrupted {} times in a row: {why}; see `journalctl -k` for processes that the kernel killed \
                         because memory was short, and `nodelet history`",
                        self.row.count
                    );
                }
            }
            Change::Done | Change::Failed | Change::Refused => self.forget(),
            Change::Busy => {}
        }
    }

    /// No change is needed any more.
    pub(in crate::nodeletd) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What is wrong; empty when nothing is.
    pub(in crate::nodeletd) fn problem(&self) -> &str {
        &self.problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_interrupted_runs_are_reported_until_one_finishes() {
        let mut runs = InterruptedRuns::default();
        let now = Instant::now();
        for is_reported in [false, false, false, true] {
            assert_eq!(!runs.problem().is_empty(), is_reported);
            let killed = "it was killed by signal 9";
            runs.ended("repair", Change::Interrupted, killed, now);
            runs.ended("repair", Change::Busy, "", now);
        }
        assert!(
            runs.problem().contains("signal 9") && runs.problem().contains("journalctl -k"),
            "{}",
            runs.problem()
        );
        runs.ended("repair", Change::Failed, "", now);
        assert_eq!(runs.problem(), "");
    }
}
