//! Kept and secret files of a running master that are deleted, truncated, replaced by another valid file of their kind, or given
//! another mode and owner: each is repaired with exactly its readers restarted, and the API server accepts old and new tokens
//! afterwards. What cannot be repaired is reported by name: etcd's data that was exchanged, and each file of the role's payload.
//!
//! Every damage is done to each kept or secret file alone, and to several independent files together, so that one repair is about them
//! all: a file of each authority, whose repair restarts nothing, and one half of the key of service-account tokens; the records;
//! certificates, their keys and kubeconfigs with the same readers. Each file of nodeletd's state, and each script and template of the
//! role, is damaged alone, too.

use std::collections::BTreeMap;
use std::slice;

use lab_suites::{
    Damage, DamagedFile, Group, Master, PayloadCopy, REPAIRED, REPORTED, RunningInstances, SCALED,
    STATE, SecretFiles, StateFiles, Target, WORK_DIRECTORY, Watch, another, are_reported,
    is_reported, make_work_directory, ready_with_vip, restarted, restore_master, shared,
    until_reported,
};

const AUTHORITIES: [&str; 3] = ["cluster", "etcd", "front-proxy"];
const SIGNS: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.key";
/// The controller-manager has a copy of its own.
const SIGNS_TOKENS: &str = "/etc/pf9/kube.d/certs/kube-controller-manager/svcacct.key";
const VERIFIES: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.pub";
/// The keys that encrypt Secrets: the API server's file, and the copies.
const ENCRYPTION: [&str; 3] = [
    "/etc/pf9/kube.d/encryption/config.yaml",
    "/etc/pf9/kube.d/ca/encryption/keys.yaml",
    "/var/opt/pf9/nodelet/kept/encryption.yaml",
];
/// Distinguishes one set of etcd's data from another; the file is with the data.
const DATA_ID: &str = "/var/opt/pf9/kube/etcd/data/member/nodelet-data-id";
const CONFIG: &str = "/etc/keepalived/keepalived.conf";
/// The groups that the phases in [`KEYS`] restore.
pub(crate) const KEPT_OR_SECRET: [Group; 7] = [
    Group::Authority,
    Group::ServiceAccount,
    Group::Encryption,
    Group::LeafKey,
    Group::Leaf,
    Group::Kubeconfig,
    Group::Record,
];
/// The phases that restore them; kubeconfigs have a phase of their own.
const KEYS: &[&str] = &["certs", "kubeconfigs"];
/// Settings with credentials at Docker Hub, which are a secret file.
const ACCOUNT: &[(&str, &str)] = &[
    ("DOCKERHUB_ID", "account"),
    ("DOCKERHUB_PASSWORD", "password"),
];

#[test]
#[ignore = "cargo xtask soak runs it"]
fn kept_and_secret_files_are_repaired_with_exactly_their_readers_restarted() {
    let master = shared();
    master.configure(&[SCALED, ACCOUNT].concat());
    master.apply(&[]).exits(0);
    make_work_directory(&master);
    let secrets = SecretFiles::note(&master);
    are_all_there(&master, &secrets);
    let watch = Watch::start(&master);
    let mut wrong = Vec::new();
    for damage in Damage::CONTENT {
        for (half, encryption, files, readers) in [
            (
                SIGNS,
                ENCRYPTION[0],
                ["ca.key", "ca.crt", "ca.key"],
                &["kube-apiserver", "kube-controller-manager"][..],
            ),
            (
                VERIFIES,
                ENCRYPTION[1],
                ["ca.crt", "ca.key", "ca.crt"],
                &["kube-apiserver"],
            ),
        ] {
            let authorities = AUTHORITIES.iter().zip(files);
            let mut damaged_files: Vec<DamagedFile> = authorities
                .map(|(name, file)| (damage, format!("/etc/pf9/kube.d/ca/{name}/{file}")))
                .collect();
            damaged_files.push((damage, half.to_owned()));
            if half == SIGNS {
                damaged_files.push((damage, SIGNS_TOKENS.to_owned()));
            }
            damaged_files.push((damage, encryption.to_owned()));
            wrong.extend(secrets.damage_and_repair(&watch, &damaged_files, KEYS, readers));
        }
        // The records of the keys, with their copies.
        let mut records = secrets.of(Group::Record);
        records.push(ENCRYPTION[2].to_owned());
        let all: Vec<DamagedFile> = records.into_iter().map(|path| (damage, path)).collect();
        wrong.extend(secrets.damage_and_repair(&watch, &all, KEYS, &[]));
    }
    // The keys of certificates, with which the certificates are issued again; the certificates themselves; and the kubeconfigs of
    // clients.
    for group in [Group::LeafKey, Group::Leaf, Group::Kubeconfig] {
        for (readers, paths) in by_readers(secrets.of(group)) {
            for damage in Damage::CONTENT {
                let all: Vec<DamagedFile> =
                    paths.iter().map(|path| (damage, path.clone())).collect();
                wrong.extend(secrets.damage_and_repair(&watch, &all, KEYS, readers));
            }
        }
    }
    // Only kubelet reads these credentials, and its phase writes them.
    for path in secrets.of(Group::DockerHub) {
        for damage in Damage::ALL {
            let damaged_files = [(damage, path.clone())];
            wrong.extend(secrets.damage_and_repair(
                &watch,
                &damaged_files,
                &["kubelet"],
                &["pf9-kubelet"],
            ));
        }
    }
    // kube.env has credentials as well; an operator's scripts read it.
    for path in secrets.of(Group::Environment) {
        for damage in Damage::ALL {
            let damaged_files = [(damage, path.clone())];
            wrong.extend(secrets.damage_and_repair(&watch, &damaged_files, &["node-config"], &[]));
        }
    }
    // Modes and owners, which do not concern a reader.
    let all = KEPT_OR_SECRET.iter().flat_map(|&group| secrets.of(group));
    let all: Vec<DamagedFile> = all.map(|path| (Damage::Attributes, path)).collect();
    wrong.extend(secrets.damage_and_repair(&watch, &all, KEYS, &[]));
    wrong.extend(lost_with_its_copy(&master, &secrets, &watch));
    etcds_data_is_another(&master, &secrets, &watch);
    let refused = secrets.refused_tokens();
    wrong.extend(refused.iter().map(|token| format!("at the end: {token}")));
    drop(watch);
    restore_master(&master);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn each_kept_or_secret_file_that_is_deleted_alone_is_repaired() {
    each_alone(Damage::Delete);
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn each_kept_or_secret_file_that_is_truncated_alone_is_repaired() {
    each_alone(Damage::Truncate);
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn each_kept_or_secret_file_that_is_replaced_alone_is_repaired() {
    each_alone(Damage::Replace);
}

#[test]
#[ignore = "cargo xtask soak runs it"]
fn each_kept_or_secret_file_with_another_mode_and_owner_alone_is_repaired() {
    each_alone(Damage::Attributes);
}

/// Damages each file alone, so that a repair of another file cannot hide a file that nodeletd does not restore, or a restart of a
/// program that does not read the file.
fn each_alone(damage: Damage) {
    let master = shared();
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    make_work_directory(&master);
    let secrets = SecretFiles::note(&master);
    let watch = Watch::start(&master);
    let mut wrong = Vec::new();
    for path in KEPT_OR_SECRET.iter().flat_map(|&group| secrets.of(group)) {
        let (phases, readers) = restarts_after(damage, &path);
        let damaged_files = [(damage, path)];
        wrong.extend(secrets.damage_and_repair(&watch, &damaged_files, phases, readers));
    }
    drop(watch);
    restore_master(&master);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The phases that repair the file after this damage, and the programs that are restarted.
pub(crate) fn restarts_after(
    damage: Damage,
    path: &str,
) -> (&'static [&'static str], &'static [&'static str]) {
    match damage {
        // nodeletd's own file, whose mode and owner it sets at each pass.
        Damage::Attributes if path.starts_with(STATE) => (&[], &[]),
        Damage::Attributes => (KEYS, &[]),
        Damage::Delete | Damage::Truncate | Damage::Replace => (KEYS, readers(path)),
    }
}

/// The programs that read the file only at their start, and have to be restarted for it.
fn readers(path: &str) -> &'static [&'static str] {
    let below = |directory: &str| path.starts_with(&format!("/etc/pf9/kube.d/{directory}"));
    if [SIGNS, VERIFIES, ENCRYPTION[0]].contains(&path) {
        &["kube-apiserver"]
    } else if path == SIGNS_TOKENS || below("kubeconfigs/kube-controller-manager/") {
        &["kube-controller-manager"]
    } else if below("kubeconfigs/kube-scheduler/") {
        &["kube-scheduler"]
    } else if below("kubeconfigs/kube-proxy/") || below("certs/kube-proxy/") {
        // Its kubeconfig contains its certificate, as kubelet's does.
        &["proxy"]
    } else if below("kubeconfigs/kubelet.yaml")
        || below("certs/kubelet/")
        || below("certs/apiserver/kubelet/")
    {
        &["pf9-kubelet"]
    } else {
        &[]
    }
}

/// These files, grouped by their readers.
fn by_readers(paths: Vec<String>) -> BTreeMap<&'static [&'static str], Vec<String>> {
    let mut parted: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for path in paths {
        parted.entry(readers(&path)).or_default().push(path);
    }
    parted
}

/// Each group has files, so that none is left out because its path has changed.
fn are_all_there(master: &Master, secrets: &SecretFiles<'_>) {
    for (group, least, most) in [
        (Group::Authority, 6, 6),
        (Group::ServiceAccount, 3, 3),
        (Group::Encryption, 3, 3),
        (Group::LeafKey, 11, 40),
        (Group::Leaf, 11, 40),
        (Group::Kubeconfig, 5, 40),
        (Group::Record, 4, 4),
        // The id, its record and the copy of that.
        (Group::DataId, 3, 3),
        (Group::DockerHub, 1, 1),
        (Group::Environment, 1, 1),
    ] {
        let its = secrets.of(group);
        assert!(
            (least..=most).contains(&its.len()),
            "{group:?}: {its:?} are not between {least} and {most}"
        );
    }
    let modes = master.sh(&format!(
        "stat -c '%a %U' {STATE}/kept {STATE}/kept/* | sort -u"
    ));
    assert_eq!(modes, "600 root\n700 root");
}

/// A key whose copy is damaged as well is reported by name, nothing is derived from the foreign key, and everything goes on.
fn lost_with_its_copy(
    master: &Master,
    secrets: &SecretFiles<'_>,
    watch: &Watch<'_>,
) -> Vec<String> {
    watch.wait_until_healthy(REPAIRED);
    watch.record();
    let (before, mut wrong) = (secrets.started(), Vec::new());
    let record = format!("{STATE}/kept/service-account.json");
    master.sh(&format!(
        "cp -p {SIGNS} {VERIFIES} {record} {WORK_DIRECTORY}
         sed -i -E 's/\"content\":\"[^\"]{{40}}/\"content\":\"/' {record}
         openssl genrsa 2048 > {SIGNS} 2> /dev/null"
    ));
    let is_told = |view: &serde_json::Value| {
        let phases = view["phases"].as_array().cloned().unwrap_or_default();
        let conditions = phases
            .iter()
            .filter_map(|phase| phase["conditions"].as_array());
        conditions.flatten().any(|one| {
            let reason = one["reason"].as_str().unwrap_or_default();
            one["status"] == "False" && reason.contains(SIGNS) && reason.contains("from a backup")
        })
    };
    watch.until("it is reported by name", REPAIRED, || {
        watch.view().is_some_and(|view| is_told(&view))
    });
    watch.passes(3, REPAIRED);
    let view = watch.view().unwrap_or_default();
    if !is_told(&view) || view["node_state"] == "ok" {
        wrong.push("a foreign key without a copy is not reported any more".to_owned());
    }
    let repairs = restarted(&watch.recorded());
    if !repairs.is_empty() || secrets.started() != before {
        wrong.push(format!(
            "a foreign key without a copy restarted {repairs:?}"
        ));
    }
    master.sh(&format!("cmp {VERIFIES} {WORK_DIRECTORY}/svcacct.pub"));
    let run = master.nodelet(&["diff"]);
    if !run.text().contains(SIGNS) {
        wrong.push(format!("diff does not name {SIGNS}: {}", run.text()));
    }
    master.sh(&format!("cp -p {WORK_DIRECTORY}/svcacct.key {SIGNS}"));
    watch.wait_until_healthy(REPAIRED);
    let refused = secrets.refused_tokens();
    wrong.extend(
        refused
            .iter()
            .map(|token| format!("after the key came back: {token}")),
    );
    wrong
}

/// The id beside etcd's data, and its record. A damaged one is reported by name, and etcd goes on. An apply restores a record, mode
/// and owner.
fn etcds_data_is_another(master: &Master, secrets: &SecretFiles<'_>, watch: &Watch<'_>) {
    watch.wait_until_healthy(REPAIRED);
    watch.record();
    let before = secrets.started();
    for path in secrets.of(Group::DataId) {
        let saved = format!("{WORK_DIRECTORY}/data-id");
        let is_record = path != DATA_ID;
        for damage in Damage::ALL {
            let what = format!("{path} {damage:?}");
            let strike = damage.script(&path, &another(&path));
            master.sh(&format!("cp -p {path} {saved}; {strike}"));
            if is_record && damage == Damage::Attributes {
                // nodeletd's own file, whose mode and owner it sets at each pass.
                let look = format!("[ \"$(stat -c '%a %U:%G' {path})\" = '600 root:root' ]");
                master.wait_for(&what, &look, REPORTED);
            } else {
                until_reported(watch, &what, &["nodelet-data-id"]);
            }
            // An apply restores mode and owner, and a record if the id and a copy of the record agree. It refuses another id beside
            // the data.
            let is_mended = is_record || damage == Damage::Attributes;
            if is_mended {
                master.apply(&[]).exits(0);
            } else {
                let check = master.check(&["--only", "etcd"]).exits(2);
                let _ = check.says(&["nodelet-data-id", "lost or exchanged"]);
                master.sh(&format!("rm -f {path}; cp -p {saved} {path}"));
            }
            watch.wait_until_healthy(REPAIRED);
            let same = format!(
                "cmp {DATA_ID} <(grep -oE '[0-9a-f]{{32}}' {STATE}/kept/data-etcd.json); cmp {STATE}/data-etcd.json {STATE}/kept/data-etcd.json; [ \"$(stat -c '%a %U:%G' {path})\" = '600 root:root' ]"
            );
            master.sh(&same);
            assert_eq!(secrets.started(), before, "{what}");
        }
    }
    assert_eq!(restarted(&watch.recorded()), [""; 0]);
}

/// Only a master with a virtual IP has keepalived's configuration.
#[test]
#[ignore = "cargo xtask soak runs it"]
fn the_configuration_of_keepalived_is_repaired_with_keepalived_alone_restarted() {
    let master = ready_with_vip("bitrot");
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    make_work_directory(&master);
    let secrets = SecretFiles::note(&master);
    assert_eq!(secrets.of(Group::Keepalived), [CONFIG]);
    let watch = Watch::start(&master);
    let mut wrong = Vec::new();
    for damage in Damage::ALL {
        let damaged_files = [(damage, CONFIG.to_owned())];
        wrong.extend(secrets.damage_and_repair(
            &watch,
            &damaged_files,
            &["keepalived"],
            &["keepalived"],
        ));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each file of the payload with each damage.
#[test]
#[ignore = "cargo xtask soak runs it"]
fn every_file_of_the_payload_is_reported_by_name() {
    let master = shared();
    // A reported file may hide another one until the next pass.
    master.configure(&[("LOOP_INTERVAL", "1s"), ("KUBE_SERVICE_STATE", "true")]);
    master.apply(&[]).exits(0);
    make_work_directory(&master);
    let copy = PayloadCopy::mount(&master);
    let watch = Watch::start(&master);
    let targets: Vec<Target> = copy.files().iter().map(|file| copy.target(file)).collect();
    assert!(targets.len() > 20, "{targets:?}");
    let before = RunningInstances::of(&master);
    watch.record();
    // An archive with the same reference and another content: it is not loaded, and the present image does not count as outdated.
    let rebuilt = Target {
        another: rebuilt_archive(&master),
        ..copy.target("images/pause.tar")
    };
    are_reported(&master, &watch, Damage::Replace, &[rebuilt], || {});
    watch.wait_until_healthy(REPORTED);
    for damage in Damage::CONTENT {
        are_reported(&master, &watch, damage, &targets, || {});
        watch.wait_until_healthy(REPORTED);
        assert_eq!(RunningInstances::of(&master), before, "{damage:?}");
    }
    are_reported(&master, &watch, Damage::Attributes, &targets, || {});
    watch.wait_until_healthy(REPORTED);
    let view = watch.view().unwrap_or_default();
    assert!(!is_reported(&view, &["payload/"]), "{view:#}");
    assert_eq!(RunningInstances::of(&master), before);
    // No repair can restore a package, so none begins.
    assert_eq!(restarted(&watch.recorded()), [""; 0]);
    drop(copy);
    drop(watch);
    restore_master(&master);
}

/// Each script and template of the role alone, with each damage.
#[test]
#[ignore = "cargo xtask soak runs it"]
fn every_script_and_template_is_reported_by_name() {
    let master = shared();
    master.configure(&[("LOOP_INTERVAL", "1s"), ("KUBE_SERVICE_STATE", "true")]);
    master.apply(&[]).exits(0);
    make_work_directory(&master);
    let watch = Watch::start(&master);
    let before = RunningInstances::of(&master);
    watch.record();
    for target in Target::texts(&master) {
        for damage in Damage::ALL {
            are_reported(&master, &watch, damage, slice::from_ref(&target), || {});
            // The report of the next damage has the same words.
            watch.wait_until_healthy(REPORTED);
            assert_eq!(
                RunningInstances::of(&master),
                before,
                "{damage:?} {}",
                target.path
            );
        }
    }
    // No repair can restore a package, so none begins.
    assert_eq!(restarted(&watch.recorded()), [""; 0]);
    drop(watch);
    restore_master(&master);
}

/// Each file of nodeletd's state alone, with each damage. The suite `state` damages all of them at once.
#[test]
#[ignore = "cargo xtask soak runs it"]
fn damage_of_a_single_file_of_nodeletds_state_touches_nothing_of_the_role() {
    let master = shared();
    make_work_directory(&master);
    master.configure(SCALED);
    StateFiles::prepare(&master);
    let watch = Watch::start(&master);
    let state = StateFiles::note(&master);
    for name in state.names() {
        for damage in Damage::ALL {
            state.damage_and_repair(&watch, damage, slice::from_ref(&name));
        }
    }
    drop(watch);
    restore_master(&master);
}

/// Makes an archive of the pause image with another configuration. Its name is its digest, as docker names it, so the id of the
/// image is known from the name. Gives the command that prints the archive.
fn rebuilt_archive(master: &Master) -> String {
    master.sh(&format!(
        "install -d {WORK_DIRECTORY}/rebuilt; cd {WORK_DIRECTORY}/rebuilt; tar -xf {WORK_DIRECTORY}/payload/images/pause.tar
         before=$(sed -E 's/.*\"Config\":\"([^\"]*)\".*/\\1/' manifest.json); echo >> $before
         after=$(sha256sum < $before | cut -d ' ' -f 1).json; mv $before $after
         sed -i \"s|\\\"$before\\\"|\\\"$after\\\"|\" manifest.json; grep -q $after manifest.json
         tar -cf {WORK_DIRECTORY}/rebuilt.tar *"
    ));
    format!("cat {WORK_DIRECTORY}/rebuilt.tar")
}
