//! Receipts: what converge did, as the small inverse operations that revert it.
//!
//! An undo needs only a host: no script, no plan. So a failed phase can be reverted at once, and a role can be removed
//! years after its scripts were deleted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::{ResourceError, ResourceResult};
use crate::host::{
    Attributes, ClusterAccess, ContainerConfig, ContainerState, Entry, EntryKind, Host,
};
use crate::resource::docker::container_runtime;
use crate::resource::files::directory;

/// The log in which an undo is written before its effect, so that the undo survives a crash of this process.
#[async_trait]
pub trait UndoLog: Send + Sync {
    /// Returns once the undo would survive a power cut.
    ///
    /// # Errors
    /// The undo could not be written; its effect must not happen then.
    async fn note(&self, undo: &Undo) -> ResourceResult<()>;
}

/// What a converge did, in the order in which it did it.
#[derive(Default)]
pub struct Receipt<'a> {
    /// The inverses; they are carried out from the last to the first.
    pub undos: Vec<Undo>,
    log: Option<Box<dyn UndoLog + 'a>>,
}

impl std::fmt::Debug for Receipt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.undos).finish()
    }
}

impl<'a> Receipt<'a> {
    /// A receipt whose undos are written to `log` as well.
    #[must_use]
    pub fn logged(log: Box<dyn UndoLog + 'a>) -> Self {
        Self {
            undos: Vec::new(),
            log: Some(log),
        }
    }

    /// Records an undo, before its effect.
    ///
    /// # Errors
    /// The undo could not be written to the log; its effect must not happen.
    pub async fn push(&mut self, undo: Undo) -> ResourceResult<()> {
        if let Some(log) = &self.log {
            log.note(&undo).await?;
        }
        self.undos.push(undo);
        Ok(())
    }

    /// Carries out all undos. See [`revert`].
    pub async fn revert(&self, host: &dyn Host) -> Vec<ResourceError> {
        revert(&self.undos, host).await
    }
}

/// Carries out all undos, in the order of [`in_order`]. Each undo has its own timeout. Errors are collected: after a failed
/// undo the others are still tried.
pub async fn revert(undos: &[Undo], host: &dyn Host) -> Vec<ResourceError> {
    let all = revert_each(undos, host).await.into_iter();
    all.filter_map(|(_, result)| result.err()).collect()
}

/// The same, with the result of each undo.
pub async fn revert_each<'u>(
    undos: &'u [Undo],
    host: &dyn Host,
) -> Vec<(&'u Undo, ResourceResult<()>)> {
    let mut all = Vec::new();
    for undo in in_order(undos) {
        let after = undo.patience();
        let carried_out = tokio::time::timeout(after, undo.carry_out(host)).await;
        let late = || {
            ResourceError::Host(crate::host::HostError::Deadline {
                action: format!("take back {}", undo.about()),
                after,
            })
        };
        all.push((undo, carried_out.unwrap_or_else(|_| Err(late()))));
    }
    all
}

/// Undos in the order in which they are carried out: from the last to the first, then, once each, reloads, starts and
/// restarts of units, which have to read the restored files.
#[must_use]
pub fn in_order(undos: &[Undo]) -> Vec<&Undo> {
    let (settling, others): (Vec<&Undo>, Vec<&Undo>) =
        undos.iter().partition(|undo| undo.settles().is_some());
    let mut last: Vec<&Undo> = Vec::new();
    for undo in settling {
        if !last.contains(&undo) {
            last.push(undo);
        }
    }
    last.sort_by_key(|undo| undo.settles());
    others.into_iter().rev().chain(last).collect()
}

/// The kind of entry at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A socket, device or pipe.
    Other,
}

impl EntryType {
    /// The type of an entry.
    #[must_use]
    pub fn of(entry: &EntryKind) -> Self {
        match entry {
            EntryKind::File(_) => Self::File,
            EntryKind::Directory => Self::Directory,
            EntryKind::Symlink(_) => Self::Link,
            EntryKind::Socket | EntryKind::Other => Self::Other,
        }
    }
}

/// One inverse operation. Each is idempotent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "snake_case")]
pub enum Undo {
    /// A file or link was created.
    RemoveFile {
        /// Its path.
        path: PathBuf,
    },
    /// A file was replaced or removed.
    RestoreFile {
        /// Its path.
        path: PathBuf,
        /// What it held. Never printed.
        content: SavedContent,
        /// Permission bits and owner.
        attributes: Attributes,
    },
    /// A link was replaced or removed.
    RestoreSymlink {
        /// Its path.
        path: PathBuf,
        /// What it pointed to.
        target: String,
    },
    /// A directory was created. It is removed only if nothing else is left in it.
    RemoveDirectory {
        /// Its path.
        path: PathBuf,
    },
    /// A directory was created, and everything in it is ours.
    RemoveTree {
        /// Its path.
        path: PathBuf,
    },
    /// The directory existed before; everything in it is ours, except what was in it before.
    ClearDirectory {
        /// Its path.
        path: PathBuf,
        /// Names of what was in it.
        spared: Vec<String>,
    },
    /// Permission bits or owner were changed.
    RestoreAttributes {
        /// The path.
        path: PathBuf,
        /// As they were.
        attributes: Attributes,
        /// The type of the entry that had them. Records of earlier versions do not contain it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<EntryType>,
    },
    /// A container was created.
    RemoveContainer {
        /// Its name.
        name: String,
    },
    /// A container was removed or replaced.
    RecreateContainer {
        /// As it was.
        config: Box<ContainerConfig>,
        /// Whether it ran.
        running: bool,
    },
    /// A container was started.
    StopContainer {
        /// Its name.
        name: String,
    },
    /// An image was loaded.
    RemoveImage {
        /// Its reference.
        reference: String,
    },
    /// An image was loaded and replaced another image of the same reference.
    RestoreImage {
        /// The reference.
        reference: String,
        /// Content id of the image that had the reference.
        id: String,
    },
    /// A unit was started.
    StopUnit {
        /// Its name.
        name: String,
    },
    /// A unit was stopped.
    StartUnit {
        /// Its name.
        name: String,
    },
    /// A running unit loaded new configuration. Other undos restore the files first; then the unit is restarted.
    RestartUnit {
        /// Its name.
        name: String,
    },
    /// A unit was enabled or disabled.
    SetUnitEnabled {
        /// Its name.
        name: String,
        /// As it was.
        enabled: bool,
    },
    /// Unit files changed.
    ReloadUnits,
    /// A kernel setting was changed.
    SetSysctl {
        /// Its key.
        key: String,
        /// As it was.
        value: String,
    },
    /// A module was loaded.
    UnloadModule {
        /// Its name.
        name: String,
        /// Modules that were loaded before it: they stay loaded, even if it depends on them.
        stay: Vec<String>,
    },
    /// Packages were installed.
    PurgePackages {
        /// Their names.
        names: Vec<String>,
    },
    /// An object was created.
    DeleteObject {
        /// How to reach the cluster.
        access: ClusterAccess,
        /// Enough of it to find it: apiVersion, kind, metadata.
        object: serde_json::Value,
    },
    /// An object was changed or removed.
    RestoreObject {
        /// How to reach the cluster.
        access: ClusterAccess,
        /// Enough of it to find it: apiVersion, kind, metadata.
        object: serde_json::Value,
        /// What it held, as JSON. Never printed.
        content: SavedContent,
    },
    /// A node object was changed; the patch sets it back.
    PatchNode {
        /// How to reach the cluster.
        access: ClusterAccess,
        /// The node.
        node: String,
        /// JSON merge patch.
        patch: serde_json::Value,
    },
}

/// Previous content of a file: its hash, and its bytes while they are in memory. Only the hash is serialized. The bytes
/// are stored in a private directory, in a file named by the hash, and are never printed, logged or bundled.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedContent {
    /// SHA-256 of the bytes, in hex.
    pub sha256: String,
    #[serde(skip)]
    bytes: Option<Vec<u8>>,
}

impl SavedContent {
    /// Content of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            sha256: crate::model::hex(&sha2::Sha256::digest(&bytes)),
            bytes: Some(bytes),
        }
    }

    /// The bytes, if they are in memory.
    #[must_use]
    pub fn at_hand(&self) -> Option<&[u8]> {
        self.bytes.as_deref()
    }

    /// The file in which the bytes of this hash are stored.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(crate::model::STATE)
            .join("content")
            .join(&self.sha256)
    }

    async fn read(&self, host: &dyn Host) -> ResourceResult<Vec<u8>> {
        if let Some(bytes) = &self.bytes {
            return Ok(bytes.clone());
        }
        let bytes = host.read(&self.path(), super::KEPT_LIMIT).await?;
        let path = self.path();
        let lost = |what: String| ResourceError::Unmet {
            what,
            next: format!(
                "restore {} from a backup of this host: it is the only copy of the previous content",
                path.display()
            ),
        };
        let bytes = bytes
            .ok_or_else(|| lost(format!("find the previous content in {}", path.display())))?;
        if crate::model::hex(&sha2::Sha256::digest(&bytes)) != self.sha256 {
            return Err(lost(format!(
                "trust the previous content in {}: it has been changed",
                path.display()
            )));
        }
        Ok(bytes)
    }
}

impl std::fmt::Debug for SavedContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.bytes {
            Some(bytes) => write!(f, "{} bytes", bytes.len()),
            None => write!(f, "kept"),
        }
    }
}

/// How long a container may take to stop when its creation is reverted.
const GRACE: Duration = Duration::from_secs(10);

impl Undo {
    /// Timeout for carrying it out.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_secs(match self {
            Self::PurgePackages { .. } => 13 * 60,
            Self::DeleteObject { .. } | Self::RestoreObject { .. } | Self::PatchNode { .. } => 15,
            _ => 180,
        })
    }

    /// Key of the thing that it restores. Of two undos with the same key, the older one restores the original state.
    #[must_use]
    pub fn about(&self) -> String {
        match self {
            Self::RemoveFile { path }
            | Self::RestoreFile { path, .. }
            | Self::RestoreSymlink { path, .. } => {
                format!("file {}", path.display())
            }
            Self::RestoreAttributes { path, .. } => format!("attributes {}", path.display()),
            Self::RemoveDirectory { path }
            | Self::RemoveTree { path }
            | Self::ClearDirectory { path, .. } => {
                format!("directory {}", path.display())
            }
            Self::RemoveContainer { name } => format!("container {name}"),
            Self::RecreateContainer { config, .. } => format!("container {}", config.name),
            Self::StopContainer { name } => format!("running container {name}"),
            Self::RemoveImage { reference } | Self::RestoreImage { reference, .. } => {
                format!("image {reference}")
            }
            Self::StopUnit { name } | Self::StartUnit { name } | Self::RestartUnit { name } => {
                format!("running unit {name}")
            }
            Self::SetUnitEnabled { name, .. } => format!("unit at boot {name}"),
            Self::ReloadUnits => "units".to_owned(),
            Self::SetSysctl { key, .. } => format!("sysctl {key}"),
            Self::UnloadModule { name, .. } => format!("module {name}"),
            Self::PurgePackages { names } => format!("packages {}", names.join(" ")),
            Self::DeleteObject { object, .. } | Self::RestoreObject { object, .. } => {
                format!("object {object}")
            }
            Self::PatchNode { node, .. } => format!("node {node}"),
        }
    }

    /// The undo of a change of mode and owner of this entry at `path`.
    #[must_use]
    pub fn restore_attributes(path: &Path, entry: &Entry) -> Self {
        Self::RestoreAttributes {
            path: path.to_path_buf(),
            attributes: entry.attributes,
            kind: Some(EntryType::of(&entry.kind)),
        }
    }

    /// The file or link that it restores or removes.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::RemoveFile { path }
            | Self::RestoreFile { path, .. }
            | Self::RestoreSymlink { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The previous content that it restores.
    #[must_use]
    pub fn kept(&self) -> Option<&SavedContent> {
        match self {
            Self::RestoreFile { content, .. } | Self::RestoreObject { content, .. } => {
                Some(content)
            }
            _ => None,
        }
    }

    /// Position among the undos that run last, after all files are restored; `None` for the other undos.
    pub(crate) fn settles(&self) -> Option<u8> {
        match self {
            Self::ReloadUnits => Some(0),
            Self::StartUnit { .. } | Self::RestartUnit { .. } => Some(1),
            _ => None,
        }
    }

    /// Reverts the effect.
    ///
    /// # Errors
    /// An operation of the host failed.
    pub async fn carry_out(&self, host: &dyn Host) -> ResourceResult<()> {
        match self {
            // Checked first, because a read-only file system refuses the removal even if the file does not exist.
            Self::RemoveFile { path } => {
                if host.entry(path).await?.is_some() {
                    host.remove(path).await?;
                }
            }
            Self::RestoreFile {
                path,
                content,
                attributes,
            } => {
                let bytes = content.read(host).await?;
                if !holds(host, path, &bytes, *attributes).await? {
                    host.write(path, &bytes, *attributes).await?;
                }
            }
            Self::RestoreSymlink { path, target } => {
                // `symlink` replaces only a link; an entry of another kind must be removed first.
                if !matches!(
                    host.entry(path).await?,
                    Some(Entry {
                        kind: EntryKind::Symlink(_),
                        ..
                    })
                ) {
                    host.remove(path).await?;
                }
                host.symlink(path, target).await?;
            }
            Self::RemoveDirectory { path } => {
                if host.entry(path).await?.is_some() && host.list(path).await?.is_empty() {
                    host.remove(path).await?;
                }
            }
            Self::RemoveTree { path } => {
                host.unmount_below(path).await?;
                host.remove_tree(path).await?;
            }
            Self::ClearDirectory { path, spared } => directory::clear(host, path, spared).await?,
            Self::RestoreAttributes {
                path,
                attributes,
                kind,
            } => {
                let entry = host.entry(path).await?;
                // If the change itself failed, nothing has to be restored, and a restore would often fail, too.
                if entry
                    .as_ref()
                    .is_some_and(|entry| entry.attributes == *attributes)
                {
                    return Ok(());
                }
                let there = entry.map(|entry| EntryType::of(&entry.kind));
                let is_the_same = match (there, kind) {
                    (None, _) => return Ok(()),
                    (Some(there), Some(kind)) => there == *kind,
                    // The record does not contain the type. Attributes of links were rarely changed.
                    (Some(there), None) => there != EntryType::Link,
                };
                // An entry that has replaced it has its own attributes.
                if is_the_same {
                    host.set_attributes(path, *attributes).await?;
                } else {
                    let path = path.display();
                    tracing::warn!(
                        "{path} keeps its mode and owner: it is another kind of entry now"
                    );
                }
            }
            Self::RemoveContainer { name } => {
                if container_runtime::has_ours(host, name).await? {
                    host.stop_container(name, GRACE).await?;
                    host.remove_container(name).await?;
                }
            }
            Self::RecreateContainer { config, running } => {
                // Neither the recreated container nor one that another user has created under its name has our label: both stay.
                let theirs =
                    |state: &ContainerState| !state.labels.contains_key(container_runtime::OWNER);
                if host
                    .container(&config.name)
                    .await?
                    .is_none_or(|state| !theirs(&state))
                {
                    host.remove_container(&config.name).await?;
                    host.create_container(config).await?;
                }
                if *running {
                    host.start_container(&config.name).await?;
                }
            }
            Self::StopContainer { name } => {
                if container_runtime::has_ours(host, name).await? {
                    host.stop_container(name, GRACE).await?;
                }
            }
            Self::RemoveImage { reference } => {
                if container_runtime::is_there(host, &self.about()).await? {
                    host.remove_image(reference).await?;
                }
            }
            Self::RestoreImage { reference, id } => {
                if !container_runtime::is_there(host, &self.about()).await? {
                    return Ok(());
                }
                // An operator or another program may have removed it as an unused image.
                if host.image(id).await?.is_none() {
                    tracing::warn!("image {reference} stays: the previous image no longer exists");
                    return Ok(());
                }
                // This also deletes the image that has the reference now, unless it has another name or a container uses it.
                if host
                    .image(reference)
                    .await?
                    .is_some_and(|now| now.id != *id)
                    && let Err(error) = host.remove_image(reference).await
                {
                    tracing::warn!("an image was not deleted: {error}");
                }
                host.tag_image(id, reference).await?;
            }
            Self::StopUnit { name } => host.stop_unit(name).await?,
            Self::StartUnit { name } => {
                let unit = host.unit(name).await?;
                if unit.loaded && !unit.is_active() {
                    host.reset_failed_unit(name).await?;
                    host.start_unit(name).await?;
                }
            }
            Self::RestartUnit { name } => {
                // It ran before; the package of the unit may have been removed since.
                if host.unit(name).await?.loaded {
                    container_runtime::restart(host, name).await?;
                }
            }
            Self::SetUnitEnabled { name, enabled } => {
                if host.unit(name).await?.loaded {
                    host.set_unit_enabled(name, *enabled).await?;
                }
            }
            Self::ReloadUnits => host.reload_units().await?,
            Self::SetSysctl { key, value } => {
                // A setting whose module or link was removed no longer exists.
                if host.sysctl(key).await?.is_some() {
                    host.set_sysctl(key, value).await?;
                }
            }
            Self::UnloadModule { name, stay } => host.unload_module(name, stay).await?,
            Self::PurgePackages { names } => host.purge_packages(names).await?,
            Self::DeleteObject { access, object } => host.delete_object(access, object).await?,
            Self::RestoreObject {
                access, content, ..
            } => {
                let object = serde_json::from_slice(&content.read(host).await?).map_err(|_| {
                    ResourceError::Missing {
                        what: format!("read {} as an object", content.path().display()),
                    }
                })?;
                host.apply_object(access, &object).await?;
            }
            Self::PatchNode {
                access,
                node,
                patch,
            } => host.patch_node(access, node, patch).await?,
        }
        Ok(())
    }
}
/// Whether a file still has its previous content and attributes, because it was never replaced.
async fn holds(
    host: &dyn Host,
    path: &Path,
    bytes: &[u8],
    attributes: Attributes,
) -> ResourceResult<bool> {
    let size = bytes.len() as u64;
    match host.entry(path).await? {
        Some(entry) if entry.kind == EntryKind::File(size) && entry.attributes == attributes => {
            Ok(host.read(path, size).await?.as_deref() == Some(bytes))
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    const PATH: &str = "/home/u/extra";

    /// A user who owns the parent directory replaces the directory by another entry before its attributes are restored.
    #[tokio::test]
    async fn attributes_are_given_back_to_the_thing_that_had_them_alone() {
        let theirs = Attributes {
            mode: 0o755,
            uid: 1000,
            gid: 1000,
        };
        let recorded = |kind| Undo::RestoreAttributes {
            path: PATH.into(),
            attributes: theirs,
            kind,
        };
        for (kind, standing, restored) in [
            (Some(EntryType::Directory), "directory", true),
            (None, "directory", true),
            (Some(EntryType::Directory), "link", false),
            (None, "link", false),
            (Some(EntryType::Directory), "file", false),
            (Some(EntryType::File), "file", true),
        ] {
            let mut host = FakeHost::new().with_directory("/etc/cron.d");
            host = match standing {
                "directory" => host.with_directory(PATH),
                "file" => host.with_file(PATH, "a setuid program of another user"),
                _ => {
                    let host = host.with_directory("/home/u");
                    let made = crate::host::Files::symlink(&host, Path::new(PATH), "/etc/cron.d");
                    made.await.expect("its directory is there");
                    host
                }
            };
            let before = host.snapshot();
            let undone = recorded(kind).carry_out(&host).await;
            undone.expect("the undo works");
            let case = format!("{kind:?} and a {standing}");
            assert_eq!(host.snapshot() != before, restored, "{case}");
            let etc = Path::new("/etc/cron.d");
            let etc = crate::host::Files::entry(&host, etc).await;
            let etc = etc.expect("the host answers").expect("it is there");
            assert_eq!(etc.attributes.uid, 0, "{case}");
        }
    }

    /// For example on a read-only file system, where the change itself failed.
    #[tokio::test]
    async fn attributes_that_could_not_be_changed_are_not_set_back() {
        let host = FakeHost::new().with_directory(PATH);
        let entry = crate::host::Files::entry(&host, Path::new(PATH)).await;
        let entry = entry.expect("the host answers").expect("it is there");
        let undo = Undo::restore_attributes(Path::new(PATH), &entry);
        host.clear_journal();
        undo.carry_out(&host).await.expect("nothing is to be done");
        assert_eq!(host.mutations(), 0);
    }

    #[test]
    fn a_record_of_an_earlier_version_is_read() {
        let record = r#"{"undo":"restore_attributes","path":"/a","attributes":{"mode":493,"uid":0,"gid":0}}"#;
        let undo: Undo = serde_json::from_str(record).expect("it is understood");
        assert!(matches!(undo, Undo::RestoreAttributes { kind: None, .. }));
    }
}
