//! Files of the installed role. nodeletd cannot repair them: it reports the damaged file by name, and what runs goes on. A unit
//! that ends meanwhile is started again from the last good role, but never with a damaged program.
//!
//! One file of each kind is damaged in every way, and each script and template is replaced. Every damage to each script, template and file
//! of the payload is a soak.

use std::time::Duration;

use lab_suites::{
    Damage, Master, PayloadCopy, REPORTED, ROLE, RunningInstances, Target, WORK_DIRECTORY, Watch,
    are_reported, is_reported, make_work_directory, restore_master, shared, until_reported,
};

/// Time limit until a stopped unit runs again.
const STARTED: Duration = Duration::from_secs(120);
/// Settings with which the next pass sees a damaged file at once.
const HASTENED: &[(&str, &str)] = &[("LOOP_INTERVAL", "1s"), ("KUBE_SERVICE_STATE", "true")];

/// A master that nodeletd holds at its role, for one part of the suite.
fn on_a_held_master(part: impl FnOnce(&Master, &Watch<'_>)) {
    let master = shared();
    master.configure(HASTENED);
    master.apply(&[]).exits(0);
    make_work_directory(&master);
    let watch = Watch::start(&master);
    part(&master, &watch);
    watch.wait_until_healthy(REPORTED);
    drop(watch);
    restore_master(&master);
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

/// Files whose damage is reported together: a damaged description of the package hides other damage.
fn kinds() -> [Vec<Target>; 3] {
    let (script, template) = (
        "phases/kubelet.rhai",
        "phases/templates/kubelet/config.yaml.tmpl",
    );
    let mut role = Target::of_role(
        "role.yaml",
        // The checksums of another build of the package.
        &format!("sed -E 's/^checksums: ..../checksums: 0000/' {ROLE}/role.yaml"),
    );
    role.words.push("find role `pf9-kube`".to_owned());
    let sums = Target::of_role(
        "SHA256SUMS",
        &format!("sed -E '1s/^..../0000/' {ROLE}/SHA256SUMS"),
    );
    let script = Target::of_role(script, &format!("cat {ROLE}/phases/etcd.rhai"));
    let other = format!("cat {ROLE}/phases/templates/docker/daemon.json.tmpl");
    let template = Target::of_role(template, &other);
    [vec![role], vec![sums], vec![script, template]]
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn scripts_templates_and_descriptions_are_reported_by_name() {
    on_a_held_master(|master, watch| {
        for damage in Damage::ALL {
            for kind in kinds() {
                let what = format!("{} {damage:?}", kind[0].path);
                let before = RunningInstances::of(master);
                are_reported(master, watch, damage, &kind, || {
                    assert_eq!(RunningInstances::of(master), before, "{what}");
                    if damage == Damage::Delete {
                        kubelet_is_started_again(master, &what);
                    }
                });
                if damage != Damage::Delete {
                    assert_eq!(RunningInstances::of(master), before, "{what}");
                }
                // The report of one damage may name another one, so no damage may remain.
                watch.wait_until_healthy(REPORTED);
            }
        }
    });
}

/// Valid files that differ from the packed ones: only a comparison can find them. Such a file does not belong to the package: it is
/// reported, nodeletd does not use it, and commands refuse it.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn valid_variants_of_all_scripts_and_templates_are_reported_by_name() {
    on_a_held_master(|master, watch| {
        let before = RunningInstances::of(master);
        let script = "phases/kubelet.rhai";
        let template = "phases/templates/kubelet/config.yaml.tmpl";
        for (file, another, words) in [
            (
                template,
                "s/^(nodeStatusReportFrequency:) .*/\\1 4m/",
                template,
            ),
            (script, "1i // One line more.", script),
            // Without checksums nothing could be compared.
            (
                "role.yaml",
                "/^checksums:/d",
                "role.yaml names no checksums",
            ),
        ] {
            let (path, what) = (
                format!("{ROLE}/{file}"),
                format!("a valid variant of {file}"),
            );
            let strike = Damage::Replace.script(&path, &format!("sed -E '{another}' {path}"));
            master.sh(&format!("cp -p {path} {WORK_DIRECTORY}/original; {strike}"));
            until_reported(watch, &what, &[words]);
            for verb in ["check", "apply"] {
                let _ = master.nodelet(&[verb]).exits(1).says(&[words]);
            }
            until_reported(watch, &what, &[words]);
            assert_eq!(RunningInstances::of(master), before, "{what}");
            master.sh(&format!("cp -p {WORK_DIRECTORY}/original {path}"));
            watch.wait_until_healthy(REPORTED);
            assert_eq!(RunningInstances::of(master), before, "{what}, repaired");
        }
        let targets = Target::texts(master);
        are_reported(master, watch, Damage::Replace, &targets, || {});
        watch.wait_until_healthy(REPORTED);
        assert_eq!(RunningInstances::of(master), before, "all of them");
    });
}

/// The lab mounts the payload, so another file is mounted over each program.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_unit_is_started_again_but_never_with_a_damaged_program() {
    on_a_held_master(|master, watch| {
        for (program, damage, other) in [
            (
                "bin/kubectl",
                "truncated",
                "head -c 2000000 payload/bin/kubectl",
            ),
            ("bin/kubelet", "replaced", "cat payload/bin/kubectl"),
        ] {
            let (what, file) = (format!("{program} {damage}"), format!("payload/{program}"));
            let before = RunningInstances::of(master);
            master.sh(&format!(
                "cd {ROLE}; {other} > {WORK_DIRECTORY}/program; chmod 0755 {WORK_DIRECTORY}/program; mount --bind {WORK_DIRECTORY}/program {file}"
            ));
            until_reported(watch, &what, &[&file]);
            assert_eq!(RunningInstances::of(master), before, "{what}");
            let is_kubelet = program == "bin/kubelet";
            if is_kubelet {
                let invocation = "systemctl show --value --property InvocationID pf9-kubelet";
                let id = master.sh(invocation);
                master.sh("systemctl stop pf9-kubelet");
                watch.until("a damaged program is not started", REPORTED, || {
                    watch.view().is_some_and(|view| {
                        is_reported(&view, &["kubelet is active", "pf9-kubelet"])
                    })
                });
                watch.passes(3, REPORTED);
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
            // A pass may be reading it at this moment.
            master.sh(&format!("umount --lazy {ROLE}/{file}"));
            watch.wait_until_healthy(STARTED);
        }
    });
}

/// A program, an archive of an image, a package and a list of packages: nothing is run, loaded or installed from a damaged one, and
/// the damage is reported before the file is needed.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn files_of_the_payload_are_reported_by_name() {
    on_a_held_master(|master, watch| {
        let copy = PayloadCopy::mount(master);
        watch.wait_until_healthy(REPORTED);
        let files = copy.files();
        let first = |beginning: &str, end: &str| {
            let mut its = files.iter();
            let its = its.find(|file| file.starts_with(beginning) && file.ends_with(end));
            its.unwrap_or_else(|| panic!("no {beginning}…{end} in {files:?}"))
        };
        let kinds = [
            first("bin/", "kubectl"),
            first("images/", "pause.tar"),
            first("debs/ipset_", ".deb"),
            first("debs/", ".list"),
        ];
        let kinds = kinds.map(|file| copy.target(file));
        let before = RunningInstances::of(master);
        for damage in Damage::ALL {
            are_reported(master, watch, damage, &kinds, || {});
            assert_eq!(RunningInstances::of(master), before, "{damage:?}");
        }
        // A program that is as packed and cannot be run.
        let program = format!("{ROLE}/payload/bin/kubectl");
        master.sh(&format!("chmod 0644 {program}"));
        until_reported(
            watch,
            "a program's mode",
            &["payload/bin/kubectl cannot be run"],
        );
        master.sh(&format!("chmod 0755 {program}"));
        watch.wait_until_healthy(REPORTED);
        assert_eq!(RunningInstances::of(master), before);
    });
}
