//! What gathering asks about by name.

/// What is asked about by name, because it cannot be listed or because the whole list would be too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interests {
    /// Programs to look for on the PATH.
    pub programs: Vec<String>,
    /// Kernel settings.
    pub sysctls: Vec<String>,
    /// Units.
    pub units: Vec<String>,
    /// Packages.
    pub packages: Vec<String>,
    /// Images, by reference. Empty by default: the roles know them.
    pub images: Vec<String>,
    /// Files whose content matters.
    pub files: Vec<String>,
    /// Directories whose room matters.
    pub disks: Vec<String>,
    /// Paths that only another cluster's software makes.
    pub earlier_clusters: Vec<String>,
}

impl Interests {
    /// The same, and these directories' room.
    #[must_use]
    pub fn and_disks(mut self, paths: impl IntoIterator<Item = String>) -> Self {
        for path in paths {
            if !self.disks.contains(&path) {
                self.disks.push(path);
            }
        }
        self
    }
}

impl Default for Interests {
    fn default() -> Self {
        let all = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            programs: all(&[
                "apparmor_parser",
                "conntrack",
                "containerd",
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
            disks: all(&["/", "/var", "/var/lib/docker"]),
            earlier_clusters: all(&[
                "/etc/kubernetes/admin.conf",
                "/etc/kubernetes/kubelet.conf",
                "/etc/kubernetes/manifests",
                // Ours: kubelet would run whatever a stranger has put there.
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
        }
    }
}
