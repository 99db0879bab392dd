//! A lock file that outlives its owner exactly as long as the owner's children do.
//!
//! The lock (flock) sits on the open file. A recipe gets that open file as standard input, so when `xtask` is killed while a recipe
//! runs, the lock stays held by the recipe. The next `xtask` reads in the file who held it: if that process is gone, what is left
//! is an orphan of ours, recorded by its process group, and may be ended.

use std::fs::{self, File, TryLockError};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{kill_group, poll};

/// How long one set-up waits for the same step of another.
const PATIENCE: Duration = Duration::from_secs(3600);

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
    /// Waits for the lock at `path`; tells `waiting` once if somebody alive holds it.
    pub fn acquire(path: &Path, waiting: impl FnOnce(u32)) -> Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path);
        let file = file.with_context(|| format!("cannot open the lock {}", path.display()))?;
        let mut waiting = Some(waiting);
        let held = poll(PATIENCE, || match file.try_lock() {
            Ok(()) => Some(Ok(())),
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
    pub fn share(&self) -> Result<Stdio> {
        Ok(self
            .file
            .try_clone()
            .context("cannot share the lock")?
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

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
}
