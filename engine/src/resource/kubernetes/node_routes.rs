//! Routes to the pods of the other nodes: one for each of their subnets, over the node's address.
//!
//! Our routes carry a protocol number of their own ([`ROUTE_PROTOCOL`](crate::host::ROUTE_PROTOCOL)); all others belong to other programs
//! and are never touched. While the API server does not answer, the routes stay as they are, and it is not known whether they are right: pods
//! need them most when something is broken.
//! A node with a problem is a warning: it must not take down the routes to the other nodes.
//!
//! Not here: which routes there have to be (`kubernetes::node_routes`), and the kernel's table (`host`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::host::{ClusterAccess, NodeRoute};
use crate::kubernetes::{WantedRoutes, wanted_routes};
use crate::model::chain;
use crate::resource::change::Differences;
use crate::resource::{Action, Change, Context, Receipt, Resource, ResourceResult, Undo};

/// Most problems that a note names.
const NAMED: usize = 5;

/// The routes that this host's node needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRoutesSpec {
    /// This host's node.
    pub node: String,
    /// The pods' network: subnets outside of it get no route.
    pub network: IpNet,
    /// Kubeconfig for the list of nodes.
    pub kubeconfig: PathBuf,
}

/// Our routes and the wanted ones.
#[derive(Debug)]
pub struct NodeRoutesState {
    present: BTreeMap<IpNet, IpAddr>,
    wanted: WantedRoutes,
    /// Why the nodes are not known.
    silent: Option<Silence>,
}

/// Why the nodes are not known.
#[derive(Debug)]
enum Silence {
    /// This kubeconfig is missing, so the API server was not asked.
    NoKubeconfig(PathBuf),
    /// The API server did not answer, for this reason.
    NoAnswer(String),
}

#[async_trait]
impl Resource for NodeRoutesSpec {
    type Observed = NodeRoutesState;

    fn label(&self) -> String {
        self.node.clone()
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        let routes = cx.host.node_routes().await?;
        let present: BTreeMap<IpNet, IpAddr> = routes
            .into_iter()
            .map(|route| (route.subnet, route.via))
            .collect();
        let mut state = NodeRoutesState {
            present,
            wanted: WantedRoutes::default(),
            silent: None,
        };
        if cx.absent {
            return Ok(state);
        }
        let nodes = match cx.host.subnet_nodes(&self.access()).await {
            Ok(nodes) => nodes,
            Err(error) if cx.host.shows_present_routes() => {
                let is_missing = matches!(cx.host.entry(&self.kubeconfig).await, Ok(None));
                state.silent = Some(match is_missing {
                    true => Silence::NoKubeconfig(self.kubeconfig.clone()),
                    false => Silence::NoAnswer(chain(&error).join(": ")),
                });
                return Ok(state);
            }
            Err(error) => return Err(error.into()),
        };
        let links = cx.host.links().await?;
        state.wanted = wanted_routes(&self.node, self.network, &nodes, &links);
        if state.wanted.routes.is_empty() {
            return Ok(state);
        }
        let wanted = state.wanted.routes.keys();
        let missing = wanted.filter(|subnet| !state.present.contains_key(*subnet));
        let missing: Vec<IpNet> = missing.copied().collect();
        let foreign_routes = cx.host.foreign_routes(self.network).await?;
        state
            .wanted
            .problems
            .extend(hidden(&state.wanted.routes, &foreign_routes));
        for subnet in missing {
            if let Some(foreign) = foreign_routes.get(&subnet) {
                state.wanted.routes.remove(&subnet);
                state.wanted.problems.push(format!(
                    "another program has a route for the pod subnet {subnet}: `{foreign}`; remove it, and nodelet makes its own"
                ));
            }
        }
        Ok(state)
    }

    fn diff(&self, observed: &Self::Observed, absent: bool) -> Option<Change> {
        if absent {
            let routes = observed.present.len();
            let removal = || Change::new(Action::Remove).with("routes", routes, 0);
            return (routes > 0).then(removal);
        }
        let mut differences = Differences::default();
        for (subnet, via) in observed.to_set() {
            let before = observed.present.get(&subnet).map(ToString::to_string);
            let field = format!("route to {subnet}");
            differences.note(&field, before.unwrap_or_default(), via);
        }
        for subnet in observed.to_remove() {
            let before = observed.present.get(&subnet).map(ToString::to_string);
            let field = format!("route to {subnet}");
            differences.note(&field, before.unwrap_or_default(), "");
        }
        differences.into_change(Action::Change)
    }

    async fn converge(
        &self,
        observed: &Self::Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        // The routes of an earlier run stay if this one is taken back: its own undo removes them.
        if cx.absent || observed.present.is_empty() {
            receipt.push(Undo::RemoveNodeRoutes).await?;
        }
        if cx.absent {
            return Undo::RemoveNodeRoutes.carry_out(cx.host).await;
        }
        // A subnet may have gone from one node to another, so what is not wanted goes first.
        let subnets = observed.to_remove();
        if !subnets.is_empty() {
            cx.host.remove_node_routes(&subnets).await?;
        }
        let routes = observed.to_set().into_iter();
        let routes: Vec<NodeRoute> = routes
            .map(|(subnet, via)| NodeRoute { subnet, via })
            .collect();
        if !routes.is_empty() {
            cx.host.set_node_routes(&routes).await?;
        }
        Ok(())
    }

    fn is_unknown(&self, observed: &Self::Observed) -> bool {
        observed.silent.is_some()
    }

    fn has_problem(&self, observed: &Self::Observed) -> bool {
        observed.silent.is_none() && !observed.wanted.problems.is_empty()
    }

    fn note(&self, observed: &Self::Observed) -> Option<String> {
        if let Some(silent) = &observed.silent {
            let routes = observed.present.len();
            return Some(match silent {
                Silence::NoKubeconfig(path) => format!(
                    "the kubeconfig {} is missing, so the API server cannot be asked for the nodes, and the {routes} routes to other nodes stay as they are; `nodelet apply` makes it again, or says what it lacks for that",
                    path.display()
                ),
                Silence::NoAnswer(why) => format!(
                    "the API server does not answer, so the {routes} routes to other nodes stay as they are: {why}"
                ),
            });
        }
        let problems = &observed.wanted.problems;
        let mut text = problems.iter().take(NAMED).cloned().collect::<Vec<_>>();
        if problems.len() > NAMED {
            text.push(format!("{} more problems", problems.len() - NAMED));
        }
        (!text.is_empty())
            .then(|| format!("pods of some nodes cannot be reached: {}", text.join("; ")))
    }
}

impl NodeRoutesSpec {
    fn access(&self) -> ClusterAccess {
        ClusterAccess::with(&self.kubeconfig)
    }
}

impl NodeRoutesState {
    /// Routes that are missing or lead elsewhere.
    fn to_set(&self) -> Vec<(IpNet, IpAddr)> {
        let wanted = self.wanted.routes.iter();
        let differs = wanted.filter(|(subnet, via)| self.present.get(*subnet) != Some(*via));
        differs.map(|(subnet, via)| (*subnet, *via)).collect()
    }

    /// Our routes to subnets that no node has any more. None as long as the API server does not answer.
    fn to_remove(&self) -> Vec<IpNet> {
        if self.silent.is_some() {
            return Vec::new();
        }
        let WantedRoutes { routes, kept, .. } = &self.wanted;
        let present = self.present.keys();
        let unwanted =
            present.filter(|subnet| !routes.contains_key(*subnet) && !kept.contains(*subnet));
        unwanted.copied().collect()
    }
}

/// What is wrong with the parts of these subnets to which another program has a route: the kernel takes the narrowest one.
fn hidden(
    wanted: &BTreeMap<IpNet, IpAddr>,
    foreign: &BTreeMap<IpNet, String>,
) -> impl Iterator<Item = String> {
    foreign.iter().filter_map(|(narrow, route)| {
        let mut wider = std::iter::successors(narrow.supernet(), IpNet::supernet);
        let subnet = wider.find(|its| wanted.contains_key(its))?;
        Some(format!(
            "another program has a route for a part of the pod subnet {subnet}: `{route}`, so packets for pods there go another way; remove it"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::host::overlay::OverlayHost;
    use crate::resource::tests::{apply_in, context};

    const KUBECONFIG: &str = "/etc/kubeconfig";

    fn spec() -> NodeRoutesSpec {
        NodeRoutesSpec {
            node: "cp-1".to_owned(),
            network: net("10.20.0.0/16"),
            kubeconfig: KUBECONFIG.into(),
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// A host whose cluster has two more nodes.
    fn host() -> FakeHost {
        let host = FakeHost::new()
            .with_file(KUBECONFIG, "")
            .with_kubernetes(|rules| rules.remote_api = true);
        host.with_world_mut(|world| {
            world.link("eth0", true, &[(ip("172.30.0.11"), 24)]);
            world.join_node("cp-1", "10.20.0.0/24", ip("172.30.0.11"));
            world.join_node("w-1", "10.20.1.0/24", ip("172.30.0.12"));
            world.join_node("w-2", "10.20.2.0/24", ip("172.30.0.13"));
        });
        host
    }

    fn routes(host: &FakeHost) -> Vec<String> {
        let routes = host.with_world(|world| world.node_routes());
        routes
            .into_iter()
            .map(|(subnet, via)| format!("{subnet} {via}"))
            .collect()
    }

    /// Applies the routes. Returns what was changed, and the note.
    async fn apply(host: &FakeHost) -> (Vec<String>, String) {
        let (cx, spec) = (context(host), spec());
        let change = apply_in(&cx, &spec, &mut Receipt::default()).await;
        let change = change.expect("it works");
        let differences = change.into_iter().flat_map(|change| change.differences);
        let differences = differences.map(|one| format!("{} -> {}", one.field, one.after));
        let differences = differences.collect();
        let after = spec.observe(&cx).await.expect("it can be told");
        assert_eq!(spec.diff(&after, false), None, "a second apply");
        (differences, spec.note(&after).unwrap_or_default())
    }

    /// The kernel takes the narrowest route, so ours beside it does not help.
    #[tokio::test]
    async fn a_foreign_route_to_a_part_of_a_subnet_is_named() {
        let host = host();
        assert_eq!(apply(&host).await.1, "");
        for (there, is_named) in [
            ("10.20.2.128/25", true),
            ("10.20.2.7/32", true),
            ("10.20.0.0/25", false),
            ("10.20.7.0/25", false),
        ] {
            let host = host.fork();
            host.with_world_mut(|world| world.foreign_route(net(there), "dev eth9"));
            let (changes, note) = apply(&host).await;
            assert_eq!(changes, [""; 0], "{there}");
            assert_eq!(
                note.contains("10.20.2.0/24: `dev eth9`"),
                is_named,
                "{note}"
            );
        }
    }

    /// A worker may list the nodes, but not the claims of subnets.
    #[tokio::test]
    async fn a_dry_run_needs_no_more_than_the_nodes() {
        let lower = host().with_faults(FaultPlan::default().fail("subnet_claims", "all"));
        let overlay = OverlayHost::new(&lower);
        let (cx, spec) = (context(&overlay), spec());
        let observed = spec.observe(&cx).await.expect("the nodes are listed");
        let change = spec.diff(&observed, false).expect("routes are missing");
        assert_eq!(change.differences.len(), 2);
    }

    #[tokio::test]
    async fn routes_come_go_and_move_with_the_nodes() {
        let host = host();
        let both = ["10.20.1.0/24 172.30.0.12", "10.20.2.0/24 172.30.0.13"];
        let (changed, note) = apply(&host).await;
        assert_eq!((changed.len(), note.as_str()), (2, ""));
        assert_eq!(routes(&host), both);
        assert_eq!(apply(&host).await.0, [""; 0]);

        host.with_world_mut(|world| world.delete_node_route(net("10.20.1.0/24")));
        let changed = apply(&host).await.0;
        assert_eq!(changed, ["route to 10.20.1.0/24 -> 172.30.0.12"]);
        assert_eq!(routes(&host), both);

        // The node joins again elsewhere.
        host.with_world_mut(|world| world.join_node("w-2", "10.20.2.0/24", ip("172.30.0.99")));
        apply(&host).await;
        assert_eq!(routes(&host)[1], "10.20.2.0/24 172.30.0.99");

        host.with_world_mut(|world| world.remove_node("w-1"));
        let changed = apply(&host).await.0;
        assert_eq!(changed, ["route to 10.20.1.0/24 -> "]);
        assert_eq!(routes(&host), ["10.20.2.0/24 172.30.0.99"]);
    }

    /// 5,000 nodes are the most that Kubernetes has. All routes are made with one call, and not with one for each.
    #[tokio::test]
    async fn thousands_of_routes_are_made_and_removed_with_one_call_each() {
        let host = FakeHost::new()
            .with_file(KUBECONFIG, "")
            .with_kubernetes(|rules| rules.remote_api = true);
        host.with_world_mut(|world| {
            world.link("eth0", true, &[(ip("172.30.0.11"), 16)]);
            for number in 0..5000_u32 {
                let (high, low) = (number / 250, number % 250);
                let via = ip(&format!("172.30.{}.{low}", high + 1));
                let subnet = format!("10.{}.{low}.0/24", high + 20);
                world.join_node(&format!("w-{number}"), &subnet, via);
            }
        });
        let spec = NodeRoutesSpec {
            network: net("10.0.0.0/8"),
            ..spec()
        };
        let calls = |name: &str| {
            let calls = host.journal();
            calls.iter().filter(|call| call.name == name).count()
        };
        let cx = context(&host);
        let change = apply_in(&cx, &spec, &mut Receipt::default()).await;
        let change = change.expect("it works").expect("a change");
        assert_eq!(change.differences.len(), 5000);
        assert_eq!(routes(&host).len(), 5000);
        assert_eq!(calls("set_node_routes"), 1);
        assert!(calls("foreign_routes") <= 2, "once for each look");
        host.with_world_mut(|world| {
            for number in 0..4000 {
                world.remove_node(&format!("w-{number}"));
            }
        });
        let change = apply_in(&cx, &spec, &mut Receipt::default()).await;
        assert!(change.expect("it works").is_some());
        assert_eq!(routes(&host).len(), 1000);
        assert_eq!(calls("remove_node_routes"), 1);
        assert_eq!(calls("set_node_routes"), 1);
    }

    /// One route that cannot be made costs no other node its route.
    #[tokio::test]
    async fn routes_are_made_although_one_is_refused() {
        let host = host();
        let taken = net("10.20.1.0/24");
        host.with_world_mut(|world| world.foreign_route(taken, "10.20.1.0/24 dev eth0"));
        let both = ["10.20.1.0/24", "10.20.2.0/24"].map(|subnet| NodeRoute {
            subnet: net(subnet),
            via: ip("172.30.0.13"),
        });
        let refused = crate::host::Routes::set_node_routes(&host, &both).await;
        refused.expect_err("another program has a route");
        assert_eq!(routes(&host), ["10.20.2.0/24 172.30.0.13"]);
    }

    #[tokio::test]
    async fn routes_stay_while_the_api_server_does_not_answer() {
        let host = host();
        apply(&host).await;
        let before = host.snapshot();
        let host = host.with_kubernetes(|rules| rules.remote_api = false);
        let (changed, note) = apply(&host).await;
        assert_eq!(changed, [""; 0]);
        assert!(
            note.starts_with("the API server does not answer, so the 2 routes"),
            "{note}"
        );
        assert_eq!(host.snapshot(), before);
        let seen = spec()
            .observe(&context(&host))
            .await
            .expect("it can be told");
        assert!(spec().is_unknown(&seen), "the nodes may have changed");
    }

    /// `/etc/pf9/kube.d` is gone. The API server may well answer.
    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let host = host();
        apply(&host).await;
        host.with_world_mut(|world| world.remove(KUBECONFIG));
        let before = host.snapshot();
        let (changed, note) = apply(&host).await;
        assert_eq!(changed, [""; 0]);
        assert!(
            note.starts_with("the kubeconfig /etc/kubeconfig is missing"),
            "{note}"
        );
        assert!(
            note.contains("`nodelet apply`") && !note.contains("does not answer"),
            "{note}"
        );
        assert_eq!(host.snapshot(), before);
        let seen = spec()
            .observe(&context(&host))
            .await
            .expect("it can be told");
        assert!(spec().is_unknown(&seen));
    }

    #[tokio::test]
    async fn the_route_of_another_program_is_named_and_not_touched() {
        let host = host();
        let theirs = "10.20.1.0/24 via 172.30.0.1 dev eth0 proto bird";
        host.with_world_mut(|world| world.foreign_route(net("10.20.1.0/24"), theirs));
        let (changed, note) = apply(&host).await;
        assert_eq!(changed, ["route to 10.20.2.0/24 -> 172.30.0.13"]);
        assert!(note.contains(theirs), "{note}");
        assert_eq!(routes(&host), ["10.20.2.0/24 172.30.0.13"]);
    }

    /// A kubelet reports its own address. The kernel accepts no route over these two.
    #[tokio::test]
    async fn a_node_that_reports_no_address_of_a_host_costs_no_other_node_its_route() {
        let host = host();
        let (_, note) = apply(&host).await;
        assert_eq!(note, "");
        let before = routes(&host);
        for address in ["172.30.0.255", "172.30.0.0"] {
            host.with_world_mut(|world| world.join_node("evil", "10.20.3.0/24", ip(address)));
            let (changed, note) = apply(&host).await;
            assert_eq!(changed, [""; 0]);
            assert!(
                note.contains("node evil") && note.contains(address),
                "{note}"
            );
            assert_eq!(routes(&host), before);
        }
    }

    #[tokio::test]
    async fn a_change_that_is_taken_back_leaves_the_routes_of_an_earlier_run() {
        let host = host();
        apply(&host).await;
        let before = routes(&host);
        host.with_world_mut(|world| world.join_node("w-3", "10.20.3.0/24", ip("172.30.0.14")));
        let mut receipt = Receipt::default();
        let applied = apply_in(&context(&host), &spec(), &mut receipt).await;
        assert!(applied.expect("it works").is_some());
        assert_eq!(routes(&host).len(), 3);
        assert!(receipt.revert(&host).await.is_empty());
        assert_eq!(routes(&host)[..2], before);
    }

    #[tokio::test]
    async fn a_node_that_takes_a_subnet_of_another_costs_it_no_route() {
        let host = host();
        apply(&host).await;
        let before = routes(&host);
        host.with_world_mut(|world| world.join_node("evil", "10.20.1.0/25", ip("172.30.0.66")));
        let (changed, note) = apply(&host).await;
        assert_eq!(changed, [""; 0]);
        assert!(
            note.contains("node evil") && note.contains("node w-1"),
            "{note}"
        );
        assert_eq!(routes(&host), before);
    }

    #[tokio::test]
    async fn a_clean_removes_our_routes_and_no_others() {
        let host = host();
        let theirs = "10.20.7.0/24 via 172.30.0.1 dev eth0";
        host.with_world_mut(|world| world.foreign_route(net("10.20.7.0/24"), theirs));
        let before = host.snapshot();
        let mut receipt = Receipt::default();
        let applied = apply_in(&context(&host), &spec(), &mut receipt).await;
        assert!(applied.expect("it works").is_some());
        assert_ne!(host.snapshot(), before);
        assert!(receipt.revert(&host).await.is_empty());
        assert_eq!(host.snapshot(), before);
    }

    /// A dry run predicts the routes, and cannot know them while the API server does not answer.
    #[tokio::test]
    async fn a_dry_run_predicts_the_routes_if_the_api_server_answers() {
        use crate::host::overlay::OverlayHost;
        let host = host();
        let before = host.snapshot();
        let overlay = OverlayHost::new(&host);
        let cx = context(&overlay);
        let change = apply_in(&cx, &spec(), &mut Receipt::default()).await;
        assert_eq!(
            change
                .expect("it is known")
                .map(|its| its.differences.len()),
            Some(2)
        );
        let after = spec().observe(&cx).await.expect("it is known");
        assert_eq!(spec().diff(&after, false), None);
        assert_eq!(host.snapshot(), before, "the host itself is not changed");
    }
}
