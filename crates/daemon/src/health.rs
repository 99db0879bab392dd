//! Whether the daemon does its work: its parts report progress, and each has a deadline for its next report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The parts of a daemon. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Part>>>);

#[derive(Debug)]
struct Part {
    moved: Instant,
    limit: Duration,
    /// It was dropped without [`Beat::finish`]: its task ended or panicked.
    has_finished: bool,
}

impl Health {
    /// Adds a part, or begins one again. It has made progress now, and has to do so again within `limit`.
    #[must_use]
    pub fn part(&self, name: &'static str, limit: Duration) -> Beat {
        let part = Part {
            moved: Instant::now(),
            limit,
            has_finished: false,
        };
        self.lock().insert(name, part);
        Beat {
            name,
            health: self.clone(),
        }
    }

    /// What is wrong, a line each; empty if nothing is.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let problem = |(name, part): (&&str, &Part)| {
            let still = part.moved.elapsed();
            if part.has_finished {
                Some(format!("{name} has ended"))
            } else if still > part.limit {
                Some(format!(
                    "{name} makes no progress: the last was {} s ago, the limit is {} s",
                    still.as_secs(),
                    part.limit.as_secs()
                ))
            } else {
                None
            }
        };
        self.lock().iter().filter_map(problem).collect()
    }

    /// Parts that were dropped without [`Beat::finish`].
    #[must_use]
    pub fn ended(&self) -> Vec<&'static str> {
        let parts = self.lock();
        let has_finished = parts.iter().filter(|(_, part)| part.has_finished);
        has_finished.map(|(name, _)| *name).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Part>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by a part of the daemon for as long as the part is needed. If it is dropped without [`Beat::finish`], for example by a panic, the
/// part has ended.
#[derive(Debug)]
pub struct Beat {
    name: &'static str,
    health: Health,
}

impl Beat {
    /// Reports progress; the next report is due within `limit`.
    pub fn within(&self, limit: Duration) {
        if let Some(part) = self.health.lock().get_mut(self.name) {
            part.moved = Instant::now();
            part.limit = limit;
        }
    }

    /// Reports progress for as long as it is polled: for a part that waits for something that may never come.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn wait(&self, every: Duration) {
        loop {
            self.within(every * 3);
            tokio::time::sleep(every).await;
        }
    }

    /// The part has ended as it should, and is no longer watched.
    pub fn finish(self) {
        self.health.lock().remove(self.name);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        if let Some(part) = self.health.lock().get_mut(self.name) {
            part.has_finished = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_part_without_progress_is_reported() {
        let health = Health::default();
        let beat = health.part("the loop", SECOND);
        let _other = health.part("the timers", SECOND * 100);
        tokio::time::advance(SECOND).await;
        assert!(health.problems().is_empty());
        tokio::time::advance(SECOND).await;
        let problems = health.problems();
        assert_eq!(
            problems,
            ["the loop makes no progress: the last was 2 s ago, the limit is 1 s"]
        );
        beat.within(SECOND * 5);
        tokio::time::advance(SECOND * 4).await;
        assert!(health.problems().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_part_is_healthy() {
        let health = Health::default();
        let beat = health.part("the loop", SECOND);
        let waited = tokio::time::timeout(SECOND * 1000, beat.wait(SECOND)).await;
        assert!(waited.is_err() && health.problems().is_empty());
    }

    #[tokio::test]
    async fn a_panicked_task_is_reported_and_a_finished_one_is_not() {
        let health = Health::default();
        let beat = health.part("a task", SECOND * 100);
        let done = health.part("another", SECOND * 100);
        let task = tokio::spawn(async move {
            let _beat = beat;
            panic!("on purpose");
        });
        assert!(task.await.is_err());
        done.finish();
        assert_eq!(health.problems(), ["a task has ended"]);
        assert_eq!(health.ended(), ["a task"]);
        // Begun again, it has no problem.
        let _again = health.part("a task", SECOND);
        assert!(health.problems().is_empty());
    }
}
