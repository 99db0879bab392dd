//! The record of admission as a ConfigMap. After the removal of its node it stays as a tombstone: the certificate of that node stays valid.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::taints::{are_different, line_of, no_longer_named, read_line};
use super::{ADMISSION_LABEL, NAMESPACE};
use crate::host::{ConfigMap, HostError, Taint};
use crate::kubernetes::shown;

/// Longest life of a node's certificate under all settings: a node that was removed keeps its certificate until then.
pub const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Clocks of masters may differ by so much.
pub(in crate::kubernetes) const CLOCKS_DIFFER: Duration = Duration::from_secs(24 * 3600);

/// The name of a record is this and the name of its node.
pub(super) const RECORD_PREFIX: &str = "nodelet-node-";

/// So long a claim keeps other nodes from an address.
pub const CLAIM_LIFE: Duration = Duration::from_secs(600);

/// The certificates of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateKind {
    /// Of its kubelet as a client.
    KubeletClient,
    /// Of its kubelet as a server.
    KubeletServer,
    /// Of its kube-proxy.
    KubeProxy,
}

impl CertificateKind {
    const ALL: [Self; 3] = [Self::KubeletClient, Self::KubeletServer, Self::KubeProxy];

    /// The field that has the digest of its key.
    fn field(self) -> &'static str {
        match self {
            Self::KubeletClient => "key-kubelet-client",
            Self::KubeletServer => "key-kubelet-server",
            Self::KubeProxy => "key-kube-proxy-client",
        }
    }
}

/// The record of a node that may join, has joined, or was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// The node.
    pub node: String,
    /// The id of its token; `None` if the token has ended.
    pub token_id: Option<String>,
    /// The id of the token that this one has replaced. It is deleted, too: its own deletion may have been interrupted.
    pub token_before: Option<String>,
    /// When it was admitted (RFC 3339), with milliseconds. Earlier versions wrote whole seconds.
    pub admitted_at: String,
    /// The SHA-256 (hexadecimal) of the public keys that the token was used for. It brings certificates for these keys only.
    pub keys: BTreeMap<CertificateKind, String>,
    /// When the token was used for the last of these keys.
    pub keys_at: Option<SystemTime>,
    /// The address that its kubelet has a certificate for. No other node gets one for it, and the node none for another address.
    pub address: Option<IpAddr>,
    /// The address that its kubelet may have a certificate for soon.
    pub claim: Option<AddressClaim>,
    /// The taints that masters keep on its Node. Earlier versions wrote none, and drop them when they write the record.
    pub taints: Vec<Taint>,
    /// Taints that an earlier record named and this one does not, until masters have taken them from its Node.
    pub untainted: Vec<Taint>,
    /// When its worker had left and its node was deleted. The node stays admitted.
    pub left: Option<SystemTime>,
    /// Set if the node was removed. Such a record admits no node.
    pub removed: Option<RemovedNode>,
    /// The version of the ConfigMap that it was read from; empty for a new record.
    pub version: String,
}

impl Admission {
    /// Whether its worker has joined, and has neither left nor been removed. Its Node may be missing: it was deleted, or is not registered yet.
    #[must_use]
    pub fn is_member(&self) -> bool {
        let has_joined = self.token_id.is_none() && !self.keys.is_empty();
        has_joined && self.left.is_none() && self.removed.is_none()
    }

    /// The record with these taints in place of those that it names. Masters take the others from its Node.
    pub(super) fn with_taints(self, taints: &[Taint]) -> Self {
        let named = [self.taints.as_slice(), self.untainted.as_slice()].concat();
        Self {
            taints: taints.to_vec(),
            untainted: no_longer_named(&named, taints),
            ..self
        }
    }

    /// Whether the node was admitted at this time or later, as far as its record can tell. Pure.
    ///
    /// A record with whole seconds (of an earlier version) may be from the end of its second. One without a readable time is older.
    pub(in crate::kubernetes) fn may_be_admitted_since(&self, time: SystemTime) -> bool {
        let precision = match self.admitted_at.contains('.') {
            true => Duration::from_millis(1),
            false => Duration::from_secs(1),
        };
        let admitted = humantime::parse_rfc3339(&self.admitted_at);
        admitted.is_ok_and(|admitted| admitted + precision > time)
    }
}

/// The claim of a node to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressClaim {
    /// The address.
    pub address: IpAddr,
    /// When it was claimed, or when its signature began.
    pub at: SystemTime,
    /// The uid of the request that is being signed for it; `None` before. If a master ends in between, the certificate may be there.
    pub request: Option<String>,
}

/// The removal of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedNode {
    /// When it was removed.
    pub at: SystemTime,
    /// The uid of its Node at that time; empty if it had none. A Node with another uid has registered since then.
    pub uid: String,
}

impl RemovedNode {
    /// Its certificates end at this time at the latest.
    #[must_use]
    pub fn certificates_end(&self) -> SystemTime {
        self.at + LONGEST_LIFE
    }
}

/// A record that cannot be read. The certificate of its node may still be valid, for an address that is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRecord {
    /// The node, by the name of the ConfigMap: its content is not reliable.
    pub node: String,
    /// The name of the ConfigMap.
    pub config_map: String,
    /// What is wrong with it, in one line.
    pub problem: String,
}

impl DamagedRecord {
    pub(super) fn new(config_map: String, problem: &str) -> Self {
        let node = config_map.strip_prefix(RECORD_PREFIX);
        Self {
            node: node.unwrap_or(&config_map).to_owned(),
            config_map,
            problem: shown(problem),
        }
    }

    /// Why a request for a new address waits for this record.
    #[must_use]
    pub fn holds_up(&self) -> String {
        let Self {
            node,
            config_map,
            problem,
        } = self;
        let next = self.next_step();
        format!(
            "it waits because the ConfigMap {NAMESPACE}/{config_map} is damaged ({problem}) and the address of node `{node}` is unknown; {next}"
        )
    }

    /// The record as an error for the operator.
    #[must_use]
    pub fn error(&self) -> HostError {
        let (problem, next) = (&self.problem, self.next_step());
        HostError::refused(
            format!("read the ConfigMap {NAMESPACE}/{}", self.config_map),
            format!("{problem}, so no node gets a certificate for a new address; {next}"),
        )
    }

    fn next_step(&self) -> String {
        let name = &self.config_map;
        format!(
            "correct it with `kubectl -n {NAMESPACE} edit configmap {name}`, or delete it if the host of that node is shut down for good"
        )
    }
}

/// A time as a record has it, with milliseconds, in contrast to times whose order does not matter.
pub(super) fn written_time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

pub(super) fn record_name(node: &str) -> String {
    format!("{RECORD_PREFIX}{node}")
}

pub(super) fn written(record: &Admission) -> ConfigMap {
    let time = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
    let mut data = BTreeMap::new();
    let mut set = |field: &str, value: Option<String>| {
        if let Some(value) = value {
            data.insert(field.to_owned(), value);
        }
    };
    set("node", Some(record.node.clone()));
    set("token-id", record.token_id.clone());
    set("token-before", record.token_before.clone());
    set("admitted-at", Some(record.admitted_at.clone()));
    for (kind, key) in &record.keys {
        set(kind.field(), Some(key.clone()));
    }
    set("keys-at", record.keys_at.map(time));
    set("address", record.address.map(|its| its.to_string()));
    if let Some(claim) = &record.claim {
        set("claim-address", Some(claim.address.to_string()));
        set("claim-at", Some(written_time(claim.at)));
        set("claim-request", claim.request.clone());
    }
    for (field, taints) in [("taints", &record.taints), ("untainted", &record.untainted)] {
        set(field, Some(line_of(taints)).filter(|line| !line.is_empty()));
    }
    set("left-at", record.left.map(time));
    if let Some(removed) = &record.removed {
        set("removed-at", Some(time(removed.at)));
        set("removed-uid", Some(removed.uid.clone()));
    }
    let labels = [
        (ADMISSION_LABEL, ""),
        ("app.kubernetes.io/managed-by", "nodelet"),
    ];
    ConfigMap {
        namespace: NAMESPACE.to_owned(),
        name: record_name(&record.node),
        version: record.version.clone(),
        labels: labels
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        data,
    }
}

/// Reads a record.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn read(map: ConfigMap) -> Result<Admission, String> {
    let mut data = map.data;
    let mut take = |field: &str| data.remove(field).filter(|value| !value.is_empty());
    let time = |field: &str, value: Option<String>| {
        let value = value.map(|text| humantime::parse_rfc3339(&text));
        value
            .transpose()
            .map_err(|_| format!("its field `{field}` is no time"))
    };
    let node = take("node").unwrap_or_default();
    // Another name in it would admit a node that no administrator has admitted.
    if record_name(&node) != map.name {
        return Err(format!("its field `node` is `{node}`"));
    }
    let keys = CertificateKind::ALL.into_iter();
    let keys = keys
        .filter_map(|kind| Some((kind, take(kind.field())?)))
        .collect();
    let uid = take("removed-uid").unwrap_or_default();
    let removed = time("removed-at", take("removed-at"))?;
    let address = |field: &str, value: Option<String>| {
        let value = value.map(|text| text.parse());
        value
            .transpose()
            .map_err(|_| format!("its field `{field}` is no address"))
    };
    let claimed = address("claim-address", take("claim-address"))?;
    let claimed_at = time("claim-at", take("claim-at"))?;
    let claim_request = take("claim-request");
    let line = |field: &str, value: Option<String>| {
        let taints = value.map(|line| read_line(&line)).transpose();
        let taints = taints.map(Option::unwrap_or_default);
        taints.map_err(|why| format!("its field `{field}` is wrong: {why}"))
    };
    let taints = line("taints", take("taints"))?;
    are_different(&taints).map_err(|why| format!("its field `taints` is wrong: {why}"))?;
    let claim = claimed.map(|address| AddressClaim {
        address,
        // Without a time it has ended.
        at: claimed_at.unwrap_or(SystemTime::UNIX_EPOCH),
        request: claim_request,
    });
    Ok(Admission {
        node,
        token_id: take("token-id"),
        token_before: take("token-before"),
        admitted_at: take("admitted-at").unwrap_or_default(),
        keys,
        keys_at: time("keys-at", take("keys-at"))?,
        address: address("address", take("address"))?,
        claim,
        taints,
        untainted: line("untainted", take("untainted"))?,
        left: time("left-at", take("left-at"))?,
        removed: removed.map(|at| RemovedNode { at, uid }),
        version: map.version,
    })
}
