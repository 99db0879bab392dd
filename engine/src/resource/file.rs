//! A file: fixed text, a rendered template, or a copy from the role's payload.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::change::{Differences, TextDiff, content_digest, octal};
use super::directory::attributes;
use super::undo::Kept;
use super::{
    Action, Change, Context, READ_LIMIT, Receipt, Resource, ResourceError, ResourceResult, Undo,
    create_parents,
};
use crate::host::{Attributes, Entry, EntryKind, Host};
use crate::plan::Text;

/// A file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileSpec {
    /// Its path.
    pub path: PathBuf,
    /// Where its content comes from.
    pub source: FileSource,
    /// Permission bits and owner.
    pub attributes: Attributes,
    /// Written when it is not there, and never again.
    pub once: bool,
    /// Its content is shown nowhere.
    pub secret: bool,
    /// It is a unit file: the service manager loads its files again after a change.
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
}

/// A file as it stands, and the content it should have.
#[derive(Debug)]
pub struct Observed {
    entry: Option<Entry>,
    /// Present content, unless something other than a file stands there.
    content: Option<Vec<u8>>,
    /// `Err` says why the content is known only later.
    desired: Result<Vec<u8>, String>,
    absent: bool,
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
        let settled = self.once && content.is_some();
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
            };
        let stale = match (&entry, self.unit) {
            (Some(_), true) => cx.host.unit(&self.unit_name()).await?.stale,
            _ => false,
        };
        Ok(Observed {
            entry,
            content,
            desired,
            absent: cx.absent,
            stale,
        })
    }

    fn diff(&self, observed: &Observed) -> Option<Change> {
        if observed.absent {
            return observed.entry.as_ref().map(|_| Change::new(Action::Remove));
        }
        let Some(entry) = &observed.entry else {
            let mut change =
                Change::new(Action::Create).with("mode", "", octal(self.attributes.mode));
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
        attributes(&mut differences, entry.attributes, self.attributes);
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
        _change: &Change,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if self.unit {
            receipt.push(Undo::ReloadUnits).await?;
        }
        if observed.absent {
            remember(
                cx.host,
                &self.path,
                observed.entry.as_ref(),
                "a file",
                receipt,
            )
            .await?;
            cx.host.remove(&self.path).await?;
        } else {
            let desired = observed
                .desired
                .as_ref()
                .map_err(|reason| ResourceError::Missing {
                    what: format!("write {}: {reason}", self.path.display()),
                })?;
            create_parents(cx.host, &self.path, receipt).await?;
            let settled = observed.content.as_ref() == Some(desired);
            match &observed.entry {
                Some(entry) if settled => {
                    if entry.attributes != self.attributes {
                        receipt
                            .push(Undo::RestoreAttributes {
                                path: self.path.clone(),
                                attributes: entry.attributes,
                            })
                            .await?;
                        cx.host.set_attributes(&self.path, self.attributes).await?;
                    }
                }
                entry => {
                    remember(cx.host, &self.path, entry.as_ref(), "a file", receipt).await?;
                    cx.host.write(&self.path, desired, self.attributes).await?;
                }
            }
        }
        if self.unit {
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
        if self.is_secret() {
            return None;
        }
        let after = String::from_utf8(observed.desired.as_ref().ok()?.clone()).ok()?;
        let before = String::from_utf8(observed.content.clone().unwrap_or_default()).ok()?;
        Some(TextDiff { before, after })
    }

    fn digest(&self, observed: &Observed) -> Option<String> {
        let desired = observed.desired.as_ref().ok()?;
        (!self.is_secret()).then(|| content_digest(desired))
    }

    fn is_secret(&self) -> bool {
        let secret = match &self.source {
            FileSource::Text(text) => text.is_secret(),
            FileSource::Payload(_) => false,
        };
        self.secret || secret
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

/// Notes how to bring back what stands at `path` now, where `wanted` ("a file") is going to be.
pub(super) async fn remember(
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
            let content = host.read(path, READ_LIMIT).await?.unwrap_or_default();
            Undo::RestoreFile {
                path: path.to_path_buf(),
                content: Kept::new(content),
                attributes: *attributes,
            }
        }
        Some(entry) => return Err(ResourceError::in_the_way(path, wanted, &entry.kind)),
    };
    receipt.push(undo).await?;
    Ok(())
}

/// Attributes of a file that only root reads.
pub(super) const PRIVATE: Attributes = Attributes::root(0o600);
