//! The requirements about what runs on the host: the kernel, programs, other software, and the operating system with its name and clock.

use std::collections::BTreeSet;

use super::{assert_unmet_after, check, good, unknown, words};
use crate::facts::{Facts, Requirement, SupportedSystem, UnitFacts};

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
fn names_of_the_api_server() {
    let requirement = Requirement::HostNameNotOfApi {
        names: words(&["kubernetes", "kubernetes.default"]),
    };
    for name in ["kubernetes", "Kubernetes.default"] {
        check(
            &Facts::nothing_about(name),
            &requirement,
            &format!(
                "the host's name is `{}`, which is a name of the API server; \
                 choose another with `hostnamectl set-hostname NAME`",
                name.to_lowercase()
            ),
        );
    }
    for name in ["cp-1", "kubernetes-1", "kubernetes.example.org"] {
        check(&Facts::nothing_about(name), &requirement, "met");
    }
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
