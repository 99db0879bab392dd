//! A fake host that looks like a described one: gathering facts from it gives the description back.
//!
//! The description is rendered as the texts the kernel would show, so dry runs and the gathering itself see what
//! they would see on the real host. What the facts leave open stays as on a bare Debian.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use crate::facts::kernel::IPVS;
use crate::facts::{CgroupVersion, Facts, MASTERS, ObstacleKind, masters_text};
use crate::host::fake::{FakeHost, Node, NodeKind, Program, World};
use crate::host::{Attributes, Space};

/// Kernel features of the facts, the module that brings each, and a file or word by which it shows.
const FEATURES: [(&str, &str, &str, &str); 5] = [
    (
        "br_netfilter",
        "br_netfilter",
        "/proc/sys/net/bridge/bridge-nf-call-iptables",
        "1\n",
    ),
    (
        "conntrack",
        "nf_conntrack",
        "/proc/sys/net/netfilter/nf_conntrack_max",
        "262144\n",
    ),
    ("ip_vs", "ip_vs", "/proc/net/ip_vs", "IP Virtual Server\n"),
    (
        "nat",
        "nf_nat",
        "/proc/net/ip_tables_targets",
        "DNAT\nMASQUERADE\n",
    ),
    (
        "overlay",
        "overlay",
        "/proc/filesystems",
        "nodev\toverlay\n",
    ),
];

impl FakeHost {
    /// A host as the facts describe it.
    #[must_use]
    pub fn from_facts(facts: &Facts) -> Self {
        let mut world = World::debian(&facts.hostname);
        if let Some(start) = facts
            .clock
            .as_deref()
            .and_then(|text| humantime::parse_rfc3339(text).ok())
        {
            world.begin_at(start);
        }
        world.describe_system(facts);
        world.describe_kernel(facts);
        world.describe_network(facts);
        world.describe_storage(facts);
        world.describe_software(facts);
        if facts.links.is_some() && facts.link("docker0").is_none() {
            // docker runs, but its bridge has been removed.
            world.remove_link("docker0");
        }
        if !facts.masters.is_empty()
            && let Ok(text) = masters_text(&facts.masters)
        {
            world.file_with_mode(MASTERS, text, 0o600);
        }
        if !facts.met_before.is_empty() {
            let path = crate::model::preflight_record::path();
            world.file_with_mode(
                path,
                crate::model::preflight_record::text(&facts.met_before),
                0o600,
            );
        }
        Self::of(world)
    }
}

impl World {
    fn describe_system(&mut self, facts: &Facts) {
        let mut known = |path: &str, text: Option<String>| {
            if let Some(text) = text {
                self.file(path, text);
            }
        };
        known("/proc/sys/kernel/arch", facts.architecture.clone());
        known("/proc/sys/kernel/osrelease", facts.kernel.clone());
        known("/proc/1/comm", facts.init.clone());
        known(
            "/proc/self/status",
            facts
                .uid
                .map(|uid| format!("Name:\tfake\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")),
        );
        known(
            "/proc/meminfo",
            facts
                .memory_bytes
                .map(|bytes| format!("MemTotal: {} kB\n", bytes / 1024)),
        );
        let online = facts.online_cpus().filter(|_| facts.cpus != Some(0));
        known(
            "/sys/devices/system/cpu/online",
            online.map(|list| format!("{list}\n")),
        );
        let os = facts.os.as_ref();
        known(
            "/etc/os-release",
            os.map(|os| {
                format!(
                    "PRETTY_NAME=\"{}\"\nID={}\nVERSION_ID=\"{}\"\n",
                    os.pretty, os.id, os.version_id
                )
            }),
        );
    }

    fn describe_kernel(&mut self, facts: &Facts) {
        if !facts.sysctls.is_empty() {
            // A list that is not empty is complete: the host's kernel has no other settings.
            self.remove("/proc/sys/net");
            self.remove("/proc/sys/vm");
        }
        for (key, value) in &facts.sysctls {
            self.set_sysctl(key, value);
        }
        let all_known = FEATURES
            .iter()
            .all(|(name, ..)| facts.kernel_features.contains_key(*name));
        let mut loadable = String::new();
        for (name, module, path, content) in FEATURES {
            match facts.kernel_features.get(name) {
                Some(true) if all_known => {
                    let _ = writeln!(loadable, "kernel/{module}.ko:");
                    self.loadable_modules.insert(module.to_owned());
                }
                Some(true) => self.file(path, content),
                Some(false) => drop(self.loadable_modules.remove(module)),
                None => {}
            }
        }
        if facts.kernel_features.get("ip_vs") == Some(&true) {
            for module in IPVS {
                if all_known {
                    let _ = writeln!(loadable, "kernel/{module}.ko:");
                } else {
                    self.modules.insert((*module).to_owned());
                }
            }
        }
        if all_known {
            let release = facts.kernel.as_deref().unwrap_or_default();
            self.file(format!("/lib/modules/{release}/modules.dep"), loadable);
        }
        if facts
            .sysctls
            .keys()
            .any(|key| key.starts_with("net.bridge."))
        {
            self.modules.insert("br_netfilter".to_owned());
        }
    }

    fn describe_network(&mut self, facts: &Facts) {
        for link in facts.links.iter().flatten() {
            let addresses: Vec<_> = link
                .addresses
                .iter()
                .map(|net| (net.addr(), net.prefix_len()))
                .collect();
            self.link(&link.name, link.up, &addresses);
        }
        if let Some(routes) = &facts.routes {
            let mut text =
                "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
                    .to_owned();
            let mut line = |link: &str, to: IpAddr, via: IpAddr, mask: IpAddr| {
                let _ = writeln!(
                    text,
                    "{link} {} {} 0003 0 0 0 {} 0 0 0",
                    hex(to),
                    hex(via),
                    hex(mask)
                );
            };
            let any = IpAddr::from([0, 0, 0, 0]);
            if let Some(default) = &facts.default_route {
                line(&default.link, any, default.gateway.unwrap_or(any), any);
            }
            for route in routes
                .iter()
                .filter(|route| matches!(route.to, IpNet::V4(_)))
            {
                line(&route.link, route.to.network(), any, route.to.netmask());
            }
            self.file("/proc/net/route", text);
        }
        if let Some(listening) = &facts.listening {
            let mut tables = [
                "sl local_address rem_address st\n".to_owned(),
                "sl\n".to_owned(),
            ];
            let mut ss = String::new();
            for (id, one) in (1000..).zip(listening) {
                let table = &mut tables[usize::from(one.address.is_ipv6())];
                let _ = writeln!(
                    table,
                    "0: {}:{:04X} 0:0000 0A 0",
                    hex(one.address),
                    one.port
                );
                if let Some(program) = &one.program {
                    let _ = writeln!(
                        ss,
                        "LISTEN 0 1 x:{} x:* users:((\"{program}\",pid={id},fd=1))",
                        one.port
                    );
                }
                if let Some(group) = &one.cgroup {
                    self.file(format!("/proc/{id}/cgroup"), format!("0::{group}\n"));
                }
                self.ports.insert(one.port);
            }
            let [four, six] = tables;
            self.file("/proc/net/tcp", four);
            self.file("/proc/net/tcp6", six);
            self.program_does("ss", Program::ends(0, &ss));
        }
    }

    fn describe_storage(&mut self, facts: &Facts) {
        let mut mounts = String::new();
        for (device, disk) in (1..).zip(&facts.disks) {
            self.space.insert(
                disk.path.clone().into(),
                Space {
                    free: disk.free,
                    total: disk.total,
                    device,
                },
            );
            let mode = disk.mode.as_deref();
            if let Some(mode) = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok()) {
                self.directory_with_mode(&disk.path, mode);
            }
            if let Some(obstacle) = &disk.taken_by {
                let node = Node {
                    kind: match obstacle.kind {
                        ObstacleKind::File => NodeKind::File(Vec::new()),
                        ObstacleKind::Link => NodeKind::Symlink("/".to_owned()),
                        ObstacleKind::Socket => NodeKind::Socket,
                        ObstacleKind::Device => NodeKind::Other,
                    },
                    attributes: Attributes::root(0o644),
                    modified: self.now(),
                };
                let place = obstacle.above.as_ref().unwrap_or(&disk.path);
                self.tree.plant(Path::new(place), node);
            }
            if let Some(kind) = &disk.filesystem {
                let access = if disk.read_only { "ro" } else { "rw" };
                let _ = writeln!(mounts, "/dev/fake {} {kind} {access} 0 0", disk.path);
            }
        }
        if let Some(cgroups) = &facts.cgroups {
            let root = Path::new("/sys/fs/cgroup");
            let all: Vec<&str> = cgroups.controllers.iter().map(String::as_str).collect();
            if cgroups.version != CgroupVersion::V2 {
                for name in &all {
                    self.cgroup_root(&root.join(name), None);
                    let _ = writeln!(
                        mounts,
                        "cgroup {}/{name} cgroup rw,{name} 0 0",
                        root.display()
                    );
                }
            }
            let unified = match cgroups.version {
                CgroupVersion::V1 => None,
                CgroupVersion::V2 => Some(root.to_owned()),
                CgroupVersion::Hybrid => Some(root.join("unified")),
            };
            if let Some(unified) = unified {
                self.cgroup_root(&unified, Some(&all.join(" ")));
                let _ = writeln!(mounts, "cgroup2 {} cgroup2 rw 0 0", unified.display());
            }
        }
        self.file("/proc/mounts", mounts);
        if let Some(swaps) = &facts.swaps {
            let mut text = "Filename Type Size Used Priority\n".to_owned();
            for area in swaps {
                let _ = writeln!(
                    text,
                    "{} partition {} 0 -2",
                    area.path.replace(' ', "\\040"),
                    area.bytes / 1024
                );
            }
            self.file("/proc/swaps", text);
        }
    }

    fn describe_software(&mut self, facts: &Facts) {
        for program in facts.programs.iter().flatten() {
            self.file_with_mode(format!("/usr/bin/{program}"), "fake program\n", 0o755);
        }
        for (name, version) in &facts.packages {
            self.package(name, version);
        }
        self.runtime_without_unit = facts.docker.is_some();
        if let Some(version) = &facts.docker {
            self.runtime_version.clone_from(version);
        }
        for reference in &facts.images {
            self.image(reference);
        }
        for path in &facts.earlier_clusters {
            if Path::new(path).extension().is_some() {
                self.file(path, "");
            } else {
                self.directory(path);
            }
        }
        for (path, content) in &facts.files {
            self.file(path, content);
        }
        for (name, state) in &facts.units {
            self.unit(name, "[Service]\n");
            if state.active {
                // The unit's file names no program and no other file, so the start cannot fail.
                self.start_unit(name).ok();
            }
            if let Some(unit) = self.units.get_mut(name) {
                unit.enabled = state.enabled;
            }
        }
    }
}

/// An address as /proc/net shows it: 32-bit words, each little-endian.
fn hex(address: IpAddr) -> String {
    let octets = match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    octets
        .chunks(4)
        .flat_map(|word| word.iter().rev())
        .map(|byte| format!("{byte:02X}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::facts::{Disk, FactQuery, Obstacle, gather, gather_with};
    use crate::host::{Containers, Network, Services};

    #[expect(
        clippy::disallowed_methods,
        reason = "fixtures lie on the machine that tests"
    )]
    fn fixture(name: &str) -> Facts {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/fixtures/hosts")
            .join(name);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Facts::from_yaml(&text).unwrap()
    }

    #[tokio::test]
    async fn gathering_from_the_fake_gives_the_fixture_back() {
        for name in ["cp-1.yaml", "cp-2-nodocker.yaml", "w-1.yaml", "unfit.yaml"] {
            let facts = fixture(name);
            let mut seen = gather(&FakeHost::from_facts(&facts)).await.unwrap();
            if facts.docker.is_none() {
                // On a host without docker, a runtime that does not answer is expected.
                assert!(seen.unknown.remove("docker").is_some(), "{name}");
            }
            assert_eq!(seen.to_yaml().unwrap(), facts.to_yaml().unwrap(), "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_in_the_way_of_a_directory_is_in_the_way_on_the_fake() {
        let disk = |path: &str, kind, above: Option<&str>| Disk {
            path: path.to_owned(),
            free: 1,
            total: 1,
            filesystem: None,
            read_only: false,
            mode: None,
            taken_by: Some(Obstacle {
                kind,
                above: above.map(str::to_owned),
            }),
        };
        let mut facts = Facts::nothing_about("cp-1");
        facts.disks = vec![
            disk("/srv/device", ObstacleKind::Device, None),
            disk("/srv/file", ObstacleKind::File, None),
            disk("/srv/link", ObstacleKind::Link, None),
            disk(
                "/srv/other/below/it",
                ObstacleKind::File,
                Some("/srv/other"),
            ),
            disk("/srv/socket", ObstacleKind::Socket, None),
        ];
        let paths = facts.disks.iter().map(|disk| disk.path.clone());
        let query = FactQuery::usual().and_disks(paths);
        let host = FakeHost::from_facts(&facts);
        let seen = gather_with(&host, &query).await.unwrap();
        for disk in &facts.disks {
            let same = seen.disks.iter().find(|seen| seen.path == disk.path);
            assert_eq!(same.expect("it is told").taken_by, disk.taken_by);
        }
    }

    #[tokio::test]
    async fn the_world_behaves_as_described() {
        let host = FakeHost::from_facts(&fixture("cp-1.yaml"));
        assert_eq!(
            host.container_runtime_version().await.unwrap(),
            "20.10.24+dfsg1"
        );
        host.stop_unit("docker.service").await.unwrap();
        assert!(host.container_runtime().await.is_err());
        let without = FakeHost::from_facts(&fixture("cp-2-nodocker.yaml"));
        assert!(without.container_runtime().await.is_err());
        let unfit = FakeHost::from_facts(&fixture("unfit.yaml"));
        let taken = unfit
            .tcp_connect(
                ([127, 0, 0, 1], 443).into(),
                std::time::Duration::from_secs(1),
            )
            .await;
        assert!(taken.is_ok());
    }
}
