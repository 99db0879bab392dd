//! Virtual services of IPVS that something else makes.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};
use crate::host::{Host, VirtualService};

/// The kernel's virtual services. They can only be made absent, and those that stood before us stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpvsServicesSpec {
    /// Those that stood before us.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spared: Vec<VirtualService>,
}

impl IpvsServicesSpec {
    /// The same, with the services that stand now as those that stood before us.
    pub(crate) async fn sparing(host: &dyn Host) -> ResourceResult<Self> {
        Ok(Self {
            spared: host.virtual_services().await?,
        })
    }
}

#[async_trait]
impl Resource for IpvsServicesSpec {
    /// Those that did not stand before us, and whether they should be absent.
    type Observed = (Vec<VirtualService>, bool);

    fn label(&self) -> String {
        "all".to_owned()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        let mut services = cx.host.virtual_services().await?;
        services.retain(|service| !self.spared.contains(service));
        Ok((services, cx.absent))
    }

    fn diff(&self, (services, absent): &Self::Observed) -> Option<Change> {
        (*absent && !services.is_empty())
            .then(|| Change::new(Action::Remove).with("services", services.len(), 0))
    }

    async fn converge(
        &self,
        (services, absent): &Self::Observed,
        _change: &Change,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if !absent {
            return Err(ResourceError::NotConverged {
                what: "make virtual services: they can only be made absent".to_owned(),
            });
        }
        for service in services {
            cx.host.remove_virtual_service(service).await?;
        }
        Ok(())
    }
}
