//! Decides about a node's request for a certificate: pure, from the request and what the cluster knows of the node.
//!
//! A node may have three certificates: for its kubelet as a client, for its kubelet as a server, and for kube-proxy. A host that holds the
//! token of a node, or the certificate of its kubelet, may ask for these and for no other. What is signed is built from the
//! decision, so nothing of the request gets into the certificate but its public key.

mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use super::admission::{Admission, CertificateKind, JOINING, TokenRecord};
use super::join_file::is_token_id;
use super::{MASTER_LABEL, NODE_SIGNER, shown};
use crate::host::{CertificateRequest, ClusterNode};
use content::Content;

/// Users of tokens, nodes and kube-proxy, as the API server names them.
const BOOTSTRAP: &str = "system:bootstrap:";
const NODE: &str = "system:node:";
const KUBE_PROXY: &str = "system:kube-proxy";
/// The group of nodes.
const NODES: &str = "system:nodes";
/// Most requests of a requester that are undecided at a time. A node that joins has three.
pub const MOST_PENDING: usize = 20;

/// A certificate that a node may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeCertificate {
    /// With it the kubelet of this node asks the API server.
    KubeletClient {
        /// The node.
        node: String,
    },
    /// With it the kubelet of this node serves its API at this address.
    KubeletServer {
        /// The node.
        node: String,
        /// Its address.
        address: IpAddr,
    },
    /// With it kube-proxy asks the API server.
    KubeProxy,
}

impl NodeCertificate {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> CertificateKind {
        match self {
            Self::KubeletClient { .. } => CertificateKind::KubeletClient,
            Self::KubeletServer { .. } => CertificateKind::KubeletServer,
            Self::KubeProxy => CertificateKind::KubeProxy,
        }
    }
}

impl std::fmt::Display for NodeCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::KubeletClient { .. } => "kubelet client",
            Self::KubeletServer { .. } => "kubelet server",
            Self::KubeProxy => "kube-proxy client",
        })
    }
}

/// What a request may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The node that it is for.
    pub node: String,
    /// The certificate.
    pub certificate: NodeCertificate,
    /// The SHA-256 of the request's public key, hexadecimal.
    pub key: String,
}

/// A request that is noted in the record of its node before it is signed.
#[derive(Debug, Clone, Copy)]
pub struct NotedRequest<'a> {
    /// Who asks.
    pub requester: &'a Requester,
    /// The uid of the request.
    pub request: &'a str,
    /// The time now.
    pub now: SystemTime,
}

impl Granted {
    /// The address that it is for.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match &self.certificate {
            NodeCertificate::KubeletServer { address, .. } => Some(*address),
            NodeCertificate::KubeletClient { .. } | NodeCertificate::KubeProxy => None,
        }
    }

    /// The record with what has to be noted in it before this is signed; `None` if it has that already. A token is bound to the key that
    /// it is used for; the own certificate of a node is not. An address that the node does not have yet becomes one that is being signed.
    #[must_use]
    pub fn noted_in(&self, record: &Admission, asked: NotedRequest<'_>) -> Option<Admission> {
        let NotedRequest {
            requester,
            request,
            now,
        } = asked;
        let mut noted = match self.address() {
            Some(address) if !record.keeps(address) => record.signing(address, request, now),
            // It stays at its address.
            Some(_) => record.without_claim(),
            None => record.clone(),
        };
        match requester {
            Requester::Token(_) => {
                let kind = self.certificate.kind();
                if noted.keys.insert(kind, self.key.clone()).as_ref() != Some(&self.key) {
                    noted.keys_at = Some(now);
                }
            }
            Requester::Node(_) => {}
        }
        (noted != *record).then_some(noted)
    }
}

/// Who made a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requester {
    /// The token with this id.
    Token(String),
    /// The kubelet of this node.
    Node(String),
}

/// What the cluster knows of a request's node.
#[derive(Debug)]
pub struct Known<'a> {
    /// The time now.
    pub now: SystemTime,
    /// The requester's token, if it is a token.
    pub token: Option<&'a TokenRecord>,
    /// The record of the node: see [`node_of`].
    pub admission: Option<&'a Admission>,
    /// The records of all nodes by name. The addresses that they keep are taken.
    pub admissions: &'a BTreeMap<String, Admission>,
    /// All nodes by name.
    pub nodes: &'a BTreeMap<String, ClusterNode>,
    /// Names and addresses of the API servers. A node that had a certificate for one of them could pose as an API server.
    pub reserved: &'a Reserved,
    /// How many older requests of the same requester are undecided.
    pub pending_before: usize,
}

/// Names and addresses that no node may have a certificate for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reserved {
    /// DNS names in lower case.
    pub names: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The other masters that this master knows, by name. The Node of a master that is about to join has no label yet, or is not there.
    pub masters: BTreeMap<String, IpAddr>,
}

/// The name of a node's user.
pub(super) fn user_of_node(node: &str) -> String {
    format!("{NODE}{node}")
}

/// The name of the user of the token with this id.
pub(super) fn user_of_token(id: &str) -> String {
    format!("{BOOTSTRAP}{id}")
}

/// Who made this request; `None` if it is neither a token for nodes nor a node.
#[must_use]
pub fn requester(request: &CertificateRequest) -> Option<Requester> {
    let is_in = |group: &str| request.groups.iter().any(|its| its == group);
    if let Some(id) = request.requester.strip_prefix(BOOTSTRAP) {
        return (is_token_id(id) && is_in(JOINING)).then(|| Requester::Token(id.to_owned()));
    }
    let node = request.requester.strip_prefix(NODE)?;
    (!node.is_empty() && is_in(NODES)).then(|| Requester::Node(node.to_owned()))
}

/// The node that a requester speaks for.
#[must_use]
pub fn node_of<'a>(requester: &'a Requester, token: Option<&'a TokenRecord>) -> Option<&'a str> {
    match requester {
        Requester::Token(id) => token
            .filter(|its| its.id == *id)
            .map(|its| its.node.as_str()),
        Requester::Node(node) => Some(node),
    }
}

/// What the request may get.
///
/// # Errors
/// The reason to deny it. Texts of the request are escaped and cut in it.
pub fn decide(request: &CertificateRequest, known: &Known<'_>) -> Result<Granted, String> {
    if request.signer != NODE_SIGNER {
        return Err(format!("its signer is `{}`", shown(&request.signer)));
    }
    let user = shown(&request.requester);
    let requester = requester(request)
        .ok_or_else(|| format!("`{user}` is neither the token of a node nor a node"))?;
    if let Some(reason) = too_many(request, known.pending_before) {
        return Err(reason);
    }
    let record = admitted(&requester, known)?;
    let node = record.node.as_str();
    let content = Content::parse(&request.request)?;
    let certificate = wanted(&content, node, &request.usages)?;
    match &certificate {
        NodeCertificate::KubeletServer { address, .. } => {
            usable(*address, node, known)?;
            keeps_address(*address, &requester, record)?;
        }
        NodeCertificate::KubeletClient { .. } | NodeCertificate::KubeProxy => {}
    }
    match (&requester, record.keys.get(&certificate.kind())) {
        (Requester::Token(_), Some(used)) if *used != content.key => Err(format!(
            "the token was used already for another key; `nodelet pki issue {node}` again if this host is the right one, and look for the other host if not"
        )),
        (Requester::Token(_) | Requester::Node(_), _) => Ok(Granted {
            node: node.to_owned(),
            certificate,
            key: content.key,
        }),
    }
}

/// The reason to deny a request whose requester has too many; `None` if it has not. It needs no answer of the cluster.
#[must_use]
pub fn too_many(request: &CertificateRequest, pending_before: usize) -> Option<String> {
    (pending_before >= MOST_PENDING).then(|| {
        format!(
            "`{}` has too many undecided requests: {MOST_PENDING} are allowed",
            shown(&request.requester)
        )
    })
}

/// Checks that a node asks for the address that it has. Each of its certificates is valid until its end, so with another address in each
/// request it would collect the addresses of other hosts. Only the first request of a new token may name another address: an administrator
/// has let the node move.
///
/// # Errors
/// The reason to deny the request.
pub fn keeps_address(
    address: IpAddr,
    requester: &Requester,
    record: &Admission,
) -> Result<(), String> {
    let may_move = match requester {
        Requester::Token(_) => !record.keys.contains_key(&CertificateKind::KubeletServer),
        Requester::Node(_) => false,
    };
    match record.bound_to() {
        Some(present) if !may_move && present.to_canonical() != address.to_canonical() => {
            let node = &record.node;
            Err(format!(
                "the address of node `{node}` is {present}, not {address}; `nodelet pki issue {node}` lets it move (with `--replace` if it is Ready)"
            ))
        }
        Some(_) | None => Ok(()),
    }
}

/// The record of the requester's node, if it may ask for certificates now.
fn admitted<'a>(requester: &Requester, known: &Known<'a>) -> Result<&'a Admission, String> {
    let unknown = || "its token is unknown: it was used up, replaced or revoked".to_owned();
    let node = node_of(requester, known.token).ok_or_else(unknown)?;
    let admission = known.admission.filter(|record| record.node == node);
    let node = &shown(node);
    let admission = admission.ok_or_else(|| format!("node `{node}` was not admitted"))?;
    if let Some(removed) = &admission.removed {
        let at = humantime::format_rfc3339_seconds(removed.at);
        return Err(format!(
            "node `{node}` was removed from the cluster at {at}"
        ));
    }
    let node = admission.node.as_str();
    let present = known.nodes.get(node);
    let is_labelled = present.is_some_and(|present| present.labels.contains_key(MASTER_LABEL));
    if is_labelled || known.reserved.masters.contains_key(node) {
        return Err(format!("`{node}` is a master"));
    }
    if known.reserved.names.contains(node) {
        return Err(format!("`{node}` is a name of the API server"));
    }
    match (requester, known.token) {
        (Requester::Node(_), _) => {}
        (Requester::Token(id), Some(token)) => {
            if admission.token_id.as_ref() != Some(id) {
                return Err(format!("node `{node}` has another token, or none any more"));
            }
            if token.expires <= known.now {
                return Err("its token has expired".to_owned());
            }
            let ready = present.is_some_and(|present| present.ready == Some(true));
            if ready && !token.replaces {
                return Err(format!(
                    "a node `{node}` is Ready; its own certificate renews it, and `nodelet pki issue --replace` admits another host in its place"
                ));
            }
        }
        (Requester::Token(_), None) => return Err(unknown()),
    }
    Ok(admission)
}

/// The certificate that this content asks for.
fn wanted(content: &Content, node: &str, usages: &[String]) -> Result<NodeCertificate, String> {
    let kubelet = format!("{NODE}{node}");
    let its = &content.common_name;
    if *its != kubelet && its != KUBE_PROXY {
        return Err(format!(
            "its common name is `{}`; `{kubelet}` and `{KUBE_PROXY}` are allowed",
            shown(its)
        ));
    }
    let groups: &[&str] = if *its == kubelet { &[NODES] } else { &[] };
    if content.organizations != groups {
        return Err(format!(
            "its organizations are [{}], not [{}]",
            shown(&content.organizations.join(", ")),
            groups.join(", ")
        ));
    }
    let is_server = *its == kubelet && usages.iter().any(|usage| usage == "server auth");
    let purpose = if is_server {
        "server auth"
    } else {
        "client auth"
    };
    has_usages(usages, purpose)?;
    if content.purposes.iter().any(|its| *its != purpose) {
        return Err(format!("the request itself asks for more than {purpose}"));
    }
    let nothing_else = content.names.is_empty() && content.addresses.is_empty();
    match (is_server, *its == kubelet) {
        (true, _) => Ok(NodeCertificate::KubeletServer {
            node: node.to_owned(),
            address: only_address(content, node)?,
        }),
        (false, _) if !nothing_else => {
            Err("the certificate of a client has no alternative names".to_owned())
        }
        (false, true) => Ok(NodeCertificate::KubeletClient {
            node: node.to_owned(),
        }),
        (false, false) => Ok(NodeCertificate::KubeProxy),
    }
}

/// Checks that the usages are the signature, `purpose`, and perhaps the encipherment of keys.
fn has_usages(usages: &[String], purpose: &str) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let mut exact = BTreeSet::from(["digital signature", purpose]);
    if given == exact {
        return Ok(());
    }
    exact.insert("key encipherment");
    if given == exact {
        return Ok(());
    }
    Err(format!(
        "its usages are [{}], not [digital signature, {purpose}]",
        shown(&usages.join(", "))
    ))
}

/// The only address of a request for the node's name and one address. A node that is named after its address has no other.
fn only_address(content: &Content, node: &str) -> Result<IpAddr, String> {
    let named = node.parse::<IpAddr>().ok();
    let names_fit = match named {
        Some(_) => content.names.is_empty(),
        None => content.names.len() == 1 && content.names.contains(node),
    };
    let mut addresses = content.addresses.iter();
    match (addresses.next(), addresses.next()) {
        (Some(only), None) if names_fit && named.is_none_or(|own| own == *only) => Ok(*only),
        _ => {
            let names = content.names.iter().cloned();
            let all = names.chain(content.addresses.iter().map(ToString::to_string));
            Err(format!(
                "its alternative names are [{}], not the node's name and one address",
                shown(&all.collect::<Vec<_>>().join(", "))
            ))
        }
    }
}

/// Checks that a node may have this address: no master has it, and no other node has a certificate for it. What other workers report of
/// themselves does not count, because a worker could block every address with it. The address of a removed node is free, and one that a node
/// only claims, or one that a damaged record may have, is judged later (`Admission::competitors`).
fn usable(address: IpAddr, node: &str, known: &Known<'_>) -> Result<(), String> {
    let own = address.to_canonical();
    if own.is_loopback() || own.is_unspecified() || own.is_multicast() {
        return Err(format!("{address} is not the address of a node"));
    }
    let mut reserved = known.reserved.addresses.iter();
    if reserved.any(|its| its.to_canonical() == own) {
        return Err(format!("{address} is an address of the API server"));
    }
    let masters = known.nodes.iter();
    let masters = masters.filter(|(_, other)| other.labels.contains_key(MASTER_LABEL));
    let of_masters =
        masters.flat_map(|(name, its)| its.addresses.iter().map(move |one| (name, one)));
    let records = known.admissions.iter();
    let records = records.filter(|(_, record)| record.removed.is_none());
    let of_records = records.filter_map(|(name, record)| Some((name, record.address.as_ref()?)));
    let listed = known.reserved.masters.iter();
    let mut all = of_masters.chain(listed).chain(of_records);
    let taken = all.find(|(name, its)| *name != node && its.to_canonical() == own);
    match taken {
        Some((other, _)) => Err(format!(
            "{address} is the address of node `{other}`; if that node no longer has it, run `nodelet cluster remove {other}` on a master, and \
             then `nodelet pki issue {other} --replace` if it is still wanted"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
