//! IPVS virtual services that another program creates.

use std::collections::BTreeSet;
use std::net::IpAddr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::{Host, VirtualService};
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult};

/// The virtual services of a program that keeps their addresses on a link of its own, as kube-proxy does. While the link exists,
/// these are the services on all addresses of the host, including the link's, except those that existed before the role was
/// applied. They can only be made absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IpvsServicesSpec {
    /// The link.
    pub link: String,
    /// Services that existed before the role was applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spared: Vec<VirtualService>,
}

impl IpvsServicesSpec {
    /// The same, with the services of now recorded as the ones that existed before the role was applied.
    pub(crate) async fn excluding_current(&self, host: &dyn Host) -> ResourceResult<Self> {
        Ok(Self {
            link: self.link.clone(),
            spared: host.virtual_services().await?,
        })
    }
}

#[async_trait]
impl Resource for IpvsServicesSpec {
    /// The services that did not exist before the role was applied.
    type Observed = Vec<VirtualService>;

    fn label(&self) -> String {
        self.link.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        if cx.host.link(&self.link).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut services = cx.host.virtual_services().await?;
        let held = addresses(cx.host).await?;
        let spared: BTreeSet<&VirtualService> = self.spared.iter().collect();
        services.retain(|one| held.contains(&one.at.ip()) && !spared.contains(one));
        Ok(services)
    }

    fn diff(&self, services: &Self::Observed, absent: bool) -> Option<Change> {
        (absent && !services.is_empty())
            .then(|| Change::new(Action::Remove).with("services", services.len(), 0))
    }

    async fn converge(
        &self,
        services: &Self::Observed,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        for service in services {
            cx.host.remove_virtual_service(service).await?;
        }
        Ok(())
    }
}

/// All addresses of this host, including the link's.
async fn addresses(host: &dyn Host) -> ResourceResult<BTreeSet<IpAddr>> {
    let links = host.links().await?;
    let all = links.iter().flat_map(|link| &link.addresses);
    Ok(all.map(|(address, _)| *address).collect())
}
