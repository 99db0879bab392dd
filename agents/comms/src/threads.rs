//! The threads that carry tunnels. Each has a runtime of its own, and a tunnel stays on its thread from its beginning to its end: where threads take
//! tasks from each other, each message of a tunnel may wake a second one.
//!
//! A connection belongs to the runtime that waits for its bytes, so one that was made elsewhere has to be taken over.
//!
//! Each thread is a part of the daemon's health: a thread that hangs carries nothing, while the rest of the daemon goes on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use daemon::health::{Beat, Health};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The threads, as the health names them. There are no more: an agent takes no more of its host.
const NAMES: [&str; 2] = [
    "the first thread of tunnels",
    "the second thread of tunnels",
];
/// How many there are at most.
pub(crate) const MOST_THREADS: usize = NAMES.len();
/// How often each thread reports that it makes progress. It hangs if it does not for three times as long.
const BEAT: Duration = Duration::from_secs(20);

/// Threads that run until this is dropped. What they carry then is cut off.
#[derive(Debug)]
pub struct Threads {
    all: Vec<Thread>,
    /// The thread that is asked first.
    next: AtomicUsize,
    _end: DropGuard,
}

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// Tasks that have not ended.
    load: Arc<AtomicUsize>,
}

/// Counts a task as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Threads {
    /// Starts one thread for each processor, and two at most. Each reports its progress.
    ///
    /// # Errors
    /// The system gives no thread or no descriptor for one.
    pub fn start(health: &Health) -> io::Result<Self> {
        Self::reporting(health, BEAT)
    }

    /// The same with another time between the reports.
    fn reporting(health: &Health, every: Duration) -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let end = CancellationToken::new();
        let names = NAMES.into_iter().take(processors).enumerate();
        let started = names.map(|(number, name)| {
            let beat = health.part(name, every * 3);
            Thread::start(number, end.clone(), beat, every)
        });
        let all = started.collect::<io::Result<Vec<_>>>();
        let _end = end.drop_guard();
        Ok(Self {
            all: all?,
            next: AtomicUsize::new(0),
            _end,
        })
    }

    /// Runs a task on the thread with the fewest tasks.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..self.all.len()).map(|at| &self.all[(first + at) % self.all.len()]);
        let Some(thread) = in_turn.min_by_key(|its| its.load.load(Ordering::Relaxed)) else {
            return;
        };
        thread.load.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(&thread.load));
        thread.runtime.spawn(async move {
            let _counted = counted;
            task.await;
        });
    }

    /// How many tasks on these threads have not ended, also those that other tasks have begun.
    #[must_use]
    pub fn tasks(&self) -> usize {
        let each = self.all.iter();
        each.map(|its| its.runtime.metrics().num_alive_tasks())
            .sum()
    }
}

impl Thread {
    fn start(
        number: usize,
        end: CancellationToken,
        beat: Beat,
        every: Duration,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name(format!("tunnels-{number}"))
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = end.cancelled() => {}
                        () = beat.wait(every) => {}
                    }
                });
                beat.finish();
                // A lookup of a name cannot be ended, and may take long.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            load: Arc::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::sync::oneshot;

    use super::*;

    /// Runs a task until the sender is dropped. Returns the number of its thread, too.
    async fn begin(threads: &Threads) -> (usize, oneshot::Sender<()>) {
        let (end, ended) = oneshot::channel::<()>();
        let (name, named) = oneshot::channel();
        threads.spawn(async move {
            let _ = name.send(std::thread::current().name().map(str::to_owned));
            let _ = ended.await;
        });
        let name = named.await.expect("it runs").expect("a name");
        let number = name.strip_prefix("tunnels-").expect("a thread of its own");
        (number.parse().expect("a number"), end)
    }

    #[tokio::test]
    async fn tasks_are_spread_and_a_free_thread_gets_the_next_ones() {
        let threads = Threads::start(&Health::default()).expect("threads");
        let count = threads.all.len();
        let mut running = Vec::new();
        for _ in 0..2 * count {
            running.push(begin(&threads).await);
        }
        for number in 0..count {
            let its = running.iter().filter(|(at, _)| *at == number).count();
            assert_eq!(its, 2, "of thread {number}");
        }
        // The tasks of one thread end.
        let free = running[0].0;
        running.retain(|(at, _)| *at != free);
        let load = &threads.all[free].load;
        let is_free = async {
            while load.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let is_free = tokio::time::timeout(Duration::from_secs(10), is_free).await;
        is_free.expect("its tasks have ended");
        for _ in 0..2 {
            running.push(begin(&threads).await);
            assert_eq!(running.last().map(|its| its.0), Some(free));
        }
    }

    #[tokio::test]
    async fn tasks_count_until_they_end_also_those_of_other_tasks() {
        let threads = Threads::start(&Health::default()).expect("threads");
        let (end, ended) = oneshot::channel::<()>();
        threads.spawn(async move {
            tokio::spawn(async move {
                let _ = ended.await;
            });
        });
        let running = begin(&threads).await;
        until(|| threads.tasks() == 2, "two of three have not ended").await;
        drop((end, running));
        until(|| threads.tasks() == 0, "all have ended").await;
    }

    #[tokio::test]
    async fn the_threads_end_with_it() {
        let health = Health::default();
        let threads = Threads::start(&health).expect("threads");
        let (end, ended) = oneshot::channel::<()>();
        threads.spawn(async move {
            let _end = end;
            std::future::pending::<()>().await;
        });
        drop(threads);
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        ended
            .expect("its task is dropped")
            .expect_err("without a word");
        assert_eq!(health.ended(), [""; 0], "they ended as they should");
    }

    /// Waits until this holds.
    async fn until(holds: impl Fn() -> bool, what: &str) {
        let waited = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), waited).await;
        waited.expect(what);
    }

    #[tokio::test]
    async fn a_thread_that_hangs_is_a_problem_until_it_goes_on() {
        let health = Health::default();
        let threads = Threads::reporting(&health, Duration::from_millis(50)).expect("threads");
        let (free, blocked) = mpsc::channel::<()>();
        let (name, named) = oneshot::channel();
        threads.spawn(async move {
            let _ = name.send(std::thread::current().name().map(str::to_owned));
            // Ends when the sender is dropped.
            let _ = blocked.recv();
        });
        let name = named.await.expect("it runs").expect("a name");
        let number = name.strip_prefix("tunnels-").expect("a thread of its own");
        let hanging = NAMES[number.parse::<usize>().expect("a number")];
        let says = format!("{hanging} makes no progress");
        let hangs = || health.problems().iter().any(|it| it.starts_with(&says));
        until(hangs, "the thread is named").await;
        drop(free);
        until(|| health.problems().is_empty(), "the thread goes on").await;
        assert_eq!(health.ended(), [""; 0]);
    }
}
