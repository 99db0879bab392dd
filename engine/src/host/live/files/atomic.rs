//! Files and links that appear whole or not at all.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::Path;

pub(in crate::host::live) use atomic_files::{parent, sync_directory};
use nix::fcntl::posix_fallocate;
use nix::libc::{EPERM, EROFS, O_NOFOLLOW, O_NONBLOCK};

use super::effects::Fence;
use crate::host::{Attributes, partial_file};

/// The bits of a mode that [`Attributes`] can express.
pub(in crate::host::live) const MODE_BITS: u32 = 0o7777;

/// Like [`write_fenced`], for writes that no rollback takes back.
pub(in crate::host::live) fn write(
    path: &Path,
    content: &[u8],
    attributes: Attributes,
) -> io::Result<()> {
    write_fenced(path, content, attributes, &Fence::open())
}

/// Replaces or creates `path`: temporary sibling, content, owner, mode, fsync, rename, fsync of the directory. Nothing is renamed once the
/// caller has given up.
pub(in crate::host::live) fn write_fenced(
    path: &Path,
    content: &[u8],
    attributes: Attributes,
    fence: &Fence,
) -> io::Result<()> {
    let partial = partial_file(path);
    let temporary = atomic_files::at(&partial)?.tempfile_in(parent(path)?)?;
    let mode = attributes.mode & MODE_BITS;
    let owner = Some((attributes.uid, attributes.gid));
    atomic_files::commit(temporary, path, content, mode, owner, || {
        #[cfg(test)]
        super::durable::before_rename(path);
        fence.pass()
    })
}

/// Tries whether [`write()`] could put `room` bytes at `path`, and leaves it as it is.
pub(in crate::host::live) fn try_write(path: &Path, room: u64) -> io::Result<()> {
    // If the kernel would refuse to replace a file (an immutable or append-only one), it also refuses to open the file for writing. It
    // refuses to open a running program too, but such a file can be replaced, so only two errors count here.
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path);
    if let Err(error) = opened
        && matches!(error.raw_os_error(), Some(EPERM | EROFS))
    {
        return Err(error);
    }
    let missing = |directory: &&Path| !directory.is_dir();
    let (made, path) = match path.ancestors().skip(1).take_while(missing).last() {
        Some(first) if first.symlink_metadata().is_ok() => {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        // The topmost directory that has to be made.
        Some(first) => (first, first),
        None => (path, path),
    };
    if super::tree::is_mount_point(path)? {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let partial = partial_file(made);
    let trial = atomic_files::at(&partial)?.tempfile_in(parent(made)?)?;
    let length = i64::try_from(room).unwrap_or(i64::MAX);
    let filled = match length {
        0 => Ok(()),
        length => posix_fallocate(trial.as_file(), 0, length),
    };
    // A directory that allows new names but no removals cannot take a new file in place of an old one either.
    trial.close()?;
    Ok(filled?)
}

/// Adds to the end of a file, and makes it survive a power cut.
pub(in crate::host::live) fn append(
    path: &Path,
    content: &[u8],
    attributes: Attributes,
) -> io::Result<()> {
    let is_new = !path.try_exists()?;
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(attributes.mode & MODE_BITS)
        .open(path)?;
    if is_new {
        fchown(&file, Some(attributes.uid), Some(attributes.gid))?;
        file.set_permissions(Permissions::from_mode(attributes.mode & MODE_BITS))?;
        sync_directory(parent(path)?)?;
    }
    let length = file.metadata()?.len();
    let written = file.write_all(content).and_then(|()| file.sync_data());
    if written.is_err() {
        // Otherwise the next line would be appended to half a line. If this fails too, the first error is reported; the ledger repairs its
        // tail before it appends again.
        let _ = file.set_len(length);
    }
    written
}

/// Makes `path` a link to `target`, in place of a link that is there, never in place of anything else.
pub(in crate::host::live) fn link(path: &Path, target: &str, fence: &Fence) -> io::Result<()> {
    let directory = parent(path)?;
    match path.symlink_metadata() {
        Ok(there) if !there.is_symlink() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something other than a link is there",
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let partial = partial_file(path);
    let made = atomic_files::at(&partial)?.make_in(directory, |at| symlink(target, at))?;
    fence.pass()?;
    made.into_temp_path().persist(path)?;
    sync_directory(directory)
}
