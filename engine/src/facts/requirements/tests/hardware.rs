//! The requirements about what the host has: memory, processors, swap and disks.

use super::{GIB, assert_unmet_after, check, disk, good, unknown, words};
use crate::facts::{Disk, Facts, ObstacleKind, Requirement, Swap, Verdict};

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
                 name only processors that the host has"
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
         name only processors that the host has",
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
    let taken = |disk: &mut Disk| disk.taken_by = Some(ObstacleKind::Link.into());
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
