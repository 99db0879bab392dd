//! Writing the daemon's two files beside its loop: a disk that stalls for a minute holds up neither the loop, nor those who ask it, nor
//! systemd's watchdog.
//!
//! Each file has at most one write at the disk and one that waits. A newer one takes the place of the one that waits, for only the last
//! content counts.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// How long the loop waits for the disk. Afterwards it goes on, and says that the disk stalls.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Puts content on disk. It may block for as long as the disk likes.
pub(super) type Write = Box<dyn FnOnce() -> Result<()> + Send>;

/// Where writes are made. Tests play one that stalls.
#[derive(Clone)]
pub(super) struct Disk(Arc<dyn Fn(Write) -> BoxFuture<'static, Result<()>> + Send + Sync>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    /// The machine's: each write has a thread of its own.
    pub(super) fn live() -> Self {
        Self::of(|write| {
            // Begun at once, whether the loop waits for it or not.
            let writing = tokio::task::spawn_blocking(write);
            Box::pin(async move { writing.await? })
        })
    }

    /// One that makes writes in this way.
    pub(super) fn of(
        write: impl Fn(Write) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(write))
    }
}

/// The writes of one file.
pub(super) struct Writes {
    disk: Disk,
    /// For people: the file's path.
    name: String,
    writing: Option<(BoxFuture<'static, Result<()>>, Instant)>,
    waiting: Option<Write>,
    problem: String,
}

impl Writes {
    pub(super) fn of(disk: &Disk, name: String) -> Self {
        Self {
            disk: disk.clone(),
            name,
            writing: None,
            waiting: None,
            problem: String::new(),
        }
    }

    /// Writes this as soon as the disk has taken what is being written. Does not wait: see [`Writes::settle`].
    pub(super) fn put(&mut self, write: Write) {
        self.waiting = Some(write);
        self.begin();
    }

    /// Writes each content that `contents` has, while `work` goes on; the last one may still wait when it ends.
    ///
    /// # Cancel safety
    /// May be dropped at any time, as far as `work` may.
    pub(super) async fn beside<C, T>(
        &mut self,
        work: impl Future<Output = T>,
        contents: &mut mpsc::UnboundedReceiver<C>,
        write: impl Fn(C) -> Write,
    ) -> T {
        tokio::pin!(work);
        loop {
            let until = Instant::now() + PATIENCE;
            tokio::select! {
                done = &mut work => return done,
                Some(content) = contents.recv() => self.put(write(content)),
                () = self.settle(until), if self.writing.is_some() => {}
            }
        }
    }

    fn begin(&mut self) {
        if self.writing.is_none()
            && let Some(write) = self.waiting.take()
        {
            self.writing = Some(((self.disk.0)(write), Instant::now()));
        }
    }

    /// Waits until all is written, at most until then. What is not goes on being written.
    ///
    /// # Cancel safety
    /// May be dropped at any time; nothing is lost.
    pub(super) async fn settle(&mut self, until: Instant) {
        while let Some((writing, since)) = &mut self.writing {
            let since = *since;
            match timeout_at(until, writing).await {
                Ok(written) => {
                    self.writing = None;
                    let failed = written.err().map(|error| format!("could not {error:#}"));
                    self.tell(failed.unwrap_or_default());
                    self.begin();
                }
                Err(_) => {
                    let seconds = since.elapsed().as_secs();
                    self.tell(format!(
                        "could not write {}: the disk has not taken it for {seconds} s",
                        self.name
                    ));
                    return;
                }
            }
        }
    }

    fn tell(&mut self, problem: String) {
        if !problem.is_empty() {
            tracing::error!("{problem}");
        } else if !self.problem.is_empty() {
            tracing::info!("{} is written again", self.name);
        }
        self.problem = problem;
    }

    /// Why the last content is not on disk, as far as is known; empty if it is.
    pub(super) fn problem(&self) -> &str {
        &self.problem
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::watch;

    use super::*;

    fn put(writes: &mut Writes, at: &Arc<Mutex<Vec<u32>>>, number: u32) {
        let at = Arc::clone(at);
        writes.put(Box::new(move || {
            at.lock().expect("nobody panicked").push(number);
            Ok(())
        }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_stalls_is_told_and_gets_the_last_content_afterwards() {
        let (stalls, stalled) = watch::channel(true);
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let disk = Disk::of(move |write| {
            count.fetch_add(1, Ordering::Relaxed);
            let mut stalled = stalled.clone();
            Box::pin(async move {
                stalled.wait_for(|stalls| !stalls).await?;
                write()
            })
        });
        let mut writes = Writes::of(&disk, "/var/x".to_owned());
        let written = Arc::default();
        for number in 1..=3 {
            put(&mut writes, &written, number);
            let began = Instant::now();
            writes.settle(began + PATIENCE).await;
            assert_eq!(began.elapsed(), PATIENCE, "the loop waits no longer");
        }
        assert_eq!(begun.load(Ordering::Relaxed), 1, "one at a time");
        assert_eq!(
            writes.problem(),
            "could not write /var/x: the disk has not taken it for 15 s"
        );
        stalls.send_replace(false);
        writes.settle(Instant::now() + PATIENCE).await;
        assert_eq!(*written.lock().expect("nobody panicked"), [1, 3]);
        assert_eq!(writes.problem(), "");
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_told_until_it_can_be() {
        let mut writes = Writes::of(&Disk::live(), "/var/x".to_owned());
        let until = Instant::now() + Duration::from_secs(60);
        writes.put(Box::new(|| anyhow::bail!("write /var/x: no room")));
        writes.settle(until).await;
        assert_eq!(writes.problem(), "could not write /var/x: no room");
        put(&mut writes, &Arc::default(), 1);
        writes.settle(until).await;
        assert_eq!(writes.problem(), "");
    }
}
