//! Files: fetched from below, changed above.

use std::path::Path;

use super::OverlayHost;
use crate::host::fake::{NodeKind, UNIT_DIRECTORIES};
use crate::host::{Attributes, Entry, Files, HostResult, Space};

#[async_trait::async_trait]
impl Files for OverlayHost<'_> {
    async fn entry(&self, path: &Path) -> HostResult<Option<Entry>> {
        self.fetch(path, false).await?;
        self.upper.entry(path).await
    }

    async fn read(&self, path: &Path, limit: u64) -> HostResult<Option<Vec<u8>>> {
        let real = self.fetch(path, true).await?;
        let below = self.upper.with_world(|world| {
            let kind = world.tree.get(&real, false).map(|node| &node.kind);
            matches!(
                kind,
                Some(NodeKind::Below(_) | NodeKind::Socket | NodeKind::Other)
            )
        });
        if below {
            self.lower.read(&real, limit).await
        } else {
            self.upper.read(&real, limit).await
        }
    }

    async fn digest(&self, path: &Path) -> HostResult<Option<String>> {
        self.lower.digest(path).await
    }

    async fn remembered_digest(&self, path: &Path) -> HostResult<Option<String>> {
        self.lower.remembered_digest(path).await
    }

    fn reads_payload(&self) -> bool {
        false
    }

    async fn list(&self, path: &Path) -> HostResult<Vec<String>> {
        let real = self.fetch(path, true).await?;
        let mut names = self.upper.list(&real).await?;
        let gone = real
            .ancestors()
            .any(|above| self.known().gone.contains(above));
        let is_directory = self
            .upper
            .with_world(|world| world.tree.is_directory(&real));
        if !gone && is_directory {
            for name in self.lower.list(&real).await? {
                if !self.is_known(&real.join(&name)) {
                    names.push(name);
                }
            }
        }
        names.sort();
        Ok(names)
    }

    async fn write(&self, path: &Path, content: &[u8], attributes: Attributes) -> HostResult<()> {
        self.predict_write(path, content.len() as u64).await?;
        self.before_change(path).await?;
        self.upper.write(path, content, attributes).await
    }

    async fn try_write(&self, path: &Path, room: u64) -> HostResult<()> {
        // A trial would change the host below, if only for a moment.
        self.predict_write(path, room).await
    }

    async fn predict_write(&self, path: &Path, room: u64) -> HostResult<()> {
        self.lower.predict_write(path, room).await
    }

    async fn append(&self, path: &Path, content: &[u8], attributes: Attributes) -> HostResult<()> {
        self.before_change(path).await?;
        self.fetch_content(path).await?;
        self.upper.append(path, content, attributes).await
    }

    async fn create_directory(&self, path: &Path, attributes: Attributes) -> HostResult<()> {
        self.before_change(path).await?;
        self.fetch(path, true).await?;
        let exists = self.upper.with_world(|world| world.tree.is_directory(path));
        if !exists {
            self.predict_write(path, 0).await?;
        }
        self.upper.create_directory(path, attributes).await
    }

    async fn symlink(&self, path: &Path, target: &str) -> HostResult<()> {
        self.predict_write(path, 0).await?;
        self.before_change(path).await?;
        self.upper.symlink(path, target).await
    }

    async fn set_attributes(&self, path: &Path, attributes: Attributes) -> HostResult<()> {
        self.before_change(path).await?;
        self.fetch(path, true).await?;
        self.upper.set_attributes(path, attributes).await
    }

    async fn remove(&self, path: &Path) -> HostResult<()> {
        self.before_change(path).await?;
        let real = self.fetch(path, false).await?;
        let directory = self.upper.with_world(|world| {
            let kind = world.tree.get(&real, false).map(|node| &node.kind);
            kind == Some(&NodeKind::Directory)
        });
        if directory {
            self.fetch_children(&real).await?;
        }
        self.upper.remove(path).await?;
        if directory {
            self.known().gone.insert(real);
        }
        Ok(())
    }

    async fn unmount_below(&self, _path: &Path) -> HostResult<()> {
        // Mounts are not part of the merged view: files below a mount point look like files of the host itself.
        Ok(())
    }

    async fn remove_tree(&self, path: &Path) -> HostResult<()> {
        self.before_change(path).await?;
        let real = self.fetch(path, false).await?;
        self.upper.remove_tree(path).await?;
        self.known().gone.insert(real);
        Ok(())
    }

    async fn mark_unknown(&self, path: &Path, why: &str) -> HostResult<()> {
        self.before_change(path).await?;
        self.upper.mark_unknown(path, why).await
    }

    async fn is_unknown(&self, path: &Path) -> HostResult<bool> {
        let real = self.fetch(path, true).await?;
        self.upper.is_unknown(&real).await
    }

    async fn space(&self, path: &Path) -> HostResult<Space> {
        self.lower.space(path).await
    }
}

impl OverlayHost<'_> {
    /// Fetches the entries that a change at `path` would hide: the path itself, and the unit that has its file there.
    async fn before_change(&self, path: &Path) -> HostResult<()> {
        self.changes();
        self.fetch(path, false).await?;
        for directory in UNIT_DIRECTORIES {
            let Ok(below) = path.strip_prefix(directory) else {
                continue;
            };
            let first = below.iter().next().and_then(|name| name.to_str());
            if let Some(name) = first.map(|name| name.strip_suffix(".d").unwrap_or(name))
                && name.contains('.')
            {
                self.fetch_unit(name).await?;
            }
        }
        Ok(())
    }
}
