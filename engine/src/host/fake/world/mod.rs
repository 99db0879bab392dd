//! Everything a fake host consists of.
//!
//! Data, and what the data does by itself (control files of a cgroup, links in paths). Not here: the calls of a host, which are in the
//! files above, for example `files` and `services`. Start with `World` in this file, then `tree`.

pub(in crate::host::fake) mod cgroups;
pub(in crate::host::fake) mod etcd;
pub(in crate::host::fake) mod firewall;
pub(in crate::host::fake) mod package;
pub(in crate::host::fake) mod program;
pub(in crate::host::fake) mod snapshot;
pub(in crate::host::fake) mod tree;
pub(in crate::host::fake) mod unit;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::host::fake::docker::container::FakeContainer;
use crate::host::fake::kubernetes::state::{ClusterState, KubernetesRules};
use crate::host::fake::world::etcd::EtcdWorld;
use crate::host::fake::world::firewall::Firewall;
use crate::host::fake::world::package::InstalledPackage;
use crate::host::fake::world::program::Program;
use crate::host::fake::world::tree::{Node, NodeKind, Tree};
use crate::host::fake::world::unit::Unit;
use crate::host::{
    Attributes, ClaimKind, EntryKind, Link, StoppedProcess, StoppedShim, VirtualService, VrrpSender,
};

/// 2026-01-01T00:00:00Z, where every fake clock starts.
const START: Duration = Duration::from_secs(1_767_225_600);

/// The state of a fake host. Clones are independent. [`World::bare`] makes one.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub(crate) tree: Tree,
    pub(crate) units: BTreeMap<String, Unit>,
    /// Image ids by reference.
    pub(crate) images: BTreeMap<String, String>,
    pub(crate) containers: BTreeMap<String, FakeContainer>,
    /// Names of containers whose process ends at once.
    pub(crate) broken_containers: BTreeSet<String>,
    pub(crate) runtime_version: String,
    /// Whether containers work although no `docker.service` is known; for tests that care about containers only.
    pub(crate) runtime_without_unit: bool,
    /// What docker has read of its setting `live-restore`; `None` if it has not been started or reloaded in this world, and has what its file
    /// says now.
    pub(crate) live_restore: Option<bool>,
    /// Whether the pods' containers are those of a host below an overlay.
    pub(crate) pods_below: bool,
    pub(crate) packages: BTreeMap<String, InstalledPackage>,
    pub(crate) links: BTreeMap<String, Link>,
    /// Routes to pods of other nodes, by subnet.
    pub(crate) node_routes: BTreeMap<IpNet, IpAddr>,
    /// Routes of other programs, by subnet, as `ip route` shows them.
    pub(crate) foreign_routes: BTreeMap<IpNet, String>,
    pub(crate) virtual_services: BTreeSet<VirtualService>,
    /// Hardware addresses of other hosts on the networks of this one, which answer nothing else.
    pub(crate) neighbours: BTreeMap<IpAddr, String>,
    /// Hardware addresses of the other hosts that answer ARP for an address.
    pub(crate) address_holders: BTreeMap<Ipv4Addr, BTreeSet<String>>,
    /// Hardware addresses of the other hosts that claim an address.
    pub(crate) conflicting_claims: BTreeMap<Ipv4Addr, BTreeMap<String, ClaimKind>>,
    /// The claims of this host, each with what its end cancels.
    pub(crate) claims: Vec<(Ipv4Addr, CancellationToken)>,
    /// Who else sends VRRP, by link.
    pub(crate) vrrp_senders: BTreeMap<String, BTreeSet<VrrpSender>>,
    pub(crate) modules: BTreeSet<String>,
    pub(crate) loadable_modules: BTreeSet<String>,
    pub(crate) programs: BTreeMap<String, Program>,
    pub(crate) cluster: ClusterState,
    /// The members of etcd.
    pub etcd: EtcdWorld,
    pub(crate) kubernetes: KubernetesRules,
    /// Other endpoints, `host:port`, with the status and body they answer.
    pub(crate) endpoints: BTreeMap<String, (u16, String)>,
    /// The certificates (DER) that such endpoints show.
    pub(crate) endpoint_certificates: BTreeMap<String, Vec<u8>>,
    /// Such endpoints with which the TLS handshake fails.
    pub(crate) tls_failures: BTreeMap<String, rustls::Error>,
    pub(crate) host_name: String,
    pub(crate) space: BTreeMap<PathBuf, crate::host::Space>,
    /// Mount points that matter.
    pub(crate) mounts: BTreeSet<PathBuf>,
    pub(crate) firewall: Firewall,
    /// TCP ports that something else on this host listens on.
    pub(crate) ports: BTreeSet<u16>,
    /// Files that cannot be changed, and directories in which none can be made or replaced (`chattr +i`).
    pub(crate) immutable: BTreeSet<PathBuf>,
    /// Directories below which no file can be made: their file system has no inodes left.
    pub(crate) without_inodes: BTreeSet<PathBuf>,
    /// Whether the role's payload is a placeholder without the real content.
    pub(crate) payload_unread: bool,
    /// Whether only half of what is appended to a file arrives.
    pub(crate) tears_appends: bool,
    /// Stopped processes.
    pub(crate) stopped: BTreeSet<StoppedProcess>,
    /// Stopped shims of containers.
    pub(crate) stopped_shims: Vec<StoppedShim>,
    /// Where the clock started, if not at [`START`].
    start: Option<SystemTime>,
    elapsed: Duration,
    /// When the host booted. `None` means before the world began.
    booted: Option<Duration>,
    ids: u64,
}

impl World {
    /// A world with a root directory and nothing else.
    #[must_use]
    pub fn bare(host_name: &str) -> Self {
        let mut world = Self {
            runtime_version: "20.10.24".to_owned(),
            runtime_without_unit: true,
            host_name: host_name.to_owned(),
            ..Self::default()
        };
        world.directory("/");
        world
    }

    /// Wall-clock time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let start = self.start.unwrap_or(SystemTime::UNIX_EPOCH + START);
        start + self.elapsed
    }

    /// Sets the room on the file system of what is below `path`.
    pub fn set_space(&mut self, path: impl Into<PathBuf>, space: crate::host::Space) {
        self.space.insert(path.into(), space);
    }

    /// Takes the last inode of the file system of a directory.
    pub fn exhaust_inodes(&mut self, path: impl Into<PathBuf>) {
        self.without_inodes.insert(path.into());
    }

    /// Protects the file or directory at `path` from every change, as `chattr +i` does.
    pub fn protect(&mut self, path: impl Into<PathBuf>) {
        self.immutable.insert(path.into());
    }

    /// Ends the protection of `path`.
    pub fn release(&mut self, path: impl AsRef<Path>) {
        self.immutable.remove(path.as_ref());
    }

    /// Whether the entry at `path` may be replaced, or made if there is none.
    pub(crate) fn writable(&self, path: &Path) -> Result<(), std::io::Error> {
        // `EPERM` of Linux.
        let refused = || std::io::Error::from_raw_os_error(1);
        let its = [Some(path), path.parent()].into_iter().flatten();
        match its.into_iter().any(|one| self.immutable.contains(one)) {
            true => Err(refused()),
            false => Ok(()),
        }
    }

    /// Sets the time at which the world began.
    pub fn begin_at(&mut self, start: SystemTime) {
        self.start = Some(start);
    }

    /// Time since the world began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Marks the host as just booted.
    pub fn has_booted(&mut self) {
        self.booted = Some(self.elapsed);
    }

    /// How long it has been up.
    pub(crate) fn up(&self) -> Duration {
        self.booted
            .map_or(Duration::MAX, |booted| self.elapsed.saturating_sub(booted))
    }

    /// Lets time pass.
    pub fn advance(&mut self, duration: Duration) {
        self.elapsed = self.elapsed.saturating_add(duration);
    }

    /// Content of a file as text; `None` where there is none.
    #[must_use]
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        self.tree.text(path)
    }

    /// Puts a file with missing parents, mode 0644.
    pub fn file(&mut self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        self.file_with_mode(path, content, 0o644);
    }

    /// Puts a file with missing parents.
    pub fn file_with_mode(&mut self, path: impl AsRef<Path>, content: impl AsRef<[u8]>, mode: u32) {
        let kind = NodeKind::File(content.as_ref().to_vec());
        let node = Node {
            kind,
            attributes: Attributes::root(mode),
            modified: self.now(),
        };
        self.tree.plant(path.as_ref(), node);
    }

    /// Changes the mode and owner of the entry at `path`, which may be a link.
    pub fn own(&mut self, path: impl AsRef<Path>, attributes: Attributes) {
        self.tree.set_own_attributes(path.as_ref(), attributes);
    }

    /// Marks a file that will be written with content that is not known yet. An entry that is no file stays as it is.
    pub(crate) fn mark_unknown(&mut self, path: &Path, why: &str) {
        let at = self.tree.resolve(path, false);
        let at = at.unwrap_or_else(|_| path.to_path_buf());
        let attributes = match self.tree.entry(&at) {
            None => Attributes::root(0o644),
            Some(entry) if matches!(entry.kind, EntryKind::File(_)) => entry.attributes,
            Some(_) => return,
        };
        let node = Node {
            kind: NodeKind::Unknown(why.to_owned()),
            attributes,
            modified: self.now(),
        };
        self.tree.plant(&at, node);
    }

    /// Puts a directory with missing parents, mode 0755. Leaves one that is there as it is.
    pub fn directory(&mut self, path: impl AsRef<Path>) {
        self.directory_with_mode(path, 0o755);
    }

    /// Puts a directory with missing parents. Leaves one that is there as it is.
    pub fn directory_with_mode(&mut self, path: impl AsRef<Path>, mode: u32) {
        if !self.tree.is_directory(path.as_ref()) {
            let attributes = Attributes::root(mode);
            let node = Node {
                kind: NodeKind::Directory,
                attributes,
                modified: self.now(),
            };
            self.tree.plant(path.as_ref(), node);
        }
    }

    /// Mounts something at a path.
    pub fn mount(&mut self, path: impl AsRef<Path>) {
        self.directory(path.as_ref());
        self.mounts.insert(path.as_ref().to_path_buf());
    }

    /// Removes the entry at a path, with everything below it.
    pub fn remove(&mut self, path: impl AsRef<Path>) {
        self.tree.remove_tree(path.as_ref());
    }

    /// Starts the identities at this number, apart from those of another world.
    pub(crate) fn begin_ids_at(&mut self, first: u64) {
        self.ids = first;
    }

    /// A fresh identity that never occurs twice in this world.
    pub(crate) fn next_id(&mut self) -> String {
        self.ids += 1;
        format!("{:032x}", self.ids)
    }

    /// Lets the world react to what just happened to it.
    pub(crate) fn settle(&mut self) {
        self.settle_static_pods();
        self.settle_cluster();
    }
}
