//! Rules between keys. A rule reports nothing if a key that it reads is missing, because that was reported already.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::error::EnvError;
use super::value::Value;
use crate::env::source::layers::{Layered, Setting};
use crate::env::source::place::Place;

/// Kubernetes' controller-manager divides a network into at most 2^16 subnets.
const MAX_SUBNET_BITS: i64 = 16;

/// A problem for every rule that is broken.
pub(crate) fn check(settings: &Layered) -> Vec<EnvError> {
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
    fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).map(|setting: &Setting| &setting.value)
    }

    fn place(self, name: &str) -> Option<Place> {
        self.0.get(name)?.source.place().cloned()
    }

    /// The position of the first of these keys that a file gives.
    fn place_of(self, names: &[&str]) -> Option<Place> {
        names.iter().find_map(|name| self.place(name))
    }

    fn network(self, name: &str) -> Option<IpNet> {
        match self.get(name)? {
            Value::Cidr(network) => Some(*network),
            _ => None,
        }
    }

    fn address(self, name: &str) -> Option<IpAddr> {
        match self.get(name)? {
            Value::Address(address) => Some(*address),
            _ => None,
        }
    }

    fn integer(self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Value::Integer(number) => Some(*number),
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
    let place = settings.place_of(&[key, other_key]);
    if network.addr().is_ipv4() != other.addr().is_ipv4() {
        return Some(EnvError::MixedIpVersions {
            key,
            network,
            other_key,
            other,
            place,
        });
    }
    (network.contains(&other) || other.contains(&network)).then_some(
        EnvError::OverlappingNetworks {
            key,
            network,
            other_key,
            other,
            place,
        },
    )
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
            problems.push(EnvError::UnusableNetwork {
                key,
                network,
                what,
                place: settings.place(key),
            });
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
    (!(shortest..=longest).contains(&network.prefix_len())).then(|| EnvError::ServicesNetworkSize {
        key,
        network,
        shortest,
        longest,
        place: settings.place(key),
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
        return Some(EnvError::PodsNetworkSize {
            key: pods_key,
            network: pods,
            place: settings.place(pods_key),
        });
    }
    (!(shortest..=longest).contains(&mask)).then(|| EnvError::NodeSubnetSize {
        key,
        mask,
        pods_key,
        pods,
        shortest,
        longest,
        place: settings.place_of(&[key, pods_key]),
    })
}

/// The API's addresses are reachable, and outside the cluster's own networks.
fn addresses(settings: Settings<'_>) -> Vec<EnvError> {
    let mut problems = Vec::new();
    for key in ["MASTER_IP", "PUBLIC_IP"] {
        let place = settings.place(key);
        if settings.get(key) == Some(&Value::Text("localhost".to_owned())) {
            problems.push(EnvError::UnreachableAddress {
                key,
                address: "localhost".to_owned(),
                what: "this host only",
                place: place.clone(),
            });
        }
        let Some(address) = settings.address(key) else {
            continue;
        };
        if let Some(what) = unreachable(address) {
            problems.push(EnvError::UnreachableAddress {
                key,
                address: address.to_string(),
                what,
                place,
            });
            continue;
        }
        for network_key in ["CONTAINERS_CIDR", "SERVICES_CIDR"] {
            let Some(network) = settings.network(network_key) else {
                continue;
            };
            if network.contains(&address) {
                problems.push(EnvError::AddressInNetwork {
                    key,
                    address,
                    network_key,
                    network,
                    place: settings.place_of(&[key, network_key]),
                });
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

/// keepalived runs only if both the virtual IP and its interface are chosen; one without the other is a mistake.
fn virtual_ip(settings: Settings<'_>) -> Vec<EnvError> {
    let enabled_key = "MASTER_VIP_ENABLED";
    let Some(Value::Bool(enabled)) = settings.get(enabled_key) else {
        return Vec::new();
    };
    let empty = |name: &str| settings.get(name).map(Value::is_empty);
    let mut broken = Vec::new();
    if *enabled {
        if empty("MASTER_VIP_IFACE") == Some(true) {
            broken.push((
                "MASTER_VIP_IFACE",
                "required because MASTER_VIP_ENABLED is `true`",
            ));
        }
        if empty("MASTER_VIP_VROUTER_ID") == Some(true) {
            broken.push((
                "MASTER_VIP_VROUTER_ID",
                "required because MASTER_VIP_ENABLED is `true`",
            ));
        }
        if matches!(settings.get("MASTER_IP"), Some(Value::Text(_))) {
            broken.push((
                "MASTER_IP",
                "must be an IP address because MASTER_VIP_ENABLED is `true`",
            ));
        }
    } else if empty("MASTER_VIP_IFACE") == Some(false) {
        broken.push((
            "MASTER_VIP_IFACE",
            "chosen while MASTER_VIP_ENABLED is `false`; set both or neither",
        ));
    }
    broken
        .into_iter()
        .map(|(key, problem)| EnvError::IncompleteVip {
            key,
            problem,
            place: settings.place_of(&[key, enabled_key]),
        })
        .collect()
}

/// etcd refuses to start with an election timeout under five heartbeats.
fn election(settings: Settings<'_>) -> Option<EnvError> {
    let (key, heartbeat_key) = ("ETCD_ELECTION_TIMEOUT", "ETCD_HEARTBEAT_INTERVAL");
    let timeout = settings.integer(key)?;
    let least = settings.integer(heartbeat_key)?.saturating_mul(5);
    (timeout < least).then(|| EnvError::ElectionTimeout {
        key,
        timeout,
        least,
        heartbeat_key,
        place: settings.place_of(&[key, heartbeat_key]),
    })
}

/// Settings whose directory must belong to one program only.
const DIRECTORIES: [&str; 4] = [
    "API_SERVER_EXTRA_DIR",
    "DOCKER_ROOT",
    "ETCD_DATA_DIR",
    "ETCD_BACKUP_DIR",
];

/// Trees that settings cannot name for data: they belong to the system, to a package or to nodelet.
const TAKEN: [&str; 28] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc/cni",
    "/etc/docker",
    "/etc/keepalived",
    "/etc/kubernetes",
    "/etc/pf9/kube.d",
    "/etc/pf9/nodelet",
    "/etc/ssh",
    "/etc/ssl",
    "/etc/systemd",
    "/lib",
    "/lib64",
    "/opt/cni",
    "/opt/pf9",
    "/proc",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
    "/var/lib/containerd",
    "/var/lib/dpkg",
    "/var/lib/kubelet",
    "/var/lib/systemd",
    "/var/log",
    "/var/opt/pf9/nodelet",
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

/// Each directory is separate from the system's, nodelet's and the other settings' directories.
fn directories(settings: Settings<'_>) -> Vec<EnvError> {
    let mut problems = Vec::new();
    let chosen: Vec<(&'static str, &Path)> = DIRECTORIES
        .into_iter()
        .filter_map(|key| match settings.get(key)? {
            Value::Text(path) if !path.is_empty() => Some((key, Path::new(path))),
            _ => None,
        })
        .collect();
    for (at, (key, path)) in chosen.iter().enumerate() {
        let within = TAKEN.iter().find(|taken| path.starts_with(taken));
        let what = match within {
            Some(taken) => Some(format!("lies in {taken}, which is not for data")),
            None if SHARED.iter().any(|shared| Path::new(shared) == *path) => {
                Some("is shared by many programs".to_owned())
            }
            None => None,
        };
        if let Some(what) = what {
            problems.push(EnvError::UnusableDirectory {
                key,
                path: path.display().to_string(),
                what,
                place: settings.place(key),
            });
        }
        for (other_key, other) in &chosen[at + 1..] {
            if path.starts_with(other) || other.starts_with(path) {
                problems.push(EnvError::NestedDirectories {
                    key,
                    path: path.display().to_string(),
                    other_key,
                    other: other.display().to_string(),
                    place: settings.place_of(&[key, other_key]),
                });
            }
        }
    }
    problems
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
        problems.extend(by.map(|by| EnvError::PortInUse {
            key,
            port,
            by,
            place: settings.place_of(&[key, "K8S_API_PORT"]),
        }));
    }
    problems
}

/// kubelet's static policy needs CPUs that are kept for the system.
fn reserved_cpus(settings: Settings<'_>) -> Option<EnvError> {
    let (key, cpus_key) = ("CPU_MANAGER_POLICY", "RESERVED_CPUS");
    let is_static = settings.get(key) == Some(&Value::Text("static".to_owned()));
    let reserved = settings.get(cpus_key)?;
    (is_static && reserved.is_empty()).then(|| EnvError::NoReservedCpus {
        key,
        cpus_key,
        place: settings.place_of(&[key, cpus_key]),
    })
}
