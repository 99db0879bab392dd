//! Whether a directory can hold backups: it must be persistent, writable and private to root.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use engine::facts::DirectoryProblem;
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};

/// ramfs, which nix has no name for. Source: the kernel's `include/uapi/linux/magic.h`.
const RAMFS: FsType = FsType(0x8584_58f6);

/// Creates the directory with access only for root if it does not exist, and refuses one that cannot hold backups.
///
/// # Errors
/// The reason, and what to do about it.
pub(in crate::etcd) fn prepare(directory: &Path) -> Result<()> {
    let shown = directory.display();
    if !directory.is_dir() {
        // The new directory will be on the file system of its nearest ancestor.
        refuse(nearest(directory), directory, None)?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("make the backup directory {shown}"))?;
    }
    let said = directory
        .metadata()
        .with_context(|| format!("look at {shown}"))?;
    refuse(directory, directory, Some(said.permissions().mode()))?;
    let ours = nix::unistd::Uid::effective();
    if said.uid() != ours.as_raw() {
        bail!(
            "keep backups in {shown}: it belongs to user {}, and a snapshot holds every secret of the cluster; `chown root: {shown}`, or set ETCD_BACKUP_DIR to another directory",
            said.uid()
        );
    }
    Ok(())
}

fn nearest(directory: &Path) -> &Path {
    directory
        .ancestors()
        .find(|ancestor| ancestor.is_dir())
        .unwrap_or(Path::new("/"))
}

/// Refuses the file system of `on`, and the mode, for the directory.
fn refuse(on: &Path, directory: &Path, mode: Option<u32>) -> Result<()> {
    let shown = directory.display().to_string();
    let kind = statfs(on)
        .with_context(|| format!("see on which file system {shown} is"))?
        .filesystem_type();
    let kind = if kind == TMPFS_MAGIC {
        "tmpfs"
    } else if kind == RAMFS {
        "ramfs"
    } else {
        ""
    };
    let flags = statvfs(on)
        .with_context(|| format!("see how {shown} is mounted"))?
        .flags();
    if let Some(problem) = DirectoryProblem::of(kind, flags.contains(FsFlags::ST_RDONLY), mode) {
        let remedy = problem.remedy(&shown, "set ETCD_BACKUP_DIR to");
        bail!("keep backups in {shown}: it {problem}; {remedy}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_directory_is_refused_with_a_next_step() {
        let memory = tempfile::Builder::new()
            .tempdir_in("/dev/shm")
            .expect("a directory in memory");
        let error = prepare(&memory.path().join("a/b")).expect_err("it is in memory");
        assert!(error.to_string().contains("ETCD_BACKUP_DIR"), "{error}");
        assert!(!memory.path().join("a").exists(), "nothing is made there");
        let error = prepare(Path::new("/sys/kernel")).expect_err("it cannot hold backups");
        assert!(!format!("{error:#}").is_empty());
    }

    #[test]
    fn a_missing_directory_is_made_for_root_alone_and_an_open_one_is_refused() {
        let base = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory on a disk");
        let directory = base.path().join("backups");
        prepare(&directory).expect("it is made");
        let mode = directory
            .metadata()
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o700);
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))
            .expect("it is opened");
        let error = prepare(&directory).expect_err("others may look");
        assert!(error.to_string().contains("chmod 0700"), "{error}");
    }
}
