//! A directory with mode and owner.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::owner::{Owner, Resolved, known};
use crate::host::{Attributes, Entry, EntryKind};
use crate::resource::change::Differences;
use crate::resource::directory_contents::{clear, other_entries};
use crate::resource::{
    Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult, Undo, create_parents,
};

/// A directory. If it should be absent, it is removed with its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirectorySpec {
    /// Its path.
    pub path: PathBuf,
    /// Permission bits and owner.
    pub attributes: Attributes,
    /// Names of owner and group, if the script gives names.
    #[serde(default, skip_serializing_if = "Owner::is_unnamed")]
    pub owner: Owner,
    /// Whether everything in it is ours, regardless of which program writes it: its undo removes it with its content.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
    /// Names in the directory before the role was applied, if it existed. If it should be absent, everything else in it is removed and the
    /// directory stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spared: Option<Vec<String>>,
}

/// The current state of a directory.
#[derive(Debug)]
pub struct Observed {
    entry: Option<Entry>,
    /// Desired mode and owner.
    attributes: Resolved,
    /// Names that were not in it before the role was applied; empty if `spared` is not set.
    other_entries: Vec<String>,
}

#[async_trait]
impl Resource for DirectorySpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        let attributes = if cx.absent {
            Ok(self.attributes)
        } else {
            self.owner.resolve(cx.host, self.attributes).await?
        };
        Ok(Observed {
            entry: cx.host.entry(&self.path).await?,
            attributes,
            other_entries: match &self.spared {
                Some(spared) => other_entries(cx.host, &self.path, spared).await?,
                None => Vec::new(),
            },
        })
    }

    fn diff(&self, observed: &Observed, absent: bool) -> Option<Change> {
        match (&observed.entry, absent) {
            (None, true) => None,
            (Some(_), true) if self.spared.is_some() && observed.other_entries.is_empty() => None,
            (Some(_), true) => Some(Change::new(Action::Remove)),
            (None, false) => {
                let change = Change::new(Action::Create);
                let attributes = &observed.attributes;
                Some(self.owner.of_new(change, self.attributes, attributes))
            }
            (Some(entry), false) => {
                let mut differences = Differences::default();
                if entry.kind != EntryKind::Directory {
                    differences.note("kind", "not a directory", "directory");
                }
                self.owner.compare(
                    &mut differences,
                    entry.attributes,
                    self.attributes,
                    &observed.attributes,
                );
                differences.into_change(Action::Change)
            }
        }
    }

    async fn converge(
        &self,
        observed: &Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if let (true, Some(spared)) = (cx.absent, &self.spared) {
            return clear(cx.host, &self.path, spared).await;
        }
        if cx.absent {
            cx.host.unmount_below(&self.path).await?;
            cx.host.remove_tree(&self.path).await?;
            return Ok(());
        }
        let attributes = known(&self.path, &observed.attributes)?;
        match &observed.entry {
            None => {
                create_parents(cx.host, &self.path, receipt).await?;
                let path = self.path.clone();
                receipt
                    .push(if self.exclusive {
                        Undo::RemoveTree { path }
                    } else {
                        Undo::RemoveDirectory { path }
                    })
                    .await?;
                cx.host.create_directory(&self.path, attributes).await?;
            }
            Some(entry) if entry.kind == EntryKind::Directory => {
                let undo = Undo::restore_attributes(&self.path, entry);
                receipt.push(undo).await?;
                cx.host.set_attributes(&self.path, attributes).await?;
            }
            Some(entry) => {
                return Err(ResourceError::in_the_way(
                    &self.path,
                    "a directory",
                    &entry.kind,
                ));
            }
        }
        Ok(())
    }
}
