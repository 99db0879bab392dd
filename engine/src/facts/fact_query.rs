//! What gathering asks for: named items, and groups that can be left out.

use std::net::SocketAddr;

use super::preflight::Requirement;

/// What gathering asks for. Items are named if they cannot be listed, or if the whole list would be too long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FactQuery {
    /// Programs to look for on the PATH.
    pub programs: Vec<String>,
    /// Kernel settings.
    pub sysctls: Vec<String>,
    /// Units.
    pub units: Vec<String>,
    /// Packages.
    pub packages: Vec<String>,
    /// Images, by reference. Usually none: the roles know them.
    pub images: Vec<String>,
    /// Files whose content matters.
    pub files: Vec<String>,
    /// Directories whose free space matters.
    pub disks: Vec<String>,
    /// Paths that only another cluster's software makes.
    pub earlier_clusters: Vec<String>,
    /// Addresses that the masters are to share, with the port of the API server. Each costs up to two seconds if no host answers.
    pub virtual_ips: Vec<SocketAddr>,
    /// Links on which other senders of VRRP matter. All together cost 2.2 seconds.
    pub vrrp_links: Vec<String>,
    /// Which program listens on which port. This is costly: `ss` reads the open files of all processes.
    pub listeners: bool,
    /// Features of the kernel. This is costly: the list of its modules is long.
    pub kernel_features: bool,
    /// Virtual services of IPVS.
    pub virtual_services: bool,
    /// The container runtime's version.
    pub container_runtime: bool,
}

impl FactQuery {
    /// Only what a plan is made from: the host's name, links, routes, processors and control groups, and a few small files. All other facts
    /// are unknown.
    #[must_use]
    pub fn for_a_plan() -> Self {
        Self::default()
    }

    /// Adds the facts that these preconditions are judged by.
    #[must_use]
    pub fn and_requirements<'r>(
        mut self,
        requirements: impl IntoIterator<Item = &'r Requirement>,
    ) -> Self {
        let usual = Self::usual();
        for requirement in requirements {
            match requirement {
                Requirement::PortsFree(_) => self.listeners = true,
                Requirement::Programs(names) => {
                    for name in names {
                        if !self.programs.contains(name) {
                            self.programs.push(name.clone());
                        }
                    }
                }
                Requirement::MinDisk { path, .. }
                | Requirement::PersistentDirectory { path, .. } => {
                    self = self.and_disks([path.clone()]);
                }
                Requirement::NoForeignRuntime => self.units.clone_from(&usual.units),
                Requirement::NoEarlierCluster => {
                    self.earlier_clusters.clone_from(&usual.earlier_clusters);
                }
                Requirement::NoVirtualServices => self.virtual_services = true,
                Requirement::KernelFeatures(_) => self.kernel_features = true,
                Requirement::VirtualIpFree { address, port } => {
                    let place = SocketAddr::new(*address, *port);
                    if !self.virtual_ips.contains(&place) {
                        self.virtual_ips.push(place);
                    }
                }
                Requirement::VirtualRouterFree { interface, .. } => {
                    if !self.vrrp_links.contains(interface) {
                        self.vrrp_links.push(interface.clone());
                    }
                }
                // These are judged by facts that are always gathered.
                Requirement::NoSwap { .. }
                | Requirement::MinMemory(_)
                | Requirement::MinCpus(_)
                | Requirement::CpusOnline(_)
                | Requirement::CgroupControllers(_)
                | Requirement::HostNameValid
                | Requirement::HostNameNotOfApi { .. }
                | Requirement::CidrsDisjoint { .. }
                | Requirement::Interface { .. }
                | Requirement::NodeAddress { .. }
                | Requirement::UsableAddress { .. }
                | Requirement::VirtualIp { .. }
                | Requirement::SupportedSystem(_)
                | Requirement::Architecture(_)
                | Requirement::Systemd
                | Requirement::Root
                | Requirement::ClockSane => {}
            }
        }
        self
    }

    /// Adds the free space of these directories.
    #[must_use]
    pub fn and_disks(mut self, paths: impl IntoIterator<Item = String>) -> Self {
        for path in paths {
            if !self.disks.contains(&path) {
                self.disks.push(path);
            }
        }
        self
    }

    /// The usual query: the items that preconditions are usually about.
    #[must_use]
    pub fn usual() -> Self {
        let all = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            programs: all(&[
                "apparmor_parser",
                "conntrack",
                "containerd",
                "curl",
                "docker",
                "dockerd",
                "dpkg",
                "ebtables",
                "ethtool",
                "ip",
                "ipset",
                "iptables",
                "keepalived",
                "modprobe",
                "mount",
                "nft",
                "nsenter",
                "openssl",
                "runc",
                "socat",
                "ss",
                "sysctl",
                "systemctl",
                "tar",
                "umount",
            ]),
            sysctls: all(&[
                "kernel.keys.root_maxbytes",
                "kernel.keys.root_maxkeys",
                "kernel.panic",
                "kernel.panic_on_oops",
                "net.bridge.bridge-nf-call-ip6tables",
                "net.bridge.bridge-nf-call-iptables",
                "net.ipv4.conf.all.rp_filter",
                "net.ipv4.ip_forward",
                "net.ipv4.ip_nonlocal_bind",
                "net.ipv6.conf.all.forwarding",
                "vm.overcommit_memory",
                "vm.panic_on_oom",
            ]),
            units: all(&[
                "apparmor.service",
                "containerd.service",
                "crio.service",
                "docker.service",
                "docker.socket",
                "firewalld.service",
                "k0scontroller.service",
                "k0sworker.service",
                "k3s-agent.service",
                "k3s.service",
                "keepalived.service",
                "kubelet.service",
                "nftables.service",
                "pf9-kubelet.service",
                "podman.service",
                "rke2-agent.service",
                "rke2-server.service",
                "snap.microk8s.daemon-kubelite.service",
                "ufw.service",
            ]),
            packages: all(&[
                "conntrack",
                "containerd",
                "docker-ce",
                "docker.io",
                "ebtables",
                "ethtool",
                "ipset",
                "iptables",
                "keepalived",
                "kubelet",
                "runc",
                "socat",
            ]),
            images: Vec::new(),
            files: all(&["/etc/docker/daemon.json"]),
            virtual_ips: Vec::new(),
            vrrp_links: Vec::new(),
            disks: all(&["/", "/var", "/var/lib/docker"]),
            earlier_clusters: all(&[
                "/etc/kubernetes/admin.conf",
                "/etc/kubernetes/kubelet.conf",
                "/etc/kubernetes/manifests",
                // Our own directory: kubelet would run any manifest that other software has put there.
                "/etc/pf9/kube.d/manifests",
                "/etc/rancher/k3s",
                "/etc/rancher/rke2",
                "/var/lib/etcd/member",
                "/var/lib/k0s",
                "/var/lib/kubelet/config.yaml",
                "/var/lib/kubelet/kubeadm-flags.env",
                "/var/lib/rancher/k3s",
                "/var/lib/rancher/rke2",
                "/var/snap/microk8s",
            ]),
            listeners: true,
            kernel_features: true,
            virtual_services: true,
            container_runtime: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{NamedCidr, SupportedSystem, Verdict, gather_with};
    use crate::host::fake::{FakeHost, FaultPlan};

    fn every_requirement() -> Vec<Requirement> {
        let text = |text: &str| text.to_owned();
        let path = || text("/var/opt/pf9");
        vec![
            Requirement::NoSwap { allowed: false },
            Requirement::PortsFree(vec![443]),
            Requirement::Programs(vec![text("ip")]),
            Requirement::MinMemory(1),
            Requirement::MinCpus(1),
            Requirement::CpusOnline(text("0")),
            Requirement::MinDisk {
                path: text("/var/lib/docker"),
                bytes: 1,
            },
            Requirement::PersistentDirectory {
                path: path(),
                bytes: 1,
            },
            Requirement::CgroupControllers(vec![text("cpu")]),
            Requirement::NoForeignRuntime,
            Requirement::NoEarlierCluster,
            Requirement::NoVirtualServices,
            Requirement::HostNameValid,
            Requirement::CidrsDisjoint {
                named: vec![NamedCidr::new("CONTAINERS_CIDR", "10.20.0.0/22")],
            },
            Requirement::KernelFeatures(vec![text("overlay")]),
            Requirement::Interface { name: text("eth0") },
            Requirement::SupportedSystem(vec![SupportedSystem {
                id: text("debian"),
                versions: Vec::new(),
            }]),
            Requirement::Architecture(vec![text("x86_64")]),
            Requirement::Systemd,
            Requirement::Root,
            Requirement::ClockSane,
        ]
    }

    #[test]
    fn what_is_asked_already_is_not_asked_twice() {
        let usual = FactQuery::usual();
        let requirements = [
            Requirement::Programs(vec!["ip".to_owned()]),
            Requirement::MinDisk {
                path: "/var".to_owned(),
                bytes: 1,
            },
        ];
        assert_eq!(usual.clone().and_requirements(&requirements), usual);
        let requirements = [Requirement::Programs(vec!["chronyd".to_owned()])];
        let asked = usual.and_requirements(&requirements);
        assert_eq!(asked.programs.last().map(String::as_str), Some("chronyd"));
    }

    #[tokio::test]
    async fn the_user_of_a_virtual_ip_is_asked_for_its_requirement_only() {
        let taken = "172.30.0.100:443";
        let host = FakeHost::new().with_endpoint(taken, 200, "ok");
        let usual = gather_with(&host, &FactQuery::usual()).await.unwrap();
        assert!(usual.address_users.is_empty());
        let requirement = Requirement::VirtualIpFree {
            address: [172, 30, 0, 100].into(),
            port: 443,
        };
        let asked = FactQuery::for_a_plan().and_requirements([&requirement, &requirement]);
        assert_eq!(asked.virtual_ips.len(), 1);
        let facts = gather_with(&host, &asked).await.unwrap();
        let verdict = requirement.check(&facts);
        assert!(matches!(verdict, Verdict::NotMet { .. }), "{verdict}");
    }

    #[tokio::test]
    async fn a_link_is_listened_to_for_its_requirement_only() {
        let host = FakeHost::new();
        let rival = [172, 30, 0, 7].into();
        host.with_world_mut(|world| world.sends_vrrp("eth0", 51, rival));
        let usual = gather_with(&host, &FactQuery::usual()).await.unwrap();
        assert!(usual.vrrp_senders.is_empty());
        let requirement = Requirement::VirtualRouterFree {
            router_id: 51,
            interface: "eth0".to_owned(),
        };
        let asked = FactQuery::for_a_plan().and_requirements([&requirement, &requirement]);
        assert_eq!(asked.vrrp_links, ["eth0"]);
        let facts = gather_with(&host, &asked).await.unwrap();
        let verdict = requirement.check(&facts);
        assert!(matches!(verdict, Verdict::NotMet { .. }), "{verdict}");
        host.set_faults(FaultPlan::none().fail("vrrp_senders", "eth0"));
        let facts = gather_with(&host, &asked).await.unwrap();
        let verdict = requirement.check(&facts);
        assert!(matches!(verdict, Verdict::Unknown { .. }), "{verdict}");
    }

    /// An item that was not asked for is never taken for absent. The facts asked for one precondition give the same verdict as all facts.
    #[tokio::test]
    async fn a_precondition_without_its_facts_is_unknown() {
        let host = FakeHost::new().with_docker();
        let all = gather_with(&host, &FactQuery::usual()).await.unwrap();
        let bare = gather_with(&host, &FactQuery::for_a_plan()).await.unwrap();
        for requirement in every_requirement() {
            let asked = FactQuery::for_a_plan().and_requirements([&requirement]);
            let some = gather_with(&host, &asked).await.unwrap();
            assert_eq!(requirement.check(&some), requirement.check(&all));
            if asked != FactQuery::for_a_plan() {
                let verdict = requirement.check(&bare);
                let unknown = matches!(verdict, Verdict::Unknown { .. });
                assert!(unknown, "{requirement:?}: {verdict}");
            }
        }
    }
}
