//! A network link that something else makes, and that has to go when it is no longer wanted.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// A link, for example the bridge of the pods' network. It can only be made absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkSpec {
    /// Its name.
    pub name: String,
}

#[async_trait]
impl Resource for LinkSpec {
    type Observed = (bool, bool);

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<(bool, bool)> {
        Ok((cx.host.link(&self.name).await?.is_some(), cx.absent))
    }

    fn diff(&self, observed: &(bool, bool)) -> Option<Change> {
        match observed {
            (true, true) => Some(Change::new(Action::Remove)),
            (false, false) => Some(Change::new(Action::Create)),
            _ => None,
        }
    }

    async fn converge(
        &self,
        observed: &(bool, bool),
        _change: &Change,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if !observed.1 {
            return Err(ResourceError::NotConverged {
                what: format!("create link {}: a link can only be made absent", self.name),
            });
        }
        cx.host.remove_link(&self.name).await?;
        Ok(())
    }
}
