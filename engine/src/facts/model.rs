//! The types that make up [`Facts`].

mod masters;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::obstacle::Obstacle;
use crate::host::VrrpSender;
pub use masters::{MASTERS, MASTERS_UNKNOWN, MOST_MASTERS, MasterEntry, MastersError};
pub(crate) use masters::{
    MASTERS_BYTES, MASTERS_REMEDY, checked_masters, masters_from, masters_text,
};

/// A description of one host. An absent optional item is unknown; `unknown` says why.
///
/// Old readers refuse newer versions; a new optional item needs no new version, a changed meaning does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Version of this form, [`Facts::VERSION`].
    pub version: u32,
    /// Host name as the kernel has it.
    pub hostname: String,
    /// Machine architecture, as `uname -m` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OperatingSystem>,
    /// Kernel release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Name of process 1, for example `systemd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Effective user id of the process that gathered the facts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The host's clock when the facts were taken, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
    /// Processors in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// The numbers of these processors as the kernel lists them, for example `0,2-3`. If absent, they are 0 to `cpus` - 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_list: Option<String>,
    /// Main memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Swap areas that are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swaps: Option<Vec<Swap>>,
    /// The host's own address: the address recorded for this host, if a link still has it; otherwise the first global address of the
    /// default route's link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<DefaultRoute>,
    /// Network links by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<Vec<LinkFacts>>,
    /// Routes other than the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
    /// TCP sockets that listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening: Option<Vec<Listener>>,
    /// Free space of the directories that fill up.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Those of the programs we look for that are on the PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<BTreeSet<String>>,
    /// Control groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroups: Option<Cgroups>,
    /// Whether the kernel has (or can load) a feature; one that is not listed is unknown.
    #[serde(default)]
    pub kernel_features: BTreeMap<String, bool>,
    /// Kernel settings of interest that exist.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Version of the docker that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<String>,
    /// Units of interest that exist.
    #[serde(default)]
    pub units: BTreeMap<String, UnitFacts>,
    /// Packages of interest that are installed, with their version.
    #[serde(default)]
    pub packages: BTreeMap<String, String>,
    /// Images asked about that are present.
    #[serde(default)]
    pub images: BTreeSet<String>,
    /// Paths that another cluster's software left here.
    #[serde(default)]
    pub earlier_clusters: Vec<String>,
    /// Virtual services of IPVS, no matter which program made them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_services: Vec<String>,
    /// The masters of the cluster, sorted by name, as the file on this master lists them. If it lists none, this host is the only one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masters: Vec<MasterEntry>,
    /// Who answers at addresses that the role may take, by address and port. One that is not listed was not asked: only a requirement asks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub address_users: BTreeMap<String, AddressUser>,
    /// Who else sends VRRP on a link that a requirement asks about, by link. One that is not listed was not asked about.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vrrp_senders: BTreeMap<String, BTreeSet<VrrpSender>>,
    /// Content of files of interest that exist.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Digests of the role's preconditions that were met on this host before the role was applied. The role itself may break them: for
    /// example, it listens on its ports.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub met_before: BTreeSet<String>,
    /// The role that was on the host when the facts were taken, according to its ledger. The facts leave out the files and containers of
    /// that role; its packages, units, links and ports are included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_role: Option<String>,
    /// What could not be learnt, and why.
    #[serde(default)]
    pub unknown: BTreeMap<String, String>,
}

/// The key in [`Facts::unknown`] for the virtual services of IPVS.
pub(crate) const VIRTUAL_SERVICES: &str = "virtual services";

impl Facts {
    /// The version this program reads and writes.
    pub const VERSION: u32 = 1;

    /// Facts that say nothing but the host's name.
    #[must_use]
    pub fn nothing_about(hostname: &str) -> Self {
        Self {
            version: Self::VERSION,
            hostname: hostname.to_owned(),
            ..Self::default()
        }
    }

    /// The list of the processors in use, as the kernel writes it. `None` if their number is unknown.
    #[must_use]
    pub fn online_cpus(&self) -> Option<String> {
        let count = self.cpus?;
        let without_gaps = || match count {
            0 | 1 => "0".to_owned(),
            _ => format!("0-{}", count - 1),
        };
        Some(self.cpu_list.clone().unwrap_or_else(without_gaps))
    }

    /// The link of this name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&LinkFacts> {
        self.links.iter().flatten().find(|link| link.name == name)
    }

    /// Whether one of the links has this address.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        let mut all = self.links.iter().flatten().flat_map(|link| &link.addresses);
        all.any(|net| net.addr() == address)
    }
}

/// Who uses an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressUser {
    /// No answer comes.
    Nothing,
    /// This host holds it.
    ThisHost,
    /// An API server of this host's cluster answers, or the host is one of its masters.
    ThisCluster,
    /// Another host; the text says how it is known.
    Another(String),
}

/// From /etc/os-release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatingSystem {
    /// `ID`, for example `debian`.
    pub id: String,
    /// `VERSION_ID`, for example `12`; empty where there is none.
    pub version_id: String,
    /// `PRETTY_NAME`.
    pub pretty: String,
}

/// A swap area.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swap {
    /// Device or file.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFacts {
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its addresses with prefix length.
    pub addresses: Vec<IpNet>,
}

/// The default route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultRoute {
    /// The link it leaves by.
    pub link: String,
    /// The next hop, unless the link is point to point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route to a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The network.
    pub to: IpNet,
    /// The link it leaves by.
    pub link: String,
}

/// A TCP socket that listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Port.
    pub port: u16,
    /// Address; unspecified means all.
    pub address: IpAddr,
    /// The program that listens, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The program's control group, below the hierarchy's root, if it is known. It shows to which unit or container the program belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// Room on the file system that holds a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The path.
    pub path: String,
    /// Free for us, in bytes.
    pub free: u64,
    /// In all, in bytes.
    pub total: u64,
    /// Type of the file system, for example `ext4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// Whether the file system is mounted read-only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Mode of the directory itself, in octal, if the directory exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// What is in the way of a directory: something else at the path itself or above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_by: Option<Obstacle>,
}

/// Control groups of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cgroups {
    /// How they are mounted.
    pub version: CgroupVersion,
    /// Controllers that can be used.
    pub controllers: BTreeSet<String>,
}

/// How control groups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// One hierarchy for each controller. A version 2 hierarchy without controllers may stand beside them.
    V1,
    /// One hierarchy for all.
    V2,
    /// Controllers in both.
    Hybrid,
}

/// A unit of the service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitFacts {
    /// Whether it runs.
    pub active: bool,
    /// Whether it starts at boot.
    pub enabled: bool,
}
