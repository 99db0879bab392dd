//! The threads that carry tunnels. Each has a runtime of its own, and a tunnel stays on its thread from its beginning to its end: where threads take
//! tasks from each other, each message of a tunnel may wake a second one.
//!
//! A connection belongs to the runtime that waits for its bytes, so one that was made elsewhere has to be taken over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Most threads: an agent takes no more of its host.
const MOST: usize = 2;

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
    /// Starts one thread for each processor, and two at most.
    ///
    /// # Errors
    /// The system gives no thread or no descriptor for one.
    pub fn start() -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let end = CancellationToken::new();
        let started = (0..processors.min(MOST)).map(|number| Thread::start(number, end.clone()));
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
}

impl Thread {
    fn start(number: usize, end: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name(format!("tunnels-{number}"))
            .spawn(move || {
                runtime.block_on(end.cancelled());
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
    use std::time::Duration;

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
        let threads = Threads::start().expect("threads");
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
    async fn the_threads_end_with_it() {
        let threads = Threads::start().expect("threads");
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
    }
}
