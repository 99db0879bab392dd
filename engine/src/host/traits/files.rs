//! Files, directories and links.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize};

use crate::host::HostResult;

/// Permission bits and owner of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits, for example `0o640`. Records contain them as a number; reports contain octal text, which can be read, too.
    #[serde(deserialize_with = "mode")]
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Attributes {
    /// Owned by root with these permission bits.
    #[must_use]
    pub const fn root(mode: u32) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
        }
    }
}

/// Permission bits from a number, or from octal text as in `"0640"`.
fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Mode {
        Number(u32),
        Octal(String),
    }
    match Mode::deserialize(deserializer)? {
        Mode::Number(mode) => Ok(mode),
        Mode::Octal(text) => u32::from_str_radix(&text, 8).map_err(serde::de::Error::custom),
    }
}

/// An entry at a path; links are not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File, directory, link …
    pub kind: EntryKind,
    /// Permission bits and owner.
    pub attributes: Attributes,
    /// When the content was last written.
    pub modified: SystemTime,
}

/// The kind of a directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file of this many bytes.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link and what it points to.
    Symlink(String),
    /// A socket. It is of no use without the process that listens on it, and that process makes it again.
    Socket,
    /// A device or a pipe.
    Other,
}

/// Room on the file system that holds a path, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free for us.
    pub free: u64,
    /// In all.
    pub total: u64,
    /// Which file system it is, as stat(2) numbers it.
    pub device: u64,
}

/// File operations. A missing path is `None` when asked about and fine when removed.
#[async_trait::async_trait]
pub trait Files {
    /// The entry at `path`, without following a link at its end. Cancel safe.
    async fn entry(&self, path: &Path) -> HostResult<Option<Entry>>;

    /// The content of the file at `path` (links are followed), at most `limit` bytes. Cancel safe.
    async fn read(&self, path: &Path, limit: u64) -> HostResult<Option<Vec<u8>>>;

    /// SHA-256 of the file at `path` (links are followed), however large, in hexadecimal; `None` where there is no file. Cancel safe.
    async fn digest(&self, path: &Path) -> HostResult<Option<String>>;

    /// Like [`Files::digest`], but a large file is not read again if its inode, size and times are unchanged since it was last read. This
    /// answer alone is not enough to use a file. Cancel safe.
    async fn remembered_digest(&self, path: &Path) -> HostResult<Option<String>> {
        self.digest(path).await
    }

    /// Whether the content of the role's payload is really read. A dry run does not read it.
    fn reads_payload(&self) -> bool {
        true
    }

    /// Names in a directory, sorted; empty where there is none. Cancel safe.
    async fn list(&self, path: &Path) -> HostResult<Vec<String>>;

    /// Replaces or creates a file atomically: a temporary sibling with the final attributes, fsync, rename,
    /// fsync of the directory. Never leaves a half-written file under `path`. When cancelled, a temporary
    /// sibling may stay; `path` is old or new.
    async fn write(&self, path: &Path, content: &[u8], attributes: Attributes) -> HostResult<()>;

    /// Tries whether a file at `path` could be replaced or created and hold `room` bytes: makes, fills and removes a temporary sibling, and
    /// leaves `path` as it is. If the directory does not exist yet, its nearest existing ancestor is tried.
    async fn try_write(&self, path: &Path, room: u64) -> HostResult<()>;

    /// An error if [`Files::try_write`] would certainly fail, as far as the host can tell without a change: the file, its directory or the
    /// file system is protected, or there is no room. The error is [`WriteRefused`](crate::host::HostError::WriteRefused). Cancel safe.
    async fn predict_write(&self, path: &Path, room: u64) -> HostResult<()>;

    /// Adds to the end of a file, created with these attributes if need be, and returns once the content would survive a power cut. When
    /// the call is cancelled, interrupted or fails, a part of the content may be at the end of the file.
    async fn append(&self, path: &Path, content: &[u8], attributes: Attributes) -> HostResult<()>;

    /// Creates one directory whose parent exists. If the directory exists, only its attributes are set. If a link to a directory exists,
    /// only the owner of the link is set.
    async fn create_directory(&self, path: &Path, attributes: Attributes) -> HostResult<()>;

    /// Makes `path` a link to `target`, atomically replacing a link that is there.
    async fn symlink(&self, path: &Path, target: &str) -> HostResult<()>;

    /// Sets permission bits and owner of the entry at `path` itself. Of a link only its own owner is set; its target stays as it is.
    async fn set_attributes(&self, path: &Path, attributes: Attributes) -> HostResult<()>;

    /// Removes a file, a link or an empty directory.
    async fn remove(&self, path: &Path) -> HostResult<()>;

    /// Removes a directory with all that is in it; does not follow links, does not cross mounts.
    async fn remove_tree(&self, path: &Path) -> HostResult<()>;

    /// Unmounts everything that is mounted at or below `path`, the deepest first. A busy mount goes away with its last user. Fine if
    /// nothing is mounted.
    async fn unmount_below(&self, path: &Path) -> HostResult<()>;

    /// Marks the file at `path` as one that will be written with content that is not known yet. Reading it is an error until it is written.
    /// A dry run marks files on its simulated host; on a real host this does nothing.
    async fn mark_unknown(&self, _path: &Path, _why: &str) -> HostResult<()> {
        Ok(())
    }

    /// Whether the content of the file at `path` (links are followed) is known only after apply. Never so on a real host.
    async fn is_unknown(&self, _path: &Path) -> HostResult<bool> {
        Ok(false)
    }

    /// Room on the file system of the nearest existing ancestor of `path`.
    async fn space(&self, path: &Path) -> HostResult<Space>;
}

/// The path where a file or link is made before it gets its own name. A program that ends during a write leaves it there. The dot hides it
/// from kubelet's manifest directory and from `run-parts`; the suffix hides it from programs that select files by suffix, as CNI does.
#[must_use]
pub fn partial_file(path: &Path) -> PathBuf {
    let mut name = OsString::from(".nodelet-");
    name.push(path.file_name().unwrap_or_default());
    name.push(".part");
    path.with_file_name(name)
}
