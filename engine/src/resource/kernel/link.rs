//! A network link that another program creates. It is removed when it is no longer wanted, or pods that lost it are restarted.
//!
//! A bridge that is down is set up again. A bridge without its address, or without the route to its network, is useless: pods do not reach the host. The CNI plugin sets both
//! only when it creates the bridge, so such a bridge is removed and created again with the pods.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::{Link, ListedContainer};
use crate::resource::kubernetes::pods;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult};

/// How long a sandbox, which does nothing, may take to stop.
const GRACE: Duration = Duration::from_secs(2);

/// If all sandboxes are younger than this, the CNI plugin of the first one may still be creating the bridge.
const CONNECTED: Duration = Duration::from_secs(5);

/// What a link lacks that is not up.
const DOWN: &str = "a link that is up";

/// A link, for example the bridge of the pods' network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkSpec {
    /// Its name.
    pub name: String,
    /// Running pods with a network of their own are connected to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub carries_pods: bool,
}

/// The current state of a link.
#[derive(Debug)]
pub struct LinkState {
    there: bool,
    /// All that it lacks is to be up.
    is_only_down: bool,
    /// What it lacks to carry pods; empty if it lacks nothing.
    lacks: String,
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
        let mut link = cx.host.link(&self.name).await?;
        let mut stranded = Vec::new();
        if self.carries_pods && !cx.absent && !lacks(link.as_ref()).is_empty() {
            stranded = pods::networked_sandboxes(cx.host).await?;
            if let Some(left) = until_connected(cx, &stranded).await? {
                cx.host.pause(left).await;
                link = cx.host.link(&self.name).await?;
            }
        }
        let lacks = lacks(link.as_ref());
        if lacks.is_empty() {
            stranded.clear();
        }
        Ok(LinkState {
            there: link.is_some(),
            is_only_down: lacks == DOWN,
            lacks: lacks.to_owned(),
            stranded,
        })
    }

    fn diff(&self, observed: &LinkState, absent: bool) -> Option<Change> {
        if absent {
            return observed.there.then(|| Change::new(Action::Remove));
        }
        // Without pods the link is not needed; the CNI plugin of the first pod creates it, and sets it up.
        (!observed.stranded.is_empty()).then(|| {
            if observed.is_only_down {
                return Change::new(Action::Change).with("state", "down", "up");
            }
            let field = format!("pods without {}", observed.lacks);
            Change::new(Action::Restart).with(&field, observed.stranded.len(), 0)
        })
    }

    async fn converge(
        &self,
        observed: &LinkState,
        cx: &Context<'_>,
        _receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        if observed.is_only_down && !cx.absent {
            cx.host.set_link_up(&self.name).await?;
            // Its addresses of IPv6 are gone.
            if lacks(cx.host.link(&self.name).await?.as_ref()).is_empty() {
                return Ok(());
            }
        }
        if observed.there {
            cx.host.remove_link(&self.name).await?;
        }
        let ends = observed
            .stranded
            .iter()
            .map(|sandbox| cx.host.stop_container(&sandbox.name, GRACE));
        futures::future::try_join_all(ends).await?;
        Ok(())
    }
}

/// How long to wait until the first CNI plugin has had [`CONNECTED`] to create the bridge; `None` if one of these sandboxes is older than
/// that, or if there are none.
async fn until_connected(
    cx: &Context<'_>,
    sandboxes: &[ListedContainer],
) -> ResourceResult<Option<Duration>> {
    let now = cx.host.now();
    let mut left = None;
    for listed in sandboxes {
        let Some(sandbox) = cx.host.container(&listed.name).await? else {
            continue;
        };
        let age = |start: SystemTime| now.duration_since(start).unwrap_or_default();
        let Some(its) = CONNECTED.checked_sub(sandbox.started_at.map_or(CONNECTED, age)) else {
            return Ok(None);
        };
        left = Some(left.map_or(its, |left: Duration| left.min(its)));
    }
    Ok(left)
}

/// What a link lacks to carry pods; empty if it lacks nothing.
fn lacks(link: Option<&Link>) -> &'static str {
    let Some(link) = link else {
        return "the link";
    };
    let local = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if link.addresses.iter().all(|(address, _)| local(address)) {
        "its address"
    } else if !link.up {
        DOWN
    } else if link.unrouted.is_empty() {
        ""
    } else {
        "its route"
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::host::fake::{FakeHost, World};
    use crate::host::{Clock as _, ContainerConfig, Containers as _, Network as _};
    use crate::resource::tests::{apply_in, context};

    const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 20, 0, 1));

    /// A host on which one pod with a network of its own has run for a minute.
    async fn with_a_pod() -> FakeHost {
        let host = FakeHost::new();
        host.with_world_mut(|world| {
            world.image("pause:1");
            world.link("cni0", true, &[(GATEWAY, 24)]);
        });
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let sandbox = ContainerConfig {
            labels: BTreeMap::from([
                label("io.kubernetes.pod.name", "a"),
                label("io.kubernetes.pod.uid", "a"),
                label("io.kubernetes.docker.type", "podsandbox"),
            ]),
            ..ContainerConfig::bare("k8s_POD_a", "pause:1")
        };
        host.create_container(&sandbox).await.expect("it is made");
        host.start_container("k8s_POD_a").await.expect("it starts");
        host.with_world_mut(|world| world.advance(Duration::from_secs(60)));
        host
    }

    /// The change that is needed before and after one converge.
    async fn after_repair(host: &FakeHost) -> (Option<String>, Option<String>) {
        let link = LinkSpec {
            name: "cni0".to_owned(),
            carries_pods: true,
        };
        let cx = context(host);
        let field = |change: &Change| change.differences[0].field.clone();
        let change = apply_in(&cx, &link, &mut Receipt::default()).await;
        let change = change.expect("it is done");
        let after = link.observe(&cx).await.expect("it can be told");
        (
            change.as_ref().map(field),
            link.diff(&after, false).as_ref().map(field),
        )
    }

    #[tokio::test]
    async fn pods_without_their_network_are_recreated() {
        type Breaks = fn(&mut World);
        let cases: [(Option<&str>, Breaks); 4] = [
            (None, |_| ()),
            (Some("pods without the link"), |world| {
                world.remove_link("cni0")
            }),
            (Some("pods without its address"), |world| {
                let local = "fe80::1".parse().expect("an address");
                world.link("cni0", true, &[(local, 64)]);
            }),
            (Some("pods without its route"), |world| {
                world.remove_route("cni0", GATEWAY);
            }),
        ];
        for (expected, breaks) in cases {
            let host = with_a_pod().await;
            host.with_world_mut(breaks);
            let (found, left) = after_repair(&host).await;
            assert_eq!((found.as_deref(), left), (expected, None));
            let sandbox = host.container("k8s_POD_a").await.expect("it answers");
            let runs = sandbox.is_some_and(|sandbox| sandbox.running);
            assert_eq!(runs, expected.is_none(), "{expected:?}");
            let bridge = host.link("cni0").await.expect("it answers");
            assert_eq!(bridge.is_some(), expected.is_none(), "{expected:?}");
        }
    }

    #[tokio::test]
    async fn a_link_that_is_down_is_set_up_and_no_pod_ends() {
        let host = with_a_pod().await;
        host.with_world_mut(|world| world.link("cni0", false, &[(GATEWAY, 24)]));
        let (found, left) = after_repair(&host).await;
        assert_eq!((found.as_deref(), left), (Some("state"), None));
        let sandbox = host.container("k8s_POD_a").await.expect("it answers");
        assert!(sandbox.is_some_and(|sandbox| sandbox.running));
        let bridge = host.link("cni0").await.expect("it answers");
        assert!(bridge.is_some_and(|link| link.up));
    }

    #[tokio::test]
    async fn a_pod_without_a_network_yet_is_not_reported() {
        let host = with_a_pod().await;
        host.with_world_mut(|world| world.remove_link("cni0"));
        host.stop_container("k8s_POD_a", GRACE)
            .await
            .expect("it ends");
        host.start_container("k8s_POD_a").await.expect("it starts");
        let began = host.elapsed();
        let found = after_repair(&host).await.0;
        assert_eq!(found.as_deref(), Some("pods without the link"));
        let waited = host.elapsed() - began;
        assert!(waited >= CONNECTED, "{waited:?}");
        // There is no wait for a pod that has run for a while.
        let host = with_a_pod().await;
        host.with_world_mut(|world| world.remove_link("cni0"));
        let began = host.elapsed();
        assert!(after_repair(&host).await.0.is_some());
        let waited = host.elapsed() - began;
        assert!(waited < CONNECTED, "{waited:?}");
    }
}
