//! Allocators that compete, on a fake API server with real conflicts, in interleavings that a random scheduler chooses.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::host::fake::FakeHost;
use crate::host::{ClusterNode, HostResult};

const NODES: usize = 50;
const ALLOCATORS: usize = 3;

fn pool(network: &str, prefix: u8) -> SubnetPool {
    SubnetPool {
        network: network.parse().expect("a network"),
        prefix,
    }
}

fn subnet(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

fn access() -> ClusterAccess {
    ClusterAccess {
        kubeconfig: "/etc/kubeconfig".into(),
    }
}

fn cluster() -> FakeHost {
    FakeHost::new()
        .with_file("/etc/kubeconfig", "")
        .with_kubernetes(|rules| rules.remote_api = true)
}

fn register(host: &FakeHost, name: &str, subnet: Option<&str>) {
    let node = ClusterNode {
        pod_cidr: subnet.map(str::to_owned),
        ..ClusterNode::default()
    };
    host.with_world_mut(|world| world.node(name, node));
}

/// The nodes and claims as they are now.
fn now(host: &FakeHost) -> (Vec<SubnetNode>, Vec<SubnetClaim>) {
    futures::executor::block_on(async {
        let nodes = host.subnet_nodes(&access()).await;
        let claims = host.subnet_claims(&access()).await;
        (nodes.expect("nodes"), claims.expect("claims"))
    })
}

/// Gives way to other allocators before and after each call.
struct Slow<'a>(&'a FakeHost);

async fn give_way() {
    let mut waited = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut waited, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

macro_rules! slowly {
    ($self:ident, $call:ident($($argument:expr),*)) => {{
        give_way().await;
        let result = $self.0.$call($($argument),*).await;
        give_way().await;
        result
    }};
}

#[async_trait]
impl PodSubnets for Slow<'_> {
    async fn subnet_nodes(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetNode>> {
        slowly!(self, subnet_nodes(access))
    }
    async fn subnet_claims(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetClaim>> {
        slowly!(self, subnet_claims(access))
    }
    async fn claim_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool> {
        slowly!(self, claim_subnet(access, claim))
    }
    async fn release_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<()> {
        slowly!(self, release_subnet(access, claim))
    }
    async fn assign_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool> {
        slowly!(self, assign_subnet(access, claim))
    }
}

/// No two nodes overlap, and no node's subnet ever changes. `known` is what was seen before, by uid.
fn holds(host: &FakeHost, known: &mut BTreeMap<String, IpNet>) {
    let (nodes, _) = now(host);
    let mut all: Vec<(&str, IpNet)> = Vec::new();
    for node in &nodes {
        for subnet in &node.subnets {
            for (other, taken) in &all {
                assert!(
                    !overlap(subnet, taken),
                    "{other} and {} have {taken} and {subnet}",
                    node.name
                );
            }
            all.push((&node.name, *subnet));
            let before = *known.entry(node.uid.clone()).or_insert(*subnet);
            assert_eq!(before, *subnet, "of {}", node.name);
        }
    }
}

type Running<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

fn allocator(host: &FakeHost, pool: SubnetPool) -> Running<'_> {
    Box::pin(async move {
        let api = Slow(host);
        let access = access();
        let all = allocate_all(&api, &access, pool).await.expect("it answers");
        for (node, result) in all {
            match result {
                // The node was removed, or registered again, in the meantime.
                Ok(_) | Err(PodSubnetError::NoNode { .. } | PodSubnetError::Contended { .. }) => {}
                Err(error) => panic!("{node}: {error}"),
            }
        }
    })
}

/// Fifty nodes register, some with a subnet that has no claim. Some are removed and register again, the garbage collector runs at random
/// times, and allocators are interrupted.
fn compete(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let host = cluster();
    let pool = pool("10.20.0.0/16", 24);
    let name = |n: usize| format!("node-{n:02}");
    for n in 0..5 {
        register(&host, &name(n), Some(&format!("10.20.{}.0/24", 2 * n)));
    }
    let mut registered = 5;
    let mut known = BTreeMap::new();
    let mut running: Vec<Running<'_>> = Vec::new();
    running.extend((0..ALLOCATORS).map(|_| allocator(&host, pool)));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..3000 {
        match random.random_range(0..100) {
            0..5 if registered < NODES => {
                register(&host, &name(registered), None);
                registered += 1;
            }
            5 => {
                // Another node registers under the same name at once, or none does.
                let name = name(random.random_range(0..registered));
                host.with_world_mut(|world| world.remove_node(&name));
                if random.random_bool(0.8) {
                    register(&host, &name, None);
                }
            }
            6 => host.with_world_mut(crate::host::fake::World::collect_subnet_claims),
            7 => {
                let at = random.random_range(0..ALLOCATORS);
                running[at] = allocator(&host, pool);
            }
            _ => {
                let at = random.random_range(0..ALLOCATORS);
                if running[at].as_mut().poll(&mut context).is_ready() {
                    running[at] = allocator(&host, pool);
                }
            }
        }
        // Nodes may have been added or removed without the journal; neither gives a node a subnet.
        if host.mutations() > 0 {
            host.clear_journal();
            holds(&host, &mut known);
        }
    }
    // In the end all get one.
    drop(running);
    for n in 0..NODES {
        let (nodes, _) = now(&host);
        if !nodes.iter().any(|node| node.name == name(n)) {
            register(&host, &name(n), None);
        }
    }
    let all = futures::executor::block_on(allocate_all(&host, &access(), pool));
    for (node, result) in all.expect("it answers") {
        result.unwrap_or_else(|error| panic!("{node}: {error}"));
    }
    holds(&host, &mut known);
    let (nodes, claims) = now(&host);
    assert_eq!(nodes.len(), NODES);
    for node in nodes {
        let subnet = node.subnets.first().expect("it has one");
        let claim = claims.iter().find(|claim| claim.subnet == *subnet);
        assert!(claim.is_some(), "{subnet} of {} is claimed", node.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn competing_allocators_never_give_two_nodes_one_subnet(seed: u64) {
        compete(seed);
    }
}

#[tokio::test]
async fn subnets_that_nodes_have_are_claimed_first() {
    let host = cluster();
    register(&host, "a", Some("10.20.0.0/24"));
    register(&host, "b", Some("10.20.1.128/25"));
    register(&host, "c", None);
    register(&host, "elsewhere", Some("10.99.0.0/24"));
    host.clear_journal();
    let pool = pool("10.20.0.0/16", 24);
    let given = allocate(&host, &access(), "c", pool).await.expect("one");
    assert_eq!(given, subnet("10.20.2.0/24"));
    let calls = host.mutating_calls();
    let calls: Vec<String> = calls
        .iter()
        .map(|call| format!("{} {}", call.name, call.argument))
        .collect();
    assert_eq!(
        calls,
        [
            "claim_subnet 10.20.0.0/24",
            "claim_subnet 10.20.2.0/24",
            "assign_subnet c",
        ]
    );
    // The second time there is nothing to do.
    host.clear_journal();
    let again = allocate(&host, &access(), "c", pool).await.expect("one");
    assert_eq!((again, host.mutations()), (given, 0));
}

#[tokio::test]
async fn the_subnet_of_a_node_that_is_gone_is_free_once_its_claim_is_deleted() {
    let host = cluster();
    let pool = pool("10.20.0.0/23", 24);
    for name in ["a", "b"] {
        register(&host, name, None);
        allocate(&host, &access(), name, pool).await.expect("one");
    }
    host.with_world_mut(|world| world.remove_node("a"));
    register(&host, "c", None);
    let error = allocate(&host, &access(), "c", pool)
        .await
        .expect_err("none is free");
    assert_eq!(
        error.to_string(),
        "find a free pod subnet for node c: all subnets of length /24 in 10.20.0.0/23 are taken, by 1 nodes and 2 claims"
    );
    assert!(matches!(error, PodSubnetError::Exhausted { .. }));
    host.with_world_mut(crate::host::fake::World::collect_subnet_claims);
    let given = allocate(&host, &access(), "c", pool).await.expect("one");
    assert_eq!(given, subnet("10.20.0.0/24"));
}

/// A kubelet may register its node with any subnet.
#[tokio::test]
async fn a_node_with_the_whole_pool_takes_no_subnet_from_other_nodes() {
    for (odd, first) in [
        ("10.20.0.0/16", "10.20.0.0/24"),
        ("0.0.0.0/1", "10.20.0.0/24"),
        // While there is room, its subnet is left free.
        ("10.20.0.0/17", "10.20.128.0/24"),
    ] {
        let host = cluster();
        let pool = pool("10.20.0.0/16", 24);
        register(&host, "odd", Some(odd));
        register(&host, "a", None);
        register(&host, "b", None);
        let given = allocate(&host, &access(), "a", pool).await.expect("one");
        assert_eq!(given, subnet(first), "{odd}");
        allocate(&host, &access(), "b", pool).await.expect("one");
        let (_, claims) = now(&host);
        let owners: Vec<&str> = claims.iter().map(|claim| claim.node.as_str()).collect();
        assert_eq!(owners, ["a", "b"], "{odd}");
    }
}

/// An earlier release has claimed it.
#[tokio::test]
async fn a_claim_of_the_whole_pool_is_named_with_its_node() {
    let host = cluster();
    register(&host, "odd", Some("10.20.0.0/16"));
    register(&host, "a", None);
    let uid = now(&host).0.remove(1).uid;
    let claim = SubnetClaim {
        subnet: subnet("10.20.0.0/16"),
        node: "odd".to_owned(),
        uid,
    };
    host.claim_subnet(&access(), &claim)
        .await
        .expect("it answers");
    let error = allocate(&host, &access(), "a", pool("10.20.0.0/16", 24)).await;
    let error = error.expect_err("none is free").to_string();
    assert!(
        error.ends_with("; of another length are 10.20.0.0/16 of node odd"),
        "{error}"
    );
}

/// A search through all subnets before the free one would not end.
#[test]
fn a_large_pool_is_searched_in_a_moment() {
    let node = |text: &str| SubnetNode {
        name: text.to_owned(),
        uid: text.to_owned(),
        subnets: vec![subnet(text)],
        addresses: Vec::new(),
        created: None,
    };
    let nodes = ["fd00:20::/33", "fd00:20:8000::/64"].map(node);
    let free = next_free(&nodes, &[], pool("fd00:20::/32", 64));
    assert_eq!(free, Some(subnet("fd00:20:8000:1::/64")));
}

#[tokio::test]
async fn a_claim_of_an_interrupted_attempt_is_used() {
    let host = cluster();
    let pool = pool("10.20.0.0/16", 24);
    register(&host, "a", None);
    let uid = now(&host).0.remove(0).uid;
    let claim = SubnetClaim {
        subnet: subnet("10.20.7.0/24"),
        node: "a".to_owned(),
        uid,
    };
    assert!(
        host.claim_subnet(&access(), &claim)
            .await
            .expect("it answers")
    );
    let given = allocate(&host, &access(), "a", pool).await.expect("one");
    assert_eq!(given, claim.subnet);
    assert_eq!(now(&host).1, [claim]);
}

#[tokio::test]
async fn a_node_that_is_not_registered_is_named() {
    let error = allocate(&cluster(), &access(), "a", pool("10.20.0.0/16", 24)).await;
    assert_eq!(error.expect_err("there is none").to_string(), "find node a");
}
