//! Current files of keys and certificates, and how they are written and removed with an undo.

use std::path::{Path, PathBuf};

use crate::host::{Attributes, Entry, EntryKind, Host};
use crate::resource::change::{Differences, octal};
use crate::resource::files::file::remember;
use crate::resource::kubernetes::pki::layout::directory_mode;
use crate::resource::{Receipt, ResourceResult, Undo, create_parents_with};

/// Maximum size of a file. Files of keys and certificates are far smaller.
const LIMIT: u64 = 64 * 1024;

/// Readable by all: certificates and public keys.
pub(super) const PUBLIC: Attributes = Attributes::root(0o644);

/// A file without its content, so that it can be part of an observation and printed.
#[derive(Debug)]
pub(crate) struct Stored {
    path: PathBuf,
    entry: Option<Entry>,
}

/// Content of a file. Has no `Debug`, because it may be a key.
pub(crate) enum Content {
    /// There is no file.
    Missing,
    /// The entry cannot be one of our files, with the reason.
    Unfit(String),
    /// These bytes.
    Bytes(Vec<u8>),
}

impl Content {
    /// The result of `parse` for the bytes; `None` if there is no file.
    pub(super) fn parse<T>(
        &self,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Option<Result<T, String>> {
        match self {
            Self::Missing => None,
            Self::Unfit(problem) => Some(Err(problem.clone())),
            Self::Bytes(bytes) => Some(parse(bytes)),
        }
    }

    /// The bytes, if there are any.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Missing | Self::Unfit(_) => None,
        }
    }
}

impl Stored {
    /// The current entry at `path`, with its content. Links are followed. Cancel safe.
    pub(crate) async fn read(host: &dyn Host, path: &Path) -> ResourceResult<(Self, Content)> {
        let stored = Self::read_entry(host, path).await?;
        let content = match stored.entry.as_ref().map(|entry| &entry.kind) {
            None => Content::Missing,
            Some(EntryKind::File(size)) if *size > LIMIT => {
                Content::Unfit(format!("it is larger than {LIMIT} bytes"))
            }
            Some(EntryKind::File(_) | EntryKind::Symlink(_)) => {
                match host.read(path, LIMIT).await? {
                    Some(bytes) => Content::Bytes(bytes),
                    None => Content::Unfit("it is a dangling link".to_owned()),
                }
            }
            Some(EntryKind::Directory | EntryKind::Socket | EntryKind::Other) => {
                Content::Unfit("it is not a file".to_owned())
            }
        };
        Ok((stored, content))
    }

    /// The current entry at `path`. Cancel safe.
    pub(super) async fn read_entry(host: &dyn Host, path: &Path) -> ResourceResult<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            entry: host.entry(path).await?,
        })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is an entry.
    pub(crate) fn is_there(&self) -> bool {
        self.entry.is_some()
    }

    /// Notes mode and owner if they differ. The mode of a link is ignored.
    pub(crate) fn compare(&self, differences: &mut Differences, should: Attributes) {
        let Some(is) = self.attributes() else { return };
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let mode = |attributes: Attributes| format!("{name} {}", octal(attributes.mode & 0o7777));
        let owner =
            |attributes: Attributes| format!("{name} {}:{}", attributes.uid, attributes.gid);
        differences.compare("mode", &mode(is), &mode(should));
        differences.compare("owner", &owner(is), &owner(should));
    }

    /// Sets mode and owner if they differ.
    pub(crate) async fn repair(
        &self,
        host: &dyn Host,
        should: Attributes,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if let Some(entry) = &self.entry
            && self.attributes().is_some_and(|is| is != should)
        {
            let undo = Undo::restore_attributes(&self.path, entry);
            receipt.push(undo).await?;
            host.set_attributes(&self.path, should).await?;
        }
        Ok(())
    }

    /// Writes the file, and creates missing parent directories.
    pub(crate) async fn put(
        &self,
        host: &dyn Host,
        content: &[u8],
        attributes: Attributes,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let of_parent = |directory: &Path| Attributes::root(directory_mode(directory));
        create_parents_with(host, &self.path, of_parent, receipt).await?;
        remember(host, &self.path, self.entry.as_ref(), "a file", receipt).await?;
        if matches!(&self.entry, Some(entry) if matches!(entry.kind, EntryKind::Symlink(_))) {
            // The undo of a link needs a free path, so the undo that removes our file has to run first.
            receipt
                .push(Undo::RemoveFile {
                    path: self.path.clone(),
                })
                .await?;
        }
        Ok(host.write(&self.path, content, attributes).await?)
    }

    /// Removes the file.
    pub(crate) async fn remove(
        &self,
        host: &dyn Host,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if self.is_there() {
            remember(host, &self.path, self.entry.as_ref(), "a file", receipt).await?;
            host.remove(&self.path).await?;
        }
        Ok(())
    }

    fn attributes(&self) -> Option<Attributes> {
        let entry = self.entry.as_ref()?;
        matches!(entry.kind, EntryKind::File(_) | EntryKind::Directory).then_some(entry.attributes)
    }
}
