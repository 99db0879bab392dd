//! The certificates of this host, from its files, and those that the kubelets of other nodes show.

pub(super) mod requests;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use engine::host::{Host, HttpsRequest};
use engine::kubernetes::served_certificate::Validity;
use engine::resource::pki::{Kind, inventory};
use futures::StreamExt as _;
use futures::stream;

use super::observed::{
    Certificates, LATER, NodeCertificate, NodeRow, Part, Target, shown, utc, within,
};

/// The port of kubelet.
const KUBELET: u16 = 10_250;
/// Most nodes whose certificates are looked at.
pub(super) const NODES: usize = 100;
/// Connections at a time.
const AT_A_TIME: usize = 50;
/// Most files that are named.
const NAMED: usize = 20;
/// Bound on the answer of a kubelet: two rounds of [`AT_A_TIME`] take as long as the other questions.
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

/// The certificates of the kubelets of other nodes that are Ready.
pub(super) async fn of_nodes(
    host: &dyn Host,
    target: &Target,
    rows: &[NodeRow],
) -> Vec<NodeCertificate> {
    let now = host.now();
    let others = rows
        .iter()
        .filter(|row| row.ready == Some(true) && !row.this_host);
    let asked = others.take(NODES).map(|row| async move {
        let validity = within(LATER, validity(host, target, row)).await;
        NodeCertificate {
            node: row.name.clone(),
            ends_soon: validity.known().is_some_and(|its| its.is_near_its_end(now)),
            ends: validity.map(|its| utc(its.ends)),
        }
    });
    stream::iter(asked).buffered(AT_A_TIME).collect().await
}

async fn validity(host: &dyn Host, target: &Target, row: &NodeRow) -> Result<Validity> {
    let address = row.addresses.first().context("find its address")?;
    let request = HttpsRequest {
        url: format!("https://{}/healthz", SocketAddr::new(*address, KUBELET)),
        ca: Some(target.ca.clone()),
        client: None,
        timeout: ANSWER,
    };
    let shown = host.https_get(&request).await?.certificate;
    let validity = shown.as_deref().and_then(Validity::of);
    validity.with_context(|| format!("find a certificate in the answer of {}", request.url))
}

/// How many of the nodes' certificates are known, and when the first ends.
pub(super) fn known(all: &[NodeCertificate]) -> (usize, Option<&str>) {
    let ends = || all.iter().filter_map(|one| one.ends.known());
    (ends().count(), ends().min().map(String::as_str))
}

/// The first node whose certificate is not known, with the reason, and the number of such nodes.
pub(super) fn not_known(all: &[NodeCertificate]) -> Option<(&str, &str, usize)> {
    let without = || {
        let reasons = all
            .iter()
            .map(|one| (one.node.as_str(), Part::reason(&one.ends)));
        reasons.filter_map(|(node, why)| Some((node, why?)))
    };
    let (node, why) = without().next()?;
    Some((node, why, without().count()))
}
