//! The nodes as rows, and the difference between versions. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use engine::host::{ClusterNode, Link, SubnetNode};
use engine::kubernetes::MASTER_LABEL;
use engine::kubernetes::admission::JOINED;
use engine::kubernetes::etcd_backup::published_by;
use engine::kubernetes::masters::settings::published;
use engine::kubernetes::wanted_routes;
use engine::kubernetes::workers::{LEFT, WORKER_LABEL};
use ipnet::IpNet;

use super::observed::{NodeRole, NodeRow, shown};

/// kubelet may be so many minor versions older than the API server.
/// Source: <https://v1-20.docs.kubernetes.io/docs/setup/release/version-skew-policy/#kubelet>.
const MINORS: u64 = 2;

/// The nodes, masters first. `own` are the addresses of this host.
pub(super) fn rows(
    nodes: BTreeMap<String, ClusterNode>,
    own: &[IpAddr],
    now: SystemTime,
) -> Vec<NodeRow> {
    let own = own_node(&nodes, own).map(str::to_owned);
    let mut rows: Vec<NodeRow> = nodes
        .into_iter()
        .map(|(name, node)| row(&name, own.as_ref() == Some(&name), node, now))
        .collect();
    rows.sort_by(|one, other| (one.role, &one.name).cmp(&(other.role, &other.name)));
    rows
}

/// Why pods of other nodes cannot be reached from this host: subnets that overlap, and addresses that are not on its networks. Each with what to do.
pub(super) fn without_routes(
    nodes: &BTreeMap<String, ClusterNode>,
    pods: IpNet,
    links: &[Link],
) -> Vec<String> {
    let addresses = links.iter().flat_map(|link| &link.addresses);
    let addresses: Vec<IpAddr> = addresses.map(|(address, _)| *address).collect();
    let own = own_node(nodes, &addresses).unwrap_or_default();
    let subnets = |node: &ClusterNode| node.pod_cidr.as_ref()?.parse().ok();
    let nodes: Vec<SubnetNode> = nodes
        .iter()
        .map(|(name, node)| SubnetNode {
            name: name.clone(),
            uid: node.uid.clone(),
            subnets: subnets(node).into_iter().collect(),
            addresses: node.addresses.clone(),
            created: node.created,
        })
        .collect();
    wanted_routes(own, pods, &nodes, links).problems
}

/// The name of this host's node; `None` if it has none. This host is a master. A worker may report any address as its own, and cannot change
/// these labels.
fn own_node<'n>(nodes: &'n BTreeMap<String, ClusterNode>, own: &[IpAddr]) -> Option<&'n str> {
    let is_here = |node: &ClusterNode| node.addresses.iter().any(|its| own.contains(its));
    let has = |node: &ClusterNode, label: &str| node.labels.contains_key(label);
    let here = nodes.iter().filter(|(_, node)| is_here(node));
    let here = here.filter(|(_, node)| has(node, MASTER_LABEL) || !has(node, WORKER_LABEL));
    let first = here.min_by_key(|(_, node)| !has(node, MASTER_LABEL));
    first.map(|(name, _)| name.as_str())
}

fn row(name: &str, this_host: bool, node: ClusterNode, now: SystemTime) -> NodeRow {
    let has = |label| node.labels.contains_key(label);
    let role = match (has(MASTER_LABEL), has(WORKER_LABEL)) {
        (true, _) => NodeRole::Master,
        (false, true) => NodeRole::Worker,
        (false, false) => NodeRole::None,
    };
    let age = |since| now.duration_since(since).unwrap_or_default();
    let backup_taken = published_by(&node);
    let shared_settings = published(&node).into_iter();
    let shared_settings = shared_settings
        .map(|(name, value)| (shown(&name), shown(&value)))
        .collect();
    NodeRow {
        name: name.to_owned(),
        role,
        ready: node.ready,
        reason: match node.ready {
            Some(true) => String::new(),
            Some(false) | None => shown(&node.ready_message),
        },
        pressures: node.pressures.iter().map(|one| shown(one)).collect(),
        version: shown(&node.kubelet_version),
        pod_subnet: node.pod_cidr,
        report_age: node.reported.map(age).map(|age| age.as_secs()),
        age: node.created.map(age),
        cordoned: node.unschedulable,
        left: node.annotations.get(LEFT).map(|mark| shown(mark)),
        backup_taken,
        shared_settings,
        joined: node.annotations.contains_key(JOINED),
        this_host,
        addresses: node.addresses,
        taints: node.taints,
    }
}

/// How a kubelet's version goes with that of the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skew {
    Fits,
    /// kubelet is newer.
    Newer,
    /// kubelet is more than two minor versions older.
    TooOld,
    /// A version is not understood.
    Unknown,
}

/// Compares the versions, for example `v1.20.2` and `v1.18.0`.
pub(super) fn skew(kubelet: &str, api: &str) -> Skew {
    let (Some(kubelet), Some(api)) = (minor(kubelet), minor(api)) else {
        return Skew::Unknown;
    };
    if kubelet > api {
        Skew::Newer
    } else if kubelet.0 == api.0 && api.1 - kubelet.1 <= MINORS {
        Skew::Fits
    } else {
        Skew::TooOld
    }
}

/// The major and the minor version.
fn minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.strip_prefix('v')?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
