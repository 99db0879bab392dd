//! The containers that a kubelet started on this host.
//!
//! A stop of kubelet leaves them running, on purpose: an upgrade of kubelet must not touch workloads. When the node is
//! stopped, this resource stops them after kubelet.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::pod_container;
use crate::host::{Host, ListedContainer};
use crate::resource::docker::container_runtime;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult};

/// Label that tells a sandbox (`podsandbox`) from a container (`container`).
pub(in crate::resource) const TYPE_LABEL: &str = "io.kubernetes.docker.type";

/// All containers of pods. They can only be made absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodsSpec {
    /// How long each container may take to stop before it is killed.
    pub grace_seconds: u64,
}

impl PodsSpec {
    /// Top of the control groups in which kubelet puts pods, one for each driver.
    pub(crate) const CONTROL_GROUPS: [&str; 2] = ["kubepods", "kubepods.slice"];
}

#[async_trait]
impl Resource for PodsSpec {
    type Observed = Vec<ListedContainer>;

    fn label(&self) -> String {
        "all".to_owned()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        of_pods(cx.host).await
    }

    fn diff(&self, containers: &Self::Observed, absent: bool) -> Option<Change> {
        (absent && !containers.is_empty())
            .then(|| Change::new(Action::Remove).with("containers", containers.len(), 0))
    }

    async fn converge(
        &self,
        containers: &Self::Observed,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if !cx.absent {
            return Err(ResourceError::NotConverged {
                what: "start pods: kubelet does that".to_owned(),
            });
        }
        // Containers first, then the sandboxes whose network they share.
        let grace = Duration::from_secs(self.grace_seconds);
        for sandboxes in [false, true] {
            let ends = containers
                .iter()
                .filter(|container| is_sandbox(container) == sandboxes)
                .map(|container| end(cx, &container.name, grace));
            futures::future::try_join_all(ends).await?;
        }
        Ok(())
    }
}

/// Containers of pods, running or not; empty if no runtime runs.
async fn of_pods(host: &dyn Host) -> ResourceResult<Vec<ListedContainer>> {
    if !container_runtime::runs(host).await? {
        return Ok(Vec::new());
    }
    // All callers filter by the same label, so that a `View` has to list the containers only once.
    Ok(host.containers(&pod_container::of_pods()).await?)
}

fn is_sandbox(container: &ListedContainer) -> bool {
    container
        .labels
        .get(TYPE_LABEL)
        .is_some_and(|kind| kind == "podsandbox")
}

/// Running sandboxes with a network of their own. kubelet recreates a pod whose sandbox was stopped.
pub(in crate::resource) async fn networked_sandboxes(
    host: &dyn Host,
) -> ResourceResult<Vec<ListedContainer>> {
    let mut sandboxes = of_pods(host).await?;
    sandboxes.retain(|c| is_sandbox(c) && c.running && !c.host_network);
    Ok(sandboxes)
}

async fn end(cx: &Context<'_>, name: &str, grace: Duration) -> ResourceResult<()> {
    cx.host.stop_container(name, grace).await?;
    cx.host.remove_container(name).await?;
    Ok(())
}
