//! A symbolic link.

use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::file::remember;
use crate::host::{Entry, EntryKind};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult, create_parents};

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SymlinkSpec {
    /// Its path.
    pub path: PathBuf,
    /// What it points to.
    pub target: String,
}

/// The current entry at the path.
#[derive(Debug)]
pub struct Observed {
    entry: Option<Entry>,
    absent: bool,
}

#[async_trait]
impl Resource for SymlinkSpec {
    type Observed = Observed;

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Observed> {
        Ok(Observed {
            entry: cx.host.entry(&self.path).await?,
            absent: cx.absent,
        })
    }

    fn diff(&self, observed: &Observed) -> Option<Change> {
        let target = |text: &str| format!("→ {text}");
        match (
            observed.entry.as_ref().map(|entry| &entry.kind),
            observed.absent,
        ) {
            (None, true) => None,
            (Some(_), true) => Some(Change::new(Action::Remove)),
            (None, false) => {
                Some(Change::new(Action::Create).with("target", "", target(&self.target)))
            }
            (Some(EntryKind::Symlink(is)), false) if *is == self.target => None,
            (Some(EntryKind::Symlink(is)), false) => {
                Some(Change::new(Action::Change).with("target", target(is), target(&self.target)))
            }
            (Some(_), false) => {
                Some(Change::new(Action::Change).with("kind", "not a link", "link"))
            }
        }
    }

    async fn converge(
        &self,
        observed: &Observed,
        _change: &Change,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        create_parents(cx.host, &self.path, receipt).await?;
        remember(
            cx.host,
            &self.path,
            observed.entry.as_ref(),
            "a link",
            receipt,
        )
        .await?;
        let replaces_other = observed
            .entry
            .as_ref()
            .is_some_and(|e| !matches!(e.kind, EntryKind::Symlink(_)));
        if observed.absent || replaces_other {
            cx.host.remove(&self.path).await?;
        }
        if !observed.absent {
            cx.host.symlink(&self.path, &self.target).await?;
        }
        Ok(())
    }
}
