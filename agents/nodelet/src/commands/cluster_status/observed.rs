//! What is asked (`Target`), and what was found out about the cluster. Serialised, the latter is the JSON of the command.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use engine::env::{KubeEnv, SettingValue};
use engine::host::Taint;
use engine::kubernetes::admission::Admissions;
use engine::model::chain;
use engine::resource::pki::{CertificatePaths, certificate_paths, kubeconfig_path};
use ipnet::IpNet;
use serde::Serialize;

use crate::etcd::Backups;
use crate::output::exit::Exit;

/// The kubeconfig of people.
const SHARED: &str = "admin";

/// Time for each later question.
pub(super) const LATER: Duration = Duration::from_secs(3);

/// What the settings tell about the cluster.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// For this host's own API server.
    pub(super) kubeconfig: PathBuf,
    /// For the API server that other hosts reach, if this host's own does not answer.
    pub(super) shared: PathBuf,
    /// The roots that API servers are verified with: while authority `cluster` is replaced, these are two.
    pub(super) ca: PathBuf,
    /// The files with which members of etcd are asked: they answer only a client with a certificate.
    pub(super) etcd: CertificatePaths,
    /// Of the API server.
    pub(super) port: u16,
    /// None if the cluster has no virtual IP.
    pub(super) virtual_ip: Option<IpAddr>,
    /// The link that has it on the master that holds it.
    pub(super) link: String,
    pub(super) backups: Backups,
    /// The pods' network.
    pub(super) pods: IpNet,
}

impl Target {
    /// # Errors
    /// A setting is missing, or this host is no master.
    pub(super) fn of(settings: &KubeEnv, kubeconfig: &Path) -> Result<Self> {
        let value = |name: &str| {
            let found = settings.get(name);
            found.with_context(|| format!("find the setting {name}"))
        };
        let text = |name: &str| anyhow::Ok(value(name)?.to_string());
        let has_virtual_ip = matches!(value("MASTER_VIP_ENABLED")?, SettingValue::Bool(true));
        let address = text("MASTER_IP")?;
        let address = has_virtual_ip.then(|| address.parse()).transpose();
        Ok(Self {
            kubeconfig: kubeconfig.to_owned(),
            shared: kubeconfig_path(SHARED),
            ca: certificate_paths("apiserver").trust,
            etcd: certificate_paths("etcdctl/etcd"),
            port: text("K8S_API_PORT")?
                .parse()
                .context("understand the setting K8S_API_PORT")?,
            virtual_ip: address.context("understand the setting MASTER_IP as an address")?,
            link: text("MASTER_VIP_IFACE")?,
            backups: Backups::of(settings)?,
            pods: text("CONTAINERS_CIDR")?
                .parse()
                .context("understand the setting CONTAINERS_CIDR")?,
        })
    }
}

/// Longest text of another host that is shown, in characters.
const LONGEST: usize = 300;

/// A part of the state, or why it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Part<T> {
    Known(T),
    Unknown { unknown: String },
}

impl<T> Part<T> {
    pub(super) fn unknown(why: &str) -> Self {
        Self::Unknown {
            unknown: shown(why),
        }
    }

    pub(super) fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown { .. } => None,
        }
    }

    /// Why it is not known.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Unknown { unknown } => Some(unknown),
        }
    }

    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Part<U> {
        match self {
            Self::Known(value) => Part::Known(change(value)),
            Self::Unknown { unknown } => Part::Unknown { unknown },
        }
    }
}

/// The result of `work`, which gets so much time. Cancel safe if `work` is.
pub(super) async fn within<T, E: Into<anyhow::Error>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Part<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(value)) => Part::Known(value),
        Ok(Err(error)) => {
            let error: anyhow::Error = error.into();
            Part::unknown(&format!("could not {}", chain(error.as_ref()).join(": ")))
        }
        Err(_) => Part::unknown(&format!("no answer within {} s", limit.as_secs())),
    }
}

/// A text of another host, bounded and without control characters.
pub(super) fn shown(text: &str) -> String {
    let plain = |one: char| if one.is_control() { ' ' } else { one };
    let mut short: String = text.chars().take(LONGEST).map(plain).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

/// A time in UTC, to the second.
pub(super) fn utc(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

/// The whole state.
#[derive(Debug, Serialize)]
pub(super) struct ClusterStatus {
    /// When it was gathered, in UTC.
    pub(super) at: String,
    /// Of the API server that answers: this host's, or if that is silent, the one that other hosts reach.
    pub(super) api_version: Part<String>,
    /// Why this host's own API server does not answer, if another one does.
    #[serde(skip)]
    pub(super) silent_api: Option<String>,
    /// Masters first, each kind by name.
    pub(super) nodes: Part<Vec<NodeRow>>,
    /// None if the cluster has no virtual IP.
    pub(super) virtual_ip: Option<VirtualIpState>,
    pub(super) etcd: Part<EtcdState>,
    /// The certificates of this host.
    pub(super) certificates: Part<Certificates>,
    /// What the servers of other nodes show.
    pub(super) node_certificates: Vec<NodeCertificate>,
    /// The records of the nodes that may join, have joined, or were removed.
    #[serde(skip)]
    pub(super) admissions: Part<Admissions>,
    /// Requests of nodes for certificates that wait for longer than a minute.
    pub(super) requests: Part<OpenRequests>,
    /// Of this host.
    pub(super) backups: Part<BackupState>,
    /// Why pods of some nodes cannot be reached from this host.
    #[serde(skip)]
    pub(super) without_routes: Vec<String>,
    /// What the other masters have published of theirs.
    pub(super) master_backups: Vec<MasterBackup>,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
    /// The parts that are not known, each with the reason.
    pub(super) unknown: Vec<String>,
}

impl ClusterStatus {
    /// A problem counts more than an unknown part.
    pub(super) fn exit(&self) -> Exit {
        match (self.problems.is_empty(), self.unknown.is_empty()) {
            (false, _) => Exit::Pending,
            (true, false) => Exit::Failed,
            (true, true) => Exit::Ok,
        }
    }
}

/// Something that is wrong, and the next thing to try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    pub(super) what: String,
    pub(super) next: String,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        let (what, next) = (what.into(), next.into());
        Self { what, next }
    }

    /// From a sentence of the engine: the next thing to try is after its last semicolon.
    pub(super) fn of_sentence(sentence: &str) -> Self {
        match sentence.rsplit_once("; ") {
            Some((what, next)) => Self::new(what, next),
            None => Self::new(sentence, ""),
        }
    }
}

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NodeRole {
    Master,
    Worker,
    /// It has no label of a role.
    None,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NodeRow {
    pub(super) name: String,
    pub(super) role: NodeRole,
    /// None if the API server does not know.
    pub(super) ready: Option<bool>,
    /// Why it is not Ready; empty if it is.
    pub(super) reason: String,
    /// Shortages that it reports.
    pub(super) pressures: Vec<String>,
    /// Of its kubelet; empty if it has reported none.
    pub(super) version: String,
    pub(super) pod_subnet: Option<String>,
    /// Age of kubelet's last report in seconds. kubelet reports every five minutes if nothing changes.
    pub(super) report_age: Option<u64>,
    pub(super) cordoned: bool,
    /// When its worker has left; `None` if it is not marked.
    pub(super) left: Option<String>,
    pub(super) this_host: bool,
    /// Whether masters have noted that it uses its own certificate.
    #[serde(skip)]
    pub(super) joined: bool,
    /// The settings that a master has in common with the others, as it has published them; empty if it has not.
    #[serde(skip)]
    pub(super) shared_settings: BTreeMap<String, String>,
    #[serde(skip)]
    pub(super) addresses: Vec<IpAddr>,
    #[serde(skip)]
    pub(super) taints: Vec<Taint>,
    /// How long ago it was registered; `None` if that is not known.
    #[serde(skip)]
    pub(super) age: Option<Duration>,
    /// When this master has taken its last verified backup, as it has published it.
    #[serde(skip)]
    pub(super) backup_taken: Option<SystemTime>,
}

impl NodeRow {
    /// Whether it is a master, and not this host.
    pub(super) fn is_other_master(&self) -> bool {
        self.role == NodeRole::Master && !self.this_host
    }
}

/// The virtual IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct VirtualIpState {
    pub(super) address: IpAddr,
    /// Whether a link of this host has it.
    pub(super) here: Part<bool>,
    /// The node that serves the API over it, as this host sees it.
    pub(super) holder: Part<String>,
    /// All hosts that have it: this one by its links, and others that answer ARP.
    pub(super) holders: Part<Vec<AddressHolder>>,
    /// What the API answers over it: the status of HTTP.
    pub(super) api: Part<u16>,
}

/// A host that has the virtual IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct AddressHolder {
    /// The master.
    pub(super) node: Option<String>,
    /// Its hardware address; None for this host.
    pub(super) hardware: Option<String>,
    /// Whether it is a master; None if that is not known.
    pub(super) is_master: Option<bool>,
}

/// The members of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct EtcdState {
    /// The member that named the others.
    pub(super) asked: String,
    pub(super) members: Vec<MemberRow>,
    /// What is left out, because there are too many members.
    pub(super) more: usize,
    pub(super) alarms: Part<Vec<String>>,
    /// Result of a read that needs a quorum: the identity of the cluster.
    pub(super) cluster: Part<Option<String>>,
}

/// A member of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct MemberRow {
    /// In hex, as `etcdctl` shows it.
    pub(super) id: String,
    /// Empty if it has never started.
    pub(super) name: String,
    pub(super) url: Option<String>,
    pub(super) leader: bool,
    pub(super) learner: bool,
    /// It answers, follows a leader, reports no errors and is not far behind.
    pub(super) healthy: bool,
    pub(super) state: Part<MemberState>,
}

/// What a member reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct MemberState {
    pub(super) version: String,
    /// Of its database on disk, in bytes.
    pub(super) size: u64,
    pub(super) raft_index: u64,
    /// Entries behind the leader, or, without a leader, behind the member that is furthest.
    pub(super) lag: u64,
    /// Whether it follows a leader, or is the leader.
    pub(super) has_leader: bool,
    pub(super) errors: Vec<String>,
}

/// The certificates of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Certificates {
    /// How many were read.
    pub(super) number: usize,
    /// The file of the one that ends first, and when, in UTC.
    pub(super) first: Option<(String, String)>,
    /// Those that end soon or have ended, a sentence each, at most 20.
    pub(super) ending: Vec<String>,
    /// Those that could not be read, at most 20.
    pub(super) unreadable: Vec<String>,
    /// Whether there are too many files to read all.
    pub(super) cut_short: bool,
}

/// A program that serves other hosts over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Server {
    Kubelet,
    KubeApiserver,
    Etcd,
}

impl Server {
    pub(super) const ALL: [Self; 3] = [Self::Kubelet, Self::KubeApiserver, Self::Etcd];

    /// Its name, as in the JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::KubeApiserver => "kube-apiserver",
            Self::Etcd => "etcd",
        }
    }
}

/// The certificate that a server of a node shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NodeCertificate {
    pub(super) node: String,
    pub(super) server: Server,
    /// In UTC.
    pub(super) ends: Part<String>,
    /// Whether it ends soon, or has ended.
    pub(super) ends_soon: bool,
}

/// Requests of nodes for certificates that wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct OpenRequests {
    /// The oldest, at most 20.
    pub(super) named: Vec<OpenRequest>,
    /// How many others there are.
    pub(super) more: usize,
    /// Whether there are requests that were not read.
    pub(super) unread: bool,
}

/// A request of a node for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct OpenRequest {
    pub(super) name: String,
    /// The user that made it.
    pub(super) requester: String,
    /// In seconds.
    pub(super) age: u64,
}

/// The backups of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct BackupState {
    pub(super) enabled: bool,
    pub(super) directory: String,
    pub(super) newest: Option<BackupRow>,
    /// Why the newest is too old, and the next thing to try.
    pub(super) too_old: Option<String>,
    /// The master to which this host has left the last backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) left_to: Option<String>,
}

/// The newest verified backup of another master, as it has published it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct MasterBackup {
    pub(super) node: String,
    /// When it was begun, in UTC; None if the master has published none.
    pub(super) taken: Option<String>,
    /// In seconds; None if it was taken in the future.
    pub(super) age: Option<u64>,
    /// Whether it is younger than the limit.
    pub(super) young: bool,
    /// Why it is a problem, and the next thing to try.
    pub(super) too_old: Option<String>,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct BackupRow {
    pub(super) name: String,
    /// In seconds; unknown without a manifest.
    pub(super) age: Option<u64>,
    /// In bytes.
    pub(super) size: u64,
    /// Whether a restore of it has succeeded, and it is of this cluster.
    pub(super) verified: bool,
}
