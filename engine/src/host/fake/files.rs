//! Files of a fake host.

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::world::World;
use crate::host::fake::fake_host::FakeHost;
use crate::host::fake::world::tree::{Node, NodeKind};
use crate::host::{
    Attributes, Entry, EntryKind, Files, HostError, HostResult, LIVE_RESTORE_DIR, Space,
};
use crate::model::is_in_kernel_file_system;

/// File calls have no deadline of their own; on a disk that hangs, a call ends after this time.
const DEADLINE: Duration = Duration::from_secs(30);

/// `ENOSPC` of Linux.
const NO_SPACE: i32 = 28;

/// Free space of a file system for which the test sets none.
const DEFAULT_SPACE: Space = Space {
    free: 80 << 30,
    total: 100 << 30,
    device: 0,
};

#[async_trait::async_trait]
impl Files for FakeHost {
    async fn entry(&self, path: &Path) -> HostResult<Option<Entry>> {
        self.observe("entry", show(path), DEADLINE, |world| {
            Ok(world.tree.entry(path))
        })
        .await
    }

    async fn read(&self, path: &Path, limit: u64) -> HostResult<Option<Vec<u8>>> {
        self.observe("read", show(path), DEADLINE, |world| {
            if world.tree.is_directory(path) {
                return Err(file_error("read", path, ErrorKind::IsADirectory.into()));
            }
            if let Some(why) = world.tree.why_unknown(path) {
                let action = format!("read {}", path.display());
                let why = format!("its content is known after apply: {why}");
                return Err(HostError::service(action, why));
            }
            match world.tree.content(path) {
                Some(content) if content.len() as u64 > limit => Err(HostError::TooLarge {
                    path: path.to_owned(),
                    limit,
                }),
                content => Ok(content.map(<[u8]>::to_vec)),
            }
        })
        .await
    }

    async fn digest(&self, path: &Path) -> HostResult<Option<String>> {
        let content = self.read(path, u64::MAX).await?;
        Ok(content.map(|content| crate::model::hex(&Sha256::digest(&content))))
    }

    fn reads_payload(&self) -> bool {
        self.with_world(|world| !world.payload_unread)
    }

    async fn list(&self, path: &Path) -> HostResult<Vec<String>> {
        self.observe("list", show(path), DEADLINE, |world| {
            if path == Path::new(LIVE_RESTORE_DIR) {
                return Ok(world.running_containers());
            }
            Ok(world.tree.names(path))
        })
        .await
    }

    async fn write(&self, path: &Path, content: &[u8], attributes: Attributes) -> HostResult<()> {
        if let Some(written) = self.delay_write("write", path, content, attributes).await {
            return written;
        }
        self.mutate("write", show(path), DEADLINE, |world| {
            write_file(world, path, content, attributes)
        })
        .await
    }

    async fn try_write(&self, path: &Path, room: u64) -> HostResult<()> {
        self.observe("try_write", show(path), DEADLINE, |world| {
            let failed = |source| file_error("write", path, source);
            if !world.tree.is_directory(existing_above(world, path)) {
                return Err(failed(ErrorKind::NotADirectory.into()));
            }
            accepts_file(world, path, room).map_err(failed)
        })
        .await
    }

    async fn predict_write(&self, path: &Path, room: u64) -> HostResult<()> {
        // Not in the journal: a prediction looks before each write that it simulates.
        self.with_world(|world| accepts_file(world, path, room))
            .map_err(|source| HostError::WriteRefused {
                path: path.to_owned(),
                source,
            })
    }

    async fn append(&self, path: &Path, content: &[u8], attributes: Attributes) -> HostResult<()> {
        if let Some(written) = self.delay_write("append", path, content, attributes).await {
            return written;
        }
        self.mutate("append", show(path), DEADLINE, |world| {
            append_file(world, path, content, attributes)
        })
        .await
    }

    async fn create_directory(&self, path: &Path, attributes: Attributes) -> HostResult<()> {
        self.mutate("create_directory", show(path), DEADLINE, |world| {
            let failed = |source| file_error("create", path, source);
            if world.tree.is_directory(path) {
                return world.tree.set_attributes(path, attributes).map_err(failed);
            }
            has_inodes(world, path).map_err(failed)?;
            if world.tree.entry(path).is_some() {
                return Err(failed(ErrorKind::AlreadyExists.into()));
            }
            if is_in_kernel_file_system(path) && !world.is_cgroup(path.parent().unwrap_or(path)) {
                return Err(failed(ErrorKind::PermissionDenied.into()));
            }
            let node = Node {
                kind: NodeKind::Directory,
                attributes,
                modified: world.now(),
            };
            world.tree.put(path, node).map_err(failed)?;
            world.populate_cgroup(path);
            Ok(())
        })
        .await
    }

    async fn symlink(&self, path: &Path, target: &str) -> HostResult<()> {
        self.mutate("symlink", show(path), DEADLINE, |world| {
            let failed = |source| file_error("link", path, source);
            world.writable(path).map_err(failed)?;
            let replaceable = match world.tree.entry(path).map(|entry| entry.kind) {
                None | Some(EntryKind::Symlink(_)) => true,
                Some(_) => false,
            };
            if !replaceable {
                return Err(failed(ErrorKind::AlreadyExists.into()));
            }
            let kind = NodeKind::Symlink(target.to_owned());
            let node = Node {
                kind,
                attributes: Attributes::root(0o777),
                modified: world.now(),
            };
            world.tree.put(path, node).map_err(failed)
        })
        .await
    }

    async fn set_attributes(&self, path: &Path, attributes: Attributes) -> HostResult<()> {
        self.mutate("set_attributes", show(path), DEADLINE, |world| {
            let changed = world.writable(path);
            let changed = changed.and_then(|()| world.tree.set_attributes(path, attributes));
            changed.map_err(|source| file_error("set attributes of", path, source))
        })
        .await
    }

    async fn remove(&self, path: &Path) -> HostResult<()> {
        self.mutate("remove", show(path), DEADLINE, |world| {
            let refused = |source| file_error("remove", path, source);
            if world.tree.entry(path).is_some() {
                world.writable(path).map_err(refused)?;
            }
            world.empty_cgroup(path);
            world.tree.remove(path).map_err(refused)
        })
        .await
    }

    async fn remove_tree(&self, path: &Path) -> HostResult<()> {
        self.mutate("remove_tree", show(path), DEADLINE, |world| {
            if world.mounts.iter().any(|mount| mount.starts_with(path)) {
                return Err(file_error("remove", path, ErrorKind::ResourceBusy.into()));
            }
            world.tree.remove_tree(path);
            Ok(())
        })
        .await
    }

    async fn unmount_below(&self, path: &Path) -> HostResult<()> {
        self.mutate("unmount_below", show(path), DEADLINE, |world| {
            world.mounts.retain(|mount| !mount.starts_with(path));
            Ok(())
        })
        .await
    }

    async fn mark_unknown(&self, path: &Path, why: &str) -> HostResult<()> {
        self.with_world_mut(|world| world.mark_unknown(path, why));
        Ok(())
    }

    async fn is_unknown(&self, path: &Path) -> HostResult<bool> {
        Ok(self.with_world(|world| world.tree.why_unknown(path).is_some()))
    }

    async fn space(&self, path: &Path) -> HostResult<Space> {
        self.observe("space", show(path), DEADLINE, |world| {
            let set = path
                .ancestors()
                .find_map(|ancestor| world.space.get(ancestor));
            Ok(set.copied().unwrap_or(DEFAULT_SPACE))
        })
        .await
    }
}

/// The nearest existing entry above `path`.
fn existing_above<'a>(world: &World, path: &'a Path) -> &'a Path {
    let mut above = path.ancestors().skip(1);
    let existing = above.find(|above| world.tree.entry(above).is_some());
    existing.unwrap_or(Path::new("/"))
}

/// Whether a file of `room` bytes can be made at `path`: nothing protects it, and there is room.
fn accepts_file(world: &World, path: &Path, room: u64) -> Result<(), Error> {
    world.writable(path)?;
    world.writable(&existing_above(world, path).join("trial"))?;
    has_inodes(world, path)?;
    let set = path.ancestors().find_map(|above| world.space.get(above));
    match set.copied().unwrap_or(DEFAULT_SPACE).free < room {
        true => Err(Error::from_raw_os_error(NO_SPACE)),
        false => Ok(()),
    }
}

/// Whether the file system of `path` has inodes left.
fn has_inodes(world: &World, path: &Path) -> Result<(), Error> {
    let mut above = path.ancestors();
    match above.any(|above| world.without_inodes.contains(above)) {
        true => Err(Error::from_raw_os_error(NO_SPACE)),
        false => Ok(()),
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

/// A failed file operation.
pub(crate) fn file_error(action: &'static str, path: &Path, source: Error) -> HostError {
    HostError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Replaces or creates a file.
pub(super) fn write_file(
    world: &mut World,
    path: &Path,
    content: &[u8],
    attributes: Attributes,
) -> HostResult<()> {
    let failed = |source| file_error("write", path, source);
    world.writable(path).map_err(failed)?;
    has_inodes(world, path).map_err(failed)?;
    if is_in_kernel_file_system(path) && world.tree.content(path).is_none() {
        return Err(failed(ErrorKind::PermissionDenied.into()));
    }
    let node = Node {
        kind: NodeKind::File(content.to_vec()),
        attributes,
        modified: world.now(),
    };
    world.tree.put(path, node).map_err(failed)
}

/// Adds to the end of a file, or makes one.
pub(super) fn append_file(
    world: &mut World,
    path: &Path,
    content: &[u8],
    attributes: Attributes,
) -> HostResult<()> {
    let failed = |source| file_error("append to", path, source);
    world.writable(path).map_err(failed)?;
    let mut whole = world.tree.content(path).unwrap_or_default().to_vec();
    let arrives = if world.tears_appends {
        content.len() / 2
    } else {
        content.len()
    };
    whole.extend_from_slice(&content[..arrives]);
    let node = Node {
        kind: NodeKind::File(whole),
        attributes,
        modified: world.now(),
    };
    world.tree.put(path, node).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> &Path {
        Path::new(text)
    }

    #[tokio::test]
    async fn write_needs_the_parent_and_reads_back() {
        let host = FakeHost::new();
        let mode = Attributes::root(0o640);
        let refused = host
            .write(path("/etc/none/x"), b"1", mode)
            .await
            .unwrap_err();
        assert_eq!(refused.to_string(), "write /etc/none/x");
        host.write(path("/etc/x"), b"1", mode).await.unwrap();
        assert_eq!(
            host.read(path("/etc/x"), 1).await.unwrap(),
            Some(b"1".to_vec())
        );
        assert!(matches!(
            host.read(path("/etc/x"), 0).await,
            Err(HostError::TooLarge { .. })
        ));
        assert_eq!(host.read(path("/etc/y"), 1).await.unwrap(), None);
        assert_eq!(
            host.entry(path("/etc/x"))
                .await
                .unwrap()
                .unwrap()
                .attributes,
            mode
        );
    }

    #[tokio::test]
    async fn a_full_directory_is_not_removed() {
        let host = FakeHost::new().with_file("/opt/a/b", "x");
        assert!(host.remove(path("/opt/a")).await.is_err());
        host.remove(path("/opt/a/b")).await.unwrap();
        host.remove(path("/opt/a")).await.unwrap();
        host.remove(path("/opt/a")).await.unwrap();
    }

    #[tokio::test]
    async fn directories_and_links_do_not_take_the_place_of_something_else() {
        let host = FakeHost::new().with_file("/opt/a", "x");
        assert!(
            host.create_directory(path("/opt/a"), Attributes::root(0o755))
                .await
                .is_err()
        );
        assert!(host.symlink(path("/opt/a"), "b").await.is_err());
        host.symlink(path("/opt/l"), "a").await.unwrap();
        host.symlink(path("/opt/l"), "b").await.unwrap();
        let entry = host.entry(path("/opt/l")).await.unwrap().unwrap();
        assert_eq!(entry.kind, EntryKind::Symlink("b".to_owned()));
    }

    #[tokio::test]
    async fn no_file_can_be_made_in_proc() {
        let host = FakeHost::new();
        assert!(
            host.write(path("/proc/sys/new"), b"1", Attributes::root(0o644))
                .await
                .is_err()
        );
    }
}
