//! What the kernel can do: control groups and features. Pure; [`super::gather()`] brings the texts.

use std::collections::BTreeSet;

use super::model::{CgroupVersion, Cgroups};
use super::parse::mounts;

/// Controllers of version 1, to tell them from other mount options.
const CONTROLLERS: [&str; 13] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// A feature and the signs by which it is known.
pub(crate) struct Feature {
    /// Its name in the facts.
    pub(crate) name: &'static str,
    /// Paths that exist while the feature is there.
    pub(crate) paths: &'static [&'static str],
    /// A word in /proc/filesystems or /proc/net/ip_tables_targets.
    pub(crate) words: &'static [&'static str],
    /// Modules that bring it.
    pub(crate) modules: &'static [&'static str],
    /// Whether the feature needs all of the modules; otherwise one is enough.
    pub(crate) needs_all_modules: bool,
}

/// The modules that kube-proxy needs for IPVS. If one is missing, kube-proxy falls back to iptables.
pub(crate) const IPVS: &[&str] = &["ip_vs", "ip_vs_rr", "ip_vs_sh", "ip_vs_wrr"];

/// The features that phases build on.
pub(crate) const FEATURES: [Feature; 5] = [
    Feature {
        name: "br_netfilter",
        paths: &["/proc/sys/net/bridge/bridge-nf-call-iptables"],
        words: &[],
        modules: &["br_netfilter"],
        needs_all_modules: false,
    },
    Feature {
        name: "conntrack",
        paths: &["/proc/sys/net/netfilter/nf_conntrack_max"],
        words: &[],
        modules: &["nf_conntrack"],
        needs_all_modules: false,
    },
    Feature {
        name: "ip_vs",
        paths: &[],
        words: &[],
        modules: IPVS,
        needs_all_modules: true,
    },
    Feature {
        name: "nat",
        paths: &[],
        words: &["DNAT", "MASQUERADE"],
        modules: &["nf_nat", "iptable_nat", "nft_chain_nat"],
        needs_all_modules: false,
    },
    Feature {
        name: "overlay",
        paths: &[],
        words: &["overlay"],
        modules: &["overlay"],
        needs_all_modules: false,
    },
];

/// Texts and answers from which the available features are derived.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    /// Paths of [`FEATURES`] that exist.
    pub(crate) paths: BTreeSet<String>,
    /// Modules of [`FEATURES`] that are loaded or built in.
    pub(crate) loaded: BTreeSet<String>,
    /// Words of /proc/filesystems and /proc/net/ip_tables_targets.
    pub(crate) words: BTreeSet<String>,
    /// `modules.dep` and `modules.builtin` of the running kernel, if this host has them.
    pub(crate) modules: Option<String>,
}

impl Feature {
    /// Whether the feature is there or can be loaded; `None` if that is not known.
    pub(crate) fn available(&self, signs: &Signs) -> Option<bool> {
        let any = |wanted: &[&str], there: &BTreeSet<String>| {
            wanted.iter().any(|one| there.contains(*one))
        };
        // All of the modules, or one.
        let modules = |there: &dyn Fn(&str) -> bool| {
            let mut modules = self.modules.iter();
            if self.needs_all_modules {
                modules.all(|module| there(module))
            } else {
                modules.any(|module| there(module))
            }
        };
        if any(self.paths, &signs.paths)
            || any(self.words, &signs.words)
            || modules(&|module| signs.loaded.contains(module))
        {
            return Some(true);
        }
        // In a container the kernel's modules cannot be seen, so their absence means nothing.
        let listed = signs.modules.as_ref()?;
        Some(modules(&|module| {
            signs.loaded.contains(module) || listed.contains(&format!("/{module}.ko"))
        }))
    }
}

/// Control groups from /proc/mounts and, for version 2, its list of controllers.
pub(crate) fn cgroups(mount_table: &str, unified: Option<&str>) -> Option<Cgroups> {
    let mounts = mounts(mount_table);
    let options = mounts
        .iter()
        .filter(|(_, kind, _)| kind == "cgroup")
        .flat_map(|(_, _, options)| options.split(','));
    let mut controllers: BTreeSet<String> = options
        .filter(|option| CONTROLLERS.contains(option))
        .map(str::to_owned)
        .collect();
    let unified: BTreeSet<String> = unified
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let has_v2 = mounts.iter().any(|(_, kind, _)| kind == "cgroup2");
    // A controller such as hugetlb, which is in version 2 only because version 1 does not mount it, does not make the host a hybrid one.
    let splits = ["cpu", "cpuset", "io", "memory", "pids"]
        .iter()
        .any(|name| unified.contains(*name));
    let version = match (controllers.is_empty(), has_v2, splits) {
        (true, false, _) => return None,
        (true, true, _) => CgroupVersion::V2,
        (false, true, true) => CgroupVersion::Hybrid,
        (false, _, _) => {
            return Some(Cgroups {
                version: CgroupVersion::V1,
                controllers,
            });
        }
    };
    controllers.extend(unified);
    Some(Cgroups {
        version,
        controllers,
    })
}

/// Where the version 2 hierarchy is mounted.
pub(crate) fn unified_mount(mount_table: &str) -> Option<String> {
    mounts(mount_table)
        .into_iter()
        .find(|(_, kind, _)| kind == "cgroup2")
        .map(|(point, _, _)| point)
}

/// Type of the file system that holds a path, and whether it is mounted read-only.
pub(crate) fn filesystem_of(path: &str, mount_table: &str) -> Option<(String, bool)> {
    // Later mounts hide earlier ones at the same place, so the last of the longest wins.
    let holds = |point: &str| std::path::Path::new(path).starts_with(point);
    let found = mounts(mount_table)
        .into_iter()
        .filter(|(point, _, _)| holds(point));
    found
        .max_by_key(|(point, _, _)| point.len())
        .map(|(_, kind, options)| (kind, options.split(',').any(|option| option == "ro")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
        cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

    #[test]
    fn an_empty_version_2_beside_version_1_is_version_1() {
        let seen = cgroups(V1, Some("\n")).unwrap();
        assert_eq!(
            (seen.version, seen.controllers.len()),
            (CgroupVersion::V1, 1)
        );
        assert_eq!(cgroups(V1, Some("hugetlb\n")).unwrap(), seen);
        assert_eq!(
            cgroups(V1, Some("memory\n")).unwrap().version,
            CgroupVersion::Hybrid
        );
        let seen = cgroups(
            "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n",
            Some("cpu memory"),
        )
        .unwrap();
        assert_eq!(
            (seen.version, seen.controllers.len()),
            (CgroupVersion::V2, 2)
        );
        assert_eq!(cgroups("proc /proc proc rw 0 0\n", None), None);
    }

    #[test]
    fn the_nearest_mount_holds_a_path() {
        let table = "/dev/vda / ext4 rw 0 0\n/dev/vdb /var/lib xfs noatime,ro 0 0\ntmpfs /var/li tmpfs rw 0 0\n";
        let kind_of = |path| filesystem_of(path, table);
        assert_eq!(kind_of("/var/lib/docker"), Some(("xfs".to_owned(), true)));
        assert_eq!(kind_of("/var"), Some(("ext4".to_owned(), false)));
    }

    #[test]
    fn balancing_takes_every_module() {
        let ipvs = &FEATURES[2];
        let list = |modules: &[&str]| -> String {
            let line = |module: &&str| format!("kernel/net/netfilter/ipvs/{module}.ko:\n");
            modules.iter().map(line).collect()
        };
        let mut signs = Signs {
            modules: Some(list(IPVS)),
            ..Signs::default()
        };
        assert_eq!(ipvs.available(&signs), Some(true));
        signs.modules = Some(list(&IPVS[..3]));
        assert_eq!(ipvs.available(&signs), Some(false));
        signs.loaded = [IPVS[3].to_owned()].into();
        assert_eq!(ipvs.available(&signs), Some(true));
        signs.modules = None;
        assert_eq!(ipvs.available(&signs), None);
    }

    #[test]
    fn a_feature_is_unknown_when_nothing_tells() {
        let overlay = &FEATURES[4];
        let mut signs = Signs::default();
        assert_eq!(overlay.available(&signs), None);
        signs.modules = Some("kernel/fs/ext4/ext4.ko.xz:\n".to_owned());
        assert_eq!(overlay.available(&signs), Some(false));
        signs.modules = Some("kernel/fs/overlayfs/overlay.ko.xz:\n".to_owned());
        assert_eq!(overlay.available(&signs), Some(true));
        signs = Signs {
            words: BTreeSet::from(["overlay".to_owned()]),
            ..Signs::default()
        };
        assert_eq!(overlay.available(&signs), Some(true));
    }
}
