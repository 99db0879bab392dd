//! A Unix group that a package creates and that stays when the package is removed.

use std::path::Path;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::CommandSpec;
use crate::resource::{Action, Change, Context, READ_LIMIT, Receipt, Resource, ResourceResult};

/// A group. It can only be made absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Its name.
    pub name: String,
}

#[async_trait]
impl Resource for GroupSpec {
    /// Whether it is there.
    type Observed = bool;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<bool> {
        let groups = cx.host.read(Path::new("/etc/group"), READ_LIMIT).await?;
        let groups = String::from_utf8_lossy(&groups.unwrap_or_default()).into_owned();
        let there = groups
            .lines()
            .any(|line| line.split(':').next() == Some(self.name.as_str()));
        Ok(there)
    }

    fn diff(&self, there: &bool, absent: bool) -> Option<Change> {
        (*there && absent).then(|| Change::new(Action::Remove))
    }

    async fn converge(
        &self,
        _there: &bool,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        cx.host
            .run_ok(&CommandSpec::new(["groupdel", "--", self.name.as_str()]))
            .await?;
        Ok(())
    }
}
