//! The certificates of this host, from its files, and those that servers of other nodes show: kubelets, API servers and members of etcd.

pub(super) mod requests;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use engine::host::{Host, HttpsRequest};
use engine::kubernetes::etcd_members::client_url;
use engine::kubernetes::served_certificate::Validity;
use engine::resource::pki::{Kind, inventory};
use futures::StreamExt as _;
use futures::stream;

use super::observed::{
    Certificates, LATER, NodeCertificate, NodeRow, Server, Target, shown, utc, within,
};

/// The port of kubelet.
const KUBELET: u16 = 10_250;
/// Most nodes whose kubelets are asked.
const NODES: usize = 100;
/// Most masters whose API servers and members of etcd are asked.
const MASTERS: usize = 9;
/// Connections at a time: all are made in two rounds.
const AT_A_TIME: usize = (NODES + 2 * MASTERS).div_ceil(2);
/// Most files that are named.
const NAMED: usize = 20;
/// Bound on an answer: two rounds of [`AT_A_TIME`] take as long as the other questions.
const ANSWER: Duration = Duration::from_millis(1500);

/// The certificates of this host. Copies of authorities are left out: they end with their authority.
pub(super) async fn here(host: &dyn Host) -> Result<Certificates> {
    let now = host.now();
    let found = inventory(host).await?;
    let listed = found
        .certificates
        .iter()
        .filter(|one| one.kind != Kind::Trust);
    let listed: Vec<_> = listed.map(|one| &one.certificate).collect();
    let first = listed.iter().min_by_key(|facts| facts.not_after);
    let ending = listed.iter().filter_map(|facts| facts.near_its_end(now));
    let unreadable = found.unreadable.iter().take(NAMED);
    let unreadable = unreadable.map(|(path, why)| shown(&format!("{}: {why}", path.display())));
    Ok(Certificates {
        number: listed.len(),
        first: first.map(|facts| (facts.path.display().to_string(), utc(facts.not_after))),
        ending: ending.take(NAMED).collect(),
        unreadable: unreadable.collect(),
        cut_short: found.cut_short,
    })
}

/// What a server of another node is asked.
struct Question<'a> {
    node: &'a str,
    server: Server,
    /// None if the node has no address.
    request: Option<HttpsRequest>,
}

/// The certificates that the kubelets of other nodes that are Ready show, and the API servers and members of etcd of all other masters.
pub(super) async fn of_nodes(
    host: &dyn Host,
    target: &Target,
    rows: &[NodeRow],
) -> Vec<NodeCertificate> {
    let now = host.now();
    let asked = questions(target, rows).into_iter().map(|one| async move {
        let validity = within(LATER, validity(host, one.request)).await;
        NodeCertificate {
            node: one.node.to_owned(),
            server: one.server,
            ends_soon: validity.known().is_some_and(|its| its.is_near_its_end(now)),
            ends: validity.map(|its| utc(its.ends)),
        }
    });
    stream::iter(asked).buffered(AT_A_TIME).collect().await
}

/// The questions, in the order of the nodes. Each limit on nodes leaves out the last ones.
fn questions<'a>(target: &Target, rows: &'a [NodeRow]) -> Vec<Question<'a>> {
    let (mut kubelets, mut masters) = (0, 0);
    let mut all = Vec::new();
    for row in rows.iter().filter(|row| !row.this_host) {
        let question = |server: Server| Question {
            node: &row.name,
            server,
            request: row.addresses.first().map(|at| request(target, server, *at)),
        };
        if row.ready == Some(true) && kubelets < NODES {
            kubelets += 1;
            all.push(question(Server::Kubelet));
        }
        if row.is_other_master() && masters < MASTERS {
            masters += 1;
            all.push(question(Server::KubeApiserver));
            all.push(question(Server::Etcd));
        }
    }
    all
}

/// Any answer will do. These paths ask nothing of other programs, so they are answered also while etcd has no quorum.
fn request(target: &Target, server: Server, address: IpAddr) -> HttpsRequest {
    let at = |port, path: &str| format!("https://{}{path}", SocketAddr::new(address, port));
    let (url, ca, client) = match server {
        Server::Kubelet => (at(KUBELET, "/healthz"), &target.ca, None),
        Server::KubeApiserver => (at(target.port, "/version"), &target.ca, None),
        // It ends the connection of a client without a certificate, and its own one is not known then.
        Server::Etcd => {
            let files = &target.etcd;
            let client = (files.certificate.clone(), files.key.clone());
            let url = format!("{}/version", client_url(address));
            (url, &files.trust, Some(client))
        }
    };
    HttpsRequest {
        url,
        ca: Some(ca.clone()),
        client,
        timeout: ANSWER,
    }
}

async fn validity(host: &dyn Host, request: Option<HttpsRequest>) -> Result<Validity> {
    let request = request.context("find its address")?;
    let shown = host.https_get(&request).await?.certificate;
    let validity = shown.as_deref().and_then(Validity::of);
    validity.with_context(|| format!("find a certificate in the answer of {}", request.url))
}

/// How many certificates of this kind of server are known, and when the first ends.
pub(super) fn known(all: &[NodeCertificate], server: Server) -> (usize, Option<&str>) {
    let ends = || shown_by(all, server).filter_map(|one| one.ends.known());
    (ends().count(), ends().min().map(String::as_str))
}

/// The first node whose certificate of this kind of server is not known, with the reason, and the number of such nodes.
pub(super) fn not_known(all: &[NodeCertificate], server: Server) -> Option<(&str, &str, usize)> {
    let without = || {
        let all = shown_by(all, server);
        all.filter_map(|one| Some((one.node.as_str(), one.ends.reason()?)))
    };
    let (node, why) = without().next()?;
    Some((node, why, without().count()))
}

/// The certificates of this kind of server.
pub(super) fn shown_by(
    all: &[NodeCertificate],
    server: Server,
) -> impl Iterator<Item = &NodeCertificate> {
    all.iter().filter(move |one| one.server == server)
}
