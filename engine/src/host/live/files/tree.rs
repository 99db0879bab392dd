//! Removal of a directory with all that is in it, and nothing else.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::atomic::{parent, sync_directory};
use crate::host::live::blocking::if_there;

/// Removes `path`: a directory with its content, or a file or link.
///
/// # Errors
/// `path` is, or holds, a mount point: unmount it first. Nothing has been removed then.
pub(in crate::host::live) fn remove(path: &Path) -> io::Result<()> {
    let Some(there) = if_there(path.symlink_metadata())? else {
        return Ok(());
    };
    let directory = parent(path)?;
    if there.is_dir() {
        if let Some(mount) = mounts_below(path)?.first() {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("{} is mounted there; unmount it first", mount.display()),
            ));
        }
        // The standard library walks with openat and O_NOFOLLOW, so a link swapped in meanwhile is not followed.
        if_there(fs::remove_dir_all(path))?;
    } else {
        if_there(fs::remove_file(path))?;
    }
    sync_directory(directory)
}

/// Unmounts everything at or below `path`, the deepest and newest first.
///
/// A busy mount is detached: it is gone from the tree at once, and from the kernel when its last user goes.
///
/// # Errors
/// The kernel refuses, or new mounts keep appearing.
pub(in crate::host::live) fn unmount(path: &Path) -> io::Result<()> {
    if if_there(path.symlink_metadata())?.is_none_or(|there| there.is_symlink()) {
        return Ok(());
    }
    // A mount can hide others at the same place, so the table is read until nothing is left in it.
    for _ in 0..ROUNDS {
        let mut mounts = mounts_below(path)?;
        if mounts.is_empty() {
            return Ok(());
        }
        // The table is in order of mounting within one place; a stable sort keeps that.
        mounts.sort_by_key(|mount| mount.components().count());
        for mount in mounts.iter().rev() {
            let flags = MntFlags::UMOUNT_NOFOLLOW;
            match umount2(mount, flags) {
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(Errno::EBUSY) => umount2(mount, flags | MntFlags::MNT_DETACH)?,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Err(io::Error::new(
        io::ErrorKind::ResourceBusy,
        "something keeps mounting there",
    ))
}

/// How often the mount table is read again.
const ROUNDS: usize = 16;

/// Whether something is mounted at `path` itself.
pub(in crate::host::live) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let name = path.file_name().unwrap_or_default();
    let real = parent(path)?.canonicalize()?.join(name);
    Ok(mounts_below(path)?.contains(&real))
}

/// The mount points at or below `path`, in order of mounting.
///
/// This reads the kernel's mount table and does not compare device numbers: a bind mount within one file system has its parent's device
/// number, and on overlayfs a file's device can differ from its directory's.
fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    // Only the parent is resolved: `path` itself is known not to be a link.
    let name = path.file_name().unwrap_or_default();
    let real = parent(path)?.canonicalize()?.join(name);
    Ok(listed_below(&fs::read("/proc/self/mountinfo")?, &real))
}

/// The mount points of a table that are at or below `real`.
fn listed_below(table: &[u8], real: &Path) -> Vec<PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .filter(|mount| mount.starts_with(real))
        .collect()
}

/// A path as the mount table writes it, with `\040` for a space and the like.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table_paths_are_unescaped() {
        assert_eq!(unescape(b"/mnt/a\\040b"), Path::new("/mnt/a b"));
        assert_eq!(unescape(b"/mnt/a\\"), Path::new("/mnt/a\\"));
        assert_eq!(unescape(b"/plain"), Path::new("/plain"));
    }

    #[test]
    fn mounts_below_a_directory_count_as_those_at_it_do() {
        let table = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            30 22 0:40 / /var/lib/kubelet/pods/a/volumes/b rw - tmpfs tmpfs rw\n\
            31 22 0:41 / /var/lib/kubelet rw shared:9 - tmpfs tmpfs rw\n\
            32 22 0:42 / /var/lib/kubelet2 rw - tmpfs tmpfs rw\n";
        let below = |path: &str| {
            let found = listed_below(table, Path::new(path)).into_iter();
            found
                .map(|mount| mount.display().to_string())
                .collect::<Vec<_>>()
        };
        let deep = "/var/lib/kubelet/pods/a/volumes/b";
        assert_eq!(below("/var/lib/kubelet"), [deep, "/var/lib/kubelet"]);
        assert_eq!(below("/var/lib/kubelet/pods"), [deep]);
        assert_eq!(below("/etc"), [""; 0]);
    }

    #[test]
    fn a_mount_point_is_found_at_and_below() {
        assert_eq!(
            mounts_below(Path::new("/proc")).expect("readable").first(),
            Some(&PathBuf::from("/proc"))
        );
    }
}
