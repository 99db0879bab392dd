//! One at a time: a lock that names its owner.
//!
//! The kernel's lock on the file decides, so a dead owner holds nothing; the text in it is for people.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// Where the lock stands; gone after a boot, as is whoever held it.
const PATH: &str = "/run/pf9-nodelet.lock";
/// Said of a host that somebody else works on, before his name.
pub(crate) const BUSY: &str = "is being worked on by";

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "holding it is its use")] Flock<File>);

impl Lock {
    /// Takes the lock for `verb`, or says who holds it.
    pub(crate) fn take(verb: &str) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // What a link points to is not ours to write to.
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(PATH)
            .with_context(|| format!("open the lock {PATH}"))?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut owner = String::new();
                let _ = std::io::Read::by_ref(&mut file)
                    .take(200)
                    .read_to_string(&mut owner);
                bail!(
                    "run `nodelet {verb}`: this host {BUSY} {}; wait for it to end",
                    owner.trim()
                );
            }
            Err((_, error)) => return Err(error).with_context(|| format!("take the lock {PATH}")),
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
            .with_context(|| format!("write the owner into the lock {PATH}"))?;
        Ok(Self(lock))
    }
}
