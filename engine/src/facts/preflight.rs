//! The requirements that a host must meet before a role changes it, and their verdicts.
//!
//! The judgement is pure: facts in, verdict out. How each requirement judges is in `requirements.rs`.

use serde::{Deserialize, Serialize};

use super::model::Facts;
use super::parse;
use super::requirements as judge;

/// One thing that must hold before the first step of an apply on a bare host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Requirement {
    /// No swap is on.
    NoSwap {
        /// Whether swap is accepted after all (`ALLOW_SWAP`). Scripts always say false: the phase leaves the requirement out instead.
        // The record of preconditions has the digest of this form, as for `PersistentDirectory`. To be removed at the first release.
        allowed: bool,
    },
    /// No process listens on these TCP ports.
    PortsFree(Vec<u16>),
    /// These programs are on the PATH.
    Programs(Vec<String>),
    /// At least this many bytes of main memory.
    MinMemory(u64),
    /// At least this many processors.
    MinCpus(u32),
    /// The processors with these numbers are in use: a list such as `0-1,4`.
    CpusOnline(String),
    /// At least this much room below a path.
    MinDisk {
        /// The path.
        path: String,
        /// Free bytes.
        bytes: u64,
    },
    /// A directory that exists or can be made, on a disk that is writable and has room (not in memory), and open to root only.
    // The record of preconditions has the digest of this form: with another name, those of a running host would count as never met. To be
    // removed at the first release.
    #[serde(rename = "lasting-directory")]
    PersistentDirectory {
        /// The path.
        path: String,
        /// Free bytes.
        bytes: u64,
    },
    /// These control group controllers can be used.
    CgroupControllers(Vec<String>),
    /// No other software runs containers for Kubernetes here. A running docker is fine: configuring it is our job.
    NoForeignRuntime,
    /// No other cluster's software left its files here.
    NoEarlierCluster,
    /// IPVS has no virtual services of other software: kube-proxy removes those that it does not know.
    NoVirtualServices,
    /// The host's name can be a node's name.
    HostNameValid,
    /// The host's name is none of the names of the API server: with a certificate of its node, the host could pose as the API server.
    HostNameNotOfApi {
        /// The names, in lower case.
        names: Vec<String>,
    },
    /// These networks overlap neither each other nor a network that this host is in or routes to.
    CidrsDisjoint {
        /// The networks.
        named: Vec<NamedCidr>,
    },
    /// The kernel has these features.
    KernelFeatures(Vec<String>),
    /// A link of this name exists and is up.
    Interface {
        /// Its name.
        name: String,
    },
    /// An address can be a node's: it is IPv4, and a host can have it.
    NodeAddress {
        /// The address.
        address: std::net::IpAddr,
    },
    /// A host can have an address: in no network of this host is it one that belongs to the network itself.
    UsableAddress {
        /// The address.
        address: std::net::IpAddr,
    },
    /// An address can be the masters' virtual one.
    VirtualIp {
        /// The address.
        address: std::net::IpAddr,
        /// The link that is to hold it.
        interface: String,
    },
    /// No host outside of this cluster uses the masters' virtual address.
    VirtualIpFree {
        /// The address.
        address: std::net::IpAddr,
        /// The port of the API server.
        port: u16,
    },
    /// Only masters of this cluster send VRRP with this router id on a link.
    VirtualRouterFree {
        /// The router id.
        router_id: u8,
        /// The link.
        interface: String,
    },
    /// The operating system is one of these.
    SupportedSystem(Vec<SupportedSystem>),
    /// The processor's architecture is one of these, as `uname -m` says it.
    Architecture(Vec<String>),
    /// systemd runs the host.
    Systemd,
    /// We are root.
    Root,
    /// The clock does not show a time before this program was written.
    ClockSane,
}

/// A network with the name of the setting it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedCidr {
    /// The setting, for example `CONTAINERS_CIDR`.
    pub name: String,
    /// The network as text. Text that is not a network is reported as a problem of its own.
    pub cidr: String,
}

impl NamedCidr {
    /// A network under a name.
    #[must_use]
    pub fn new(name: &str, cidr: &str) -> Self {
        Self {
            name: name.to_owned(),
            cidr: cidr.to_owned(),
        }
    }
}

/// An operating system that is supported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupportedSystem {
    /// `ID` of /etc/os-release.
    pub id: String,
    /// Accepted `VERSION_ID`s; empty accepts any.
    pub versions: Vec<String>,
}

/// Whether a requirement holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verdict {
    /// It holds.
    Met,
    /// It does not.
    NotMet {
        /// What is wrong, with numbers.
        problem: String,
        /// The next thing to try.
        remedy: String,
    },
    /// The facts do not tell.
    Unknown {
        /// What is missing.
        reason: String,
    },
}

impl Verdict {
    pub(crate) fn not_met(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::NotMet {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// Unknown, with the reason that gathering noted for one of these items.
    pub(crate) fn unknown(facts: &Facts, what: &str, items: &[&str]) -> Self {
        let noted = items
            .iter()
            .find_map(|item| Some((item, facts.unknown.get(*item)?)));
        let reason = match noted {
            Some((item, why)) => format!("{what}: {item}: {why}"),
            None => format!("{what}: the facts do not say"),
        };
        Self::Unknown { reason }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Met => f.write_str("met"),
            Self::NotMet { problem, remedy } => write!(f, "{problem}; {remedy}"),
            Self::Unknown { reason } => write!(f, "unknown: {reason}"),
        }
    }
}

impl Requirement {
    /// That the processors of a list are in use; `None` if the text is no such list.
    pub(crate) fn cpus_online(list: &str) -> Option<Self> {
        parse::cpu_ranges(list).map(|_| Self::CpusOnline(list.to_owned()))
    }

    /// Whether a host stops meeting the requirement once the role is on it: the role itself listens on the ports, runs containers, has
    /// routes and takes room.
    #[must_use]
    pub fn invalidated_by_role(&self) -> bool {
        matches!(
            self,
            Self::PortsFree(_)
                | Self::NoForeignRuntime
                | Self::NoEarlierCluster
                | Self::NoVirtualServices
                | Self::CidrsDisjoint { .. }
                | Self::MinDisk { .. }
                | Self::PersistentDirectory { .. }
                | Self::VirtualIpFree { .. }
                | Self::VirtualRouterFree { .. }
        )
    }

    /// Whether only a host without the role has to meet the requirement. With another name, a host with the role would be another node.
    #[must_use]
    pub fn is_for_bare_hosts(&self) -> bool {
        matches!(self, Self::HostNameNotOfApi { .. })
    }

    /// The requirement without its amount. A newer role that needs more memory, room or processors must not prevent the repair of a host
    /// that runs with less.
    #[must_use]
    pub fn subject(&self) -> Self {
        let mut subject = self.clone();
        match &mut subject {
            Self::MinMemory(bytes)
            | Self::MinDisk { bytes, .. }
            | Self::PersistentDirectory { bytes, .. } => *bytes = 0,
            Self::MinCpus(count) => *count = 0,
            Self::NoSwap { .. }
            | Self::PortsFree(_)
            | Self::Programs(_)
            | Self::CpusOnline(_)
            | Self::CgroupControllers(_)
            | Self::NoForeignRuntime
            | Self::NoEarlierCluster
            | Self::NoVirtualServices
            | Self::HostNameValid
            | Self::HostNameNotOfApi { .. }
            | Self::CidrsDisjoint { .. }
            | Self::KernelFeatures(_)
            | Self::Interface { .. }
            | Self::NodeAddress { .. }
            | Self::UsableAddress { .. }
            | Self::VirtualIp { .. }
            | Self::VirtualIpFree { .. }
            | Self::VirtualRouterFree { .. }
            | Self::SupportedSystem(_)
            | Self::Architecture(_)
            | Self::Systemd
            | Self::Root
            | Self::ClockSane => {}
        }
        subject
    }

    /// Whether the requirement can be judged while the role is still on the host, as if the role were not there. The ports can be, once the
    /// role's own listeners are left out (`exec/repair/rebuild.rs`); and without the role there is at least as much room.
    #[must_use]
    pub fn checkable_before_clean(&self) -> bool {
        !matches!(
            self,
            Self::NoForeignRuntime
                | Self::NoEarlierCluster
                | Self::NoVirtualServices
                | Self::CidrsDisjoint { .. }
        )
    }

    /// Judges the facts.
    #[must_use]
    pub fn check(&self, facts: &Facts) -> Verdict {
        match self {
            Self::NoSwap { allowed } => judge::no_swap(facts, *allowed),
            Self::PortsFree(ports) => judge::ports_free(facts, ports),
            Self::Programs(names) => judge::programs(facts, names),
            Self::MinMemory(bytes) => judge::min_memory(facts, *bytes),
            Self::MinCpus(count) => judge::min_cpus(facts, *count),
            Self::CpusOnline(list) => judge::cpus_online(facts, list),
            Self::MinDisk { path, bytes } => judge::min_disk(facts, path, *bytes),
            Self::PersistentDirectory { path, bytes } => {
                judge::persistent_directory(facts, path, *bytes)
            }
            Self::CgroupControllers(names) => judge::cgroup_controllers(facts, names),
            Self::NoForeignRuntime => judge::no_foreign_runtime(facts),
            Self::NoEarlierCluster => judge::no_earlier_cluster(facts),
            Self::NoVirtualServices => judge::no_virtual_services(facts),
            Self::HostNameValid => judge::host_name_valid(facts),
            Self::HostNameNotOfApi { names } => judge::host_name_not_of_api(facts, names),
            Self::CidrsDisjoint { named } => judge::cidrs_disjoint(facts, named),
            Self::KernelFeatures(names) => judge::kernel_features(facts, names),
            Self::Interface { name } => judge::interface(facts, name),
            Self::NodeAddress { address } => judge::node_address(facts, *address),
            Self::UsableAddress { address } => judge::usable_address(facts, *address),
            Self::VirtualIp { address, interface } => judge::virtual_ip(facts, *address, interface),
            Self::VirtualIpFree { address, port } => judge::virtual_ip_free(facts, *address, *port),
            Self::VirtualRouterFree {
                router_id,
                interface,
            } => judge::virtual_router_free(facts, *router_id, interface),
            Self::SupportedSystem(systems) => judge::supported_system(facts, systems),
            Self::Architecture(names) => judge::architecture(facts, names),
            Self::Systemd => judge::systemd(facts),
            Self::Root => judge::root(facts),
            Self::ClockSane => judge::clock_sane(facts),
        }
    }
}
