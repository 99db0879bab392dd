//! An undo as data: what has to be restored, and when its turn is. The ledger has it in this form.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::host::{Attributes, ClusterAccess, ContainerConfig, Entry, EntryKind};
use crate::resource::kernel::packet_filter::{ChainContent, FilterFamily};

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
    /// Routes to the pods of other nodes were made or changed: all of them are removed.
    RemoveNodeRoutes,
    /// This host was added to etcd as a learner: it is removed, unless it has a vote by now.
    RemoveEtcdLearner {
        /// URLs of the other members for clients.
        endpoints: Vec<String>,
        /// URL of the learner for other members.
        peer: String,
    },
    /// A chain of the packet filter was made or changed.
    RestoreChain {
        /// Its family.
        family: FilterFamily,
        /// Its table.
        table: String,
        /// Its name.
        name: String,
        /// As it was; none if it was not there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<ChainContent>,
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
}

impl std::fmt::Debug for SavedContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.bytes {
            Some(bytes) => write!(f, "{} bytes", bytes.len()),
            None => write!(f, "kept"),
        }
    }
}

/// Timeout for a call of the cluster.
const CLUSTER: Duration = Duration::from_secs(15);

/// What is asked about undos of all kinds, and what differs from kind to kind. [`Undo::properties`] answers it without a host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UndoProperties<'a> {
    /// The file or link that it restores or removes.
    pub(crate) file: Option<&'a Path>,
    /// The previous content that it restores.
    pub(crate) content: Option<&'a SavedContent>,
    /// Timeout for carrying it out.
    pub(crate) timeout: Duration,
    /// Position among the undos that run last, after all files are restored; `None` for the other undos.
    pub(crate) deferred_order: Option<u8>,
    /// Whether it needs the container runtime.
    pub(crate) needs_runtime: bool,
}

impl Undo {
    /// The properties of this undo. Each kind must be named here, so a new one cannot get a wrong answer by default.
    pub(crate) fn properties(&self) -> UndoProperties<'_> {
        let mut its = UndoProperties {
            file: None,
            content: None,
            timeout: Duration::from_secs(180),
            deferred_order: None,
            needs_runtime: false,
        };
        match self {
            Self::RemoveFile { path } | Self::RestoreSymlink { path, .. } => its.file = Some(path),
            Self::RestoreFile { path, content, .. } => {
                its.file = Some(path);
                its.content = Some(content);
            }
            Self::ReloadUnits => its.deferred_order = Some(0),
            Self::StartUnit { .. } | Self::RestartUnit { .. } => its.deferred_order = Some(1),
            Self::RemoveContainer { .. }
            | Self::RecreateContainer { .. }
            | Self::StopContainer { .. }
            | Self::RemoveImage { .. }
            | Self::RestoreImage { .. } => its.needs_runtime = true,
            Self::PurgePackages { .. } => its.timeout = Duration::from_secs(13 * 60),
            Self::RestoreObject { content, .. } => {
                its.content = Some(content);
                its.timeout = CLUSTER;
            }
            Self::DeleteObject { .. } | Self::PatchNode { .. } => its.timeout = CLUSTER,
            Self::RemoveDirectory { .. }
            | Self::RemoveTree { .. }
            | Self::ClearDirectory { .. }
            | Self::RestoreAttributes { .. }
            | Self::StopUnit { .. }
            | Self::SetUnitEnabled { .. }
            | Self::SetSysctl { .. }
            | Self::UnloadModule { .. }
            | Self::RemoveNodeRoutes
            | Self::RemoveEtcdLearner { .. }
            | Self::RestoreChain { .. } => {}
        }
        its
    }

    /// Key of the resource that it restores. Of two undos with the same key, the older one restores the original state.
    #[must_use]
    pub fn key(&self) -> String {
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
            Self::RemoveNodeRoutes => "routes to other nodes".to_owned(),
            Self::RemoveEtcdLearner { peer, .. } => format!("etcd learner {peer}"),
            Self::RestoreChain {
                family,
                table,
                name,
                ..
            } => format!("{} chain {table} {name}", family.program()),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_earlier_version_is_read() {
        let record = r#"{"undo":"restore_attributes","path":"/a","attributes":{"mode":493,"uid":0,"gid":0}}"#;
        let undo: Undo = serde_json::from_str(record).expect("it is understood");
        assert!(matches!(undo, Undo::RestoreAttributes { kind: None, .. }));
    }

    #[test]
    fn properties_differ_from_kind_to_kind() {
        let restore = Undo::RestoreFile {
            path: "/a".into(),
            content: SavedContent::new(b"a".to_vec()),
            attributes: Attributes::root(0o644),
        };
        let its = restore.properties();
        assert_eq!(its.file, Some(Path::new("/a")));
        assert_eq!(its.content, Some(&SavedContent::new(b"a".to_vec())));
        assert!(its.deferred_order.is_none() && !its.needs_runtime);

        let directory = Undo::RemoveDirectory { path: "/a".into() };
        assert_eq!(directory.properties().file, None);

        let image = Undo::RemoveImage {
            reference: "app:1".to_owned(),
        };
        assert!(image.properties().needs_runtime);

        let packages = Undo::PurgePackages { names: Vec::new() };
        assert!(packages.properties().timeout > image.properties().timeout);

        // Units are loaded before one of them starts.
        let start = Undo::StartUnit {
            name: "a.service".to_owned(),
        };
        let reload = Undo::ReloadUnits.properties().deferred_order;
        assert!(reload.is_some() && reload < start.properties().deferred_order);
    }
}
