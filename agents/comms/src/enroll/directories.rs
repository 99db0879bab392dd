//! Directories that the user of pf9-comms can enter, with each umask.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::unistd::User;

/// Where an identity is put if the operator names no other place.
pub(super) const USUAL: &str = "/etc/pf9/comms";
/// The bit of a mode with which other users read a file, and the one with which they enter a directory.
pub(super) const READ: u32 = 0o4;
const ENTER: u32 = 0o1;

/// Whether owner, group and mode let a user do this.
pub(super) fn allows(its: &Metadata, user: &User, what: u32) -> bool {
    let bit = if its.uid() == user.uid.as_raw() {
        what << 6
    } else if its.gid() == user.gid.as_raw() {
        what << 3
    } else {
        what
    };
    its.mode() & bit != 0
}

/// The mode of a directory, with each umask: the user of pf9-comms has to get to its files.
pub(super) fn open_to_all(directory: &Path) -> Result<()> {
    fs::set_permissions(directory, Permissions::from_mode(0o755))
        .with_context(|| format!("set the mode of {}", directory.display()))
}

/// Makes a directory and those that lead to it. Those that are there stay as they are, but for one of an enrolment that was killed before the
/// directory had its mode: the directory itself, or the one above `usual` ([`USUAL`]). Another one may be an operator's, as `/root` is. Returns the one that was
/// opened.
///
/// # Errors
/// One cannot be made.
pub(super) fn make(directory: &Path, usual: &Path, user: &User) -> Result<Option<PathBuf>> {
    let missing = directory.ancestors().take_while(|its| !its.exists());
    let missing: Vec<&Path> = missing.collect();
    let present = missing.last().map_or(Some(directory), |its| its.parent());
    let ours = present.filter(|its| *its == directory || Some(*its) == usual.parent());
    let mut opened = None;
    if let Some(present) = ours
        && is_unfinished(present, user)?
    {
        open_to_all(present)?;
        opened = Some(present.to_owned());
    }
    for its in missing.into_iter().rev() {
        fs::create_dir(its)?;
        open_to_all(its)?;
    }
    Ok(opened)
}

/// Whether an enrolment may have been killed between the two calls that make a directory: it is empty, and this user cannot enter it. An operator may have closed one with files.
fn is_unfinished(directory: &Path, user: &User) -> io::Result<bool> {
    let its = directory.metadata()?;
    let is_own = its.uid() == nix::unistd::geteuid().as_raw();
    if !is_own || allows(&its, user, ENTER) {
        return Ok(false);
    }
    Ok(fs::read_dir(directory)?.next().is_none())
}

#[cfg(test)]
mod tests {
    use nix::unistd::{Gid, Uid};

    use super::*;

    #[test]
    fn a_directory_that_a_kill_has_left_closed_is_opened() {
        let directory = tempfile::tempdir().expect("a directory");
        let user = User::from_uid(nix::unistd::geteuid());
        let mut user = user.expect("users").expect("this one");
        user.uid = Uid::from_raw(user.uid.as_raw() + 1);
        user.gid = Gid::from_raw(user.gid.as_raw() + 1);
        let above = directory.path().join("pf9");
        let place = above.join("comms");
        let close = |path: &Path| {
            fs::set_permissions(path, Permissions::from_mode(0o700)).expect("its mode is set");
        };
        let made = |usual: &Path| {
            let opened = make(&place, usual, &user).expect("it is made");
            let mode = |path: &PathBuf| path.metadata().expect("it is there").mode() & 0o7777;
            (opened, [mode(&above), mode(&place)])
        };
        let elsewhere = Path::new("/elsewhere/comms");
        fs::create_dir(&above).expect("it is made");
        close(&above);
        // With an operator's `--directory`, as below `/root`.
        assert_eq!(made(elsewhere), (None, [0o700, 0o755]));
        fs::remove_dir(&place).expect("it is empty");
        assert_eq!(made(&place), (Some(above.clone()), [0o755, 0o755]));
        for usual in [place.as_path(), elsewhere] {
            close(&place);
            assert_eq!(made(usual), (Some(place.clone()), [0o755, 0o755]));
        }
        // These are an operator's.
        close(&above);
        assert_eq!(made(&place), (None, [0o700, 0o755]));
        fs::write(place.join("file"), "").expect("it is written");
        close(&place);
        assert_eq!(made(&place), (None, [0o700, 0o700]));
    }
}
