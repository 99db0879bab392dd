//! Behaviour of the Kubernetes components on a fake host, as rules over the world: which component answers on which port, when a node
//! object appears, when it is ready, when keepalived holds the virtual IP. The cluster's state lives in etcd's data directory and is lost
//! with it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::state::{ClusterState, KubernetesRules};
use crate::host::fake::fake_host::FakeHost;
use crate::host::fake::world::World;
use crate::host::{ClusterNode, Transport, VirtualService};

/// The store, in etcd's data directory.
const STORE: &str = "member/snap/db";

/// Stands for the API server's port, which is a setting.
const API: u16 = 0;
/// The certificates of the control plane's components, by port.
const CONTROL_PLANE: &[(u16, &str)] = &[
    (API, "/etc/pf9/kube.d/certs/apiserver/request.crt"),
    (
        10257,
        "/etc/pf9/kube.d/certs/kube-controller-manager/server/request.crt",
    ),
    (
        10259,
        "/etc/pf9/kube.d/certs/kube-scheduler/server/request.crt",
    ),
];
/// The certificates of etcd, by port.
const ETCD: &[(u16, &str)] = &[
    (4001, "/etc/pf9/kube.d/certs/etcd/client/request.crt"),
    (2380, "/etc/pf9/kube.d/certs/etcd/peer/request.crt"),
];
/// The public key with which the API server verifies the tokens of service accounts.
const TOKENS: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.pub";
/// How often the control plane looks for a new certificate.
const POLL_INTERVAL: Duration = Duration::from_secs(60);

impl FakeHost {
    /// With other rules for the parts of Kubernetes.
    #[must_use]
    pub fn with_kubernetes(self, change: impl FnOnce(&mut KubernetesRules)) -> Self {
        self.having(|world| change(&mut world.kubernetes))
    }
}

impl World {
    /// Whether an API server that this host talks to is up.
    #[must_use]
    pub fn api_up(&self) -> bool {
        self.kubernetes.remote_api || self.local_api_up()
    }

    /// Whether this host's own API server is up.
    pub(crate) fn local_api_up(&self) -> bool {
        let rules = &self.kubernetes;
        self.unit_active(&rules.kubelet_unit)
            && self
                .tree
                .content(&rules.manifests.join(&rules.control_plane))
                .is_some()
            && self.container_runs(&rules.etcd_container)
    }

    /// The address that keepalived holds: the one in its configuration, while keepalived runs and the API server works.
    pub(in crate::host::fake) fn virtual_ip(&self) -> Option<(String, IpAddr)> {
        if !self.unit_active("keepalived.service") || !self.local_api_up() {
            return None;
        }
        let text = self.text("/etc/keepalived/keepalived.conf")?;
        let mut words = text
            .split_whitespace()
            .skip_while(|word| *word != "interface");
        let link = words.nth(1)?.to_owned();
        let mut words = words.skip_while(|word| *word != "virtual_ipaddress");
        Some((link, words.nth(2)?.parse().ok()?))
    }

    /// Status and body that this host answers on a port; `None` refuses the connection.
    pub(crate) fn local_answer(&self, port: u16, path: &str) -> Option<(u16, String)> {
        let rules = &self.kubernetes;
        let (up, healthy, body) = match port {
            4001 => (
                self.container_runs(&rules.etcd_container),
                &["/health", "/health?exclude=NOSPACE"][..],
                r#"{"health":"true"}"#,
            ),
            2380 => (
                self.container_runs(&rules.etcd_container),
                &["/version"][..],
                "{}",
            ),
            9977 => (
                self.container_runs(&rules.bouncer_container),
                &["/healthz"][..],
                "ok",
            ),
            10248 | 10250 => (
                self.unit_active(&rules.kubelet_unit),
                &["/healthz"][..],
                "ok",
            ),
            10249 | 10256 => (
                self.container_runs(&rules.proxy_container),
                &["/healthz"][..],
                "ok",
            ),
            10257 | 10259 => (self.local_api_up(), &["/healthz"][..], "ok"),
            port if port == rules.api_port => (
                self.local_api_up(),
                &["/readyz", "/healthz", "/livez"][..],
                "ok",
            ),
            _ => (false, &[][..], ""),
        };
        if !up {
            return None;
        }
        let path = path.split('?').next().unwrap_or_default();
        let known = healthy.contains(&path);
        Some(if known {
            (200, body.to_owned())
        } else {
            (404, "404 page not found".to_owned())
        })
    }

    /// The certificate that is shown on a port of this host, in DER. etcd reads its file for each connection; the control plane's
    /// components show the certificate that they read last.
    pub(crate) fn shown_certificate(&self, port: u16) -> Option<Vec<u8>> {
        let port = if port == self.kubernetes.api_port {
            API
        } else {
            port
        };
        let read = |(_, file): &(u16, &str)| self.tree.content(Path::new(file));
        let of_etcd = ETCD.iter().find(|(its, _)| *its == port).and_then(read);
        let pem = match of_etcd {
            Some(pem) => pem,
            None => &self.cluster.served.get(&port)?.0,
        };
        Some(CertificateDer::from_pem_slice(pem).ok()?.to_vec())
    }

    /// The control plane's components read their certificates when they start, and look for new ones once a minute after that.
    fn settle_certificates(&mut self) {
        if !self.local_api_up() {
            self.cluster.served.clear();
            return;
        }
        let now = self.now();
        for (port, file) in CONTROL_PLANE {
            let read = self.cluster.served.get(port);
            let looks = read.is_none_or(|(_, at)| {
                now.duration_since(*at)
                    .is_ok_and(|age| age >= POLL_INTERVAL)
            });
            if !looks {
                continue;
            }
            match self.tree.content(Path::new(file)) {
                Some(pem) => self.cluster.served.insert(*port, (pem.to_vec(), now)),
                None => self.cluster.served.remove(port),
            };
        }
    }

    /// The API server reads the public key for tokens when it starts. The controller-manager issues the tokens of each namespace once.
    fn settle_tokens(&mut self) {
        if !self.local_api_up() {
            return;
        }
        let Some(public) = self.tree.content(Path::new(TOKENS)).map(<[u8]>::to_vec) else {
            return;
        };
        let mut containers = self.containers.iter();
        let server = containers.find(|(name, _)| name.starts_with("k8s_kube-apiserver_"));
        let started = server.and_then(|(_, container)| container.started_at);
        let has_read = self.cluster.verifies.as_ref();
        if has_read.is_none_or(|(_, since)| *since != started) {
            self.cluster.verifies = Some((public.clone(), started));
        }
        self.cluster.tokens.get_or_insert(public);
    }

    /// Whether the API server accepts the tokens that the cluster has given; `None` while there are none.
    pub(crate) fn accepts_tokens(&self) -> Option<bool> {
        let given = self.cluster.tokens.as_ref()?;
        let verifies = self.cluster.verifies.as_ref();
        Some(verifies.is_some_and(|(read, _)| read == given))
    }

    /// The name of this host's node object.
    pub(crate) fn node_name(&self) -> &str {
        self.kubernetes
            .node_name
            .as_deref()
            .unwrap_or(&self.host_name)
    }

    /// A node as the API server shows it now: readiness follows what this host's kubelet can report.
    pub(crate) fn node_now(&self, name: &str) -> Option<ClusterNode> {
        let mut node = self.cluster.nodes.get(name)?.clone();
        if name != self.node_name() {
            return Some(node);
        }
        (node.ready, node.ready_message) = if !self.unit_active(&self.kubernetes.kubelet_unit) {
            // The pressures that kubelet has reported are no longer valid either.
            node.pressures.clear();
            node.unknown_pressures = vec!["DiskPressure".to_owned()];
            (
                None,
                "NodeStatusUnknown: Kubelet stopped posting node status.".to_owned(),
            )
        } else if self.tree.names(&self.kubernetes.cni).is_empty() {
            let message = "KubeletNotReady: network plugin is not ready: cni config uninitialized";
            (Some(false), message.to_owned())
        } else {
            (
                Some(true),
                "KubeletReady: kubelet is posting ready status".to_owned(),
            )
        };
        if self.unit_active(&self.kubernetes.kubelet_unit) {
            node.reported = Some(self.now());
        }
        Some(node)
    }

    /// kubelet registers its node; a cluster whose etcd lost its data forgets everything.
    pub(crate) fn settle_cluster(&mut self) {
        self.settle_certificates();
        self.settle_tokens();
        if self.kubernetes.writes_services && self.container_runs(&self.kubernetes.proxy_container)
        {
            self.firewall_rule("iptables", "nat", "KUBE-SERVICES", "-j RETURN");
            for (table, chain, to) in [
                ("nat", "PREROUTING", "KUBE-SERVICES"),
                ("nat", "OUTPUT", "KUBE-SERVICES"),
                ("filter", "FORWARD", "KUBE-FORWARD"),
            ] {
                self.firewall_rule("iptables", table, to, "-j RETURN");
                self.firewall_rule("iptables", table, chain, &format!("-j {to}"));
            }
            self.firewall_rule("ip6tables", "nat", "KUBE-SERVICES", "-j RETURN");
            self.balance_services();
        }
        if self.unit_active(&self.kubernetes.kubelet_unit) {
            self.firewall_rule("iptables", "nat", "KUBE-POSTROUTING", "-j MASQUERADE");
            self.firewall_rule("iptables", "nat", "POSTROUTING", "-j KUBE-POSTROUTING");
        }
        if self.kubernetes.leaves_traces {
            self.leave_traces();
        }
        let etcd_gone = !self
            .containers
            .contains_key(&self.kubernetes.etcd_container);
        let data_gone = self
            .cluster
            .data
            .as_ref()
            .is_some_and(|data| self.tree.get(&data.join(STORE), true).is_none());
        if etcd_gone && data_gone {
            self.cluster = ClusterState::default();
        }
        self.register_node();
    }

    /// kubelet registers its node once after each of its starts.
    fn register_node(&mut self) {
        let unit = self.units.get(&self.kubernetes.kubelet_unit);
        let Some(unit) = unit.filter(|unit| unit.is_active()) else {
            return;
        };
        if self.cluster.registered_by == unit.invocation || !self.api_up() {
            return;
        }
        self.cluster.registered_by.clone_from(&unit.invocation);
        let name = self.node_name().to_owned();
        if !self.cluster.nodes.contains_key(&name) {
            let node = ClusterNode {
                uid: self.cluster.next_uid(),
                labels: BTreeMap::from([("kubernetes.io/hostname".to_owned(), name.clone())]),
                unschedulable: self.kubernetes.cordoned,
                pod_cidr: Some(self.kubernetes.pod_cidr.clone()).filter(|cidr| !cidr.is_empty()),
                ..ClusterNode::default()
            };
            self.cluster.nodes.insert(name, node);
        }
    }

    /// kube-proxy makes a virtual service of IPVS, if its configuration asks for IPVS and the kernel has it.
    fn balance_services(&mut self) {
        let container = self.containers.get(&self.kubernetes.proxy_container);
        let wanted = container.is_some_and(|container| {
            let mut folders = container.config.mounts.iter().map(|mount| &mount.source);
            folders.any(|folder| {
                let config = self.tree.text(folder.join("config.yaml"));
                config.is_some_and(|text| text.lines().any(|line| line == "mode: ipvs"))
            })
        });
        if wanted && self.modules.contains("ip_vs") {
            let address = IpAddr::from([10, 21, 0, 1]);
            self.link("kube-ipvs0", false, &[(address, 32)]);
            // kube-proxy removes the virtual services that it does not know.
            self.virtual_services.clear();
            self.virtual_services.insert(VirtualService {
                transport: Transport::Tcp,
                at: (address, 443).into(),
            });
        }
    }

    /// What kubelet and its plugins put on a host besides their work.
    fn leave_traces(&mut self) {
        if self.unit_active(&self.kubernetes.kubelet_unit) {
            let volume = "/var/lib/kubelet/pods/1/volumes/token";
            if !self.mounts.contains(Path::new(volume)) {
                self.file("/var/lib/kubelet/pki/kubelet.crt", "made by kubelet");
                self.mount(volume);
            }
            for file in [
                "/var/lib/dockershim/sandbox/1",
                "/var/log/pods/k8s-master/0.log",
                "/var/lib/cni/networks/pods/10.20.0.2",
            ] {
                if self.text(file).is_none() {
                    self.file(file, "made by kubelet");
                }
            }
            self.directory("/usr/libexec/kubernetes/kubelet-plugins");
            for group in ["cpu/kubepods", "cpu/kubepods/pod1", "memory/kubepods"] {
                let group = Path::new("/sys/fs/cgroup").join(group);
                let parent = group.parent().unwrap_or(&group).to_path_buf();
                if !self.tree.is_directory(&group) && self.is_cgroup(&parent) {
                    self.directory(&group);
                    self.populate_cgroup(&group);
                }
            }
            if !self.links.contains_key("cni0") {
                self.link("cni0", true, &[(IpAddr::from([10, 20, 0, 1]), 24)]);
            }
            self.firewall_rule("iptables", "filter", "KUBE-FIREWALL", "-j DROP");
            self.firewall_rule("iptables", "filter", "INPUT", "-j KUBE-FIREWALL");
            self.firewall_rule("iptables", "nat", "CNI-1", "-j MASQUERADE");
            self.firewall_rule("iptables", "nat", "OUTPUT", "-j CNI-1");
        }
    }

    /// An etcd that starts fills its data directory: the writable mount whose target path contains `data`.
    pub(crate) fn etcd_writes_data(&mut self, container: &str) {
        if container != self.kubernetes.etcd_container {
            return;
        }
        let Some(etcd) = self.containers.get(container) else {
            return;
        };
        let speaks = |path: &Path| path.to_string_lossy().contains("data");
        let data = etcd
            .config
            .mounts
            .iter()
            .find(|mount| !mount.read_only && speaks(&mount.target));
        let Some(data) = data.map(|mount| mount.source.clone()) else {
            return;
        };
        if self.tree.get(&data.join(STORE), true).is_none() {
            // Resolved, because the mount's source may be a link.
            let real = self
                .tree
                .resolve(&data, true)
                .unwrap_or_else(|_| data.clone());
            self.file_with_mode(real.join(STORE), "fake etcd data", 0o600);
            // An empty data directory is a new cluster.
            self.cluster = ClusterState::default();
        }
        self.cluster.data = Some(data);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::host::fake::FakeHost;
    use crate::host::{Cluster, ClusterAccess, HttpsRequest, Mount, Network};

    pub(crate) fn master() -> FakeHost {
        let host = FakeHost::new()
            .with_unit("pf9-kubelet.service", "[Service]\n")
            .with_file("/etc/pf9/kube.d/manifests/k8s-master.yaml", "")
            .with_file("/etc/pf9/kube.d/admin.yaml", "")
            .with_directory("/var/opt/data");
        host.with_world_mut(|world| world.image("image:1"));
        host
    }

    async fn start(host: &FakeHost) {
        use crate::host::{Containers, Services};
        let mut config = crate::host::fake::docker::containers::tests::config("etcd");
        config.mounts = vec![Mount {
            source: "/var/opt/data".into(),
            target: "/var/etcd/data".into(),
            read_only: false,
            propagated: false,
        }];
        host.create_container(&config).await.unwrap();
        host.start_container("etcd").await.unwrap();
        host.start_unit("pf9-kubelet.service").await.unwrap();
    }

    fn access() -> ClusterAccess {
        ClusterAccess {
            kubeconfig: "/etc/pf9/kube.d/admin.yaml".into(),
        }
    }

    async fn status(host: &FakeHost, url: &str) -> Option<u16> {
        let timeout = Duration::from_secs(1);
        let request = HttpsRequest {
            url: url.to_owned(),
            ca: None,
            client: None,
            timeout,
        };
        host.https_get(&request)
            .await
            .ok()
            .map(|response| response.status)
    }

    #[tokio::test]
    async fn ports_answer_when_what_serves_them_is_up() {
        let host = master();
        let urls = [
            ("https://127.0.0.1:4001/health", Some(200)),
            ("https://localhost/readyz", Some(200)),
            ("http://127.0.0.1:10248/healthz", Some(200)),
            ("https://127.0.0.1:10259/healthz", Some(200)),
            ("http://127.0.0.1:10256/healthz", None),
            ("https://127.0.0.1/version", Some(404)),
        ];
        for (url, _) in urls {
            assert_eq!(status(&host, url).await, None, "{url}");
        }
        start(&host).await;
        for (url, wanted) in urls {
            assert_eq!(status(&host, url).await, wanted, "{url}");
        }
        host.with_world_mut(|world| world.break_container("etcd", true));
        assert_eq!(status(&host, "https://localhost/readyz").await, None);
        assert!(host.node(&access(), "cp-1").await.is_err());
    }

    #[tokio::test]
    async fn a_node_appears_and_becomes_ready_with_a_cni_configuration() {
        let host = master();
        start(&host).await;
        let node = host.node(&access(), "cp-1").await.unwrap().unwrap();
        assert_eq!(
            (node.ready, node.pod_cidr.as_deref()),
            (Some(false), Some("10.20.0.0/24"))
        );
        host.with_world_mut(|world| world.file("/etc/cni/net.d/10-bridge.conflist", "{}"));
        assert_eq!(
            host.node(&access(), "cp-1").await.unwrap().unwrap().ready,
            Some(true)
        );
    }

    #[tokio::test]
    async fn cluster_state_is_lost_with_the_etcd_data() {
        let host = master();
        start(&host).await;
        host.with_world_mut(|world| world.remove_container("etcd"));
        assert!(host.with_world(|world| world.cluster.nodes.contains_key("cp-1")));
        host.with_world_mut(|world| world.remove("/var/opt/data/member"));
        assert!(host.with_world(|world| world.cluster.nodes.is_empty()));
    }
}
