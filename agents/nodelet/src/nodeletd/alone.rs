//! One daemon on a host: two would undo each other's work, and take each other's socket.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Gone after a boot, as is whoever held it.
const LOCK: &str = "/run/pf9-nodeletd.lock";
/// Who only looks whether it is held holds it for a moment.
const MOMENT: Duration = Duration::from_millis(50);
const MOMENTS: u32 = 5;

/// Takes the lock, for as long as what is given lives.
///
/// # Errors
/// Another daemon has it.
pub(super) async fn only_one() -> Result<Flock<File>> {
    take(Path::new(LOCK)).await
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

/// Whether a daemon runs, be it that nobody can ask it.
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
    async fn there_is_one_and_others_see_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        assert!(!is_held(&path), "nobody ever was");
        let one = take(&path).await.expect("it is free");
        assert!(is_held(&path));
        let second = take(&path).await.expect_err("it is held");
        assert!(second.to_string().contains("another nodeletd"), "{second}");
        drop(one);
        assert!(!is_held(&path));
        take(&path).await.expect("it is free again");
    }
}
