//! Files of the installed role. nodeletd cannot repair them; it reports the damaged one by name, what runs goes on, and a unit that
//! ends meanwhile is started again as the last good role has it, but never with a damaged program.

use std::time::Duration;

use lab_suites::{Master, SCALED, Standing, Watch, shared};
use serde_json::Value;

/// Until damage is seen, and until it is seen that there is none.
const SEEN: Duration = Duration::from_secs(90);
/// For a unit that was stopped to run again.
const STARTED: Duration = Duration::from_secs(120);
const ROLE: &str = "/opt/pf9/roles/pf9-kube/current";
/// Where the suite has its own files.
const PLACE: &str = "/root/bitrot-role";

/// A file of the role, in its directory; what prints another file of its kind; and what a report says, one of these.
struct Target {
    file: &'static str,
    another: &'static str,
    told: &'static [&'static str],
}

const TARGETS: [Target; 4] = [
    Target {
        file: "role.yaml",
        // That of another build of the package.
        another: "sed -E 's/^checksums: ..../checksums: 0000/' role.yaml",
        told: &["role.yaml", "find role `pf9-kube`"],
    },
    Target {
        file: "SHA256SUMS",
        another: "sed -E '1s/^..../0000/' SHA256SUMS",
        told: &["SHA256SUMS"],
    },
    Target {
        file: "phases/kubelet.rhai",
        another: "cat phases/etcd.rhai",
        told: &["kubelet.rhai"],
    },
    Target {
        file: "phases/templates/kubelet/config.yaml.tmpl",
        another: "cat phases/templates/docker/daemon.json.tmpl",
        told: &["kubelet/config.yaml.tmpl"],
    },
];

/// Files that are as good as those that were packed: only a comparison tells them apart.
const VARIANTS: [Target; 3] = [
    Target {
        file: "phases/templates/kubelet/config.yaml.tmpl",
        another: "sed -E 's/^(nodeStatusReportFrequency:) .*/\\1 4m/' phases/templates/kubelet/config.yaml.tmpl",
        told: &["kubelet/config.yaml.tmpl"],
    },
    Target {
        file: "phases/kubelet.rhai",
        another: "sed '1i // One line more.' phases/kubelet.rhai",
        told: &["kubelet.rhai"],
    },
    Target {
        file: "role.yaml",
        // Nothing could be compared any more.
        another: "sed '/^checksums:/d' role.yaml",
        told: &["role.yaml names no checksums"],
    },
];

const DAMAGES: [&str; 4] = ["deleted", "truncated", "replaced", "opened"];

/// Whether a condition, of the role or of a phase, is False for a reason with one of these words.
fn told(view: &Value, words: &[&str]) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut conditions = list(&view["conditions"]);
    for phase in list(&view["phases"]) {
        conditions.extend(list(&phase["conditions"]));
    }
    conditions.iter().any(|one| {
        let reason = one["reason"].as_str().unwrap_or_default();
        one["status"] == "False" && words.iter().any(|word| reason.contains(word))
    })
}

fn until_told(watch: &Watch<'_>, what: &str, words: &[&str]) {
    watch.until(&format!("{what}: it is told by name"), SEEN, || {
        watch.view().is_some_and(|view| told(&view, words))
    });
    // And not only once.
    watch.passes(2, SEEN);
    let view = watch.view().unwrap_or_default();
    assert!(told(&view, words), "{what}: {view:#}");
}

/// Stops kubelet, which nodeletd starts again.
fn kubelet_is_started_again(master: &Master, what: &str) {
    master.sh("systemctl stop pf9-kubelet");
    master.wait_for(
        &format!("{what}: kubelet runs again"),
        "systemctl is-active --quiet pf9-kubelet && curl -sf --max-time 2 http://127.0.0.1:10248/healthz",
        STARTED,
    );
}

/// Scripts, templates and the two files that describe the package.
fn texts(master: &Master, watch: &Watch<'_>) {
    for target in TARGETS {
        let (file, copy) = (target.file, format!("{PLACE}/original"));
        for damage in DAMAGES {
            let what = format!("{file} {damage}");
            let before = Standing::of(master);
            let strike = match damage {
                "deleted" => format!("rm {file}"),
                "truncated" => format!("truncate --size 60 {file}"),
                "replaced" => format!(
                    "{} > {PLACE}/new; ! cmp -s {PLACE}/new {file}; cat {PLACE}/new > {file}",
                    target.another
                ),
                _ => format!("chmod 0666 {file}; chown daemon:daemon {file}"),
            };
            master.sh(&format!("set -e; cd {ROLE}; cp -p {file} {copy}; {strike}"));
            until_told(watch, &what, target.told);
            assert_eq!(Standing::of(master), before, "{what}");
            if damage == "deleted" {
                kubelet_is_started_again(master, &what);
            }
            master.sh(&format!("cd {ROLE}; cp -p {copy} {file}"));
            watch.calm(SEEN);
        }
    }
}

/// What plans as well as the package is no part of it: it is told, nothing is done by it, and commands refuse it.
fn variants(master: &Master, watch: &Watch<'_>) {
    for target in VARIANTS {
        let (file, copy) = (target.file, format!("{PLACE}/original"));
        let what = format!("a valid variant of {file}");
        let before = Standing::of(master);
        master.sh(&format!(
            "set -e; cd {ROLE}; cp -p {file} {copy}; {} > {PLACE}/new; ! cmp -s {PLACE}/new {file}; cat {PLACE}/new > {file}",
            target.another
        ));
        until_told(watch, &what, target.told);
        for verb in ["check", "apply"] {
            master.nodelet(&[verb]).exits(1).says(target.told);
        }
        watch.passes(3, SEEN);
        let view = watch.view().unwrap_or_default();
        assert!(told(&view, target.told), "{what} is never green: {view:#}");
        assert_eq!(Standing::of(master), before, "{what}");
        master.sh(&format!("cd {ROLE}; cp -p {copy} {file}"));
        watch.calm(SEEN);
        assert_eq!(Standing::of(master), before, "{what}, mended");
    }
}

/// Programs, which the lab mounts: another file is mounted over each.
fn programs(master: &Master, watch: &Watch<'_>) {
    for (program, damage, other) in [
        (
            "bin/kubectl",
            "truncated",
            "head -c 2000000 payload/bin/kubectl",
        ),
        ("bin/kubectl", "replaced", "cat payload/bin/kubelet"),
        ("bin/kubelet", "replaced", "cat payload/bin/kubectl"),
    ] {
        let (what, file) = (format!("{program} {damage}"), format!("payload/{program}"));
        let before = Standing::of(master);
        master.sh(&format!(
            "set -e; cd {ROLE}; {other} > {PLACE}/other; chmod 0755 {PLACE}/other; mount --bind {PLACE}/other {file}"
        ));
        until_told(watch, &what, &[&file]);
        assert_eq!(Standing::of(master), before, "{what}");
        let is_kubelet = program == "bin/kubelet";
        if is_kubelet {
            let invocation = "systemctl show --value --property InvocationID pf9-kubelet";
            let id = master.sh(invocation);
            master.sh("systemctl stop pf9-kubelet");
            watch.until("a damaged program is not started", SEEN, || {
                watch
                    .view()
                    .is_some_and(|view| told(&view, &["kubelet is active", "pf9-kubelet"]))
            });
            watch.passes(3, SEEN);
            assert_eq!(
                master.sh(&format!(
                    "{invocation}; systemctl is-active pf9-kubelet || true"
                )),
                format!("{id}\ninactive"),
                "{what}"
            );
        } else {
            kubelet_is_started_again(master, &what);
        }
        master.sh(&format!("umount {ROLE}/{file}"));
        watch.calm(STARTED);
    }
}

/// An archive of an image and a package: nothing is loaded or installed from a damaged one, and that it is damaged is told before it is
/// wanted.
fn archives_and_packages(master: &Master, watch: &Watch<'_>) {
    let package = master.sh(&format!("head -n 1 {ROLE}/payload/debs/ipset.list"));
    for (name, damage) in [
        ("images/pause.tar".to_owned(), "truncate --size 100000"),
        (format!("debs/{package}"), "sed -i 1d"),
    ] {
        let file = format!("payload/{name}");
        let before = Standing::of(master);
        master.sh(&format!(
            "set -e; cd {ROLE}; cp {file} {PLACE}/other; {damage} {PLACE}/other; mount --bind {PLACE}/other {file}"
        ));
        until_told(watch, &name, &[&file]);
        assert_eq!(Standing::of(master), before, "{name}");
        master.sh(&format!("umount {ROLE}/{file}"));
        watch.calm(SEEN);
    }
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn files_of_the_installed_role_are_reported_by_name() {
    let master = shared();
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    master.sh(&format!("rm -rf {PLACE}; install -d -m 0700 {PLACE}"));
    let watch = Watch::start(&master);
    texts(&master, &watch);
    variants(&master, &watch);
    programs(&master, &watch);
    archives_and_packages(&master, &watch);
    drop(watch);
    master.sh(&format!("rm -rf {PLACE}"));
    master.configure(&[]);
    master.apply(&[]).exits(0);
    master.check(&[]).exits(0);
}
