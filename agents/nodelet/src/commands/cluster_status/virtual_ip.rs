//! Who holds the virtual IP.
//!
//! Whether this host holds it is read from its links. The master that serves the API over it is found by its certificate: each API server has
//! its own, so the one that answers over the virtual IP shows the same certificate as over its own address. All hosts that have the address
//! are found over ARP: also a second one, and one that serves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, anyhow};
use engine::host::{Host, HttpsRequest, HttpsResponse};
use futures::future::join_all;

use super::observed::{
    AddressHolder, LATER, NodeRole, NodeRow, Part, Problem, Target, VirtualIpState, within,
};

/// Most masters that are compared.
const MASTERS: usize = 9;
/// Bound on one answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long hosts may take to answer ARP: they do within milliseconds. They are asked twice at most, within [`LATER`].
const ARP: Duration = Duration::from_secs(1);
/// The name of this host while the nodes are not known.
pub(super) const THIS_HOST: &str = "this host";

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
        .filter(|row| row.is_other_master())
        .take(MASTERS)
        .filter_map(|row| Some((row, *row.addresses.first()?)));
    let others: Vec<(&NodeRow, IpAddr)> = others.collect();
    let ask = |at: IpAddr| within(LATER, answer(host, target, at));
    let asked = others.iter().map(|(_, at)| ask(*at));
    let (over, others_answers, holders) = tokio::join!(
        ask(address),
        join_all(asked),
        holders(host, target, address, rows)
    );
    let shown = |answer: &Part<HttpsResponse>| answer.known()?.certificate.clone();
    let holder = if here.known() == Some(&true) {
        let own = rows.iter().find(|row| row.this_host);
        Part::Known(own.map_or_else(|| THIS_HOST.to_owned(), |row| row.name.clone()))
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
    let holders = holders.map(|all| with_name(all, holder.known()));
    Some(VirtualIpState {
        address,
        here,
        holder,
        holders,
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

/// All hosts that have the address. While it moves, two may have it for a moment: what is wrong is looked at a second time.
async fn holders(
    host: &dyn Host,
    target: &Target,
    address: IpAddr,
    rows: &[NodeRow],
) -> Part<Vec<AddressHolder>> {
    let IpAddr::V4(address) = address else {
        return Part::unknown("it is an IPv6 address, and only ARP (IPv4) names all of them");
    };
    let work = async {
        let first = look(host, target, address, rows).await?;
        match is_one_master(&first) {
            true => anyhow::Ok(first),
            false => look(host, target, address, rows).await,
        }
    };
    within(LATER, work).await
}

fn is_one_master(holders: &[AddressHolder]) -> bool {
    matches!(holders, [one] if one.is_master == Some(true))
}

/// One look. Needs the capability `CAP_NET_RAW`.
async fn look(
    host: &dyn Host,
    target: &Target,
    address: Ipv4Addr,
    rows: &[NodeRow],
) -> Result<Vec<AddressHolder>> {
    let masters = rows.iter().filter(|row| row.role == NodeRole::Master);
    let masters: Vec<(&NodeRow, Option<Ipv4Addr>)> =
        masters.map(|row| (row, first_ipv4(row))).collect();
    let compared = masters.iter().filter_map(|(_, at)| *at).take(MASTERS + 1);
    let asked: Vec<Ipv4Addr> = [address].into_iter().chain(compared).collect();
    let answers = host.address_holders(&target.link, &asked, ARP);
    let (links, answers) = tokio::try_join!(host.links(), answers)?;
    let mut own = links.iter().flat_map(|link| &link.addresses);
    let here = own.any(|(own, _)| *own == IpAddr::V4(address));
    let this_host = here.then(|| AddressHolder {
        node: masters
            .iter()
            .find(|(row, _)| row.this_host)
            .map(|(row, _)| row.name.clone()),
        hardware: None,
        is_master: Some(true),
    });
    let none = BTreeSet::new();
    let others = answers.get(&address).unwrap_or(&none);
    let others = others.iter().filter_map(|hardware| {
        let its: Vec<&NodeRow> = masters
            .iter()
            .filter(|(_, at)| at.is_some_and(|at| answers_for(&answers, at, hardware)))
            .map(|(row, _)| *row)
            .collect();
        // A router with proxy ARP answers for each master, this one included.
        if its.len() > 1 || its.iter().any(|row| row.this_host) {
            return None;
        }
        let node = its.first().map(|row| row.name.clone());
        let mut elsewhere = masters.iter().filter(|(row, _)| !row.this_host);
        let are_all_known = !masters.is_empty()
            && elsewhere.all(|(_, at)| at.is_some_and(|at| answers.contains_key(&at)));
        let is_master = match (&node, are_all_known) {
            (Some(_), _) => Some(true),
            (None, true) => Some(false),
            (None, false) => None,
        };
        Some(AddressHolder {
            node,
            hardware: Some(hardware.clone()),
            is_master,
        })
    });
    let mut all: Vec<AddressHolder> = this_host.into_iter().chain(others).collect();
    // A master with two links on this network answers on both.
    let mut seen = BTreeSet::new();
    all.retain(|one| {
        one.node
            .as_ref()
            .is_none_or(|node| seen.insert(node.clone()))
    });
    Ok(all)
}

fn first_ipv4(row: &NodeRow) -> Option<Ipv4Addr> {
    row.addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

fn answers_for(
    answers: &BTreeMap<Ipv4Addr, BTreeSet<String>>,
    address: Ipv4Addr,
    hardware: &str,
) -> bool {
    answers
        .get(&address)
        .is_some_and(|all| all.contains(hardware))
}

/// If only one host has the address, it is the one whose API server answers there: its certificate proves more than ARP. A master may not
/// answer ARP for its own address on this link.
fn with_name(mut all: Vec<AddressHolder>, serving: Option<&String>) -> Vec<AddressHolder> {
    if let [one] = all.as_mut_slice()
        && one.is_master != Some(true)
        && serving.is_some()
    {
        one.node = serving.cloned();
        one.is_master = Some(true);
    }
    all
}

/// The hosts, with their hardware addresses.
pub(super) fn names(holders: &[AddressHolder]) -> String {
    let all = holders.iter().map(|one| {
        let name = match (&one.node, one.is_master) {
            (Some(node), _) => node.as_str(),
            (None, Some(true)) => "a master",
            (None, Some(false)) => "a host that is no master",
            (None, None) => "an unknown host",
        };
        let hardware = one.hardware.as_deref().unwrap_or(THIS_HOST);
        format!("{name} ({hardware})")
    });
    all.collect::<Vec<_>>().join(", ")
}

/// The only host that has the address, if it is a master that is not this host.
pub(super) fn only_other(ip: &VirtualIpState) -> Option<&AddressHolder> {
    let [one] = ip.holders.known()?.as_slice() else {
        return None;
    };
    (one.node.is_some() && one.hardware.is_some()).then_some(one)
}

/// What to do if the API over the address does not answer, or not well.
pub(super) fn next_without_api(ip: &VirtualIpState) -> String {
    let silent = only_other(ip).filter(|_| ip.api.known().is_none());
    match silent.and_then(|one| one.node.as_ref()) {
        Some(node) => format!(
            "on {node}, which has the address, see why it does not answer there (`nodelet status`, `iptables -S INPUT`); `systemctl stop keepalived` on it lets another master take the address"
        ),
        None => "`journalctl -u keepalived -n 50` and `nodelet status` on each master".to_owned(),
    }
}

/// What is wrong with the hosts that have the address: there are several, or one is no master.
pub(super) fn problem(ip: &VirtualIpState) -> Option<Problem> {
    let all = ip.holders.known()?;
    let is_stranger = |one: &AddressHolder| one.is_master == Some(false);
    let has_stranger = all.iter().any(is_stranger);
    let what = match all.len() {
        0 | 1 if !has_stranger => return None,
        1 => format!("the virtual IP {} is held by {}", ip.address, names(all)),
        number => format!(
            "{number} hosts hold the virtual IP {}: {}",
            ip.address,
            names(all)
        ),
    };
    let next = match all.iter().any(|one| one.is_master != Some(true)) {
        true => format!(
            "find the host with this hardware address (`ip neigh` on the hosts of this network), and take {} from its interface (`ip address del`)",
            ip.address
        ),
        false => "`journalctl -u keepalived -n 50` and `iptables -S PF9-VRRP` on each of these masters: one does not hear the VRRP of another"
            .to_owned(),
    };
    Some(Problem::new(what, next))
}

/// Why it is not known who the only host is that has the address.
pub(super) fn unmatched(ip: &VirtualIpState) -> Option<String> {
    let [one] = ip.holders.known()?.as_slice() else {
        return None;
    };
    let hardware = one
        .hardware
        .as_deref()
        .filter(|_| one.is_master.is_none())?;
    Some(format!(
        "no master is known to have the hardware address {hardware}, and not all masters answer ARP"
    ))
}
