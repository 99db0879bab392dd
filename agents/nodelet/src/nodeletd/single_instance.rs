//! One daemon on a host: two would undo each other's work, and take each other's socket.

use std::fs::{File, Metadata};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// In `/run`, so that it is gone after a boot, like the process that held it.
const LOCK: &str = "/run/pf9-nodeletd.lock";
/// A process that only checks whether the lock is held takes it for a moment.
const MOMENT: Duration = Duration::from_millis(50);
const MOMENTS: u32 = 5;

/// How often the lock's file is checked.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// The lock, held for as long as this value lives.
pub(super) struct InstanceLock {
    lock: Flock<File>,
    path: PathBuf,
}

/// Takes the lock.
///
/// # Errors
/// Another daemon has it.
pub(super) async fn acquire() -> Result<InstanceLock> {
    let path = PathBuf::from(LOCK);
    let lock = take(&path).await?;
    Ok(InstanceLock { lock, path })
}

impl InstanceLock {
    /// Checks the file until the program ends: if it was deleted or replaced, a second daemon could start, and commands would not see
    /// that this one runs.
    pub(super) async fn guard(mut self) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            match self.renew().await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::warn!(
                        "{} was removed or replaced, and has been made again",
                        self.path.display()
                    );
                }
                Err(error) => tracing::error!("could not {error:#}"),
            }
        }
    }

    /// Takes the lock again if its path no longer leads to the locked file. Returns whether it did so.
    async fn renew(&mut self) -> Result<bool> {
        let own = self.lock.metadata().context("look at the lock")?;
        let is_own = |there: Metadata| (there.dev(), there.ino()) == (own.dev(), own.ino());
        if self.path.symlink_metadata().is_ok_and(is_own) {
            return Ok(false);
        }
        self.lock = take(&self.path).await?;
        Ok(true)
    }
}

async fn take(path: &Path) -> Result<Flock<File>> {
    let mut moments = 0;
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, Errno::EWOULDBLOCK)) if moments < MOMENTS => {
                moments += 1;
                tokio::time::sleep(MOMENT).await;
            }
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "hold this host at its role: another nodeletd does it already (`systemctl status pf9-nodeletd`)"
            ),
            Err((_, error)) => {
                return Err(error).with_context(|| format!("take the lock {}", path.display()));
            }
        }
    }
}

/// Whether a daemon runs, even if its socket does not answer.
pub(super) fn runs() -> bool {
    is_held(Path::new(LOCK))
}

fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| {
        let free = Flock::lock(file, FlockArg::LockSharedNonblock);
        matches!(free, Err((_, Errno::EWOULDBLOCK)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_one_instance_holds_the_lock() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        assert!(!is_held(&path), "no daemon ever ran");
        let one = take(&path).await.expect("it is free");
        assert!(is_held(&path));
        let second = take(&path).await.expect_err("it is held");
        assert!(second.to_string().contains("another nodeletd"), "{second}");
        drop(one);
        assert!(!is_held(&path));
        take(&path).await.expect("it is free again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_whose_file_was_removed_is_made_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        let lock = take(&path).await.expect("it is free");
        let mut instance_lock = InstanceLock {
            lock,
            path: path.clone(),
        };
        assert!(!instance_lock.renew().await.expect("it is there"));
        for replaced in [false, true] {
            std::fs::remove_file(&path).expect("it is removed");
            if replaced {
                std::fs::write(&path, "").expect("another is put there");
            }
            assert!(!is_held(&path), "the daemon is not seen");
            assert!(instance_lock.renew().await.expect("it can be made"));
            assert!(is_held(&path));
        }
        std::fs::remove_file(&path).expect("it is removed");
        let _second = take(&path).await.expect("nothing stops a second one");
        let error = instance_lock.renew().await.expect_err("it is held");
        assert!(error.to_string().contains("another nodeletd"), "{error}");
    }
}
