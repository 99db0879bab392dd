//! Files, directories and links of the machine.
//!
//! `effects` changes files, `atomic` replaces them, `digests` remembers checksums, and `tree` removes directories. Not here: what a file
//! should contain and who owns it (`resource::files`). Start with this file, then `effects`.

pub(in crate::host::live) mod atomic;
pub(in crate::host::live) mod digests;
#[cfg(test)]
pub(in crate::host::live) mod durable;
pub(in crate::host::live) mod effects;
pub(in crate::host::live) mod tree;

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::libc::{O_NOFOLLOW, O_PATH};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, Gid, Uid, access, fchownat};

use super::LiveHost;
use super::blocking::{blocking, file_error, if_there};
use crate::host::live::files::effects::{Fence, PathPurpose};
use crate::host::{Attributes, Entry, EntryKind, Files, HostError, HostResult, Space};

/// More names than this in one directory are refused.
const MAX_NAMES: usize = 100_000;

#[async_trait::async_trait]
impl Files for LiveHost {
    async fn entry(&self, path: &Path) -> HostResult<Option<Entry>> {
        self.looked("look at", path, entry).await
    }

    async fn read(&self, path: &Path, limit: u64) -> HostResult<Option<Vec<u8>>> {
        self.effects.wait("read", path, PathPurpose::Touch).await?;
        let path = path.to_owned();
        blocking(move || read(&path, limit)).await
    }

    async fn digest(&self, path: &Path) -> HostResult<Option<String>> {
        on_path("read", path, digests::digest).await
    }

    async fn remembered_digest(&self, path: &Path) -> HostResult<Option<String>> {
        on_path("read", path, digests::remembered).await
    }

    async fn list(&self, path: &Path) -> HostResult<Vec<String>> {
        self.looked("list", path, list).await
    }

    async fn write(&self, path: &Path, content: &[u8], attributes: Attributes) -> HostResult<()> {
        let content = content.to_vec();
        let work = move |path: &Path, fence: &Fence| {
            atomic::write_fenced(path, &content, attributes, fence)
        };
        self.effects
            .make("write", path, PathPurpose::Replace, work)
            .await
    }

    async fn try_write(&self, path: &Path, room: u64) -> HostResult<()> {
        let work = move |path: &Path, fence: &Fence| {
            fence.pass()?;
            atomic::try_write(path, room)
        };
        self.effects
            .make("write", path, PathPurpose::Replace, work)
            .await
    }

    async fn predict_write(&self, path: &Path, room: u64) -> HostResult<()> {
        let path = path.to_owned();
        blocking(move || {
            predict_write(&path, room).map_err(|source| HostError::WriteRefused { path, source })
        })
        .await
    }

    async fn append(&self, path: &Path, content: &[u8], attributes: Attributes) -> HostResult<()> {
        let content = content.to_vec();
        self.changed("append to", path, move |path| {
            atomic::append(path, &content, attributes)
        })
        .await
    }

    async fn create_directory(&self, path: &Path, attributes: Attributes) -> HostResult<()> {
        self.changed("create directory", path, move |path| {
            create_directory(path, attributes)
        })
        .await
    }

    async fn symlink(&self, path: &Path, target: &str) -> HostResult<()> {
        let target = target.to_owned();
        let work = move |path: &Path, fence: &Fence| atomic::link(path, &target, fence);
        let made = self
            .effects
            .make("make a link at", path, PathPurpose::Replace, work);
        made.await
    }

    async fn set_attributes(&self, path: &Path, attributes: Attributes) -> HostResult<()> {
        self.changed("set mode and owner of", path, move |path| {
            set_attributes(path, attributes)
        })
        .await
    }

    async fn remove(&self, path: &Path) -> HostResult<()> {
        self.changed("remove", path, remove).await
    }

    async fn remove_tree(&self, path: &Path) -> HostResult<()> {
        self.changed("remove", path, tree::remove).await
    }

    async fn unmount_below(&self, path: &Path) -> HostResult<()> {
        self.changed("unmount what is below", path, tree::unmount)
            .await
    }

    async fn space(&self, path: &Path) -> HostResult<Space> {
        on_path("measure the file system of", path, space).await
    }
}

impl LiveHost {
    /// Reads a path, once no change that was given up can still alter it.
    async fn looked<T: Send + 'static>(
        &self,
        action: &'static str,
        path: &Path,
        read: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> HostResult<T> {
        self.effects.wait(action, path, PathPurpose::Touch).await?;
        on_path(action, path, read).await
    }

    /// Makes a change that takes effect from its first call on.
    async fn changed<T: Send + 'static>(
        &self,
        action: &'static str,
        path: &Path,
        change: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> HostResult<T> {
        let work = move |path: &Path, fence: &Fence| {
            fence.pass()?;
            change(path)
        };
        self.effects
            .make(action, path, PathPurpose::Touch, work)
            .await
    }
}

/// Runs `work` on a path where it may block.
async fn on_path<T: Send + 'static>(
    action: &'static str,
    path: &Path,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> HostResult<T> {
    let path = path.to_owned();
    blocking(move || work(&path).map_err(file_error(action, &path))).await
}

fn entry(path: &Path) -> io::Result<Option<Entry>> {
    let Some(metadata) = if_there(path.symlink_metadata())? else {
        return Ok(None);
    };
    let kind = match metadata.file_type() {
        kind if kind.is_file() => EntryKind::File(metadata.len()),
        kind if kind.is_dir() => EntryKind::Directory,
        kind if kind.is_symlink() => {
            EntryKind::Symlink(fs::read_link(path)?.to_string_lossy().into_owned())
        }
        kind if kind.is_socket() => EntryKind::Socket,
        _ => EntryKind::Other,
    };
    Ok(Some(Entry {
        kind,
        attributes: Attributes {
            mode: metadata.mode() & atomic::MODE_BITS,
            uid: metadata.uid(),
            gid: metadata.gid(),
        },
        modified: metadata.modified()?,
    }))
}

/// Reads a file. Shared with the other capabilities, which read small files of their own.
pub(super) fn read(path: &Path, limit: u64) -> HostResult<Option<Vec<u8>>> {
    let opened = if_there(atomic_files::open(path)).map_err(file_error("read", path))?;
    let Some(file) = opened else {
        return Ok(None);
    };
    match atomic_files::read(file, limit) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(HostError::TooLarge {
            path: path.to_owned(),
            limit,
        }),
        content => content.map(Some).map_err(file_error("read", path)),
    }
}

fn list(path: &Path) -> io::Result<Vec<String>> {
    let Some(entries) = if_there(fs::read_dir(path))? else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        if names.len() == MAX_NAMES {
            return Err(io::Error::other(format!("more than {MAX_NAMES} names")));
        }
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn create_directory(path: &Path, attributes: Attributes) -> io::Result<()> {
    // Closed to other users until owner and mode are set.
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            set_attributes(path, attributes)?;
            atomic::sync_directory(atomic::parent(path)?)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            set_attributes(path, attributes)
        }
        Err(error) => Err(error),
    }
}

/// Changes the entry at `path` itself, held open: a link that takes its place in the meantime cannot redirect the change.
fn set_attributes(path: &Path, attributes: Attributes) -> io::Result<()> {
    let opened_file = OpenOptions::new()
        .read(true)
        .custom_flags(O_PATH | O_NOFOLLOW)
        .open(path)?;
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    // The owner first: the kernel drops setuid bits when the owner changes.
    fchownat(
        &opened_file,
        "",
        Some(uid),
        Some(gid),
        AtFlags::AT_EMPTY_PATH,
    )?;
    if opened_file.metadata()?.is_symlink() {
        // A link has no mode of its own.
        return Ok(());
    }
    // A descriptor that only names a file (O_PATH) cannot change the mode. Its name in /proc can, and leads to that very file.
    fs::set_permissions(
        format!("/proc/self/fd/{}", opened_file.as_raw_fd()),
        Permissions::from_mode(attributes.mode & atomic::MODE_BITS),
    )
}

fn remove(path: &Path) -> io::Result<()> {
    let Some(there) = if_there(path.symlink_metadata())? else {
        return Ok(());
    };
    if there.is_dir() {
        if_there(fs::remove_dir(path))?;
    } else {
        if_there(fs::remove_file(path))?;
    }
    atomic::sync_directory(atomic::parent(path)?)
}

/// Blocks that ext4 counts as free but gives to no user, not even root: a fiftieth, at most 4096, for data that it has promised to write.
/// Source: the kernel's `ext4_calculate_resv_clusters` (fs/ext4/super.c). So a file system of 640 MiB says "no space left" with 12 MiB
/// free.
fn kept_by_ext4(blocks: u64) -> u64 {
    (blocks / 50).min(4096)
}

fn space(path: &Path) -> io::Result<Space> {
    let existing_parents = path
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .ok_or(io::ErrorKind::NotFound)?;
    let said = statvfs(existing_parents)?;
    let block = said.fragment_size();
    let free = if nix::unistd::Uid::effective().is_root() {
        // We are root, so reserved blocks count as free, except those that ext4 gives to no user.
        let kind = nix::sys::statfs::statfs(existing_parents)?.filesystem_type();
        let kept = match kind {
            nix::sys::statfs::EXT4_SUPER_MAGIC => kept_by_ext4(said.blocks()),
            _ => 0,
        };
        said.blocks_free().saturating_sub(kept)
    } else {
        said.blocks_available()
    };
    Ok(Space {
        free: free * block,
        total: said.blocks() * block,
        device: existing_parents.metadata()?.dev(),
    })
}

/// The error that [`Files::try_write`] would certainly have, as far as the kernel tells it without a write. What cannot be read is no error.
fn predict_write(path: &Path, room: u64) -> io::Result<()> {
    let mut directories = path.ancestors().skip(1);
    let Some(directory) = directories.find(|above| above.is_dir()) else {
        return Ok(());
    };
    // A write replaces a link itself; the target of the link stays.
    let file = (!path.is_symlink()).then_some(path);
    for one in file.into_iter().chain([directory]) {
        // Immutable, or on a read-only file system. EACCES does not count: a dry run may lack rights that an apply, as root, has.
        if let Err(refused @ (Errno::EPERM | Errno::EROFS)) = access(one, AccessFlags::W_OK) {
            return Err(refused.into());
        }
    }
    let Ok(disk) = statvfs(directory) else {
        return Ok(());
    };
    // File systems without a fixed number of inodes, or of blocks, say zero.
    let lacks_inodes = disk.files() > 0 && disk.files_free() == 0;
    let lacks_room = Uid::effective().is_root()
        && disk.blocks() > 0
        && space(directory).is_ok_and(|space| space.free < room);
    match lacks_inodes || lacks_room {
        true => Err(Errno::ENOSPC.into()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ext4_reserves_two_percent_and_at_most_4096_blocks() {
        // Measured on a full file system of 640 MiB: 3276 blocks were free and none could be used. The difference to 3138 is what other
        // processors had counted.
        assert_eq!(kept_by_ext4(156_931), 3138);
        assert_eq!(kept_by_ext4(66_000_000), 4096);
    }

    #[test]
    fn space_is_measured_at_the_nearest_existing_directory() {
        let there = space(Path::new("/")).expect("it is told");
        let not_yet = space(Path::new("/not/yet/there")).expect("it is told");
        assert_eq!(there.total, not_yet.total);
        assert!(there.free <= there.total);
    }
}
