//! Artifacts of the set-up: built once per set of inputs, kept outside the checkout.
//!
//! An artifact is the directory `<cache>/<step>/<key>`. It is built as `<key>.partial` and renamed when complete, so an artifact
//! under its final name is complete, and an interrupted set-up continues with the step that was interrupted.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::command;
use crate::lock::Lock;

/// How many artifacts of a step stay: the current one and the one before, for a switch back to another branch.
const KEPT: usize = 2;

/// The digest of everything an artifact is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of these named inputs; order matters, and no two different lists give the same text to digest.
    pub fn of(inputs: &[(&str, &str)]) -> Self {
        let mut digest = Sha256::new();
        for (name, value) in inputs {
            for part in [name, value] {
                digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
                digest.update(part.as_bytes());
            }
        }
        Self(hex(&digest.finalize())[..16].to_owned())
    }

    /// The key as it appears in file and image names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Bytes in lower-case hexadecimal. The engine has the same function, but the lab does not use the engine.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What to do with the files of an interrupted build of the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Start from an empty directory.
    Discard,
    /// The recipe can go on from there.
    Continue,
}

/// The folder of all artifacts, labs, logs and the outer docker's data.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// The environment variables of a recipe: words and paths.
pub type Variables<'a> = [(&'a str, &'a dyn AsRef<OsStr>)];

/// A build in progress: where it writes, and the lock it works under.
pub struct Build<'a> {
    /// The directory that becomes the artifact.
    pub directory: PathBuf,
    lock: &'a Lock,
    log: PathBuf,
}

impl<'a> Build<'a> {
    /// A build that makes no artifact but has a log, under a lock that the caller holds.
    pub(crate) fn beside(cache: &Cache, step: &str, lock: &'a Lock) -> Result<Self> {
        let directory = cache.logs()?;
        let log = directory.join(format!("{step}.log"));
        let _ = fs::remove_file(&log);
        Ok(Self {
            directory,
            lock,
            log,
        })
    }

    /// Runs a shell recipe in the directory with these variables.
    pub fn recipe(&self, text: &str, variables: &Variables<'_>, limit: Duration) -> Result<()> {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", text, "recipe"])
            .current_dir(&self.directory);
        shell
            .envs(variables.iter().map(|(name, value)| (name, value.as_ref())))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8");
        self.logged(&mut shell, Some("the recipe"), limit)
    }

    /// Runs any command, with its output in the step's log.
    pub fn run(&self, command: &mut Command, limit: Duration) -> Result<()> {
        self.logged(command, None, limit)
    }

    fn logged(&self, command: &mut Command, what: Option<&str>, limit: Duration) -> Result<()> {
        let stdin = self.lock.share()?;
        command::logged(command, what, &self.log, stdin, limit, |group| {
            drop(self.lock.record(Some(group)))
        })?;
        self.lock.record(None)
    }
}

impl Cache {
    /// The cache at `$NODELET_LAB_CACHE`, else `nodelet-lab` in the user's cache folder.
    pub fn locate() -> Result<Self> {
        let variable = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let root = variable("NODELET_LAB_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|home| home.join("nodelet-lab")))
            .or_else(|| variable("HOME").map(|home| home.join(".cache/nodelet-lab")))
            .context("no place for the cache: set NODELET_LAB_CACHE to a directory")?;
        Ok(Self {
            root: std::path::absolute(root)?,
        })
    }

    /// The cache in this directory.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The cache's own folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the logs of set-up and test runs.
    pub fn logs(&self) -> Result<PathBuf> {
        let directory = self.root.join("logs");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }

    /// The path of an artifact when it is complete.
    pub fn path(&self, step: &str, key: &Key) -> PathBuf {
        self.root.join(step).join(key.as_str())
    }

    /// Takes the lock of one step (or of anything else with a name).
    pub fn lock(&self, name: &str, waiting: impl FnOnce(u32)) -> Result<Lock> {
        Lock::acquire(&self.root.join(name).join(".lock"), waiting)
    }

    /// Removes the file of such a lock, unless a process holds the lock.
    pub fn forget_lock(&self, name: &str) -> Result<()> {
        Lock::forget(&self.root.join(name).join(".lock"))
    }

    /// Gives the artifact, after building it if it is not there. `announce` is called with what happens.
    pub fn artifact(
        &self,
        step: &str,
        key: &Key,
        leftover: Leftover,
        announce: &dyn Fn(&str),
        build: impl FnOnce(&Build<'_>) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.path(step, key);
        let lock = self.lock(step, |owner| {
            announce(&format!("waiting for process {owner}"))
        })?;
        if path.exists() {
            touch(&path)?;
            return Ok(path);
        }
        announce("building");
        let partial = self
            .root
            .join(step)
            .join(format!("{}.partial", key.as_str()));
        if leftover == Leftover::Discard && partial.exists() {
            fs::remove_dir_all(&partial)
                .with_context(|| format!("cannot remove {}", partial.display()))?;
        }
        fs::create_dir_all(&partial)
            .with_context(|| format!("cannot create {}", partial.display()))?;
        build(&Build {
            directory: partial.clone(),
            ..Build::beside(self, step, &lock)?
        })?;
        fs::rename(&partial, &path)
            .with_context(|| format!("cannot move {} into place", partial.display()))?;
        touch(&path)?;
        self.prune(step, key)?;
        Ok(path)
    }

    /// The records of all labs as one text, to see whether one of them mentions a path.
    fn records_of_labs(&self) -> String {
        let entries = fs::read_dir(self.root.join("labs")).into_iter().flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let records = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
        records
            .filter_map(|path| fs::read_to_string(path).ok())
            .collect()
    }

    /// Removes older artifacts of a step, except those that a lab still mounts, and leftovers of other keys.
    fn prune(&self, step: &str, current: &Key) -> Result<()> {
        let labs = self.records_of_labs();
        let directory = self.root.join(step);
        let mut found: Vec<(SystemTime, PathBuf)> = fs::read_dir(&directory)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_dir() && !path.ends_with(current.as_str()))
            .filter(|path| !labs.contains(&path.display().to_string()))
            .map(|path| {
                (
                    fs::metadata(&path)
                        .and_then(|meta| meta.modified())
                        .unwrap_or(SystemTime::UNIX_EPOCH),
                    path,
                )
            })
            .collect();
        found.sort();
        let (partial, mut whole): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|(_, path)| path.extension().is_some_and(|end| end == "partial"));
        whole.truncate(whole.len().saturating_sub(KEPT - 1));
        for (_, path) in partial.into_iter().chain(whole) {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

/// The key of an artifact's directory, as an input of what is made from it. The path itself would tie the result to one cache.
pub(crate) fn key_of(artifact: &Path) -> String {
    artifact
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Marks an artifact as used now, so that pruning keeps what is in use on some branch.
fn touch(path: &Path) -> Result<()> {
    fs::File::open(path)
        .and_then(|directory| directory.set_modified(SystemTime::now()))
        .with_context(|| format!("cannot touch {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Cache::at(directory.path());
        (directory, cache)
    }

    #[test]
    fn keys_tell_inputs_apart() {
        let key = Key::of(&[("recipe", "ab"), ("version", "c")]);
        assert_eq!(key, Key::of(&[("recipe", "ab"), ("version", "c")]));
        assert_ne!(key, Key::of(&[("recipe", "a"), ("version", "bc")]));
        assert_ne!(key, Key::of(&[("recipe", "ab"), ("edition", "c")]));
        assert_eq!(key.as_str().len(), 16);
    }

    #[test]
    fn builds_once() {
        let (_keep, cache) = cache();
        let key = Key::of(&[]);
        let build = |build: &Build<'_>| Ok(fs::write(build.directory.join("x"), "1")?);
        let path = cache
            .artifact("s", &key, Leftover::Discard, &|_| (), build)
            .expect("built");
        assert_eq!(fs::read_to_string(path.join("x")).expect("there"), "1");
        cache
            .artifact("s", &key, Leftover::Discard, &|_| (), |_| {
                bail!("must be cached")
            })
            .expect("cached");
    }

    #[test]
    fn an_interrupted_build_is_no_artifact_and_resumes() {
        let (_keep, cache) = cache();
        let key = Key::of(&[]);
        let fail = |build: &Build<'_>| {
            fs::write(build.directory.join("half"), "")?;
            bail!("cut off")
        };
        cache
            .artifact("s", &key, Leftover::Continue, &|_| (), fail)
            .expect_err("fails");
        assert!(!cache.path("s", &key).exists());
        let again = |build: &Build<'_>| {
            assert!(build.directory.join("half").exists());
            Ok(())
        };
        cache
            .artifact("s", &key, Leftover::Continue, &|_| (), again)
            .expect("resumes");
    }

    #[test]
    fn a_fresh_build_sees_nothing_of_the_old() {
        let (_keep, cache) = cache();
        let key = Key::of(&[]);
        fs::create_dir_all(
            cache
                .root()
                .join("s")
                .join(format!("{}.partial/old", key.as_str())),
        )
        .expect("made");
        let build = |build: &Build<'_>| {
            assert!(!build.directory.join("old").exists());
            Ok(())
        };
        cache
            .artifact("s", &key, Leftover::Discard, &|_| (), build)
            .expect("built");
    }

    #[test]
    fn keeps_the_newest_two() {
        let (_keep, cache) = cache();
        let paths: Vec<PathBuf> = ["1", "2", "3"]
            .iter()
            .map(|version| {
                let key = Key::of(&[("version", version)]);
                cache
                    .artifact("s", &key, Leftover::Discard, &|_| (), |_| Ok(()))
                    .expect("built")
            })
            .collect();
        assert_eq!(
            paths.iter().map(|path| path.exists()).collect::<Vec<_>>(),
            [false, true, true]
        );
    }

    #[test]
    fn a_recipe_runs_in_the_artifact_and_its_failure_names_the_log() {
        let (_keep, cache) = cache();
        let key = Key::of(&[]);
        let limit = Duration::from_secs(10);
        let error = cache
            .artifact("s", &key, Leftover::Discard, &|_| (), |build| {
                build.recipe("echo $WORD; exit 1", &[("WORD", &"oh")], limit)
            })
            .expect_err("fails");
        let text = format!("{error:#}");
        assert!(
            text.contains("logs/s.log") && text.contains("| oh"),
            "{text}"
        );
    }
}
