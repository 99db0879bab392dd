//! How each preflight requirement judges the facts. Every message says what is wrong, with numbers, and what to try.
//!
//! Pure: facts and a requirement in, a verdict out. `network` has addresses, ports and interfaces. Not here: the types of requirements
//! (`preflight`), and how facts are taken (`gather`). Start with `no_swap`, which is short: all the others have its form.

use super::directory::DirectoryProblem;
use super::fact_query::FactQuery;
use super::model::{Disk, Facts, VIRTUAL_SERVICES};
use super::parse;
use super::preflight::{SupportedSystem, Verdict};

mod network;

pub(crate) use network::{
    cidrs_disjoint, interface, node_address, ports_free, reserved_address, usable_address,
    virtual_ip, virtual_ip_free, virtual_router_free,
};

/// Units of software with its own kubelet or its own container runtime, and the name to show.
const FOREIGN_UNITS: [(&str, &str); 9] = [
    ("crio.service", "CRI-O"),
    ("k0scontroller.service", "k0s"),
    ("k0sworker.service", "k0s"),
    ("k3s-agent.service", "k3s"),
    ("k3s.service", "k3s"),
    ("kubelet.service", "another kubelet"),
    ("rke2-agent.service", "RKE2"),
    ("rke2-server.service", "RKE2"),
    ("snap.microk8s.daemon-kubelite.service", "MicroK8s"),
];

/// The longest name a node (a DNS-1123 label for every practical purpose) can have.
const LONGEST_LABEL: usize = 63;

/// This program did not exist before this year. A clock that shows an earlier time makes every certificate invalid.
const FIRST_YEAR: u32 = 2025;

pub(crate) fn no_swap(facts: &Facts, allowed: bool) -> Verdict {
    if allowed {
        return Verdict::Met;
    }
    let Some(swaps) = &facts.swaps else {
        return Verdict::unknown(facts, "swap", &["/proc/swaps"]);
    };
    if swaps.is_empty() {
        return Verdict::Met;
    }
    let areas: Vec<String> = swaps
        .iter()
        .map(|area| format!("{} ({})", area.path, size(area.bytes)))
        .collect();
    Verdict::not_met(
        format!("swap is on: {}", areas.join(", ")),
        "run `swapoff -a` and take it out of /etc/fstab, or set ALLOW_SWAP: true",
    )
}

pub(crate) fn programs(facts: &Facts, wanted: &[String]) -> Verdict {
    let Some(there) = &facts.programs else {
        return Verdict::unknown(facts, "programs", &[]);
    };
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|name| !there.contains(*name))
        .map(String::as_str)
        .collect();
    let (unknown, missing): (Vec<&str>, Vec<&str>) = missing
        .into_iter()
        .partition(|name| facts.unknown.contains_key(*name));
    if missing.is_empty() {
        return match unknown.first() {
            Some(name) => Verdict::unknown(facts, "programs", &[name]),
            None => Verdict::Met,
        };
    }
    Verdict::not_met(
        format!(
            "{} missing: {}",
            plural(missing.len(), "a program is", "programs are"),
            missing.join(", ")
        ),
        "install the packages that hold them, for example with `apt-get install`",
    )
}

pub(crate) fn min_memory(facts: &Facts, wanted: u64) -> Verdict {
    match facts.memory_bytes {
        None => Verdict::unknown(facts, "memory", &["/proc/meminfo"]),
        Some(there) if there >= wanted => Verdict::Met,
        Some(there) => Verdict::not_met(
            format!(
                "the host has {} of memory and needs {}",
                size(there),
                size(wanted)
            ),
            "give the host more memory",
        ),
    }
}

pub(crate) fn min_cpus(facts: &Facts, wanted: u32) -> Verdict {
    match facts.cpus {
        None => Verdict::unknown(facts, "processors", &["/sys/devices/system/cpu/online"]),
        Some(there) if there >= wanted => Verdict::Met,
        Some(there) => Verdict::not_met(
            format!(
                "the host has {there} {} and needs {wanted}",
                plural(there as usize, "processor", "processors")
            ),
            "give the host more processors",
        ),
    }
}

pub(crate) fn cpus_online(facts: &Facts, wanted: &str) -> Verdict {
    let Some(wanted_ranges) = parse::cpu_ranges(wanted) else {
        return Verdict::Unknown {
            reason: format!("processors: `{wanted}` is not a list such as `0-1,4`"),
        };
    };
    let Some(list) = facts.online_cpus() else {
        return Verdict::unknown(facts, "processors", &["/sys/devices/system/cpu/online"]);
    };
    let online = parse::cpu_ranges(&list).unwrap_or_default();
    let missing = wanted_ranges
        .into_iter()
        .find_map(|range| first_missing(range, &online));
    match missing {
        None => Verdict::Met,
        Some(number) => Verdict::not_met(
            format!("`{wanted}` names processor {number}, and the host has only {list}"),
            "name only processors that the host has",
        ),
    }
}

/// The first number of a range of processors that is in none of the ranges `online`.
fn first_missing((first, last): (u32, u32), online: &[(u32, u32)]) -> Option<u32> {
    let mut next = first;
    while let Some((_, end)) = online
        .iter()
        .find(|(start, end)| (*start..=*end).contains(&next))
    {
        if *end >= last {
            return None;
        }
        next = end + 1;
    }
    Some(next)
}

/// The facts about the disk of a path: those of the nearest directory, at the path or above it, that the facts list.
fn disk_of<'a>(facts: &'a Facts, path: &str) -> Option<&'a Disk> {
    let above = |disk: &&Disk| std::path::Path::new(path).starts_with(&disk.path);
    facts
        .disks
        .iter()
        .filter(above)
        .max_by_key(|disk| disk.path.len())
}

pub(crate) fn persistent_directory(facts: &Facts, path: &str, wanted: u64) -> Verdict {
    let Some(disk) = disk_of(facts, path) else {
        return Verdict::unknown(facts, &format!("what {path} is on"), &[path]);
    };
    let taken_by = disk.taken_by.as_ref().filter(|_| disk.path == path);
    let mode = disk
        .mode
        .as_deref()
        .filter(|_| disk.path == path && taken_by.is_none());
    let mode = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok());
    let kind = disk.filesystem.as_deref().unwrap_or_default();
    if let Some(problem) = DirectoryProblem::of(kind, disk.read_only, mode) {
        return Verdict::not_met(format!("{path} {problem}"), problem.remedy(path, "name"));
    }
    if let Some(what) = taken_by {
        return Verdict::not_met(
            format!("{path} is not a directory: {what} is there"),
            "name another directory, or move away what is there",
        );
    }
    room(disk, path, wanted)
}

pub(crate) fn min_disk(facts: &Facts, path: &str, wanted: u64) -> Verdict {
    // Another file system may be mounted between the path and a directory above it. The facts of a live host list the path itself.
    let Some(disk) = facts.disks.iter().find(|disk| disk.path == path) else {
        let what = format!("room below {path}");
        if facts.disks.is_empty() || facts.unknown.contains_key(path) {
            return Verdict::unknown(facts, &what, &[path]);
        }
        return Verdict::Unknown {
            reason: format!("{what}: the facts do not list {path}; add it to `disks`"),
        };
    };
    room(disk, path, wanted)
}

/// Whether this disk has enough room for a path on it.
fn room(disk: &Disk, path: &str, wanted: u64) -> Verdict {
    if disk.free >= wanted {
        return Verdict::Met;
    }
    Verdict::not_met(
        format!(
            "{path} has {} free of {} and needs {}",
            size(disk.free),
            size(disk.total),
            size(wanted)
        ),
        format!(
            "make room (`du -xh --max-depth=2 {} | sort -h` shows where it went) or add a disk",
            disk.path
        ),
    )
}

pub(crate) fn cgroup_controllers(facts: &Facts, wanted: &[String]) -> Verdict {
    let Some(cgroups) = &facts.cgroups else {
        return Verdict::unknown(facts, "control groups", &["/proc/mounts"]);
    };
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|name| !cgroups.controllers.contains(*name))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        return Verdict::Met;
    }
    let remedy = if missing.contains(&"memory") {
        "boot the kernel with `cgroup_enable=memory` on its command line"
    } else {
        "mount the controllers, or boot a kernel that has them"
    };
    let there: Vec<&str> = cgroups.controllers.iter().map(String::as_str).collect();
    Verdict::not_met(
        format!(
            "control groups lack {}; there are {}",
            missing.join(", "),
            there.join(", ")
        ),
        remedy,
    )
}

pub(crate) fn no_foreign_runtime(facts: &Facts) -> Verdict {
    let foreign = |(unit, _): &&(&str, &str)| {
        facts
            .units
            .get(*unit)
            .is_some_and(|state| state.active || state.enabled)
    };
    let Some((unit, what)) = FOREIGN_UNITS.iter().find(foreign) else {
        let unasked = FOREIGN_UNITS
            .iter()
            .find(|(unit, _)| facts.unknown.contains_key(*unit));
        return unasked.map_or(Verdict::Met, |(unit, _)| {
            Verdict::unknown(facts, "units", &[unit])
        });
    };
    let active = facts.units.get(*unit).is_some_and(|state| state.active);
    let does = if active {
        "runs"
    } else {
        "is set to start at boot"
    };
    Verdict::not_met(
        format!("{what} {does} on this host ({unit})"),
        format!("remove it, or at least run `systemctl disable --now {unit}`"),
    )
}

pub(crate) fn no_virtual_services(facts: &Facts) -> Verdict {
    match facts.virtual_services.first() {
        Some(first) => Verdict::not_met(
            format!(
                "IPVS has virtual services that kube-proxy would remove: {first}{}",
                match facts.virtual_services.len() {
                    1 => String::new(),
                    count => format!(" and {} more", count - 1),
                }
            ),
            "remove them (`ipvsadm --list` shows them), or set KUBE_PROXY_MODE to iptables",
        ),
        None if facts.unknown.contains_key(VIRTUAL_SERVICES) => {
            Verdict::unknown(facts, "what IPVS balances", &[VIRTUAL_SERVICES])
        }
        None => Verdict::Met,
    }
}

pub(crate) fn no_earlier_cluster(facts: &Facts) -> Verdict {
    if facts.earlier_clusters.is_empty() {
        let asked = FactQuery::usual().earlier_clusters;
        let unasked = asked.iter().find(|path| facts.unknown.contains_key(*path));
        return unasked.map_or(Verdict::Met, |path| {
            Verdict::unknown(facts, "earlier clusters", &[path])
        });
    }
    let remedy = if facts
        .earlier_clusters
        .iter()
        .any(|path| path.contains("k3s"))
    {
        "take what you need from it and run `k3s-uninstall.sh` (`k3s-agent-uninstall.sh` on an agent)"
    } else if facts
        .earlier_clusters
        .iter()
        .any(|path| path.starts_with("/etc/kubernetes"))
    {
        "take what you need from it and run `kubeadm reset`, or remove the paths"
    } else {
        "take what you need from it and remove the paths"
    };
    Verdict::not_met(
        format!(
            "an earlier cluster left {}",
            facts.earlier_clusters.join(", ")
        ),
        remedy,
    )
}

pub(crate) fn host_name_valid(facts: &Facts) -> Verdict {
    let name = &facts.hostname;
    let remedy = "choose another with `hostnamectl set-hostname NAME`: lower-case letters, digits, `-` and `.`";
    let wrong = |problem: String| Verdict::not_met(problem, remedy);
    if name.is_empty() {
        return wrong("the host has no name".to_owned());
    }
    if name == "localhost" || name.starts_with("localhost.") {
        return wrong(format!("the host's name is `{name}`, which is not unique"));
    }
    if name.len() > LONGEST_LABEL {
        return wrong(format!(
            "the host's name has {} characters; a node's has at most {LONGEST_LABEL}",
            name.len()
        ));
    }
    if let Some(bad) = name
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '.'))
    {
        return wrong(format!(
            "the host's name `{name}` has the character `{bad}`"
        ));
    }
    let bad_end = |label: &str| label.is_empty() || label.starts_with('-') || label.ends_with('-');
    if name.split('.').any(bad_end) {
        return wrong(format!(
            "a part of the host's name `{name}` is empty or begins or ends with `-`"
        ));
    }
    Verdict::Met
}

pub(crate) fn host_name_not_of_api(facts: &Facts, names: &[String]) -> Verdict {
    let name = facts.hostname.to_lowercase();
    if !names.contains(&name) {
        return Verdict::Met;
    }
    Verdict::not_met(
        format!("the host's name is `{name}`, which is a name of the API server"),
        "choose another with `hostnamectl set-hostname NAME`",
    )
}

pub(crate) fn kernel_features(facts: &Facts, wanted: &[String]) -> Verdict {
    let known = |name: &String| facts.kernel_features.get(name).copied();
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|name| known(name) == Some(false))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        return Verdict::not_met(
            format!("the kernel lacks {}", missing.join(", ")),
            "install the distribution's full kernel package and boot it (cloud kernels leave modules out)",
        );
    }
    match wanted.iter().find(|name| known(name).is_none()) {
        Some(name) => Verdict::unknown(facts, "kernel features", &[name]),
        None => Verdict::Met,
    }
}

pub(crate) fn architecture(facts: &Facts, names: &[String]) -> Verdict {
    match &facts.architecture {
        None => Verdict::unknown(facts, "the architecture", &["/proc/sys/kernel/arch"]),
        Some(architecture) if names.contains(architecture) => Verdict::Met,
        Some(architecture) => Verdict::not_met(
            format!(
                "the host's architecture is {architecture}, and the role's programs are for {}",
                names.join(", ")
            ),
            "take a host of that architecture, or a role package built for this one",
        ),
    }
}

pub(crate) fn supported_system(facts: &Facts, systems: &[SupportedSystem]) -> Verdict {
    let Some(os) = &facts.os else {
        return Verdict::unknown(facts, "operating system", &["/etc/os-release"]);
    };
    let fits = |system: &&SupportedSystem| {
        system.id == os.id
            && (system.versions.is_empty() || system.versions.contains(&os.version_id))
    };
    if systems.iter().any(|system| fits(&system)) {
        return Verdict::Met;
    }
    let show = |system: &SupportedSystem| format!("{} {}", system.id, system.versions.join(" or "));
    let supported: Vec<String> = systems
        .iter()
        .map(|system| show(system).trim().to_owned())
        .collect();
    Verdict::not_met(
        format!(
            "{} ({} {}) is not supported",
            os.pretty, os.id, os.version_id
        ),
        format!("use one of: {}", supported.join(", ")),
    )
}

pub(crate) fn systemd(facts: &Facts) -> Verdict {
    match facts.init.as_deref() {
        None => Verdict::unknown(facts, "init", &["/proc/1/comm"]),
        Some("systemd") => Verdict::Met,
        Some(other) => Verdict::not_met(
            format!("process 1 is `{other}`, not systemd"),
            "use a host that systemd runs",
        ),
    }
}

pub(crate) fn root(facts: &Facts) -> Verdict {
    match facts.uid {
        None => Verdict::unknown(facts, "user", &["/proc/self/status"]),
        Some(0) => Verdict::Met,
        Some(uid) => Verdict::not_met(
            format!("this program runs as user {uid}"),
            "run it as root, with `sudo`",
        ),
    }
}

pub(crate) fn clock_sane(facts: &Facts) -> Verdict {
    let Some(clock) = &facts.clock else {
        return Verdict::unknown(facts, "clock", &[]);
    };
    match clock
        .split('-')
        .next()
        .and_then(|year| year.parse::<u32>().ok())
    {
        None => Verdict::Unknown {
            reason: format!("clock: `{clock}` is not a time"),
        },
        Some(year) if year >= FIRST_YEAR => Verdict::Met,
        Some(_) => Verdict::not_met(
            format!("the clock says {clock}"),
            "set it, for example with `timedatectl set-ntp true`; certificates would be invalid",
        ),
    }
}

fn plural(count: usize, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

/// Bytes as people say them: the largest binary unit, one digit after the point if it is not 0.
fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let Some((unit, shift)) = units.into_iter().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} bytes");
    };
    let tenths = (u128::from(bytes) * 10) >> shift;
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        digit => format!("{}.{digit} {unit}", tenths / 10),
    }
}

#[cfg(test)]
mod tests;
