//! One command at a time: a lock that names its owner.
//!
//! The kernel's lock on the file decides, so a dead owner holds nothing. The text in the file is for operators, with two exceptions:
//! backups of etcd and the programs of timers end for other commands. Another command reads the process from the text and asks it to end, which takes
//! seconds. A status pass that renews a file holds the lock for a moment, and other commands wait for it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The path of the lock. After a boot the file is gone, and so is the process that held it.
const PATH: &str = "/run/pf9-nodelet.lock";
/// Another command works on the host.
#[derive(Debug, thiserror::Error)]
#[error("run `nodelet {verb}`: this host is being worked on by {owner}; wait for it to end")]
pub(crate) struct Busy {
    verb: String,
    /// The owner's command and process.
    owner: String,
}

/// Prefixes of the owners that end when they are asked to.
const GIVE_WAY: [&str; 2] = ["`nodelet etcd ", "`nodelet timer "];
/// Prefix of an owner that ends soon by itself.
const ENDS_SOON: &str = "`nodelet pass`";
/// Timeout for such owners to end. One of the first kind removes a container first.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Held until the process ends, which may be later than the command: a thread that hangs in a write keeps the process, and with it the
/// lock. So no other command begins before that write has ended. A backup of etcd releases the lock when the command returns: only a
/// write to the directory of backups may still hang then, and no other command uses that directory.
#[derive(Debug)]
pub(crate) struct Lock {
    held: Option<Flock<File>>,
    preemptible: bool,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.preemptible {
            std::mem::forget(self.held.take());
        }
    }
}

impl Lock {
    /// Takes the lock for `verb`; the error names the owner. If the owner is preemptible, asks it to end and waits, at most 30 s. Waits as
    /// long for a status pass.
    pub(crate) fn take(verb: &str) -> Result<Self> {
        Self::take_at(Path::new(PATH), verb, TIMEOUT)
    }

    /// Takes the lock for a status pass that has to renew a file. `None` if another command works on the host. A second call in one
    /// process finds the lock held.
    pub(crate) fn take_for_pass() -> Result<Option<Self>> {
        Self::take_if_free(Path::new(PATH), "pass")
    }

    fn take_if_free(path: &Path, verb: &str) -> Result<Option<Self>> {
        match Self::take_at(path, verb, Duration::ZERO) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.is::<Busy>() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn take_at(path: &Path, verb: &str, timeout: Duration) -> Result<Self> {
        let until = Instant::now() + timeout;
        let mut pause = Duration::from_millis(20);
        let mut asked = None;
        let mut lock = loop {
            let mut file = match Flock::lock(open(path)?, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
                Err((_, error)) => {
                    return Err(error).with_context(|| format!("take the lock {}", path.display()));
                }
            };
            let mut owner = String::new();
            let _ = std::io::Read::by_ref(&mut file)
                .take(200)
                .read_to_string(&mut owner);
            let process = (!preemptible(verb)).then(|| yielding(&owner)).flatten();
            let ends = process.is_some() || owner.starts_with(ENDS_SOON);
            if !ends || Instant::now() >= until {
                return Err(Busy {
                    verb: verb.to_owned(),
                    owner: owner.trim().to_owned(),
                }
                .into());
            }
            if let Some(process) = process
                && asked != Some(process)
                && is_nodelet(process)
            {
                let _ = kill(Pid::from_raw(process), Signal::SIGTERM);
                asked = Some(process);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(500));
        };
        let since = humantime::format_rfc3339_seconds(SystemTime::now());
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| {
                writeln!(
                    lock,
                    "`nodelet {verb}` (process {}, since {since})",
                    std::process::id()
                )
            })
            .with_context(|| format!("write the owner into the lock {}", path.display()))?;
        Ok(Self {
            held: Some(lock),
            preemptible: preemptible(verb),
        })
    }
}

/// Whether this command ends when another one asks it to.
fn preemptible(verb: &str) -> bool {
    let owner = format!("`nodelet {verb}");
    GIVE_WAY.iter().any(|prefix| owner.starts_with(*prefix))
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // Do not follow a link: its target is not our file.
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path)
        .with_context(|| format!("open the lock {}", path.display()))
}

/// The process of a preemptible owner.
fn yielding(owner: &str) -> Option<i32> {
    let mut prefixes = GIVE_WAY.iter();
    let rest = prefixes.find_map(|prefix| owner.strip_prefix(*prefix))?;
    let (_, process) = rest.split_once("(process ")?;
    let process = process.split_once(',')?.0.parse().ok()?;
    (process > 1).then_some(process)
}

/// Whether a process is a `nodelet`: the lock may still name the previous owner, and its process id may be in use again.
fn is_nodelet(process: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/comm"))
        .is_ok_and(|name| name.trim() == "nodelet")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_and_timers_are_preemptible_and_other_commands_are_not() {
        let owner =
            |verb: &str| format!("`nodelet {verb}` (process 4711, since 2026-01-01T00:00:00Z)");
        assert_eq!(yielding(&owner("etcd backup")), Some(4711));
        assert_eq!(yielding(&owner("etcd verify")), Some(4711));
        assert_eq!(yielding(&owner("timer run prune")), Some(4711));
        assert_eq!(yielding(&owner("apply")), None);
        for garbage in [
            "",
            "`nodelet etcd backup`",
            "`nodelet etcd backup` (process 1, )",
            "`nodelet etcd backup` (process -1, )",
        ] {
            assert_eq!(yielding(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn an_owner_that_does_not_give_way_refuses_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        let mut held = Lock::take_at(&path, "apply", TIMEOUT).expect("it is free");
        let before = Instant::now();
        let refused = Lock::take_at(&path, "repair", TIMEOUT).expect_err("it is held");
        assert!(refused.is::<Busy>(), "{refused}");
        let refused = Lock::take_at(&path, "etcd backup", TIMEOUT).expect_err("it is held");
        assert!(refused.to_string().contains("`nodelet apply`"), "{refused}");
        assert!(before.elapsed() < TIMEOUT);
        drop(held.held.take());
        let backup = Lock::take_at(&path, "etcd backup", TIMEOUT).expect("it is free again");
        drop(backup);
        let repair = Lock::take_at(&path, "repair", TIMEOUT).expect("a backup releases it");
        drop(repair);
        // A write of `repair` may still hang, so its lock stays until the process ends.
        let refused = Lock::take_at(&path, "apply", TIMEOUT).expect_err("it is held still");
        assert!(refused.is::<Busy>(), "{refused}");
    }
    #[test]
    fn a_status_pass_waits_for_no_command_and_commands_wait_for_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        let mut apply = Lock::take_at(&path, "apply", TIMEOUT).expect("it is free");
        let none = Lock::take_if_free(&path, "pass").expect("the file can be opened");
        assert!(none.is_none(), "a command works on the host");
        drop(apply.held.take());
        let pass = Lock::take_if_free(&path, "pass").expect("the file can be opened");
        let mut pass = pass.expect("it is free");
        let refused = Lock::take_at(&path, "apply", Duration::ZERO).expect_err("it is held");
        assert!(refused.is::<Busy>(), "{refused}");
        let ends = std::thread::spawn(move || drop(pass.held.take()));
        let apply = Lock::take_at(&path, "apply", TIMEOUT).expect("it waits for the pass");
        ends.join().expect("it ends");
        drop(apply);
    }
}
