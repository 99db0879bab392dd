//! The table of every kube.env variable. The other files of this module read it; add a setting only here.

use super::key::{DefaultValue, Key, Kind};
use DefaultValue::{Derived, Required, Value};
use Kind::{
    Address, Bool, Choice, Cidr, CpuSet, Cron, Duration, FlagList, HostOrAddress, ImageReference,
    Integer, Interface, Name, Path, Port, ProxyExceptions, ProxyUrl, Registry, Size, Text, UrlList,
    Uuid, Version,
};

/// Every kube.env variable, in the order of `kube.env.template`.
pub static KEYS: &[Key] = TABLE;

/// Makes a [`Key`] of each `NAME: Kind => default, "doc";`; `#secret NAME` marks a secret, and
/// `#shared NAME` a setting that all masters of a cluster have in common.
macro_rules! table {
    (@secret secret) => { true };
    (@secret $($other:ident)?) => { false };
    (@shared shared) => { true };
    (@shared $($other:ident)?) => { false };
    ($($group:literal { $($(#$mark:ident)? $name:ident: $kind:expr => $default:expr, $doc:literal;)+ })+) => {
        &[$($(Key {
            name: stringify!($name),
            kind: $kind,
            default: $default,
            doc: $doc,
            secret: table!(@secret $($mark)?),
            shared: table!(@shared $($mark)?),
            group: $group,
        },)+)+]
    };
}

const TABLE: &[Key] = table! {
    "Node" {
        ROLE: Choice(&["master", "worker", "none"]) => Value("none"),
            "What this host is in the cluster.";
        KUBE_SERVICE_STATE: Choice(&["true", "false", "ignore"]) => Value("ignore"),
            "Whether nodeletd brings the role up, takes it down, or only reports.";
        #shared CLUSTER_ID: Uuid => Value(""),
            "The cluster's id.";
        USE_HOSTNAME: Bool => Value("true"),
            "Name the node after the host name instead of its address.";
        ALLOW_WORKLOADS_ON_MASTER: Bool => Value("false"),
            "Leave masters without the NoSchedule taint.";
        ALLOW_SWAP: Bool => Value("false"),
            "Accept a host with swap turned on.";
    }
    "API server" {
        #shared MASTER_IP: HostOrAddress => Required,
            "Where the API is reached: the virtual IP, or the one master's address or name.";
        EXTERNAL_DNS_NAME: Name => Value(""),
            "Another name of the API, for its certificate.";
        PUBLIC_IP: Address => Value(""),
            "Another address of the API, for its certificate.";
        #shared K8S_API_PORT: Port => Value("443"),
            "Port of the API server.";
        RUNTIME_CONFIG: Text => Value(""),
            "API groups to turn on or off, as the API server's --runtime-config takes them.";
        PRIVILEGED: Bool => Value("true"),
            "Allow privileged containers.";
        API_SERVER_FLAGS: FlagList => Value(""),
            "Further flags of the API server.";
        API_SERVER_EXTRA_DIR: Path => Value(""),
            "Directory for files that API_SERVER_FLAGS name. It is created if it is missing, readable by root only, and mounted read-only into the API server under the same path.";
        AUDIT_LOG_MAX_AGE: Integer { min: 1, max: 3_650 } => Value("30"),
            "Days that a rotated audit log of the API server is kept.";
        AUDIT_LOG_MAX_BACKUPS: Integer { min: 1, max: 1_000 } => Value("10"),
            "How many rotated audit logs of the API server are kept.";
        AUDIT_LOG_MAX_SIZE: Integer { min: 1, max: 10_000 } => Value("100"),
            "Size in megabytes at which the API server's audit log is rotated.";
        CONTROLLER_MANAGER_FLAGS: FlagList => Value(""),
            "Further flags of the controller-manager.";
        TERMINATED_POD_GC_THRESHOLD: Integer { min: 1, max: 1_000_000 } => Value("2000"),
            "How many finished pods the cluster keeps; the controller-manager removes the oldest ones above this number.";
        SCHEDULER_FLAGS: FlagList => Value(""),
            "Further flags of the scheduler.";
    }
    "Network" {
        #shared CONTAINERS_CIDR: Cidr => Value("10.20.0.0/16"),
            "Network of the pods; each node gets one subnet of it.";
        #shared SERVICES_CIDR: Cidr => Value("10.21.0.0/22"),
            "Network of the services; address 1 is the API, address 10 is DNS.";
        #shared NODE_CIDR_MASK_SIZE: Integer { min: 8, max: 126 } => Value("24"),
            "Prefix length of one node's subnet of CONTAINERS_CIDR.";
        #shared CLUSTER_DNS_DOMAIN: Name => Value("cluster.local"),
            "Domain of the cluster's DNS names.";
        PF9_NETWORK_PLUGIN: Choice(&["bridge"]) => Value("bridge"),
            "How pods reach each other.";
        MTU_SIZE: Integer { min: 576, max: 9216 } => Value(""),
            "MTU of the pod network in bytes; empty takes the uplink's.";
        KUBE_PROXY_MODE: Choice(&["iptables", "ipvs"]) => Value("iptables"),
            "How kube-proxy routes services.";
        MAX_NAT_CONN: Integer { min: 0, max: 16_777_216 } => Value("0"),
            "Connection tracking entries for each CPU; 0 leaves the kernel's limit.";
    }
    "Virtual IP" {
        #shared MASTER_VIP_ENABLED: Bool => Value("false"),
            "Hold MASTER_IP as a virtual IP on one healthy master.";
        MASTER_VIP_IFACE: Interface => Value(""),
            "Interface that carries the virtual IP.";
        #shared MASTER_VIP_VROUTER_ID: Integer { min: 1, max: 255 } => Value(""),
            "VRRP router id, one for each cluster on a network.";
        #shared MASTER_VIP_PRIORITY: Integer { min: 1, max: 254 } => Value("100"),
            "VRRP priority; give all masters the same, so that the virtual IP stays where it is.";
    }
    "etcd" {
        ETCD_DATA_DIR: Path => Value("/var/opt/pf9/kube/etcd/data"),
            "Where the member keeps its data.";
        ETCD_INITIAL_CLUSTER_STATE: Choice(&["new", "existing"]) => Value("existing"),
            "`new` on exactly one master, the first one: only there, etcd may begin a new cluster. `existing` on every other master: it joins with a join file (`nodelet pki export`). A host that has etcd data, or is a worker, ignores it.";
        ETCD_HEARTBEAT_INTERVAL: Integer { min: 10, max: 10_000 } => Value("100"),
            "Time between heartbeats in milliseconds.";
        ETCD_ELECTION_TIMEOUT: Integer { min: 50, max: 50_000 } => Value("1000"),
            "Time without a heartbeat before an election in milliseconds; at least five heartbeats.";
        ETCD_SNAPSHOT_COUNT: Integer { min: 1_000, max: 10_000_000 } => Value("100000"),
            "Transactions between snapshots to disk.";
        ETCD_QUOTA_BACKEND_BYTES: Integer { min: 67_108_864, max: 17_179_869_184 } => Value("2147483648"),
            "Size in bytes at which the member refuses writes.";
    }
    "etcd backup" {
        ETCD_BACKUP_ENABLED: Bool => Value("true"),
            "Take verified snapshots on a schedule.";
        ETCD_BACKUP_MASTERS: Choice(&["all", "one"]) => Value("all"),
            "Which of several masters take backups: `all`, one after the other, or `one`, the working one whose member of etcd has the lowest id. The others take their own if its last backup is not known to be younger than ETCD_BACKUP_MAX_AGE.";
        ETCD_BACKUP_SCHEDULE: Cron => Value("0 3 * * *"),
            "When backups are taken, in cron syntax, in the host's time zone.";
        ETCD_BACKUP_DIR: Path => Value("/etc/pf9/etcd-backup"),
            "Where the snapshots are kept.";
        ETCD_BACKUP_COUNT: Integer { min: 1, max: 1_000 } => Value("7"),
            "How many snapshots are kept.";
        ETCD_BACKUP_KEEP: Duration { min: 3_600, max: 315_360_000 } => Value("30d"),
            "Age at which older snapshots are removed; the newest verified one always stays.";
        ETCD_BACKUP_MAX_AGE: Duration { min: 60, max: 31_536_000 } => Value("26h"),
            "Age of the newest snapshot at which the backup counts as failing.";
    }
    "Container runtime" {
        RUNTIME: Choice(&["docker"]) => Value("docker"),
            "Container runtime.";
        DOCKER_ROOT: Path => Value("/var/lib/docker"),
            "Where docker keeps images and containers.";
        CONTAINER_LOG_MAX_SIZE: Size => Value("10m"),
            "Size at which a container's log is rotated.";
        CONTAINER_LOG_MAX_FILES: Integer { min: 1, max: 1_000 } => Value("10"),
            "Rotated logs kept for each container.";
        REGISTRY_MIRRORS: UrlList => Value(""),
            "Mirrors of Docker Hub, tried in this order.";
        DOCKERHUB_ID: Text => Value(""),
            "Docker Hub user.";
        #secret DOCKERHUB_PASSWORD: Text => Value(""),
            "Docker Hub password or token.";
    }
    "Images" {
        K8S_PRIVATE_REGISTRY: Registry => Value("k8s.gcr.io"),
            "Registry that the images below come from.";
        K8S_VERSION: Version => Value("v1.20.2"),
            "Kubernetes version.";
        ETCD_IMAGE: ImageReference => Derived("${K8S_PRIVATE_REGISTRY}/etcd:3.4.23-0"),
            "Image of the etcd member.";
        PAUSE_IMAGE: ImageReference => Derived("${K8S_PRIVATE_REGISTRY}/pause:3.2"),
            "Image of the pod sandbox.";
        KUBE_APISERVER_IMAGE: ImageReference => Derived("${K8S_PRIVATE_REGISTRY}/kube-apiserver:${K8S_VERSION}"),
            "Image of the API server.";
        KUBE_CONTROLLER_MANAGER_IMAGE: ImageReference
            => Derived("${K8S_PRIVATE_REGISTRY}/kube-controller-manager:${K8S_VERSION}"),
            "Image of the controller-manager.";
        KUBE_SCHEDULER_IMAGE: ImageReference => Derived("${K8S_PRIVATE_REGISTRY}/kube-scheduler:${K8S_VERSION}"),
            "Image of the scheduler.";
        KUBE_PROXY_IMAGE: ImageReference => Derived("${K8S_PRIVATE_REGISTRY}/kube-proxy:${K8S_VERSION}"),
            "Image of kube-proxy.";
        USER_IMAGES_DIR: Path => Value("/var/opt/pf9/images"),
            "Directory of further image archives to load, with their checksums in checksum/sha256sums.txt there; it may be missing.";
    }
    "kubelet" {
        KUBELET_FLAGS: FlagList => Value(""),
            "Further flags of the kubelet.";
        PROTECT_KERNEL_DEFAULTS: Bool => Value("false"),
            "If true, the role sets the kernel settings that the kubelet needs, and the kubelet exits if one of them differs. If false, the kubelet sets them itself when it starts.";
        MAX_PODS: Integer { min: 1, max: 5_000 } => Value("200"),
            "Most pods on this node.";
        RESERVED_CPUS: CpuSet => Value(""),
            "CPUs kept for the system.";
        CPU_MANAGER_POLICY: Choice(&["none", "static"]) => Value("none"),
            "How CPUs are given to pods.";
        TOPOLOGY_MANAGER_POLICY: Choice(&["none", "best-effort", "restricted", "single-numa-node"]) => Value("none"),
            "How devices and CPUs are aligned with NUMA nodes.";
    }
    "HTTP proxy" {
        HTTP_PROXY: ProxyUrl => Value(""),
            "Proxy for http.";
        HTTPS_PROXY: ProxyUrl => Value(""),
            "Proxy for https.";
        NO_PROXY: ProxyExceptions => Value(""),
            "Comma-separated names and networks reached without the proxy.";
    }
    "Certificates" {
        CERTIFICATE_DAYS: Integer { min: 1, max: 3_650 } => Value("365"),
            "Lifetime of a leaf certificate in days, unless CERTIFICATE_LIFE is set.";
        CERTIFICATE_LIFE: Duration { min: 60, max: 315_360_000 } => Derived("${CERTIFICATE_DAYS}d"),
            "Lifetime of a leaf certificate; it is renewed after three fifths of that time. The masters sign the certificates of workers, for at most 30 days; on a worker, this is not read.";
        CA_YEARS: Integer { min: 1, max: 50 } => Value("10"),
            "Lifetime of a certificate authority in years.";
    }
    "nodeletd" {
        LOOP_INTERVAL: Duration { min: 1, max: 86_400 } => Value("60s"),
            "Time from the end of one status pass to the start of the next.";
        FULL_RETRY_COUNT: Integer { min: 2, max: 1_000 } => Value("10"),
            "When repairs fail in a row, every attempt whose number is a multiple of this one cleans the role and starts it again from the first phase.";
        USE_CGROUPS: Bool => Value("true"),
            "Run status checks in a cgroup with a CPU limit. On a host with cgroup v2, the checks of a `nodelet repair` that an operator runs have lowered priority instead.";
        CPU_LIMIT: Integer { min: 1, max: 100 } => Value("40"),
            "CPU limit of status checks, in percent of one CPU.";
        METRICS_PORT: Integer { min: 0, max: 65_535 } => Value("0"),
            "Port on 127.0.0.1 for Prometheus; 0 for the unix socket alone.";
        DEBUG: Bool => Value("false"),
            "Log every observation.";
    }
};
