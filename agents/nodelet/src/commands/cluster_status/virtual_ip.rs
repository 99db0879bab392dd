//! Who holds the virtual IP.
//!
//! Whether this host holds it is read from its links. Another holder is found by its certificate: each API server has its own, so the one
//! that answers over the virtual IP shows the same certificate as over its own address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, anyhow};
use engine::host::{Host, HttpsRequest, HttpsResponse};
use futures::future::join_all;

use super::observed::{LATER, NodeRole, NodeRow, Part, Target, VirtualIpState, within};

/// Most masters that are compared.
const MASTERS: usize = 9;
/// Bound on one answer.
const ANSWER: Duration = Duration::from_secs(2);

/// The state of the virtual IP; `None` if the cluster has none. `own` are this host's addresses.
pub(super) async fn state(
    host: &dyn Host,
    target: &Target,
    own: &Part<Vec<IpAddr>>,
    nodes: &Part<Vec<NodeRow>>,
) -> Option<VirtualIpState> {
    let address = target.virtual_ip?;
    let here = own.clone().map(|own| own.contains(&address));
    let rows = nodes.known().map_or(&[][..], Vec::as_slice);
    let others = rows
        .iter()
        .filter(|row| row.role == NodeRole::Master && !row.this_host);
    let others = others
        .take(MASTERS)
        .filter_map(|row| Some((row, *row.addresses.first()?)));
    let others: Vec<(&NodeRow, IpAddr)> = others.collect();
    let ask = |at: IpAddr| within(LATER, answer(host, target, at));
    let asked = others.iter().map(|(_, at)| ask(*at));
    let (over, others_answers) = tokio::join!(ask(address), join_all(asked));
    let shown = |answer: &Part<HttpsResponse>| answer.known()?.certificate.clone();
    let holder = if here.known() == Some(&true) {
        let own = rows.iter().find(|row| row.this_host);
        Part::Known(own.map_or_else(|| "this host".to_owned(), |row| row.name.clone()))
    } else if let Some(certificate) = shown(&over) {
        let mut pairs = others.iter().zip(&others_answers);
        let same = pairs.find(|(_, answer)| shown(answer).as_ref() == Some(&certificate));
        match same {
            Some(((row, _), _)) => Part::Known(row.name.clone()),
            None => Part::unknown(
                "no other master is known to show the certificate that is shown there",
            ),
        }
    } else {
        Part::unknown("no certificate is shown there")
    };
    Some(VirtualIpState {
        address,
        here,
        holder,
        api: over.map(|response| response.status),
    })
}

async fn answer(host: &dyn Host, target: &Target, at: IpAddr) -> Result<HttpsResponse> {
    let request = HttpsRequest {
        url: format!("https://{}/readyz", SocketAddr::new(at, target.port)),
        ca: Some(target.ca.clone()),
        client: None,
        timeout: ANSWER,
    };
    host.https_get(&request)
        .await
        .map_err(|error| anyhow!(error))
}
