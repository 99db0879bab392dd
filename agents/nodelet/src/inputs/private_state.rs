//! Only root has access to the state directory: changed modes and owners of its files are set back.
//!
//! The files hold settings, secrets among them, and previous contents of files. A user who can write them decides what a clean does.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::libc::{O_DIRECTORY, O_NOFOLLOW, O_PATH};
use nix::unistd::{Gid, Uid, fchownat};

/// Directories in it whose files are private as well.
const WITHIN: [&str; 4] = ["content", "kept", "services", "timers"];
/// Most files of a directory that are looked at.
const MOST: usize = 10_000;

/// Sets mode and owner back. Gives the paths where they had been changed.
///
/// # Errors
/// Something in it cannot be looked at or changed; all else is set back.
pub(crate) fn protect(state: &Path) -> io::Result<Vec<PathBuf>> {
    protect_for(state, 0, 0)
}

fn protect_for(state: &Path, uid: u32, gid: u32) -> io::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    let mut failed = None;
    let mut directories = vec![state.to_path_buf()];
    directories.extend(WITHIN.iter().map(|name| state.join(name)));
    for directory in directories {
        // The directory is held open, and one below the state directory must not be a link: so the files that are listed are those that
        // are set back.
        let flags = match directory == state {
            true => O_DIRECTORY,
            false => O_DIRECTORY | O_NOFOLLOW,
        };
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&directory);
        let listed = opened.and_then(|opened| {
            let place = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
            Ok((fs::read_dir(&place)?, place, opened))
        });
        let (entries, place, _held) = match listed {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                failed = failed.or(Some(error));
                continue;
            }
        };
        let names = entries.take(MOST).flatten().map(|entry| entry.file_name());
        let below = names.map(|name| (directory.join(&name), place.join(&name)));
        // The directory first: from then on, no other user can change anything in it.
        for (path, opened) in [(directory.clone(), directory.clone())]
            .into_iter()
            .chain(below)
        {
            match set_back(&opened, path == state, (uid, gid)) {
                Ok(true) => changed.push(path),
                Ok(false) => {}
                // It may have been a temporary file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
    }
    failed.map_or(Ok(changed), Err)
}

/// Sets one file or directory back. A directory below the state directory may be readable by others, because they cannot enter the state
/// directory.
fn set_back(path: &Path, is_state: bool, owner: (u32, u32)) -> io::Result<bool> {
    // Held open: a link that replaces it meanwhile has no effect.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(O_PATH | O_NOFOLLOW)
        .open(path)?;
    let said = opened.metadata()?;
    let is = said.mode() & 0o7777;
    let wanted = match said.file_type() {
        kind if kind.is_file() => 0o600,
        kind if kind.is_dir() && is_state => 0o700,
        kind if kind.is_dir() => (is & 0o755) | 0o700,
        _ => return Ok(false),
    };
    let mut changed = false;
    if (said.uid(), said.gid()) != owner {
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        fchownat(&opened, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
        changed = true;
    }
    if is != wanted {
        // The mode cannot be set through an `O_PATH` descriptor, but through its name in /proc.
        let name = format!("/proc/self/fd/{}", opened.as_raw_fd());
        fs::set_permissions(name, Permissions::from_mode(wanted))?;
        changed = true;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_are_too_open_are_restricted() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("nodelet");
        let own = directory.path().metadata().expect("it is there");
        let owner = (own.uid(), own.gid());
        for name in WITHIN {
            fs::create_dir_all(state.join(name)).expect("it is made");
        }
        let (settings, saved) = (state.join("settings.yaml"), state.join("content/ab"));
        let key = state.join("kept/authority-etcd.json");
        for path in [&settings, &saved, &key] {
            fs::write(path, "x").expect("it is written");
        }
        let mode = |path: &Path, mode: u32| {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is set");
        };
        mode(&settings, 0o644);
        mode(&saved, 0o660);
        mode(&key, 0o604);
        mode(&state.join("content"), 0o777);
        mode(&state, 0o755);
        let protect = || protect_for(&state, owner.0, owner.1).expect("it can be");
        let mut changed = protect();
        changed.sort();
        let all = [
            state.clone(),
            state.join("content"),
            saved.clone(),
            key.clone(),
            settings.clone(),
        ];
        assert_eq!(changed, all);
        let is = |path: &Path| path.metadata().expect("it is there").mode() & 0o7777;
        for path in [&settings, &saved, &key] {
            assert_eq!(is(path), 0o600, "{}", path.display());
        }
        assert_eq!((is(&state), is(&state.join("content"))), (0o700, 0o755));
        assert_eq!(
            protect(),
            [""; 0].map(PathBuf::from),
            "nothing is left to do"
        );
    }

    /// A user who could write to the state directory may have put a link there.
    #[test]
    fn link_targets_are_left_and_reported() {
        let directory = tempfile::tempdir().expect("a directory");
        let (state, other) = (
            directory.path().join("nodelet"),
            directory.path().join("etc"),
        );
        fs::create_dir_all(&state).expect("it is made");
        fs::create_dir_all(&other).expect("it is made");
        let passwd = other.join("passwd");
        fs::write(&passwd, "x").expect("it is written");
        fs::set_permissions(&passwd, Permissions::from_mode(0o644)).expect("it is set");
        std::os::unix::fs::symlink(&other, state.join("content")).expect("a link");
        let own = directory.path().metadata().expect("it is there");
        protect_for(&state, own.uid(), own.gid()).expect_err("content is no directory of ours");
        let mode = passwd.metadata().expect("it is there").mode() & 0o7777;
        assert_eq!(mode, 0o644);
    }

    #[test]
    fn a_host_without_state_has_nothing_to_protect() {
        let directory = tempfile::tempdir().expect("a directory");
        let nothing = protect(&directory.path().join("nowhere")).expect("no error");
        assert_eq!(nothing, [""; 0].map(PathBuf::from));
    }
}
