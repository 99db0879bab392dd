//! A host whose records were written by an earlier version, with the old names: the present version reads them, and changes nothing.
//!
//! `engine/src/model/old_records.rs` lists the names. This suite is removed with it, at the first release.

use std::fmt::Write as _;

use behaviour::block_on;
use engine::host::fake::FakeHost;
use engine::ledger::{Ledger, Record};
use lab_suites::{Master, ROLE, RunningInstances, SCALED, STATE, Watch, shared};
use sha2::{Digest as _, Sha256};

use super::{install_another_role, remove_another_role};

/// The directory of the backups.
const BACKUPS: &str = "/etc/pf9/etcd-backup";

/// Kinds of records in the ledger: the present name, and the old one.
const KINDS: [(&str, &str); 4] = [
    ("phase_applied", "stands"),
    ("cleanup_steps", "clean_lane"),
    ("pruned", "withdrawn"),
    ("cleanup_done", "lane_withdrawn"),
];

/// Names in a record of the ledger: the kind of the record, the present name, and the old one.
const NAMES: [(&str, &str, &str); 8] = [
    ("reverted", "resource", "thing"),
    ("reverted", "remaining", "left"),
    ("pruned", "resource", "thing"),
    ("cleanup_steps", "partial", "holes"),
    ("cleanup_steps", "create_only", "once"),
    ("cleanup_steps", "exclusive", "whole"),
    ("cleanup_steps", "keep_existing", "spares_earlier"),
    ("cleanup_steps", "sysctl_snapshot", "sysctl_before"),
];

/// The part of a step's id that names the kind of resource: the present one, and the old one.
const STEP: (&str, &str) = ("/restore_sysctl:", "/sysctl_as_before:");

/// Old names that must be in the ledger; otherwise the suite would show nothing about them.
const EXPECTED: [&str; 7] = [
    "stands",
    "clean_lane",
    "withdrawn",
    "thing",
    "once",
    "spares_earlier",
    "sysctl_before",
];

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn takes_over_records_of_an_earlier_version() {
    let master = shared();
    master.sh("systemctl stop pf9-nodeletd");
    make_records(&master);
    install_another_role(&master);
    let known = Known::of(&master);
    let running = RunningInstances::of(&master);

    write_old_names(&master);

    assert_eq!(
        Known::of(&master),
        known,
        "history, clean and backups know the same as before"
    );
    the_last_good_role_and_the_runs_of_a_timer_are_read(&master);
    remove_another_role(&master);
    master.nodelet(&["diff"]).exits(0);
    master.check(&[]).exits(0);
    master.apply(&[]).exits(0).changes_nothing();
    assert_eq!(
        RunningInstances::of(&master),
        running,
        "an apply restarts nothing"
    );
    // nodeletd holds the host at its role, so it would repair what it finds different.
    drop(Watch::start(&master));
    assert_eq!(
        RunningInstances::of(&master),
        running,
        "nodeletd restarts nothing"
    );
    // The record of the timer would be a problem for the next suite.
    master.sh(&format!("rm {BACKUPS}/* {STATE}/timer-etcd-backup.json"));
    master.configure(&[]);
}

/// What the records say, as an operator sees it.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    /// All runs in the ledger.
    history: String,
    /// The steps that an apply of another role would remove: all of the role's undos and cleanup steps. A clean carries out the same.
    removed: String,
    /// The backups with their manifests.
    backups: String,
}

impl Known {
    #[track_caller]
    fn of(master: &Master) -> Self {
        let known = Self {
            history: master.sh("nodelet history --last 100000 --json"),
            removed: master
                .sh("{ nodelet apply --role other 2>&1 || true; } | grep 'it would be removed'"),
            backups: master.sh("nodelet etcd list --json"),
        };
        for step in ["etcd/container:etcd", "kubelet/restore_sysctl:kernel.panic"] {
            assert!(known.removed.contains(step), "{step}: {}", known.removed);
        }
        let verified = known.backups.contains("\"verified\": \"");
        assert!(verified, "{}", known.backups);
        known
    }
}

/// Makes records of all kinds that have old names: a resource that was taken back, a backup, and the copy of the last good role.
fn make_records(master: &Master) {
    let account: &[(&str, &str)] = &[
        ("DOCKERHUB_ID", "account"),
        ("DOCKERHUB_PASSWORD", "password"),
    ];
    master.configure(&[SCALED, account].concat());
    master.apply(&[]).exits(0);
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    master.nodelet(&["etcd", "backup"]).exits(0);
    master.nodelet(&["pass"]).exits(0);
}

/// Writes the records of the host as an earlier version wrote them.
#[track_caller]
fn write_old_names(master: &Master) {
    let host = master.host();
    for name in ["ledger.jsonl", "ledger.backup.jsonl"] {
        let path = format!("{STATE}/{name}");
        let present = host.get(&path).expect("it is there");
        let present = String::from_utf8(present).expect("a ledger is text");
        let same = with_records(&present, str::to_owned);
        assert!(
            same == present,
            "{name}: the suite makes another chain than the engine"
        );
        let old = with_records(&present, old_record);
        for expected in EXPECTED {
            let expected = format!("\"{expected}\"");
            assert!(old.contains(&expected), "{name} has no {expected}");
        }
        assert!(old.contains(STEP.1), "{name} has no {}", STEP.1);
        assert_eq!(records(&old), records(&present), "{name}");
        host.put(old.as_bytes(), &path, 0o600)
            .expect("it is written");
    }
    // Only nodeletd writes the record of a timer. This one says that repairs have ended its last runs, which a command reports.
    master.sh(&format!(
        r#"cd {STATE}
        sed -i 's/^{{"version":1,"requested":/{{"version":1,"asked":/' role.json
        grep -q '^{{"version":1,"asked":' role.json
        sed -i 's/"verified":/"proven":/' {BACKUPS}/*.json
        grep -q '"proven":' {BACKUPS}/*.json
        now=$(date +%s)
        printf '{{"last_good":%s,"last":%s,"failures":0,"given_way":7,"reason":""}}' $now $now > timer-etcd-backup.json
        chmod 0600 timer-etcd-backup.json"#
    ));
}

/// Asserts that these two records are read: neither of them changes what the commands in [`Known`] print.
#[track_caller]
fn the_last_good_role_and_the_runs_of_a_timer_are_read(master: &Master) {
    let status = master.nodelet(&["etcd", "status"]).exits(2);
    let _ = status.says(&["the timer's last 7 runs were ended by repairs"]);
    // A role without checksums is refused only if it is known that the last good one had them.
    master.sh(&format!(
        "cp -p {ROLE}/role.yaml /tmp/role.yaml; sed -i '/^checksums:/d' {ROLE}/role.yaml"
    ));
    let refused = master.nodelet(&["check"]).exits(1);
    let _ = refused.says(&["role.yaml of the last good role does"]);
    master.sh(&format!("cp -p /tmp/role.yaml {ROLE}/role.yaml"));
}

/// The ledger with another text for each record. As in a ledger that the engine wrote, the sum of a line is over the sum before it, its
/// number and its text (`engine/src/ledger/hash_chain.rs`).
fn with_records(ledger: &str, text: impl Fn(&str) -> String) -> String {
    let mut lines = ledger.lines();
    let header = lines.next().expect("a ledger begins with its header");
    let mut last = sum("", 0, header);
    let mut all = format!("{header}\n");
    for (number, line) in (1_u64..).zip(lines) {
        let record = text(record_in(line));
        last = sum(&last, number, &record);
        let _ = writeln!(all, "{{\"n\":{number},\"sum\":\"{last}\",\"is\":{record}}}");
    }
    all
}

/// The first 64 bits of a digest over a line and the sum before it.
fn sum(before: &str, number: u64, text: &str) -> String {
    let digest = Sha256::digest(format!("{before} {number} {text}"));
    let first = digest.iter().take(8);
    first.map(|byte| format!("{byte:02x}")).collect()
}

/// The text of the record in a line of the ledger.
fn record_in(line: &str) -> &str {
    let record = line.split_once(",\"is\":");
    let record = record.and_then(|(_, record)| record.strip_suffix('}'));
    record.expect("a line has a number, a sum and a record")
}

/// The text of a record as an earlier version wrote it. Only names differ: a quote within a text is escaped, so a name in quotes is a whole
/// key or a whole text.
fn old_record(record: &str) -> String {
    let rest = record.strip_prefix("{\"r\":\"");
    let parts = rest.and_then(|rest| rest.split_once('"'));
    let (kind, rest) = parts.expect("a record begins with its kind");
    let mut rest = rest.to_owned();
    for (_, present, old) in NAMES.iter().filter(|(its, _, _)| *its == kind) {
        rest = rest.replace(&format!("\"{present}\""), &format!("\"{old}\""));
    }
    // A failure may have the id of a step in its text, which is for people only.
    if kind != "failed" {
        rest = rest.replace(STEP.0, STEP.1);
    }
    let old = KINDS.iter().find(|(present, _)| *present == kind);
    let kind = old.map_or(kind, |(_, old)| *old);
    format!("{{\"r\":\"{kind}\"{rest}")
}

/// The records of a ledger, as the engine reads them.
fn records(ledger: &str) -> Vec<Record> {
    let host = FakeHost::new().with_file(Ledger::path(), ledger);
    block_on(Ledger::read(&host)).expect("it is a ledger")
}
