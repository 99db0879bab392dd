//! Asks everything that the state of the cluster consists of. It changes nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use engine::host::{CertificateRequestList, ClusterAccess, ClusterNode, Host, Link};
use engine::kubernetes::NODE_SIGNER;
use engine::kubernetes::admission::admissions;
use engine::kubernetes::masters;

use super::certificates::requests;
use super::etcd::{AskEtcd, named_by, state};
use super::observed::{ClusterStatus, NodeRow, Part, Target, utc, within};
use super::{backups, certificates, nodes, problems, virtual_ip};
use crate::etcd::MEMBER;

/// Time for the question whether an API server can read.
const API: Duration = Duration::from_secs(2);
/// Time for the first questions. They run at the same time, as the later ones do: members of etcd 3 s (asked of other masters, and then
/// themselves), backups 2 s. So the whole takes at most 16 s.
pub(super) const FIRST: Duration = Duration::from_secs(4);

/// Time for the pages of a list of requests, so that a part of a long list is shown.
const LIST: Duration = Duration::from_secs(2);

/// Asks everything. What does not answer becomes an unknown part. Cancel safe.
pub(super) async fn gather<E: AskEtcd>(
    host: &dyn Host,
    etcd: &E,
    target: &Target,
) -> ClusterStatus {
    let (access, silent_api) = access(host, target).await;
    let now = host.now();
    let (nodes, api_version, links, certificates, admissions, asked_for, members) = tokio::join!(
        within(FIRST, host.nodes(&access)),
        within(FIRST, host.api_version(&access)),
        within(FIRST, host.links()),
        within(FIRST, certificates::here(host)),
        within(FIRST, admissions(host, &access)),
        within(FIRST, host.certificate_requests(&access, NODE_SIGNER, LIST)),
        named_by(etcd, MEMBER),
    );
    let without_routes = match (nodes.known(), links.known()) {
        (Some(nodes), Some(links)) => nodes::without_routes(nodes, target.pods, links),
        _ => Vec::new(),
    };
    let own = links.map(addresses);
    let nodes = nodes.map(|nodes: BTreeMap<String, ClusterNode>| {
        nodes::rows(nodes, own.known().map_or(&[], Vec::as_slice), now)
    });
    let rows = nodes.known().map_or(&[][..], Vec::as_slice);
    let (etcd, virtual_ip, node_certificates) = tokio::join!(
        state(etcd, members, other_masters(host, rows, &own)),
        virtual_ip::state(host, target, &own, &nodes),
        certificates::of_nodes(host, target, rows),
    );
    let uid = etcd
        .known()
        .and_then(|etcd| etcd.cluster.known()?.as_deref());
    let backups = backups::state(host, &target.backups, uid, now).await;
    let master_backups = backups::of_masters(&target.backups, &backups, rows, now);
    let mut status = ClusterStatus {
        at: utc(now),
        api_version,
        silent_api,
        nodes,
        virtual_ip,
        etcd,
        certificates,
        node_certificates,
        admissions,
        requests: asked_for.map(|list: CertificateRequestList| requests::open(&list, now)),
        backups,
        without_routes,
        master_backups,
        problems: Vec::new(),
        unknown: Vec::new(),
    };
    status.problems = problems::problems(&status);
    status.unknown = problems::unknown(&status);
    status
}

/// Access to this host's own API server; if that cannot read, to the one that other hosts reach, and why. If none answers, it is the own one.
async fn access(host: &dyn Host, target: &Target) -> (ClusterAccess, Option<String>) {
    let own = ClusterAccess::with(&target.kubeconfig);
    let Part::Unknown { unknown } = reads(host, &own).await else {
        return (own, None);
    };
    let shared = ClusterAccess::with(&target.shared);
    match reads(host, &shared).await {
        Part::Known(_) => (shared, Some(unknown)),
        Part::Unknown { .. } => (own, None),
    }
}

/// Whether an API server can read. One whose etcd is gone still tells its version.
async fn reads(host: &dyn Host, access: &ClusterAccess) -> Part<bool> {
    let namespace = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": "kube-system" },
    });
    within(API, host.object_exists(access, &namespace)).await
}

fn addresses(links: Vec<Link>) -> Vec<IpAddr> {
    let all = links.into_iter().flat_map(|link| link.addresses);
    all.map(|(address, _)| address).collect()
}

/// The first address of each master that is another host. If the nodes are not known, the list of masters on this host names them.
async fn other_masters(host: &dyn Host, rows: &[NodeRow], own: &Part<Vec<IpAddr>>) -> Vec<IpAddr> {
    if rows.is_empty() {
        let own = own.known().map_or(&[][..], Vec::as_slice);
        let listed = masters::read(host).await.unwrap_or_default();
        let addresses = listed.into_iter().map(|master| master.address);
        return addresses.filter(|its| !own.contains(its)).collect();
    }
    let others = rows.iter().filter(|row| row.is_other_master());
    others
        .filter_map(|row| row.addresses.first().copied())
        .collect()
}
