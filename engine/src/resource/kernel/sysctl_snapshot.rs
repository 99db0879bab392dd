//! A kernel setting that another program changes, and that a clean restores.
//!
//! Its value is recorded when the steps of its lane are written to the ledger, before the phase's first effect.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::model::SysctlKey;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// A setting under `/proc/sys` that another program changes because of the role, for example kube-proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SysctlSnapshotSpec {
    /// Its key, for example `net.netfilter.nf_conntrack_max`.
    pub key: SysctlKey,
    /// Its value before the role was applied; `None` until it is recorded, and if the kernel had no such setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

impl SysctlSnapshotSpec {
    /// The same, with the current value recorded as the value before.
    pub(crate) async fn noted(&self, host: &dyn Host) -> ResourceResult<Self> {
        Ok(Self {
            key: self.key.clone(),
            before: host.sysctl(self.key.as_str()).await?,
        })
    }
}

#[async_trait]
impl Resource for SysctlSnapshotSpec {
    type Observed = Option<String>;

    fn label(&self) -> String {
        self.key.to_string()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Option<String>> {
        Ok(cx.host.sysctl(self.key.as_str()).await?)
    }

    fn diff(&self, observed: &Option<String>, _absent: bool) -> Option<Change> {
        let (before, now) = (self.before.as_ref()?, observed.as_ref()?);
        (before != now).then(|| Change::new(Action::Change).with("value", now, before))
    }

    async fn converge(
        &self,
        _observed: &Option<String>,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let before = self.before.as_ref().ok_or_else(|| ResourceError::Missing {
            what: format!("restore {}: its previous value was not recorded", self.key),
        })?;
        cx.host.set_sysctl(self.key.as_str(), before).await?;
        Ok(())
    }
}
