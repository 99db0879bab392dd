//! A kernel setting that something else changes, and that a clean sets back.
//!
//! Its value is noted when the steps of its lane are written down, before the phase's first effect.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};
use crate::host::Host;

/// A setting under `/proc/sys` that others change because of us.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SysctlBeforeSpec {
    /// Its key, for example `net.netfilter.nf_conntrack_max`.
    pub key: String,
    /// Its value before us; `None` until it is noted, and where the kernel had no such setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

impl SysctlBeforeSpec {
    /// The same with its present value as the one before.
    pub(crate) async fn noted(&self, host: &dyn Host) -> ResourceResult<Self> {
        Ok(Self {
            key: self.key.clone(),
            before: host.sysctl(&self.key).await?,
        })
    }
}

#[async_trait]
impl Resource for SysctlBeforeSpec {
    type Observed = Option<String>;

    fn label(&self) -> String {
        self.key.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Option<String>> {
        Ok(cx.host.sysctl(&self.key).await?)
    }

    fn diff(&self, observed: &Option<String>) -> Option<Change> {
        let (before, now) = (self.before.as_ref()?, observed.as_ref()?);
        (before != now).then(|| Change::new(Action::Change).with("value", now, before))
    }

    async fn converge(
        &self,
        _observed: &Option<String>,
        _change: &Change,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let before = self.before.as_ref().ok_or_else(|| ResourceError::Missing {
            what: format!("set {} back: its value before was not noted", self.key),
        })?;
        cx.host.set_sysctl(&self.key, before).await?;
        Ok(())
    }
}
