//! Rules between keys. A rule reports nothing if a key that it reads is missing, because that was reported already.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::error::EnvError;
use super::value::SettingValue;
use crate::env::source::layers::{Layered, Setting};
use crate::env::source::place::Place;
use crate::model::{KERNEL_TREES, OWN_PATHS, resolve_var_run};

/// Kubernetes' controller-manager divides a network into at most 2^16 subnets.
const MAX_SUBNET_BITS: i64 = 16;

/// A problem for every rule that is broken.
pub(crate) fn check(settings: &Layered) -> Vec<EnvError> {
    let mut problems = check_saved(settings);
    let settings = Settings(settings);
    problems.extend(paths_of_nodelet(settings));
    problems.extend(separators_of_mounts(settings));
    problems.extend(certificates_of_the_api_server(settings));
    problems.extend(docker_hub_account(settings));
    problems.extend(ipv4_as_ipv6(settings));
    problems
}

/// The rules for saved settings: those that every version of this program has. A new rule belongs to [`check`], so that settings that were
/// in force stay usable.
pub(crate) fn check_saved(settings: &Layered) -> Vec<EnvError> {
    let settings = Settings(settings);
    let mut problems = Vec::new();
    problems.extend(networks(settings));
    problems.extend(unusable_networks(settings));
    problems.extend(services_size(settings));
    problems.extend(node_subnets(settings));
    problems.extend(addresses(settings));
    problems.extend(virtual_ip(settings));
    problems.extend(election(settings));
    problems.extend(directories(settings));
    problems.extend(ports(settings));
    problems.extend(reserved_cpus(settings));
    problems
}

/// The settings by type.
#[derive(Clone, Copy)]
struct Settings<'a>(&'a Layered);

impl<'a> Settings<'a> {
    fn get(self, name: &str) -> Option<&'a SettingValue> {
        self.0.get(name).map(|setting: &Setting| &setting.value)
    }

    fn place(self, name: &str) -> Option<Place> {
        self.0.get(name)?.source.place().cloned()
    }

    /// A problem of this key. Its position is that of the key, or of the first of the other keys that the rule reads, if a file gives it.
    fn broken(self, key: &'static str, others: &[&str], problem: impl Into<String>) -> EnvError {
        let others = || others.iter().find_map(|name| self.place(name));
        EnvError::BrokenRule {
            key,
            problem: problem.into(),
            place: self.place(key).or_else(others),
        }
    }

    fn network(self, name: &str) -> Option<IpNet> {
        match self.get(name)? {
            SettingValue::Cidr(network) => Some(*network),
            _ => None,
        }
    }

    fn address(self, name: &str) -> Option<IpAddr> {
        match self.get(name)? {
            SettingValue::Address(address) => Some(*address),
            _ => None,
        }
    }

    fn integer(self, name: &str) -> Option<i64> {
        match self.get(name)? {
            SettingValue::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

/// The networks of pods and services do not overlap and have the same IP version.
fn networks(settings: Settings<'_>) -> Option<EnvError> {
    // If a file gives only one of the two keys, the message starts with that key.
    let (key, other_key) = match settings.place("SERVICES_CIDR") {
        None if settings.place("CONTAINERS_CIDR").is_some() => ("CONTAINERS_CIDR", "SERVICES_CIDR"),
        _ => ("SERVICES_CIDR", "CONTAINERS_CIDR"),
    };
    let network = settings.network(key)?;
    let other = settings.network(other_key)?;
    let problem = if network.addr().is_ipv4() != other.addr().is_ipv4() {
        format!("{network} and {other_key} {other} are of different IP versions")
    } else if network.contains(&other) || other.contains(&network) {
        format!("{network} overlaps {other_key} {other}")
    } else {
        return None;
    };
    Some(settings.broken(key, &[other_key], problem))
}

/// Networks that cannot be used for pods and Services.
const UNUSABLE: [(&str, &str); 8] = [
    ("0.0.0.0/8", "holds addresses of this network"),
    ("127.0.0.0/8", "holds loopback addresses"),
    ("169.254.0.0/16", "holds link-local addresses"),
    ("224.0.0.0/4", "holds multicast addresses"),
    ("240.0.0.0/4", "holds reserved addresses"),
    ("::1/128", "holds the loopback address"),
    ("fe80::/10", "holds link-local addresses"),
    ("ff00::/8", "holds multicast addresses"),
];

fn unusable_networks(settings: Settings<'_>) -> Vec<EnvError> {
    let mut problems = Vec::new();
    for key in ["CONTAINERS_CIDR", "SERVICES_CIDR"] {
        let Some(network) = settings.network(key) else {
            continue;
        };
        let bad = UNUSABLE.iter().find(|(bad, _)| {
            let bad: IpNet = bad.parse().expect("the table holds networks");
            bad.contains(&network) || network.contains(&bad)
        });
        if let Some((_, what)) = bad {
            let problem =
                format!("{network} {what}; choose a private network, for example 10.20.0.0/16");
            problems.push(settings.broken(key, &[], problem));
        }
    }
    problems
}

/// The network has an address 10, and at most the 20 host bits that the API server accepts.
fn services_size(settings: Settings<'_>) -> Option<EnvError> {
    let key = "SERVICES_CIDR";
    let network = settings.network(key)?;
    let (shortest, longest) = if network.addr().is_ipv4() {
        (12, 28)
    } else {
        (108, 124)
    };
    (!(shortest..=longest).contains(&network.prefix_len())).then(|| {
        let problem =
            format!("expected a prefix length of {shortest} to {longest}, found {network}");
        settings.broken(key, &[], problem)
    })
}

/// A node's prefix is longer than that of the pods' network, and leaves addresses for the node's pods.
fn node_subnets(settings: Settings<'_>) -> Option<EnvError> {
    let (key, pods_key) = ("NODE_CIDR_MASK_SIZE", "CONTAINERS_CIDR");
    let mask = settings.integer(key)?;
    let pods = settings.network(pods_key)?;
    let prefix = i64::from(pods.prefix_len());
    let shortest = prefix + 1;
    let longest = (i64::from(pods.max_prefix_len()) - 2).min(prefix + MAX_SUBNET_BITS);
    if shortest > longest {
        let problem = format!("{pods} is too small to be divided among nodes");
        return Some(settings.broken(pods_key, &[], problem));
    }
    (!(shortest..=longest).contains(&mask)).then(|| {
        let problem = format!(
            "expected {shortest} to {longest} so that nodes get subnets of {pods_key} {pods}, found {mask}"
        );
        settings.broken(key, &[pods_key], problem)
    })
}

/// Settings with an address of the API.
const ADDRESSES: [&str; 2] = ["MASTER_IP", "PUBLIC_IP"];

/// The API's addresses are reachable, and outside the cluster's own networks.
fn addresses(settings: Settings<'_>) -> Vec<EnvError> {
    let mut problems = Vec::new();
    for key in ADDRESSES {
        let cannot_be_reached = |address: &str, what: &str| {
            let problem = format!("{address} is {what}, other hosts cannot reach it");
            settings.broken(key, &[], problem)
        };
        if settings.get(key) == Some(&SettingValue::Text("localhost".to_owned())) {
            problems.push(cannot_be_reached("localhost", "this host only"));
        }
        let Some(address) = settings.address(key) else {
            continue;
        };
        if let Some(what) = unreachable(address) {
            problems.push(cannot_be_reached(&address.to_string(), what));
            continue;
        }
        for network_key in ["CONTAINERS_CIDR", "SERVICES_CIDR"] {
            let Some(network) = settings.network(network_key) else {
                continue;
            };
            if network.contains(&address) {
                let problem = format!("{address} lies in {network_key} {network}");
                problems.push(settings.broken(key, &[network_key], problem));
            }
        }
    }
    problems
}

/// Why other hosts cannot reach an address. IPv4 inside IPv6 is judged as IPv4.
fn unreachable(address: IpAddr) -> Option<&'static str> {
    let address = address.to_canonical();
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) {
        Some("the broadcast address")
    } else {
        None
    }
}

/// An IPv4 address is not written as one of IPv6, for example `::ffff:192.0.2.1`. Certificates, keepalived and comparisons with the addresses
/// of hosts would take it for another address.
fn ipv4_as_ipv6(settings: Settings<'_>) -> Vec<EnvError> {
    let mut problems = Vec::new();
    for key in ADDRESSES {
        let Some(address) = settings.address(key) else {
            continue;
        };
        let plain = address.to_canonical();
        // Another rule reports what other hosts cannot reach.
        if plain == address || unreachable(address).is_some() {
            continue;
        }
        let problem = format!("{address} is an IPv4 address in the form of IPv6; write {plain}");
        problems.push(settings.broken(key, &[], problem));
    }
    problems
}

/// keepalived runs only if both the virtual IP and its interface are chosen; one without the other is a mistake. A worker runs no keepalived:
/// it only learns that MASTER_IP is a virtual IP.
fn virtual_ip(settings: Settings<'_>) -> Vec<EnvError> {
    let enabled_key = "MASTER_VIP_ENABLED";
    let Some(SettingValue::Bool(enabled)) = settings.get(enabled_key) else {
        return Vec::new();
    };
    let empty = |name: &str| settings.get(name).map(SettingValue::is_empty);
    let mut problems = Vec::new();
    let mut broken = |key, problem: &str| {
        problems.push(settings.broken(key, &[enabled_key], problem));
    };
    let is_worker = settings.get("ROLE") == Some(&SettingValue::Text("worker".to_owned()));
    if *enabled {
        for key in ["MASTER_VIP_IFACE", "MASTER_VIP_VROUTER_ID"] {
            if !is_worker && empty(key) == Some(true) {
                broken(key, "required because MASTER_VIP_ENABLED is `true`");
            }
        }
        if matches!(settings.get("MASTER_IP"), Some(SettingValue::Text(_))) {
            broken(
                "MASTER_IP",
                "must be an IP address because MASTER_VIP_ENABLED is `true`",
            );
        }
    } else if !is_worker && empty("MASTER_VIP_IFACE") == Some(false) {
        broken(
            "MASTER_VIP_IFACE",
            "chosen while MASTER_VIP_ENABLED is `false`; set both or neither",
        );
    }
    problems
}

/// etcd refuses to start with an election timeout under five heartbeats.
fn election(settings: Settings<'_>) -> Option<EnvError> {
    let (key, heartbeat_key) = ("ETCD_ELECTION_TIMEOUT", "ETCD_HEARTBEAT_INTERVAL");
    let timeout = settings.integer(key)?;
    let least = settings.integer(heartbeat_key)?.saturating_mul(5);
    (timeout < least).then(|| {
        let problem =
            format!("expected at least {least}, five times {heartbeat_key}, found {timeout}");
        settings.broken(key, &[heartbeat_key], problem)
    })
}

/// Settings whose directory must belong to one program only.
const DIRECTORIES: [&str; 4] = [
    "API_SERVER_EXTRA_DIR",
    "DOCKER_ROOT",
    "ETCD_DATA_DIR",
    "ETCD_BACKUP_DIR",
];

/// Trees that settings cannot name for data, because they belong to the system or to a package. The trees of the kernel and the paths of
/// nodelet are refused, too. They are constants of `model`, because scripts cannot name them either.
const TAKEN: [&str; 23] = [
    "/bin",
    "/boot",
    "/etc/cni",
    "/etc/docker",
    "/etc/keepalived",
    "/etc/kubernetes",
    "/etc/pf9/kube.d",
    "/etc/ssh",
    "/etc/ssl",
    "/etc/systemd",
    "/lib",
    "/lib64",
    "/opt/cni",
    "/opt/pf9",
    "/sbin",
    "/tmp",
    "/usr",
    "/var/lib/containerd",
    "/var/lib/dpkg",
    "/var/lib/kubelet",
    "/var/lib/systemd",
    "/var/log",
    "/var/tmp",
];

/// Directories that many programs share: a setting may name a directory below them, but not one of them.
const SHARED: [&str; 14] = [
    "/etc",
    "/etc/pf9",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/srv",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/opt",
    "/var/opt/pf9",
];

/// The directories of [`DIRECTORIES`] that are set, by key.
fn chosen_directories(settings: Settings<'_>) -> Vec<(&'static str, &Path)> {
    DIRECTORIES
        .into_iter()
        .filter_map(|key| match settings.get(key)? {
            SettingValue::Text(path) if !path.is_empty() => Some((key, Path::new(path))),
            _ => None,
        })
        .collect()
}

/// Why a setting cannot name this directory, if it is a part of the system or of nodelet, or shared by many programs.
fn misplaced(path: &Path) -> Option<String> {
    let mut taken = TAKEN.iter().chain(&KERNEL_TREES).chain(&OWN_PATHS);
    match taken.find(|taken| path.starts_with(taken)) {
        Some(taken) => Some(format!("lies in {taken}, which is not for data")),
        None if SHARED.iter().any(|shared| Path::new(shared) == path) => {
            Some("is shared by many programs".to_owned())
        }
        None => None,
    }
}

/// No directory contains a path of nodelet, and none lies in one that it names through `/var/run`. A role refuses such a path, too, but only
/// when it is planned.
fn paths_of_nodelet(settings: Settings<'_>) -> Vec<EnvError> {
    let mut problems = Vec::new();
    for (key, path) in chosen_directories(settings) {
        // Another rule reports these.
        if misplaced(path).is_some() {
            continue;
        }
        let behind = resolve_var_run(path);
        for own in OWN_PATHS {
            let what = if behind.starts_with(own) {
                format!("lies in {own}, which is not for data")
            } else if Path::new(own).starts_with(&behind) {
                format!("contains {own}, which belongs to nodelet itself")
            } else {
                continue;
            };
            let problem = format!("{} {what}; name a directory of its own", path.display());
            problems.push(settings.broken(key, &[], problem));
            break;
        }
    }
    problems
}

/// Each directory is separate from the system's, nodelet's and the other settings' directories.
fn directories(settings: Settings<'_>) -> Vec<EnvError> {
    let mut problems = Vec::new();
    let chosen = chosen_directories(settings);
    for (at, (key, path)) in chosen.iter().enumerate() {
        if let Some(what) = misplaced(path) {
            let problem = format!("{} {what}; name a directory of its own", path.display());
            problems.push(settings.broken(key, &[], problem));
        }
        for (other_key, other) in &chosen[at + 1..] {
            if path.starts_with(other) || other.starts_with(path) {
                let problem = format!(
                    "{} and {other_key} ({}) are the same directory or one contains the other; name separate directories",
                    path.display(),
                    other.display()
                );
                problems.push(settings.broken(key, &[other_key], problem));
            }
        }
    }
    problems
}

/// Settings that become a part of a mount, and the characters that separate such parts. Other directories are not mounted, or they are
/// mounted through docker's newer form (`Mount`), which has no separators.
const SEPARATORS: [(&str, &[char]); 2] = [
    // kubelet gives docker a mount as `SOURCE:TARGET:OPTIONS`.
    ("API_SERVER_EXTRA_DIR", &[':']),
    // docker mounts an image's layers with the options `lowerdir=A:B,upperdir=C,workdir=D`, in which `\` escapes.
    ("DOCKER_ROOT", &[':', ',', '\\']),
];

/// Where the API server's container has its certificates (`phases/templates/control-plane/k8s-master.yaml.tmpl`).
const CONTAINER_CERTIFICATES: &str = "/certs";

/// A directory that becomes a part of a mount has none of the separators.
fn separators_of_mounts(settings: Settings<'_>) -> Vec<EnvError> {
    let mut problems = Vec::new();
    for (key, separators) in SEPARATORS {
        let Some(SettingValue::Text(path)) = settings.get(key) else {
            continue;
        };
        if let Some(bad) = path.chars().find(|letter| separators.contains(letter)) {
            let problem = format!(
                "{path} contains `{bad}`, which separates the parts of a mount; name a directory without it"
            );
            problems.push(settings.broken(key, &[], problem));
        }
    }
    problems
}

/// The extra directory of the API server does not hide the certificates in its container. It is the only directory of a setting that has the
/// same path in a container.
fn certificates_of_the_api_server(settings: Settings<'_>) -> Option<EnvError> {
    let key = "API_SERVER_EXTRA_DIR";
    let SettingValue::Text(path) = settings.get(key)? else {
        return None;
    };
    if !Path::new(path).starts_with(CONTAINER_CERTIFICATES) {
        return None;
    }
    let problem = format!(
        "{path} lies in {CONTAINER_CERTIFICATES}, where the API server's container has its certificates; name another directory"
    );
    Some(settings.broken(key, &[], problem))
}

/// An account of Docker Hub is a user and a password; one without the other is a mistake.
fn docker_hub_account(settings: Settings<'_>) -> Option<EnvError> {
    let (user_key, password_key) = ("DOCKERHUB_ID", "DOCKERHUB_PASSWORD");
    let has_user = !settings.get(user_key)?.is_empty();
    let has_password = !settings.get(password_key)?.is_empty();
    let (key, empty_key) = match (has_user, has_password) {
        (true, false) => (user_key, password_key),
        (false, true) => (password_key, user_key),
        (true, true) | (false, false) => return None,
    };
    let problem = format!("chosen while {empty_key} is empty; set both or neither");
    Some(settings.broken(key, &[empty_key], problem))
}

/// Ports on which other programs of a master listen, beside the API server.
const PORTS: [(i64, &str); 8] = [
    (2380, "etcd (peers)"),
    (4001, "etcd (clients)"),
    (10248, "kubelet (health)"),
    (10249, "kube-proxy (metrics)"),
    (10250, "kubelet"),
    (10256, "kube-proxy (health)"),
    (10257, "the controller-manager"),
    (10259, "the scheduler"),
];
/// Kubernetes' default range of ports for Services of type `NodePort`.
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30_000..=32_767;

/// The chosen ports differ from each other, from the role's and from those of `NodePort` Services.
fn ports(settings: Settings<'_>) -> Vec<EnvError> {
    let mut problems = Vec::new();
    let api = settings.integer("K8S_API_PORT");
    for key in ["K8S_API_PORT", "METRICS_PORT"] {
        let Some(port) = settings.integer(key) else {
            continue;
        };
        let named = PORTS.iter().find(|(taken, _)| *taken == port);
        let by = match named {
            Some((_, by)) => Some(*by),
            None if NODE_PORTS.contains(&port) => Some("a Service of type NodePort"),
            None if key == "METRICS_PORT" && api == Some(port) => Some("the API server"),
            None => None,
        };
        problems.extend(by.map(|by| {
            let problem = format!("{port} is the port of {by}; choose another");
            settings.broken(key, &["K8S_API_PORT"], problem)
        }));
    }
    problems
}

/// kubelet's static policy needs CPUs that are kept for the system.
fn reserved_cpus(settings: Settings<'_>) -> Option<EnvError> {
    let (key, cpus_key) = ("CPU_MANAGER_POLICY", "RESERVED_CPUS");
    let is_static = settings.get(key) == Some(&SettingValue::Text("static".to_owned()));
    let reserved = settings.get(cpus_key)?;
    (is_static && reserved.is_empty()).then(|| {
        let problem = format!(
            "`static` needs {cpus_key}: kubelet refuses this policy unless CPUs are reserved for the system"
        );
        settings.broken(key, &[cpus_key], problem)
    })
}
