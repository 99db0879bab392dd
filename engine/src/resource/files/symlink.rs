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

#[async_trait]
impl Resource for SymlinkSpec {
    /// The current entry at the path.
    type Observed = Option<Entry>;

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        Ok(cx.host.entry(&self.path).await?)
    }

    fn diff(&self, observed: &Self::Observed, absent: bool) -> Option<Change> {
        let target = |text: &str| format!("→ {text}");
        match (observed.as_ref().map(|entry| &entry.kind), absent) {
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
        observed: &Self::Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        create_parents(cx.host, &self.path, receipt).await?;
        remember(cx.host, &self.path, observed.as_ref(), "a link", receipt).await?;
        let replaces_other = observed
            .as_ref()
            .is_some_and(|e| !matches!(e.kind, EntryKind::Symlink(_)));
        if cx.absent || replaces_other {
            cx.host.remove(&self.path).await?;
        }
        if !cx.absent {
            cx.host.symlink(&self.path, &self.target).await?;
        }
        Ok(())
    }
}
