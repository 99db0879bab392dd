//! File changes that cannot be cancelled. A change that was given up either takes no effect later, or is known to be still in progress.
//!
//! A system call on a disk that hangs continues in its thread after its caller has given up and has begun to roll back. So each change asks
//! its [`Fence`] right before it takes effect. If its caller is gone by then, the change takes no effect. If the change had begun before,
//! it is in progress: until it ends, nothing else is done at its path, and the state of that path is not reported. Other callers wait for a
//! bounded time and then get [`HostError::InProgress`]. An undo that fails with that error stays in the ledger, and the next run tries it
//! again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::host::live::blocking::{blocking, file_error};
use crate::host::{HostError, HostResult};

/// How long to wait for an earlier change. Shorter than the time for an undo (`Undo::properties`), so that the undo reports the reason.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Changes that were given up and have not ended.
#[derive(Debug)]
pub(in crate::host::live) struct Effects {
    going_on: Arc<Mutex<Vec<Arc<Effect>>>>,
    timeout: Duration,
}

impl Default for Effects {
    fn default() -> Self {
        Self {
            going_on: Arc::default(),
            timeout: TIMEOUT,
        }
    }
}

/// One change.
#[derive(Debug)]
struct Effect {
    action: &'static str,
    path: PathBuf,
    stage: Mutex<Stage>,
    ended: watch::Sender<bool>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Stage {
    /// It takes effect, now or soon.
    begun: bool,
    /// Its caller is gone.
    given_up: bool,
}

impl Effect {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this change blocks an action at `path`.
    fn is_in_the_way(&self, path: &Path, to: PathPurpose) -> bool {
        let Stage { begun, given_up } = *self.stage();
        let overlaps = self.path.starts_with(path) || path.starts_with(&self.path);
        // A change that will take no effect may still use the temporary sibling of the file.
        let shares_sibling = to == PathPurpose::Replace && self.path == path;
        given_up && overlaps && (begun || shares_sibling)
    }
}

/// What is to be done at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::host::live) enum PathPurpose {
    /// To read what is there, or to change it in place.
    Touch,
    /// To replace it by something that is made under another name first.
    Replace,
}

/// Asked right before a change takes effect.
#[derive(Debug)]
pub(in crate::host::live) struct Fence(Arc<Effect>);

impl Fence {
    /// From here on the change counts as made.
    ///
    /// # Errors
    /// The caller of the change has given up.
    pub(in crate::host::live) fn pass(&self) -> io::Result<()> {
        let mut stage = self.0.stage();
        if stage.given_up {
            return Err(io::Error::new(
                io::ErrorKind::Interrupted,
                "it was given up before it took effect",
            ));
        }
        stage.begun = true;
        Ok(())
    }

    /// A fence that is always open, for changes that no rollback takes back.
    pub(in crate::host::live) fn open() -> Self {
        Self(Arc::new(Effect::new("", Path::new(""))))
    }
}

impl Effect {
    fn new(action: &'static str, path: &Path) -> Self {
        Self {
            action,
            path: path.to_owned(),
            stage: Mutex::default(),
            ended: watch::Sender::new(false),
        }
    }
}

/// Dropped in the thread that makes the change, at its end.
struct End {
    effect: Arc<Effect>,
    going_on: Arc<Mutex<Vec<Arc<Effect>>>>,
}

impl Drop for End {
    fn drop(&mut self) {
        let mut going_on = self.going_on.lock().unwrap_or_else(PoisonError::into_inner);
        going_on.retain(|one| !Arc::ptr_eq(one, &self.effect));
        self.effect.ended.send_replace(true);
    }
}

/// Dropped by the caller: once it has its answer, or when it gives up.
struct Caller(Arc<Effect>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.stage().given_up = true;
    }
}

impl Effects {
    /// The same with another timeout.
    #[cfg(test)]
    pub(in crate::host::live) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Makes a change at `path` where it may block. When the caller is dropped, the change takes no effect any more or is known to be in
    /// progress.
    pub(in crate::host::live) async fn make<T: Send + 'static>(
        &self,
        action: &'static str,
        path: &Path,
        to: PathPurpose,
        work: impl FnOnce(&Path, &Fence) -> io::Result<T> + Send + 'static,
    ) -> HostResult<T> {
        self.wait(action, path, to).await?;
        let effect = Arc::new(Effect::new(action, path));
        self.all().push(Arc::clone(&effect));
        let end = End {
            effect: Arc::clone(&effect),
            going_on: Arc::clone(&self.going_on),
        };
        let fence = Fence(Arc::clone(&effect));
        let _caller = Caller(effect);
        let path = path.to_owned();
        blocking(move || {
            let _end = end;
            work(&path, &fence).map_err(file_error(action, &path))
        })
        .await
    }

    /// Waits until no change that was given up is in progress at `path`, above it or below it.
    ///
    /// # Errors
    /// Such a change does not end in time.
    pub(in crate::host::live) async fn wait(
        &self,
        action: &'static str,
        path: &Path,
        to: PathPurpose,
    ) -> HostResult<()> {
        let waiting = async {
            while let Some(effect) = self.conflicting_effect(path, to) {
                // The sender lives as long as the effect that we hold.
                let _ = effect.ended.subscribe().wait_for(|ended| *ended).await;
            }
        };
        if self.conflicting_effect(path, to).is_none()
            || tokio::time::timeout(self.timeout, waiting).await.is_ok()
        {
            return Ok(());
        }
        match self.conflicting_effect(path, to) {
            None => Ok(()),
            Some(earlier) => Err(HostError::InProgress {
                action,
                path: path.to_owned(),
                earlier: earlier.action,
                earlier_path: earlier.path.clone(),
                after: self.timeout,
            }),
        }
    }

    fn conflicting_effect(&self, path: &Path, to: PathPurpose) -> Option<Arc<Effect>> {
        let all = self.all();
        all.iter().find(|one| one.is_in_the_way(path, to)).cloned()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Effect>>> {
        self.going_on.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Short, because a test waits for all of it while a change hangs.
    const SHORT: Duration = Duration::from_millis(20);

    /// A change that waits, before its fence or behind it, until the test sends `go`. It reports in `told` that it hangs, and then whether
    /// it took effect.
    struct PendingEffect {
        go: mpsc::Sender<()>,
        told: mpsc::Receiver<&'static str>,
    }

    impl PendingEffect {
        fn new(behind: bool) -> (Self, impl FnOnce(&Path, &Fence) -> io::Result<()> + Send) {
            let (go, gone) = mpsc::channel();
            let (tell, told) = mpsc::channel();
            let work = move |_: &Path, fence: &Fence| {
                if behind {
                    fence.pass()?;
                }
                tell.send("hangs").expect("the test listens");
                gone.recv().expect("the test lets it go");
                let passed = behind || fence.pass().is_ok();
                let took = if passed {
                    "took effect"
                } else {
                    "had no effect"
                };
                tell.send(took).expect("the test listens");
                Ok(())
            };
            (Self { go, told }, work)
        }

        /// Begins such a change and gives it up while it hangs.
        async fn given_up(effects: &Effects, path: &str, behind: bool) -> Self {
            let (pending_effect, work) = Self::new(behind);
            let change = effects.make("write", Path::new(path), PathPurpose::Replace, work);
            let hangs = async {
                // A machine that is busy begins late.
                loop {
                    match pending_effect.told.try_recv() {
                        Ok(told) => return told,
                        Err(_) => tokio::time::sleep(SHORT).await,
                    }
                }
            };
            let told = tokio::select! {
                biased;
                _ = change => panic!("it hangs"),
                told = tokio::time::timeout(TIMEOUT, hangs) => told.expect("it begins"),
            };
            assert_eq!(told, "hangs");
            pending_effect
        }

        fn let_go(&self) -> &'static str {
            self.go.send(()).expect("it waits");
            self.told.recv().expect("it tells")
        }
    }

    async fn free(effects: &Effects, path: &str, to: PathPurpose) -> bool {
        effects.wait("remove", Path::new(path), to).await.is_ok()
    }

    #[tokio::test]
    async fn a_cancelled_write_has_no_effect_and_blocks_no_caller() {
        let effects = Effects::default().with_timeout(SHORT);
        let pending_effect = PendingEffect::given_up(&effects, "/a/b", false).await;
        assert!(free(&effects, "/a/b", PathPurpose::Touch).await);
        // It still uses the sibling.
        assert!(!free(&effects, "/a/b", PathPurpose::Replace).await);
        assert!(free(&effects, "/a/c", PathPurpose::Replace).await);
        assert_eq!(pending_effect.let_go(), "had no effect");
        let effects = effects.with_timeout(TIMEOUT);
        assert!(
            free(&effects, "/a/b", PathPurpose::Replace).await,
            "it has ended"
        );
    }

    #[tokio::test]
    async fn calls_wait_for_a_running_effect_and_report_it() {
        let effects = Effects::default().with_timeout(SHORT);
        let pending_effect = PendingEffect::given_up(&effects, "/a/b", true).await;
        for (path, is_free) in [
            ("/a/b", false),
            ("/a", false),
            ("/a/b/c", false),
            ("/a/bc", true),
        ] {
            assert_eq!(
                free(&effects, path, PathPurpose::Touch).await,
                is_free,
                "{path}"
            );
        }
        let asked = effects.wait("remove", Path::new("/a/b"), PathPurpose::Touch);
        let told = asked.await.expect_err("it goes on").to_string();
        let wanted = "remove /a/b: an earlier `write /a/b` is still in progress after 20ms, so the content of that path is not known";
        assert_eq!(told, wanted);
        let effects = effects.with_timeout(TIMEOUT);
        let (waited, took) = tokio::join!(free(&effects, "/a/b", PathPurpose::Touch), async {
            pending_effect.let_go()
        });
        assert_eq!((waited, took), (true, "took effect"));
    }

    #[tokio::test]
    async fn a_write_that_goes_on_blocks_no_caller() {
        let effects = Effects::default().with_timeout(SHORT);
        let (pending_effect, work) = PendingEffect::new(true);
        let change = effects.make("write", Path::new("/a"), PathPurpose::Replace, work);
        let beside = async {
            tokio::task::yield_now().await;
            let is_free = free(&effects, "/a", PathPurpose::Replace).await;
            pending_effect.go.send(()).expect("it waits");
            is_free
        };
        let (made, is_free) = tokio::join!(change, beside);
        made.expect("it is made");
        assert!(is_free);
        assert!(effects.all().is_empty());
    }
}
