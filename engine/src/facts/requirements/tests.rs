//! One case or more for each requirement and each bad input. `check` reads: facts, requirement, expected message.
//!
//! This file has the facts that all cases begin with, and all requirements of a master together. `hardware` has memory, processors and
//! disks, `network` addresses, ports and interfaces, and `system` what runs on the host.

mod hardware;
mod network;
mod system;

use std::collections::BTreeSet;

use super::size;
use crate::facts::{
    CgroupVersion, Cgroups, Disk, Facts, LinkFacts, NamedCidr, OperatingSystem, Requirement, Route,
    SupportedSystem, Verdict,
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
