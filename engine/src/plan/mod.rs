//! The plan: an immutable, fully decided list of phases for one host.
//!
//! Scripts are evaluated into a plan once; diff, apply, check and stop only read it. A plan leaves no decision to its
//! execution, contains no time and no path of the machine on which it was made, and does not depend on the script
//! language.
//!
//! Not here: how a plan is made (`planner`, `script`), how it is shown (`report::plan`), and how it is carried out (`exec`). Start with
//! [`Plan`], then `order`.

mod digest;
mod order;
mod owners;
mod secrets;
mod skipped;

pub use order::{Graph, OrderError};
pub(crate) use owners::shared_resources;
pub(crate) use secrets::guard_secrets;
pub use skipped::SkippedWord;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::facts::Requirement;
use crate::model::{PhaseName, Span, StepId};
use crate::resource::{Checksums, Spec};

/// Version of the serialized form. A reader refuses a newer one.
pub const VERSION: u32 = 1;

/// What a host should be, step by step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of this form, [`VERSION`].
    pub version: u32,
    /// Role and its version, for example `pf9-kube 1.20.2`.
    pub role: String,
    /// The host's name.
    pub host: String,
    /// `master`, `worker`, or `none` of a host that has no role.
    pub node: String,
    /// Files and directories of the role's payload that must be on the host.
    pub payload: Vec<PathBuf>,
    /// Phases in the order in which they start.
    pub phases: Vec<PlannedPhase>,
}

impl Plan {
    /// A plan of these phases for a master, with nothing else in it: tests begin with one.
    #[must_use]
    pub fn bare(phases: Vec<PlannedPhase>) -> Self {
        Self {
            version: VERSION,
            role: "r 1".to_owned(),
            host: "cp-1".to_owned(),
            node: "master".to_owned(),
            payload: Vec::new(),
            phases,
        }
    }

    /// The phase of this name.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<&PlannedPhase> {
        self.phases.iter().find(|phase| phase.name.as_str() == name)
    }
}

/// A named unit of bring-up with steps, checks and ways back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedPhase {
    /// Its name.
    pub name: PhaseName,
    /// What it is for, one line.
    pub about: String,
    /// The position of `phase` in its script.
    pub span: Span,
    /// Why it does nothing on this host, if so.
    pub skipped: Option<String>,
    /// Phases that must have converged first.
    pub requires: Vec<PhaseName>,
    /// Phases that come first if they are there.
    pub after: Vec<PhaseName>,
    /// Bound on one run of all its steps and checks.
    #[serde(with = "duration_text")]
    pub timeout: Duration,
    /// Phase at which a repair of this one begins.
    pub restart_from: Option<PhaseName>,
    /// What must hold on a bare host before anything is touched.
    pub requirements: Vec<PlannedRequirement>,
    /// The steps that an apply converges, in order.
    pub steps: Vec<PlannedStep>,
    /// Steps that a stop runs, to end what the inverses of `steps` do not end.
    pub on_stop: Vec<PlannedStep>,
    /// Steps that a rollback runs, after it has reverted the receipts of the failed phase.
    pub on_rollback: Vec<PlannedStep>,
    /// Steps that remove what the phase's programs leave behind; recorded before the phase's first effect, carried out by a clean.
    #[serde(default)]
    pub on_clean: Vec<PlannedStep>,
    /// Read-only assertions that it does its work.
    pub checks: Vec<PlannedCheck>,
    /// Its steps, checks and preconditions that are left out on this host. Only reports read them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped_words: Vec<SkippedWord>,
}

impl PlannedPhase {
    /// [`PlannedPhase::timeout`] where the script says nothing.
    pub const TIMEOUT: Duration = Duration::from_secs(600);

    /// A phase that does nothing: tests, and the lowering of `phase`, begin with one.
    #[must_use]
    pub fn bare(name: PhaseName) -> Self {
        Self {
            about: String::new(),
            span: Span::new(format!("phases/{name}.rhai"), 1, 1),
            name,
            skipped: None,
            requires: Vec::new(),
            after: Vec::new(),
            timeout: Self::TIMEOUT,
            restart_from: None,
            requirements: Vec::new(),
            steps: Vec::new(),
            on_stop: Vec::new(),
            on_rollback: Vec::new(),
            on_clean: Vec::new(),
            checks: Vec::new(),
            skipped_words: Vec::new(),
        }
    }
}

/// One recorded resource intent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// Its identity.
    pub id: StepId,
    /// Its position in the script.
    pub span: Span,
    /// What should be.
    pub spec: Spec,
    /// How to go about it.
    pub policy: StepPolicy,
}

impl PlannedStep {
    /// A step of this phase that is carried out as usual: tests begin with one.
    #[must_use]
    pub fn bare(phase: &PhaseName, spec: Spec) -> Self {
        Self {
            id: StepId::new(phase, spec.kind(), &spec.label()),
            span: Span::file(format!("phases/{phase}.rhai")),
            spec,
            policy: StepPolicy::default(),
        }
    }
}

/// How a step is carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepPolicy {
    /// Bound on one try.
    #[serde(with = "duration_text")]
    pub timeout: Duration,
    /// How often it is tried in all, at least 1.
    pub tries: u32,
    /// Pause before the second try; each later pause is up to twice as long, with jitter.
    #[serde(with = "duration_text")]
    pub backoff: Duration,
    /// A rollback and a clean leave what the step makes.
    pub keep: bool,
    /// The resource should not be there.
    pub absent: bool,
    /// Steps whose content this one has read: when that changes, this one restarts.
    pub restart_on: Vec<StepId>,
    /// Steps whose content this one has read: when that changes, this one reloads.
    pub reload_on: Vec<StepId>,
}

impl Default for StepPolicy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(120),
            tries: 1,
            backoff: Duration::from_secs(1),
            keep: false,
            absent: false,
            restart_on: Vec::new(),
            reload_on: Vec::new(),
        }
    }
}

/// A precondition of a bare host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedRequirement {
    /// What it asserts, in the script's words.
    pub name: String,
    /// Its position in the script.
    pub span: Span,
    /// The typed requirement.
    pub requirement: Requirement,
}

/// A read-only assertion about health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedCheck {
    /// What it asserts, in the script's words.
    pub name: String,
    /// Its position in the script.
    pub span: Span,
    /// The observation it makes.
    pub probe: Probe,
    /// Pause between two tries while a phase starts; longer if the program that the check asks is slow to answer.
    #[serde(with = "duration_text")]
    pub every: Duration,
    /// How long a starting phase waits for it.
    #[serde(with = "duration_text")]
    pub timeout: Duration,
    /// How many failures in a row make the phase unhealthy.
    pub failures: u32,
    /// A failure is only reported: no apply waits for the check, and no phase fails or is restarted because of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub advisory: bool,
    /// The API server on another host that the check needs. If the check fails while that server does not answer this host, it is Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_api: Option<NeededApi>,
    /// If the check fails while etcd has no quorum because other members do not answer, and this host's member runs, it is Unknown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_quorum: bool,
}

/// An API server that this host asks for its own node, to find out whether the server answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeededApi {
    /// The name of this host's node.
    pub node: String,
    /// How it asks.
    pub kubeconfig: PathBuf,
}

impl PlannedCheck {
    /// [`PlannedCheck::every`] where the script says nothing.
    pub const EVERY: Duration = Duration::from_millis(500);
    /// [`PlannedCheck::timeout`] where the script says nothing.
    pub const TIMEOUT: Duration = Duration::from_secs(60);
    /// [`PlannedCheck::failures`] where the script says nothing.
    pub const FAILURES: u32 = 1;

    /// A check of this phase whose script says nothing more about it: tests begin with one.
    #[must_use]
    pub fn bare(phase: &PhaseName, name: &str, probe: Probe) -> Self {
        Self {
            name: name.to_owned(),
            span: Span::file(format!("phases/{phase}.rhai")),
            probe,
            every: Self::EVERY,
            timeout: Self::TIMEOUT,
            failures: Self::FAILURES,
            advisory: false,
            needs_api: None,
            needs_quorum: false,
        }
    }
}

/// The single observation a check makes.
// The digest of a plan contains the names of the variants, so renaming a variant changes the digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// An HTTPS (or loopback HTTP) GET answers 200 with this text in it.
    Https {
        /// The URL.
        url: String,
        /// Roots to trust.
        ca: Option<PathBuf>,
        /// Our certificate and key.
        client: Option<(PathBuf, PathBuf)>,
        /// Text that the body must contain.
        expect: String,
        /// The file with the certificate that the server must present.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certificate: Option<PathBuf>,
    },
    /// A TCP port accepts connections.
    Tcp(std::net::SocketAddr),
    /// A command ends with 0 (and its output holds `expect`).
    Run {
        /// The command.
        argv: Vec<String>,
        /// Text that its output must contain.
        expect: String,
    },
    /// A file is there and not empty.
    FileExists(PathBuf),
    /// A file is the first one by name in its directory that has one of these extensions: the program that reads the directory
    /// uses only the first.
    FirstFile {
        /// The file.
        path: PathBuf,
        /// Extensions of the file names that this program reads.
        endings: Vec<String>,
    },
    /// A unit is active.
    ServiceActive(String),
    /// A container runs.
    ContainerRunning(String),
    /// The container runtime answers.
    ContainerRuntime,
    /// All containers of a static pod run: pod name (without the node's), container names.
    PodRunning {
        /// Pod name on this node.
        pod: String,
        /// Its containers.
        containers: Vec<String>,
    },
    /// The node's condition Ready is true, and kubelet has reported it since its start.
    NodeReady {
        /// Node name.
        node: String,
        /// Unit of kubelet.
        kubelet: String,
        /// Kubeconfig to ask with.
        kubeconfig: PathBuf,
    },
    /// Neither memory, disk nor process ids run short on the node, as kubelet reports.
    NodeWithoutPressure {
        /// Node name.
        node: String,
        /// Kubeconfig to ask with.
        kubeconfig: PathBuf,
    },
    /// An object is in the cluster.
    ObjectExists {
        /// Enough of it to find it: apiVersion, kind, metadata.
        object: serde_json::Value,
        /// Kubeconfig to ask with.
        kubeconfig: PathBuf,
    },
    /// A link is up.
    LinkUp(String),
    /// A link is up and has an IPv4 address.
    LinkAddressed(String),
    /// A chain of the IPv4 packet filter has a rule that leads to a target, or any rule.
    FirewallRule {
        /// The table, for example `nat`.
        table: String,
        /// The chain.
        chain: String,
        /// Where a rule of it leads to; empty for any rule.
        target: String,
    },
    /// An address is on some link of this host.
    AddressHeld(std::net::IpAddr),
    /// No other host on the link answers ARP for an IPv4 address that this host has. Also true if this host does not have it.
    AddressUnique {
        /// The address.
        address: std::net::Ipv4Addr,
        /// The link that has it.
        link: String,
    },
    /// A virtual address works, as far as this host can tell. If this host holds the address, the API answers over it. If
    /// not, another master may hold it, or this host's own API server does not answer either.
    VirtualIp {
        /// The address.
        address: std::net::IpAddr,
        /// The link it belongs on.
        link: String,
        /// The API's port.
        port: u16,
        /// Roots to trust.
        ca: PathBuf,
        /// Whether other masters may hold it.
        shared: bool,
    },
    /// The API answers over a virtual address that another host holds. Also true if this host holds it, or if this host's own API server
    /// does not answer.
    VirtualIpAnswers {
        /// The address.
        address: std::net::IpAddr,
        /// The API's port.
        port: u16,
        /// Roots to trust.
        ca: PathBuf,
    },
    /// Certificates under a directory are valid and not near their end: more than a sixth of their life is left.
    CertificatesValid {
        /// Directory that is searched, to a bounded depth.
        directory: PathBuf,
    },
    /// The newest verified backup of this cluster in a directory is young enough.
    BackupYoungerThan {
        /// Where backups are kept.
        directory: PathBuf,
        /// Limit on the backup's age; as long as there is no backup, on the age of the timer that makes backups.
        #[serde(with = "duration_text")]
        limit: Duration,
        /// The cluster's `CLUSTER_ID`, which must be in the backup's manifest.
        cluster: String,
    },
    /// There is room for a backup of etcd, and in nodelet's own directory for the copy on which the backup is verified.
    RoomForBackup {
        /// Where backups are kept.
        directory: PathBuf,
        /// etcd's store.
        file: PathBuf,
    },
    /// The API server accepts the token that the cluster gave to a service account.
    TokenAccepted {
        /// Namespace of the account.
        namespace: String,
        /// Its name.
        account: String,
        /// Kubeconfig to ask with.
        kubeconfig: PathBuf,
    },
    /// The authorities, keys and data ids of the phase are those that nodelet has recorded for this host.
    KeysKept,
    /// The files of the role's package are those that were packed.
    PackageIntact {
        /// The checksums to compare with; `None` for a package without checksums, which is not compared.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checksums: Option<Checksums>,
    },
    /// No step of the phase would change anything.
    AsPlanned,
}

impl Probe {
    /// Whether the probe asks a program, which may fail to answer for a moment, instead of reading a state from the host.
    #[must_use]
    pub fn asks(&self) -> bool {
        match self {
            Self::Https { .. }
            | Self::VirtualIp { .. }
            | Self::VirtualIpAnswers { .. }
            | Self::AddressUnique { .. }
            | Self::Tcp(_)
            | Self::Run { .. }
            | Self::FirewallRule { .. }
            | Self::ContainerRuntime
            | Self::PodRunning { .. }
            | Self::NodeReady { .. }
            | Self::NodeWithoutPressure { .. }
            | Self::ObjectExists { .. }
            | Self::TokenAccepted { .. } => true,
            Self::FileExists(_)
            | Self::FirstFile { .. }
            | Self::ServiceActive(_)
            | Self::ContainerRunning(_)
            | Self::LinkUp(_)
            | Self::LinkAddressed(_)
            | Self::AddressHeld(_)
            | Self::CertificatesValid { .. }
            | Self::BackupYoungerThan { .. }
            | Self::RoomForBackup { .. }
            | Self::KeysKept
            | Self::PackageIntact { .. }
            | Self::AsPlanned => false,
        }
    }
}

/// Durations as text with units (`1m 30s`), which is the same in every locale.
mod duration_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(serde::de::Error::custom)
    }
}
