//! A network link that something else makes: it has to go when it is no longer wanted, or pods have to be made anew that
//! lost theirs.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Action, Change, Context, Receipt, Resource, ResourceResult, pods};
use crate::host::ListedContainer;

/// How long a sandbox, which does nothing, may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// A link, for example the bridge of the pods' network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkSpec {
    /// Its name.
    pub name: String,
    /// Running pods with a network of their own hang on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub carries_pods: bool,
}

/// How a link stands.
#[derive(Debug)]
pub struct LinkState {
    there: bool,
    /// Whether it is to be absent.
    unwanted: bool,
    /// Sandboxes of pods that have lost it.
    stranded: Vec<ListedContainer>,
}

#[async_trait]
impl Resource for LinkSpec {
    type Observed = LinkState;

    fn label(&self) -> String {
        self.name.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<LinkState> {
        let there = cx.host.link(&self.name).await?.is_some();
        let stranded = if self.carries_pods && !cx.absent && !there {
            pods::networked_sandboxes(cx.host).await?
        } else {
            Vec::new()
        };
        Ok(LinkState {
            there,
            unwanted: cx.absent,
            stranded,
        })
    }

    fn diff(&self, observed: &LinkState) -> Option<Change> {
        if observed.unwanted {
            return observed.there.then(|| Change::new(Action::Remove));
        }
        // Without pods nobody needs it; the first one's plugin makes it.
        (!observed.stranded.is_empty()).then(|| {
            Change::new(Action::Restart).with("pods without it", observed.stranded.len(), 0)
        })
    }

    async fn converge(
        &self,
        observed: &LinkState,
        _change: &Change,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if observed.unwanted {
            cx.host.remove_link(&self.name).await?;
            return Ok(());
        }
        let ends = observed
            .stranded
            .iter()
            .map(|sandbox| cx.host.stop_container(&sandbox.name, GRACE));
        futures::future::try_join_all(ends).await?;
        Ok(())
    }
}
