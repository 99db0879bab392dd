//! One case or more for each requirement and each bad input. `check` reads: facts, requirement, expected message.
//!
//! `network` has addresses, ports and interfaces.

mod network;

use std::collections::BTreeSet;

use super::size;
use crate::facts::{
    CgroupVersion, Cgroups, Disk, Facts, LinkFacts, NamedCidr, OperatingSystem, Requirement, Route,
    SupportedSystem, Swap, UnitFacts, Verdict,
};

const GIB: u64 = 1 << 30;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

fn good() -> Facts {
    let mut facts = Facts::nothing_about("cp-1");
    facts.swaps = Some(Vec::new());
    facts.listening = Some(Vec::new());
    facts.programs = Some(BTreeSet::from(["iptables".to_owned()]));
    facts.memory_bytes = Some(4 * GIB);
    facts.cpus = Some(2);
    facts.disks = vec![disk("/", 50), disk("/var", 10)];
    let controllers = BTreeSet::from(["cpu".to_owned(), "memory".to_owned()]);
    facts.cgroups = Some(Cgroups {
        version: CgroupVersion::V1,
        controllers,
    });
    facts.links = Some(vec![
        LinkFacts {
            name: "eth0".to_owned(),
            up: true,
            addresses: vec!["172.30.0.11/24".parse().unwrap()],
        },
        LinkFacts {
            name: "eth1".to_owned(),
            up: false,
            addresses: Vec::new(),
        },
    ]);
    facts.routes = Some(vec![Route {
        to: "10.99.0.0/16".parse().unwrap(),
        link: "eth0".to_owned(),
    }]);
    facts.kernel_features = [("overlay".to_owned(), true), ("nat".to_owned(), false)].into();
    let text = str::to_owned;
    facts.os = Some(OperatingSystem {
        id: text("debian"),
        version_id: text("12"),
        pretty: text("Debian 12"),
    });
    facts.init = Some(text("systemd"));
    facts.uid = Some(0);
    facts.clock = Some(text("2026-01-01T00:00:00Z"));
    facts
}

fn disk(path: &str, gib: u64) -> Disk {
    Disk {
        path: path.to_owned(),
        free: gib * GIB,
        total: 100 * GIB,
        filesystem: None,
        read_only: false,
        mode: None,
        taken_by: None,
    }
}

#[track_caller]
fn check(facts: &Facts, requirement: &Requirement, expected: &str) {
    assert_eq!(requirement.check(facts).to_string(), expected);
}

/// The requirement is met on the good host, not met as `expected` after `spoil`, and unknown on a blank one.
#[track_caller]
fn assert_unmet_after(requirement: &Requirement, spoil: impl FnOnce(&mut Facts), expected: &str) {
    let mut facts = good();
    check(&facts, requirement, "met");
    spoil(&mut facts);
    check(&facts, requirement, expected);
}

#[track_caller]
fn unknown(requirement: &Requirement, item: &str, expected: &str) {
    let mut facts = Facts::nothing_about("cp-1");
    facts
        .unknown
        .insert(item.to_owned(), "permission denied".to_owned());
    check(&facts, requirement, expected);
}

#[test]
fn swap() {
    let on = |facts: &mut Facts| {
        facts.swaps = Some(vec![Swap {
            path: "/dev/sda2".to_owned(),
            bytes: 2 * GIB,
        }]);
    };
    let requirement = Requirement::NoSwap { allowed: false };
    assert_unmet_after(
        &requirement,
        on,
        "swap is on: /dev/sda2 (2 GiB); run `swapoff -a` and take it out of /etc/fstab, or set ALLOW_SWAP: true",
    );
    unknown(
        &requirement,
        "/proc/swaps",
        "unknown: swap: /proc/swaps: permission denied",
    );
    let mut facts = good();
    on(&mut facts);
    check(&facts, &Requirement::NoSwap { allowed: true }, "met");
}

#[test]
fn programs() {
    let requirement = Requirement::Programs(words(&["iptables"]));
    assert_unmet_after(
        &requirement,
        |facts| facts.programs = Some(BTreeSet::new()),
        "a program is missing: iptables; \
         install the packages that hold them, for example with `apt-get install`",
    );
    let mut facts = good();
    facts
        .unknown
        .insert("socat".to_owned(), "permission denied".to_owned());
    check(
        &facts,
        &Requirement::Programs(words(&["socat"])),
        "unknown: programs: socat: permission denied",
    );
    // A program that is missing is not hidden by one that is unknown.
    facts.programs = Some(BTreeSet::new());
    let verdict = Requirement::Programs(words(&["socat", "iptables"])).check(&facts);
    let text = verdict.to_string();
    assert!(
        text.starts_with("a program is missing: iptables;"),
        "{text}"
    );
}

#[test]
fn memory_processors_and_disk() {
    assert_unmet_after(
        &Requirement::MinMemory(2 * GIB),
        |facts| facts.memory_bytes = Some(GIB + GIB / 2),
        "the host has 1.5 GiB of memory and needs 2 GiB; give the host more memory",
    );
    assert_unmet_after(
        &Requirement::MinCpus(2),
        |facts| facts.cpus = Some(1),
        "the host has 1 processor and needs 2; give the host more processors",
    );
    let requirement = Requirement::MinDisk {
        path: "/var".to_owned(),
        bytes: 10 * GIB,
    };
    assert_unmet_after(
        &requirement,
        |facts| facts.disks = vec![disk("/", 50), disk("/var", 9)],
        "/var has 9 GiB free of 100 GiB and needs 10 GiB; \
         make room (`du -xh --max-depth=2 /var | sort -h` shows where it went) or add a disk",
    );
    unknown(
        &requirement,
        "x",
        "unknown: room below /var: the facts do not say",
    );
    let below = Requirement::MinDisk {
        path: "/var/lib/docker".to_owned(),
        bytes: 1,
    };
    check(
        &good(),
        &below,
        "unknown: room below /var/lib/docker: the facts do not list /var/lib/docker; add it to `disks`",
    );
    unknown(
        &Requirement::MinMemory(1),
        "/proc/meminfo",
        "unknown: memory: /proc/meminfo: permission denied",
    );
    unknown(
        &Requirement::MinCpus(1),
        "x",
        "unknown: processors: the facts do not say",
    );
}

#[test]
fn reserved_processors_are_there() {
    let wants = |list: &str| Requirement::CpusOnline(list.to_owned());
    for list in ["0", "1", "0-1", "0,1", "1,0"] {
        assert_eq!(wants(list).check(&good()), Verdict::Met, "{list}");
    }
    for (list, missing) in [("0-999", 2), ("2", 2), ("0,5-6", 5)] {
        check(
            &good(),
            &wants(list),
            &format!(
                "`{list}` names processor {missing}, and the host has only 0-1; \
                 name only processors that the host has (RESERVED_CPUS in the settings)"
            ),
        );
    }
    // Processors can be offline: then the numbers have gaps.
    let mut gaps = good();
    gaps.cpu_list = Some("0,2".to_owned());
    assert_eq!(wants("2").check(&gaps), Verdict::Met);
    check(
        &gaps,
        &wants("0-2"),
        "`0-2` names processor 1, and the host has only 0,2; \
         name only processors that the host has (RESERVED_CPUS in the settings)",
    );
    unknown(
        &wants("0"),
        "x",
        "unknown: processors: the facts do not say",
    );
}

#[test]
fn the_architecture_is_that_of_the_programs() {
    let requirement = Requirement::Architecture(words(&["x86_64"]));
    let mut facts = good();
    facts.architecture = Some("x86_64".to_owned());
    check(&facts, &requirement, "met");
    facts.architecture = Some("aarch64".to_owned());
    check(
        &facts,
        &requirement,
        "the host's architecture is aarch64, and the role's programs are for x86_64; \
         take a host of that architecture, or a role package built for this one",
    );
    facts.architecture = None;
    check(
        &facts,
        &requirement,
        "unknown: the architecture: the facts do not say",
    );
}

#[test]
fn persistent_directory_rejects_temporary_file_systems() {
    let requirement = Requirement::PersistentDirectory {
        path: "/backups/etcd".to_owned(),
        bytes: GIB,
    };
    // The record of preconditions of a host has the digest of this form.
    let form = serde_json::to_string(&requirement).expect("JSON");
    assert!(form.starts_with(r#"{"lasting-directory":"#), "{form}");
    let backups = Disk {
        filesystem: Some("ext4".to_owned()),
        mode: Some("0755".to_owned()),
        ..disk("/backups", 50)
    };
    let with = |spoil: &dyn Fn(&mut Disk)| {
        let mut facts = good();
        let mut disk = backups.clone();
        spoil(&mut disk);
        facts.disks = vec![self::disk("/", 50), disk];
        requirement.check(&facts).to_string()
    };
    assert_eq!(with(&|_| ()), "met", "a directory above it may be open");
    assert_eq!(
        with(&|disk| disk.filesystem = Some("tmpfs".to_owned())),
        "/backups/etcd is in memory (tmpfs) and would be gone with the next boot; name a directory on a disk"
    );
    assert_eq!(
        with(&|disk| disk.read_only = true),
        "/backups/etcd is mounted read-only; \
         mount it writable (`mount -o remount,rw`), or name another directory"
    );
    assert_eq!(
        with(&|disk| disk.path = "/backups/etcd".to_owned()),
        "/backups/etcd is there, and others than root may look into it (mode 0755); \
         name another directory, or close this one with `chmod 0700 /backups/etcd`"
    );
    let taken = |disk: &mut Disk| disk.taken_by = Some("a link".to_owned());
    assert_eq!(with(&taken), "met", "one above it may be a link");
    assert_eq!(
        with(&|disk| {
            taken(disk);
            disk.path = "/backups/etcd".to_owned();
        }),
        "/backups/etcd is not a directory: a link is there; \
         name another directory, or move away what is there"
    );
    assert!(with(&|disk| disk.free = 1).contains("needs 1 GiB"));
    unknown(
        &requirement,
        "x",
        "unknown: what /backups/etcd is on: the facts do not say",
    );
}

#[test]
fn control_groups_and_kernel_features() {
    let requirement = Requirement::CgroupControllers(words(&["cpu", "memory"]));
    assert_unmet_after(
        &requirement,
        |facts| {
            if let Some(cgroups) = &mut facts.cgroups {
                cgroups.controllers.remove("memory");
            }
        },
        "control groups lack memory; there are cpu; \
         boot the kernel with `cgroup_enable=memory` on its command line",
    );
    unknown(
        &requirement,
        "/proc/mounts",
        "unknown: control groups: /proc/mounts: permission denied",
    );
    check(
        &good(),
        &Requirement::KernelFeatures(words(&["overlay", "nat"])),
        "the kernel lacks nat; \
         install the distribution's full kernel package and boot it (cloud kernels leave modules out)",
    );
    check(
        &good(),
        &Requirement::KernelFeatures(words(&["overlay", "ip_vs"])),
        "unknown: kernel features: the facts do not say",
    );
    check(
        &good(),
        &Requirement::KernelFeatures(words(&["overlay"])),
        "met",
    );
}

#[test]
fn other_software() {
    let requirement = Requirement::NoForeignRuntime;
    let unit = |active, enabled| UnitFacts { active, enabled };
    assert_unmet_after(
        &requirement,
        |facts| {
            facts
                .units
                .insert("k3s.service".to_owned(), unit(true, true));
        },
        "k3s runs on this host (k3s.service); remove it, or at least run `systemctl disable --now k3s.service`",
    );
    assert_unmet_after(
        &requirement,
        |facts| {
            facts
                .units
                .insert("kubelet.service".to_owned(), unit(false, true));
        },
        "another kubelet is set to start at boot on this host (kubelet.service); \
         remove it, or at least run `systemctl disable --now kubelet.service`",
    );
    let mut docker = good();
    docker
        .units
        .insert("docker.service".to_owned(), unit(true, true));
    docker
        .units
        .insert("containerd.service".to_owned(), unit(true, true));
    docker
        .units
        .insert("crio.service".to_owned(), unit(false, false));
    check(&docker, &requirement, "met");
    unknown(
        &requirement,
        "k3s.service",
        "unknown: units: k3s.service: permission denied",
    );
    unknown(
        &Requirement::NoEarlierCluster,
        "/var/lib/k0s",
        "unknown: earlier clusters: /var/lib/k0s: permission denied",
    );
    assert_unmet_after(
        &Requirement::NoEarlierCluster,
        |facts| facts.earlier_clusters = words(&["/etc/kubernetes/manifests"]),
        "an earlier cluster left /etc/kubernetes/manifests; \
         take what you need from it and run `kubeadm reset`, or remove the paths",
    );
}

#[test]
fn foreign_ipvs_services_stay() {
    let requirement = Requirement::NoVirtualServices;
    unknown(
        &requirement,
        "virtual services",
        "unknown: what IPVS balances: virtual services: permission denied",
    );
    assert_unmet_after(
        &requirement,
        |facts| facts.virtual_services = vec!["TCP 192.0.2.1:80".to_owned(); 3],
        "IPVS has virtual services that kube-proxy would remove: TCP 192.0.2.1:80 and 2 more; \
         remove them (`ipvsadm --list` shows them), or set KUBE_PROXY_MODE to iptables",
    );
}

#[test]
fn host_names() {
    let hint = "choose another with `hostnamectl set-hostname NAME`: lower-case letters, digits, `-` and `.`";
    let long = "a".repeat(64);
    let cases = [
        ("", "the host has no name"),
        (
            "localhost",
            "the host's name is `localhost`, which is not unique",
        ),
        (
            "Bad_Host",
            "the host's name `Bad_Host` has the character `B`",
        ),
        ("a_b", "the host's name `a_b` has the character `_`"),
        (
            "a-.b",
            "a part of the host's name `a-.b` is empty or begins or ends with `-`",
        ),
        (
            "a..b",
            "a part of the host's name `a..b` is empty or begins or ends with `-`",
        ),
        (
            &long,
            "the host's name has 64 characters; a node's has at most 63",
        ),
    ];
    for (name, problem) in cases {
        check(
            &Facts::nothing_about(name),
            &Requirement::HostNameValid,
            &format!("{problem}; {hint}"),
        );
    }
    check(
        &Facts::nothing_about("cp-1.example.org"),
        &Requirement::HostNameValid,
        "met",
    );
}

#[test]
fn system_init_user_and_clock() {
    let system = |versions: &[&str]| SupportedSystem {
        id: "debian".to_owned(),
        versions: words(versions),
    };
    check(
        &good(),
        &Requirement::SupportedSystem(vec![system(&["11", "12"])]),
        "met",
    );
    check(
        &good(),
        &Requirement::SupportedSystem(vec![system(&[])]),
        "met",
    );
    assert_unmet_after(
        &Requirement::SupportedSystem(vec![system(&["12", "13"])]),
        |facts| {
            if let Some(os) = &mut facts.os {
                os.version_id = "9".to_owned();
            }
        },
        "Debian 12 (debian 9) is not supported; use one of: debian 12 or 13",
    );
    assert_unmet_after(
        &Requirement::Systemd,
        |facts| facts.init = Some("sh".to_owned()),
        "process 1 is `sh`, not systemd; use a host that systemd runs",
    );
    assert_unmet_after(
        &Requirement::Root,
        |facts| facts.uid = Some(1000),
        "this program runs as user 1000; run it as root, with `sudo`",
    );
    assert_unmet_after(
        &Requirement::ClockSane,
        |facts| facts.clock = Some("1970-01-01T00:00:07Z".to_owned()),
        "the clock says 1970-01-01T00:00:07Z; \
         set it, for example with `timedatectl set-ntp true`; certificates would be invalid",
    );
    for requirement in [
        Requirement::Systemd,
        Requirement::Root,
        Requirement::ClockSane,
    ] {
        let verdict = requirement.check(&Facts::nothing_about("a")).to_string();
        assert!(verdict.starts_with("unknown: "), "{verdict}");
    }
}

#[test]
fn sizes_read_well() {
    let cases = [
        (0, "0 bytes"),
        (1 << 10, "1 KiB"),
        (1536 << 20, "1.5 GiB"),
        (24 << 30, "24 GiB"),
        (1 << 40, "1 TiB"),
    ];
    for (bytes, text) in cases {
        assert_eq!(size(bytes), text);
    }
}

#[test]
fn requirements_are_data() {
    let all = vec![
        Requirement::NoSwap { allowed: false },
        Requirement::PortsFree(vec![443]),
        Requirement::Root,
    ];
    let json = serde_json::to_string(&all).unwrap();
    assert_eq!(
        json,
        r#"[{"no-swap":{"allowed":false}},{"ports-free":[443]},"root"]"#
    );
    assert_eq!(
        serde_json::from_str::<Vec<Requirement>>(&json).unwrap(),
        all
    );
}

/// Everything a master asks for, in the sizes that tests use.
fn all_requirements() -> Vec<Requirement> {
    vec![
        Requirement::NoSwap { allowed: false },
        Requirement::PortsFree(vec![443, 2380]),
        Requirement::Programs(words(&["iptables", "mount", "nsenter"])),
        Requirement::MinMemory(GIB),
        Requirement::MinCpus(2),
        Requirement::CpusOnline("0-1".to_owned()),
        Requirement::MinDisk {
            path: "/var/lib/docker".to_owned(),
            bytes: 5 * GIB,
        },
        Requirement::CgroupControllers(words(&["cpu", "memory"])),
        Requirement::NoForeignRuntime,
        Requirement::NoEarlierCluster,
        Requirement::HostNameValid,
        Requirement::CidrsDisjoint {
            named: vec![NamedCidr::new("CONTAINERS_CIDR", "10.20.0.0/16")],
        },
        Requirement::KernelFeatures(words(&["overlay", "nat"])),
        Requirement::Interface {
            name: "eth0".to_owned(),
        },
        Requirement::SupportedSystem(vec![SupportedSystem {
            id: "debian".to_owned(),
            versions: words(&["12"]),
        }]),
        Requirement::Systemd,
        Requirement::Root,
        Requirement::ClockSane,
    ]
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "fixtures lie on the machine that tests"
)]
fn the_fixture_hosts_are_as_their_names_say() {
    let fixture = |name: &str| {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/hosts");
        Facts::from_yaml(&std::fs::read_to_string(format!("{directory}/{name}")).unwrap()).unwrap()
    };
    for name in ["cp-1.yaml", "cp-2-nodocker.yaml", "w-1.yaml"] {
        let facts = fixture(name);
        for requirement in all_requirements() {
            let verdict = requirement.check(&facts);
            assert!(
                verdict == Verdict::Met,
                "{name}: {requirement:?}: {verdict}"
            );
        }
    }
    let unfit = fixture("unfit.yaml");
    let met: Vec<_> = all_requirements()
        .into_iter()
        .filter(|one| one.check(&unfit) == Verdict::Met)
        .collect();
    // The lab's host has the programs and the link; everything else is spoilt.
    let left = [
        all_requirements().remove(2),
        Requirement::Interface {
            name: "eth0".to_owned(),
        },
    ];
    assert_eq!(met, left);
}
