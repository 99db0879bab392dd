//! Fetching files from below: entries on the way to a path, the children of a directory, content.

use std::path::{Path, PathBuf};

use super::OverlayHost;
use crate::host::fake::{Node, NodeKind, Walk, file_error};
use crate::host::{EntryKind, Files as _, HostResult};

/// Content that the upper world reads itself: unit files, `daemon.json`.
const CONTENT_LIMIT: u64 = 1024 * 1024;

impl OverlayHost<'_> {
    /// Fetches every entry on the way to `path`. Links are followed; a link at its end only with `follow_end`. Returns where the path
    /// leads.
    pub(super) async fn fetch(&self, path: &Path, follow_end: bool) -> HostResult<PathBuf> {
        self.fetch_entry(Path::new("/")).await?;
        let mut walk = Walk::along(path);
        while let Some(next) = walk.next_place() {
            self.fetch_entry(&next).await?;
            let target = self.upper.with_world(|world| {
                let kind = world.tree.get(&next, false).map(|node| node.kind.clone());
                match kind {
                    Some(NodeKind::Symlink(target)) => Some(target),
                    _ => None,
                }
            });
            match target {
                Some(target) if follow_end || !walk.is_at_end() => {
                    if !walk.follow(&target) {
                        let looped = std::io::Error::other("too many levels of symbolic links");
                        return Err(file_error("follow", path, looped));
                    }
                }
                _ => walk.at = next,
            }
        }
        Ok(walk.at)
    }

    /// Fetches one entry whose parents are known and are no links.
    async fn fetch_entry(&self, path: &Path) -> HostResult<()> {
        if self.is_known(path) {
            return Ok(());
        }
        // If the parent does not exist, neither does the entry. This saves a call for each part of a path.
        let parent_gone = path.parent().is_some_and(|parent| {
            self.upper
                .with_world(|world| !world.tree.is_directory(parent))
        });
        let entry = if parent_gone {
            None
        } else {
            self.lower.entry(path).await?
        };
        self.known().paths.insert(path.to_path_buf());
        if let Some(entry) = entry {
            let kind = match entry.kind {
                EntryKind::File(size) => NodeKind::Below(size),
                EntryKind::Directory => NodeKind::Directory,
                EntryKind::Symlink(target) => NodeKind::Symlink(target),
                EntryKind::Socket => NodeKind::Socket,
                EntryKind::Other => NodeKind::Other,
            };
            let node = Node {
                kind,
                attributes: entry.attributes,
                modified: entry.modified,
            };
            self.upper
                .with_world_mut(|world| world.tree.plant(path, node));
        }
        Ok(())
    }

    /// Whether the upper world answers for this path.
    pub(super) fn is_known(&self, path: &Path) -> bool {
        let known = self.known();
        known.paths.contains(path) || path.ancestors().any(|above| known.gone.contains(above))
    }

    /// Fetches the entries of a directory. Returns where it is.
    pub(super) async fn fetch_children(&self, directory: &Path) -> HostResult<PathBuf> {
        let real = self.fetch(directory, true).await?;
        for name in self.list(&real).await? {
            self.fetch_entry(&real.join(name)).await?;
        }
        Ok(real)
    }

    /// Fetches the content of a file that the upper world reads itself. A large or unreadable one stays unread.
    pub(super) async fn fetch_content(&self, path: &Path) -> HostResult<()> {
        let real = self.fetch(path, true).await?;
        let unread = self.upper.with_world(|world| {
            let kind = world.tree.get(&real, false).map(|node| &node.kind);
            matches!(kind, Some(NodeKind::Below(_)))
        });
        if unread && let Ok(Some(content)) = self.lower.read(&real, CONTENT_LIMIT).await {
            self.upper.with_world_mut(|world| {
                if let Some(node) = world.tree.get(&real, false).cloned() {
                    let kind = NodeKind::File(content);
                    world.tree.plant(&real, Node { kind, ..node });
                }
            });
        }
        Ok(())
    }
}
