//! A file: fixed text, a rendered template, or a copy from the role's payload or of another file.
//!
//! Its content, mode and owner are compared with the plan. Other content is written as one replacement of the file, whose undo restores the
//! earlier content or removes the file; otherwise only mode and owner are set. systemd reads its unit files again after a change of one.
//! If the content may hold a secret, a change does not show it (`hidden`).
//!
//! Not here: files of settings (`env_file`), keys and certificates (`resource::pki`), and how a host replaces a file
//! (`host::live::files`). Start with [`FileSpec`]. The directory `file` has only its tests.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::hidden::{is_private, is_private_file, masked};
use super::owner::{Owner, Resolved, known};
use crate::host::{Attributes, Entry, EntryKind, Host};
use crate::model::Text;
use crate::resource::change::{Differences, TextDiff, content_digest};
use crate::resource::undo::SavedContent;
use crate::resource::{
    Action, Change, Context, KEPT_LIMIT, READ_LIMIT, Receipt, Resource, ResourceError,
    ResourceResult, Undo, create_parents,
};

/// A file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileSpec {
    /// Its path.
    pub path: PathBuf,
    /// Where its content comes from.
    pub source: FileSource,
    /// Permission bits and owner.
    pub attributes: Attributes,
    /// Names of owner and group, if the script gives names.
    #[serde(default, skip_serializing_if = "Owner::is_unnamed")]
    pub owner: Owner,
    /// Written only if it does not exist; never overwritten.
    pub create_only: bool,
    /// Its content is never shown.
    pub secret: bool,
    /// It is a unit file: systemd reloads its unit files after a change.
    pub unit: bool,
}

/// Where the content of a file comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileSource {
    /// Text in the plan.
    Text(Text),
    /// A file of the role's payload on the host.
    Payload(PathBuf),
    /// Another file of the host.
    Copy(PathBuf),
    /// The same, if the script gives no mode: if other users cannot read that file, they cannot read the copy.
    GuardedCopy(PathBuf),
}

/// The current state of a file, and its desired content.
#[derive(Debug)]
pub struct Observed {
    entry: Option<Entry>,
    /// Current content, if the entry is a regular file.
    content: Option<Vec<u8>>,
    /// `Err` says why the content is not known yet.
    desired: Result<Vec<u8>, String>,
    /// Whether the source is a file that other users cannot read.
    private_source: bool,
    /// Mode and owner of the plan; the mode of a guarded copy follows its source.
    given: Attributes,
    /// Desired mode and owner.
    attributes: Resolved,
    stale: bool,
}

#[async_trait]
impl Resource for FileSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        let entry = cx.host.entry(&self.path).await?;
        let content = match &entry {
            Some(Entry {
                kind: EntryKind::File(_),
                ..
            }) => cx.host.read(&self.path, READ_LIMIT).await?,
            _ => None,
        };
        let settled = self.create_only && content.is_some();
        let desired =
            match &self.source {
                _ if cx.absent || settled => Ok(content.clone().unwrap_or_default()),
                FileSource::Text(text) => text
                    .render(&mut |value| cx.resolve(value))
                    .map(String::into_bytes)
                    .map_err(|error| error.to_string()),
                FileSource::Payload(path) => {
                    Ok(cx.host.read(path, READ_LIMIT).await?.ok_or_else(|| {
                        ResourceError::Unmet {
                            what: format!("find {} in the role's payload", path.display()),
                            next: "install the role's package again".to_owned(),
                        }
                    })?)
                }
                FileSource::Copy(path) | FileSource::GuardedCopy(path)
                    if cx.host.is_unknown(path).await? =>
                {
                    Err(format!("{} is known after apply", path.display()))
                }
                FileSource::Copy(path) | FileSource::GuardedCopy(path) => {
                    let content = cx.host.read(path, READ_LIMIT).await?;
                    content.ok_or_else(|| format!("{} is not there yet", path.display()))
                }
            };
        let stale = match (&entry, self.unit) {
            (Some(_), true) => cx.host.unit(&self.unit_name()).await?.stale,
            _ => false,
        };
        let private_source = self.has_private_source(cx).await?;
        let given = match self.source {
            FileSource::GuardedCopy(_) if private_source => Attributes {
                mode: PRIVATE.mode,
                ..self.attributes
            },
            _ => self.attributes,
        };
        let attributes = if cx.absent {
            Ok(given)
        } else {
            self.owner.resolve(cx.host, given).await?
        };
        Ok(Observed {
            entry,
            content,
            desired,
            private_source,
            given,
            attributes,
            stale,
        })
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        if absent {
            return observed.entry.as_ref().map(|_| Change::new(Action::Remove));
        }
        let Some(entry) = &observed.entry else {
            let change = Change::new(Action::Create);
            let attributes = &observed.attributes;
            let mut change = self.owner.of_new(change, observed.given, attributes);
            change.text = self.text_diff(observed);
            change.digest = self.digest(observed);
            if let Err(reason) = &observed.desired {
                change = change.with("content", "", format!("known after apply ({reason})"));
            }
            return Some(change);
        };
        let mut differences = Differences::default();
        if !matches!(entry.kind, EntryKind::File(_)) {
            differences.note("kind", "not a file", "file");
        }
        self.owner.compare(
            &mut differences,
            entry.attributes,
            observed.given,
            &observed.attributes,
        );
        let mut text = None;
        match (&observed.desired, &observed.content) {
            (Ok(desired), Some(content)) if desired != content => {
                differences.note("content", size(content), size(desired));
                text = self.text_diff(observed);
            }
            (Err(reason), _) => {
                differences.note("content", "", format!("known after apply ({reason})"));
            }
            _ => {}
        }
        if observed.stale {
            differences.note("loaded by systemd", "an older version", "this version");
        }
        let mut change = differences.into_change(Action::Change)?;
        change.text = text;
        change.digest = self.digest(observed);
        Some(change)
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if self.unit {
            receipt.push(Undo::ReloadUnits).await?;
        }
        let is_new_unit = self.is_new_unit(observed, cx).await?;
        if cx.absent {
            let entry = observed.entry.as_ref();
            // A socket cannot be restored: the service that listens on it creates it.
            if entry.is_none_or(|entry| entry.kind != EntryKind::Socket) {
                remember(cx.host, &self.path, entry, "a file", receipt).await?;
            }
            cx.host.remove(&self.path).await?;
        } else {
            let desired = observed
                .desired
                .as_ref()
                .map_err(|reason| ResourceError::Missing {
                    what: format!("write {}: {reason}", self.path.display()),
                })?;
            let attributes = known(&self.path, &observed.attributes)?;
            create_parents(cx.host, &self.path, receipt).await?;
            let settled = observed.content.as_ref() == Some(desired);
            match &observed.entry {
                Some(entry) if settled => {
                    if entry.attributes != attributes {
                        let undo = Undo::restore_attributes(&self.path, entry);
                        receipt.push(undo).await?;
                        cx.host.set_attributes(&self.path, attributes).await?;
                    }
                }
                entry => {
                    remember(cx.host, &self.path, entry.as_ref(), "a file", receipt).await?;
                    cx.host.write(&self.path, desired, attributes).await?;
                }
            }
        }
        if self.unit && !(is_new_unit && cx.host.unit(&self.unit_name()).await?.loaded) {
            cx.host.reload_units().await?;
        }
        Ok(())
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }
}

impl FileSpec {
    fn text_diff(&self, observed: &Observed) -> Option<TextDiff> {
        if self.is_secret() || observed.private_source {
            return None;
        }
        let after = String::from_utf8(observed.desired.as_ref().ok()?.clone()).ok()?;
        let mut before = String::from_utf8(observed.content.clone().unwrap_or_default()).ok()?;
        let entry = observed.entry.as_ref();
        if entry.is_some_and(|entry| is_private(entry.attributes.mode)) {
            before = masked(&before, &after);
        }
        Some(TextDiff { before, after })
    }

    fn digest(&self, observed: &Observed) -> Option<String> {
        let desired = observed.desired.as_ref().ok()?;
        // The content of a file that is kept is not from the plan.
        let entry = observed.entry.as_ref();
        let was_private = entry.is_some_and(|entry| is_private(entry.attributes.mode));
        let is_kept = self.create_only && was_private;
        let is_secret = self.is_secret() || observed.private_source || is_kept;
        (!is_secret).then(|| content_digest(desired))
    }

    /// Whether its content is never shown.
    pub(in crate::resource) fn is_secret(&self) -> bool {
        let secret = match &self.source {
            FileSource::Text(text) => text.is_secret(),
            FileSource::Payload(_) | FileSource::Copy(_) | FileSource::GuardedCopy(_) => false,
        };
        self.secret || secret
    }

    /// Whether it is a copy of a file that other users cannot read. The host is asked only if something depends on it.
    async fn has_private_source(&self, cx: &Context<'_>) -> ResourceResult<bool> {
        match &self.source {
            _ if cx.absent => Ok(false),
            FileSource::GuardedCopy(source) => is_private_file(cx.host, source).await,
            FileSource::Copy(source) if !self.secret => is_private_file(cx.host, source).await,
            FileSource::Copy(_) | FileSource::Text(_) | FileSource::Payload(_) => Ok(false),
        }
    }

    /// Whether this is the file of a unit that systemd does not know yet. systemd loads a new unit on demand, without a reload of all unit
    /// files. A drop-in changes a unit that systemd may already know, so it needs the reload.
    async fn is_new_unit(&self, observed: &Observed, cx: &Context<'_>) -> ResourceResult<bool> {
        let is_drop_in = self.path.parent().and_then(Path::extension) == Some("d".as_ref());
        if !self.unit || is_drop_in || cx.absent || observed.entry.is_some() {
            return Ok(false);
        }
        Ok(!cx.host.unit(&self.unit_name()).await?.loaded)
    }

    fn unit_name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

fn size(content: &[u8]) -> String {
    format!("{} bytes", content.len())
}

/// Records the undo that restores the current entry at `path`, before `wanted` ("a file") replaces the entry.
pub(in crate::resource) async fn remember(
    host: &dyn Host,
    path: &std::path::Path,
    entry: Option<&Entry>,
    wanted: &str,
    receipt: &mut Receipt<'_>,
) -> ResourceResult<()> {
    let undo = match entry {
        None => Undo::RemoveFile {
            path: path.to_path_buf(),
        },
        Some(Entry {
            kind: EntryKind::Symlink(target),
            ..
        }) => Undo::RestoreSymlink {
            path: path.to_path_buf(),
            target: target.clone(),
        },
        Some(Entry {
            kind: EntryKind::File(_),
            attributes,
            ..
        }) => {
            let content = host.read(path, KEPT_LIMIT).await?.unwrap_or_default();
            Undo::RestoreFile {
                path: path.to_path_buf(),
                content: SavedContent::new(content),
                attributes: *attributes,
            }
        }
        Some(entry) => return Err(ResourceError::in_the_way(path, wanted, &entry.kind)),
    };
    receipt.push(undo).await?;
    Ok(())
}

/// Attributes of a file that only root reads.
pub(in crate::resource) const PRIVATE: Attributes = Attributes::root(0o600);

#[cfg(test)]
mod tests;
