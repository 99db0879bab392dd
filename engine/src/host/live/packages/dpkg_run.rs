//! A run of dpkg: its lock, and the policy that keeps packages from starting services.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::host::live::backoff::Backoff;
use crate::host::live::blocking::{blocking, file_error, if_there};
use crate::host::live::files::atomic;
use crate::host::{Attributes, HostError, HostResult};

/// The lock that apt and every other front end of dpkg takes first.
const LOCK: &str = "/var/lib/dpkg/lock-frontend";

/// The lock that dpkg itself holds while it works, even if its front end is gone.
const DATABASE_LOCK: &str = "/var/lib/dpkg/lock";

/// Environment variable by which our policy recognizes our own run of dpkg.
pub(in crate::host::live) const NO_SERVICES: &str = "NODELET_NO_SERVICES";

/// How long another process may hold the lock.
const LOCK_WAIT: Duration = Duration::from_secs(120);

/// The program that maintainer scripts (invoke-rc.d, deb-systemd-invoke) ask before they touch a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Where a policy that was there before ours is kept in the meantime.
const SAVED: &str = "/usr/sbin/policy-rc.d.before-nodelet";

/// Recognizes our own policy, also one that a crash left behind.
const MARK: &str = "# Written by nodelet";

/// The front end lock, held until this is dropped or the process dies.
#[derive(Debug)]
pub(in crate::host::live) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock. Cancel safe.
    pub(in crate::host::live) async fn take() -> HostResult<Self> {
        let mut backoff = Backoff::new(LOCK_WAIT);
        loop {
            if let Some(lock) = blocking(try_lock).await? {
                return Ok(lock);
            }
            if !backoff.pause().await {
                return Err(HostError::Deadline {
                    action: format!(
                        "get dpkg's lock {LOCK} (which process holds it? see `fuser {LOCK}`)"
                    ),
                    after: LOCK_WAIT,
                });
            }
        }
    }
}

/// Takes the front end lock if no process holds it and no dpkg is at work without it.
fn try_lock() -> HostResult<Option<Lock>> {
    let Some(lock) = try_file(Path::new(LOCK))? else {
        return Ok(None);
    };
    // Released at once: our own dpkg needs it.
    Ok(try_file(Path::new(DATABASE_LOCK))?.map(|_| Lock { _file: lock }))
}

/// A lock of the open file, not of the process: it is not lost when some other part of us opens and closes the
/// same file, and two of our own installations exclude each other. dpkg's and apt's locks conflict with it.
fn try_file(path: &Path) -> HostResult<Option<File>> {
    let failed = || file_error("lock", path);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(path)
        .map_err(failed())?;
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(Some(file)),
        Err(Errno::EACCES | Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(failed()(errno.into())),
    }
}

/// While this lives, packages that a dpkg with [`NO_SERVICES`] in its environment works on do not start, stop or
/// restart services.
///
/// Debian has one way to say so: an executable `/usr/sbin/policy-rc.d` that exits with 101. It applies to the whole machine and would
/// outlive a crash. So ours exits with 101 only for programs that have our variable. For all others it allows the action, or asks the
/// policy that was there before. A policy that a crash leaves behind is therefore harmless, and the next run removes it; a dpkg that
/// outlives us still starts nothing.
#[derive(Debug)]
pub(in crate::host::live) struct NoServices {
    _private: (),
}

impl NoServices {
    /// Puts the policy in place. Blocks. The caller holds the [`Lock`].
    pub(in crate::host::live) fn install() -> HostResult<Self> {
        let guard = Self { _private: () };
        restore().map_err(file_error("restore", Path::new(POLICY)))?;
        put().map_err(file_error("write", Path::new(POLICY)))?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Err(error) = restore() {
            tracing::warn!(path = POLICY, %error, "failed to restore the policy for package services");
        }
    }
}

/// Removes a policy of ours that a crash left behind. Blocks. The caller holds the [`Lock`].
pub(in crate::host::live) fn sweep() -> HostResult<()> {
    restore().map_err(file_error("restore", Path::new(POLICY)))
}

fn put() -> io::Result<()> {
    if Path::new(POLICY).exists() {
        fs::rename(POLICY, SAVED)?;
    }
    let script = format!(
        "#!/bin/sh\n{MARK}: packages that it installs start no services. This policy does not apply to other programs.\n\
         if [ -n \"${NO_SERVICES}\" ]; then exit 101; fi\n\
         if [ -x {SAVED} ]; then exec {SAVED} \"$@\"; fi\nexit 0\n"
    );
    atomic::write(
        Path::new(POLICY),
        script.as_bytes(),
        Attributes::root(0o755),
    )
}

/// Takes our policy away, if it is there, and puts back what was there before.
fn restore() -> io::Result<()> {
    let ours = match if_there(fs::read(POLICY))? {
        Some(script) => script
            .windows(MARK.len())
            .any(|window| window == MARK.as_bytes()),
        // A crash between saving the old one and writing ours.
        None => true,
    };
    if !ours {
        return Ok(());
    }
    if if_there(fs::rename(SAVED, POLICY))?.is_none() {
        if_there(fs::remove_file(POLICY))?;
    }
    Ok(())
}
