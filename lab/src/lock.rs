//! A lock file whose lock is held while its owner lives, or a recipe that the owner has started.
//!
//! The lock (flock) sits on the open file. A recipe gets that open file as standard input, so when `xtask` is killed while a recipe
//! runs, the recipe still holds the lock. The next `xtask` reads the owner from the file. If that process has ended, the recipe is
//! an orphan of ours: the file has its process group, and the next `xtask` kills it.

use std::fs::{self, File, TryLockError};
use std::io::{Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use child_process::kill_group;

use crate::command::poll;

/// How long one set-up waits for the same step of another.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// A held lock; dropping it frees it.
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// What a lock file says: the owner and, while a recipe runs, the recipe's process group.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    owner: u32,
    group: Option<u32>,
}

impl Holder {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        Some(Self {
            owner: words.next()?.parse().ok()?,
            group: words.next().and_then(|word| word.parse().ok()),
        })
    }
}

impl Lock {
    /// Waits for the lock at `path`; calls `waiting` once if a living process holds it.
    pub fn acquire(path: &Path, waiting: impl FnOnce(u32)) -> Result<Self> {
        let mut waiting = Some(waiting);
        let mut file = open(path)?;
        let held = poll(TIMEOUT, || match file.try_lock() {
            Ok(()) if is_at(&file, path) => Some(Ok(())),
            // Its last owner removed the file while we waited: our lock is on a file that is not at `path` any more.
            Ok(()) => match open(path) {
                Ok(another) => {
                    file = another;
                    None
                }
                Err(error) => Some(Err(std::io::Error::other(error))),
            },
            Err(TryLockError::Error(error)) => Some(Err(error)),
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(path)
                    .ok()
                    .and_then(|text| Holder::parse(&text));
                if let Some(Holder { owner, group }) = holder {
                    if Path::new(&format!("/proc/{owner}")).exists() {
                        if let Some(tell) = waiting.take() {
                            tell(owner);
                        }
                    } else if let Some(group) = group {
                        kill_group(group);
                    }
                }
                None
            }
        });
        match held {
            Some(result) => result.with_context(|| format!("cannot lock {}", path.display()))?,
            None => bail!(
                "{} stayed locked for an hour; see the process named in it",
                path.display()
            ),
        }
        let lock = Self {
            file,
            path: path.to_owned(),
        };
        lock.record(None)?;
        Ok(lock)
    }

    /// Removes the lock file and its folder, unless a process holds the lock. The file may be missing.
    pub fn forget(path: &Path) -> Result<()> {
        let removed = match File::options().read(true).write(true).open(path) {
            Ok(file) if file.try_lock().is_ok() => fs::remove_file(path),
            Ok(_) => return Ok(()),
            Err(error) => Err(error),
        };
        atomic_files::removed(removed)
            .with_context(|| format!("cannot remove the lock {}", path.display()))?;
        // The folder stays if other processes have put files there meanwhile.
        let _ = path.parent().map(fs::remove_dir);
        Ok(())
    }

    /// Writes who holds the lock, and the group that works under it.
    pub fn record(&self, group: Option<u32>) -> Result<()> {
        let mut file = &self.file;
        let text = format!(
            "{} {}\n",
            std::process::id(),
            group.map_or_else(String::new, |group| group.to_string())
        );
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// The lock as the standard input of a child that is to hold it too.
    pub fn share(&self) -> Result<File> {
        self.file.try_clone().context("cannot share the lock")
    }
}

fn open(path: &Path) -> Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open the lock {}", path.display()))
}

/// Whether this open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let on_disk = fs::metadata(path).map(|there| (there.dev(), there.ino()));
    let ours = file.metadata().map(|ours| (ours.dev(), ours.ino()));
    on_disk.is_ok_and(|on_disk| ours.is_ok_and(|ours| ours == on_disk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::thread;

    #[test]
    fn reads_what_it_wrote() {
        assert_eq!(
            Holder::parse("12 34\n"),
            Some(Holder {
                owner: 12,
                group: Some(34)
            })
        );
        assert_eq!(
            Holder::parse("12 \n"),
            Some(Holder {
                owner: 12,
                group: None
            })
        );
        assert_eq!(Holder::parse(""), None);
    }

    #[test]
    fn ends_an_orphan_that_holds_the_lock() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(".lock");
        let lock = Lock::acquire(&path, |_| ()).expect("the first lock");
        let mut orphan = Command::new("sleep")
            .arg("60")
            .stdin(lock.share().expect("shared"))
            .process_group(0)
            .spawn()
            .expect("sleep starts");
        drop(lock);
        // No process has this id: the kernel's limit is 4194304.
        fs::write(&path, format!("4194305 {}\n", orphan.id())).expect("written");
        Lock::acquire(&path, |_| panic!("the owner is gone")).expect("taken over");
        assert!(!orphan.wait().expect("ended").success());
    }
    #[test]
    fn a_removed_lock_leaves_no_file_and_is_not_given_to_waiters() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mine/.lock");
        let lock = Lock::acquire(&path, |_| ()).expect("the first lock");
        Lock::forget(&path).expect("it is held");
        assert!(path.exists(), "a lock that is held stays");
        // The waiting thread has the old file open when that is removed.
        let waits = thread::spawn({
            let path = path.clone();
            move || Lock::acquire(&path, |_| ()).map(drop)
        });
        fs::remove_file(&path).expect("removed under the owner");
        drop(lock);
        waits.join().expect("no panic").expect("a new lock");
        Lock::forget(&path).expect("no process holds it");
        assert!(!directory.path().join("mine").exists());
        Lock::forget(&path).expect("it is not there");
    }
}
