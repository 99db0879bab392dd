//! Writes the daemon's two files outside its loop: a disk that stalls for a minute delays neither the loop, nor the API's clients, nor
//! systemd's watchdog.
//!
//! Each file has at most one write under way and one that waits. A newer write replaces the one that waits, because only the last content
//! counts.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// How long the loop waits for the disk. Afterwards it goes on, and says that the disk stalls.
pub(in crate::nodeletd) const TIMEOUT: Duration = Duration::from_secs(5);

/// Puts content on disk. It may block for as long as the disk stalls.
pub(in crate::nodeletd) type Write = Box<dyn FnOnce() -> Result<()> + Send>;

/// Carries out writes. Tests use one that stalls.
#[derive(Clone)]
pub(in crate::nodeletd) struct Disk(
    Arc<dyn Fn(Write) -> BoxFuture<'static, Result<()>> + Send + Sync>,
);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    /// The disk of the machine: each write has a thread of its own.
    pub(in crate::nodeletd) fn live() -> Self {
        Self::of(|write| {
            // Begun at once, whether the loop waits for it or not.
            let writing = tokio::task::spawn_blocking(write);
            Box::pin(async move { writing.await? })
        })
    }

    /// A disk that carries out writes with this function.
    pub(in crate::nodeletd) fn of(
        write: impl Fn(Write) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(write))
    }
}

/// The writes of one file.
pub(in crate::nodeletd) struct Writes {
    disk: Disk,
    /// The file's path, for messages.
    name: String,
    writing: Option<(BoxFuture<'static, Result<()>>, Instant)>,
    waiting: Option<Write>,
    problem: String,
}

impl Writes {
    pub(in crate::nodeletd) fn of(disk: &Disk, name: String) -> Self {
        Self {
            disk: disk.clone(),
            name,
            writing: None,
            waiting: None,
            problem: String::new(),
        }
    }

    /// Begins this write as soon as the one under way has ended. Does not wait: see [`Writes::wait_for_writes`].
    pub(in crate::nodeletd) fn put(&mut self, write: Write) {
        self.waiting = Some(write);
        self.begin();
    }

    /// Writes each content that is received from `contents` while `work` runs; the last one may still wait when `work` ends.
    ///
    /// # Cancel safety
    /// May be dropped at any time, as far as `work` may.
    pub(in crate::nodeletd) async fn beside<C, T>(
        &mut self,
        work: impl Future<Output = T>,
        contents: &mut mpsc::UnboundedReceiver<C>,
        write: impl Fn(C) -> Write,
    ) -> T {
        tokio::pin!(work);
        loop {
            let until = Instant::now() + TIMEOUT;
            tokio::select! {
                done = &mut work => return done,
                Some(content) = contents.recv() => self.put(write(content)),
                () = self.wait_for_writes(until), if self.writing.is_some() => {}
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

    /// Waits until all is written, but not longer than `until`. Unfinished writes go on.
    ///
    /// # Cancel safety
    /// May be dropped at any time; nothing is lost.
    pub(in crate::nodeletd) async fn wait_for_writes(&mut self, until: Instant) {
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
    pub(in crate::nodeletd) fn problem(&self) -> &str {
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
            at.lock().expect("no test panicked").push(number);
            Ok(())
        }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_disk_is_reported_and_later_receives_the_latest_content() {
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
            writes.wait_for_writes(began + TIMEOUT).await;
            assert_eq!(began.elapsed(), TIMEOUT, "the loop waits no longer");
        }
        assert_eq!(begun.load(Ordering::Relaxed), 1, "one at a time");
        assert_eq!(
            writes.problem(),
            "could not write /var/x: the disk has not taken it for 15 s"
        );
        stalls.send_replace(false);
        writes.wait_for_writes(Instant::now() + TIMEOUT).await;
        assert_eq!(*written.lock().expect("no test panicked"), [1, 3]);
        assert_eq!(writes.problem(), "");
    }

    #[tokio::test]
    async fn an_unwritable_path_is_reported_until_it_is_writable() {
        let mut writes = Writes::of(&Disk::live(), "/var/x".to_owned());
        let until = Instant::now() + Duration::from_secs(60);
        writes.put(Box::new(|| anyhow::bail!("write /var/x: no room")));
        writes.wait_for_writes(until).await;
        assert_eq!(writes.problem(), "could not write /var/x: no room");
        put(&mut writes, &Arc::default(), 1);
        writes.wait_for_writes(until).await;
        assert_eq!(writes.problem(), "");
    }
}
