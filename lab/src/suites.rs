//! The interface between `cargo xtask test` and the suites in `tests/lab`: the environment variables that the suites get.
//!
//! A run of the suites has a name, and the names of all its labs begin with it. So `cargo xtask` can take down the labs of a run
//! even if its suites were killed.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, process};

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::command;
use crate::topology::down;

const RUN: &str = "NODELET_LAB_RUN";
const NODELET: &str = "NODELET_LAB_NODELET";
const PAYLOAD: &str = "NODELET_LAB_PAYLOAD";
const TOOLBOX: &str = "NODELET_LAB_TOOLBOX";
const MACHINE: &str = "NODELET_LAB_MACHINE";
const KEEP: &str = "NODELET_LAB_KEEP";
const RECORD: &str = "NODELET_LAB_RECORD";

/// The directory below the cache with the locks of places.
const PLACES: &str = "suites";

/// The right to use a lab that suites share. It ends when this value is dropped or the process ends.
///
/// Only [`Place::give_back`] leaves the lab to the next suite: after a suite that failed or was killed, the place has a new name,
/// so that nothing of that suite is used again.
#[derive(Debug)]
pub struct Place {
    /// The kind, a number, and how many suites have not given the place back.
    pub name: String,
    /// Holds the lock. It has a byte for each suite that has not given the place back.
    file: File,
    failures: u64,
}

impl Place {
    fn take(kind: &str, number: usize, file: File) -> Result<Self> {
        let failures = file.metadata().context("cannot read a place")?.len();
        // Written here and not at the end: a process that is killed cannot write it.
        (&file).write_all(b"x").context("cannot take a place")?;
        Ok(Self {
            name: format!("{kind}-{number}-{failures}"),
            file,
            failures,
        })
    }

    /// Leaves the place and its lab to the next suite.
    ///
    /// # Errors
    /// The file of the place cannot be written.
    pub fn give_back(self) -> Result<()> {
        self.file
            .set_len(self.failures)
            .with_context(|| format!("cannot give back {}", self.name))
    }
}

/// The lock on a file, if no other process holds it.
fn lock_if_free(path: &Path) -> Result<Option<File>> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// The inputs of a run of the suites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suites {
    /// The first part of the names of its labs.
    pub run: String,
    /// The program under test.
    pub nodelet: PathBuf,
    /// The payload of the role package.
    pub payload: PathBuf,
    /// The workload image, a file for `docker load`.
    pub toolbox: PathBuf,
    /// What virtual hosts start from; only soaks have it.
    pub machine: Option<PathBuf>,
}

impl Suites {
    /// A name for this process's run.
    pub fn run_name() -> String {
        format!("suites-{}", process::id())
    }

    /// The environment variables that pass this to the suites.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        let mut all = vec![
            (RUN, self.run.clone().into()),
            (NODELET, self.nodelet.clone().into()),
            (PAYLOAD, self.payload.clone().into()),
            (TOOLBOX, self.toolbox.clone().into()),
        ];
        let machine = self.machine.clone();
        all.extend(machine.map(|path| (MACHINE, path.into())));
        all
    }

    /// Reads these variables.
    ///
    /// # Errors
    /// A variable is missing, as it is in a plain `cargo test`.
    pub fn from_environment() -> Result<Self> {
        let run = env::var_os(RUN).with_context(|| {
            format!(
                "{RUN} is not set: this test needs a lab; `cargo xtask test --only lab` or `cargo xtask soak` runs it"
            )
        })?;
        let path = |name| {
            env::var_os(name)
                .map(PathBuf::from)
                .with_context(|| format!("{RUN} is set but {name} is not"))
        };
        Ok(Self {
            run: run.to_string_lossy().into_owned(),
            nodelet: path(NODELET)?,
            payload: path(PAYLOAD)?,
            toolbox: path(TOOLBOX)?,
            machine: env::var_os(MACHINE).map(PathBuf::from),
        })
    }

    /// Takes one of `count` places of this kind in the run, and waits for a free one: suites in other processes use the places,
    /// too. The place with the lowest number comes first, so that labs that exist are used again.
    ///
    /// # Errors
    /// No place becomes free within `limit`.
    pub fn place(&self, cache: &Cache, kind: &str, count: usize, limit: Duration) -> Result<Place> {
        let directory = cache.root().join(PLACES).join(&self.run);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let mut failure = None;
        let place = command::poll(limit, || {
            (0..count).find_map(|number| {
                let path = directory.join(format!("{kind}-{number}"));
                let taken = lock_if_free(&path)
                    .and_then(|file| file.map(|file| Place::take(kind, number, file)).transpose());
                match taken {
                    Ok(place) => place,
                    Err(error) => {
                        failure = Some(error);
                        None
                    }
                }
            })
        });
        match (place, failure) {
            (Some(place), _) => Ok(place),
            (None, Some(error)) => Err(error),
            (None, None) => bail!(
                "no host of kind `{kind}` became free within {} s",
                limit.as_secs()
            ),
        }
    }

    /// The variable that names the file in which suites record their results, one JSON value per line.
    pub fn record_to(file: &Path) -> (&'static str, OsString) {
        (RECORD, file.into())
    }

    /// The file in which suites are to record their results, if there is one.
    pub fn record_file() -> Option<PathBuf> {
        env::var_os(RECORD).map(PathBuf::from)
    }

    /// True if labs are to stay, so that a developer can inspect them.
    pub fn keep() -> bool {
        env::var_os(KEEP).is_some_and(|value| value == "1")
    }

    /// Takes down every lab of the run. If one cannot be taken down, the others are taken down all the same.
    pub fn clear(cache: &Cache, run: &str) -> Result<()> {
        let mut errors = Vec::new();
        for name in down::labs(cache)? {
            // `suites-12` is the beginning of `suites-123`, which is another run.
            let ours = name
                .strip_prefix(run)
                .is_some_and(|rest| rest.starts_with('-'));
            if ours && let Err(error) = down::lab(cache, &name) {
                errors.push(format!("{error:#}"));
            }
        }
        let places = cache.root().join(PLACES).join(run);
        if places.exists()
            && let Err(error) = fs::remove_dir_all(&places)
        {
            errors.push(format!("cannot remove {}: {error}", places.display()));
        }
        // Also if no lab was left: it stops an outer docker without users.
        down::lab(cache, run)?;
        if !errors.is_empty() {
            bail!("{}", errors.join("; "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_slot_has_one_owner_at_a_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::at(directory.path());
        let suites = Suites {
            run: "suites-1".to_owned(),
            nodelet: PathBuf::new(),
            payload: PathBuf::new(),
            toolbox: PathBuf::new(),
            machine: None,
        };
        let soon = Duration::from_millis(50);
        let take = || suites.place(&cache, "shared", 2, soon);
        let first = take().expect("it is free");
        let second = take().expect("the other one is free");
        assert_eq!(
            (first.name.as_str(), second.name.as_str()),
            ("shared-0-0", "shared-1-0")
        );
        take().expect_err("both are taken");
        first.give_back().expect("it is given back");
        let again = take().expect("it is free again");
        assert_eq!(again.name, "shared-0-0");
        // The lab of a suite that failed is not used again.
        drop(again);
        assert_eq!(take().expect("it is free again").name, "shared-0-1");
    }
}
