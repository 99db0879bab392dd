//! Old names in files on a host, for hosts of earlier commits. To be removed at the first release.
//!
//! This is the only reader of old names in files: [`read`] renames kinds and keys of a JSON object before serde reads it, and [`facts()`]
//! renames a key of a facts file. Every file that is written has the present names. The lines of the ledger stay on disk as they are,
//! because each sum in its chain is over the text of a line (`ledger::hash_chain`).
//!
//! Two places of nodelet use old names between programs, because an earlier nodeletd runs beside the present `nodelet` until it is
//! restarted: the option `--settled`, an alias of `--merged-settings` (`agents/nodelet/src/cli.rs`), and the fields `restart_set`,
//! `interests` and `stands` of the result of a pass (`agents/nodelet/src/pass/result.rs`).
//!
//! Not here: names in forms of which a host has only the digest, because such a form cannot be renamed when it is read
//! (`facts::preflight`, the labels of containers). Their types write the old name and say so.

use std::borrow::Cow;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A kind of JSON object that may have old names.
#[derive(Debug, Clone, Copy)]
pub enum OldRecord {
    /// A record of the ledger, without the number and the sum of its line.
    Ledger,
    /// The manifest of a backup of etcd.
    BackupManifest,
    /// The record of a timer's runs.
    TimerRuns,
    /// The last good role package.
    LastGoodRole,
}

/// Kinds of records in the ledger, old and present.
const KINDS: [(&str, &str); 4] = [
    ("stands", "phase_applied"),
    ("clean_lane", "cleanup_steps"),
    ("withdrawn", "pruned"),
    ("lane_withdrawn", "cleanup_done"),
];

/// Kinds of resources in recorded steps.
const RESOURCES: [(&str, &str); 1] = [("sysctl_before", "sysctl_snapshot")];

/// Fields of resources in recorded steps: the kind of resource, the old name, the present one.
const FIELDS: [(&str, &str, &str); 3] = [
    ("file", "once", "create_only"),
    ("directory", "whole", "exclusive"),
    ("firewall_chains", "spares_earlier", "keep_existing"),
];

/// The part of a step's id that names the kind of resource.
const STEP: (&str, &str) = ("/sysctl_as_before:", "/restore_sysctl:");

/// All old names, as keys or whole texts of any object. A status pass reads thousands of records, so they are searched together.
static OLD_NAMES: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let keys = OldRecord::ALL.iter().flat_map(|kind| kind.keys());
    let fields = FIELDS.iter().map(|(_, old, _)| old);
    let names = keys.chain(&KINDS).chain(&RESOURCES).map(|(old, _)| old);
    let quoted = names.chain(fields).map(|name| format!("\"{name}\""));
    let patterns: Vec<String> = quoted.chain([STEP.0.to_owned()]).collect();
    AhoCorasick::new(patterns).expect("a few short names are patterns")
});

/// Reads a JSON object that may have old names.
///
/// # Errors
/// It is not such an object.
pub fn read<T: DeserializeOwned>(kind: OldRecord, json: &[u8]) -> serde_json::Result<T> {
    // Most objects have no old name, and are read without a second pass.
    if !OLD_NAMES.is_match(json) {
        return serde_json::from_slice(json);
    }
    let mut value: Value = serde_json::from_slice(json)?;
    if let Some(object) = value.as_object_mut() {
        kind.rename(object);
    }
    serde_json::from_value(value)
}

/// The text of a facts file with the present keys. Only keys of the file itself begin a line.
#[must_use]
pub fn facts(yaml: &str) -> Cow<'_, str> {
    const OLD: &str = "stands:";
    if !yaml.lines().any(|line| line.starts_with(OLD)) {
        return Cow::Borrowed(yaml);
    }
    let lines = yaml.split_inclusive('\n');
    let renamed = lines.map(|line| match line.strip_prefix(OLD) {
        Some(rest) => Cow::Owned(format!("installed_role:{rest}")),
        None => Cow::Borrowed(line),
    });
    Cow::Owned(renamed.collect())
}

impl OldRecord {
    const ALL: [Self; 4] = [
        Self::Ledger,
        Self::BackupManifest,
        Self::TimerRuns,
        Self::LastGoodRole,
    ];

    /// Keys of the object itself, old and present.
    fn keys(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Ledger => &[
                ("holes", "partial"),
                ("thing", "resource"),
                ("left", "remaining"),
            ],
            Self::BackupManifest => &[("proven", "verified")],
            Self::TimerRuns => &[("given_way", "preempted")],
            Self::LastGoodRole => &[("asked", "requested")],
        }
    }

    fn rename(self, object: &mut Map<String, Value>) {
        for (old, present) in self.keys() {
            rename_key(object, old, present);
        }
        if matches!(self, Self::Ledger) {
            rename_text(object.get_mut("r"), &KINDS);
            rename_id(object.get_mut("step"));
            let steps = object.get_mut("steps").and_then(Value::as_array_mut);
            steps.into_iter().flatten().for_each(rename_step);
        }
    }
}

/// Renames what is in a recorded step.
fn rename_step(step: &mut Value) {
    rename_id(step.get_mut("id"));
    let Some(spec) = step.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    rename_text(spec.get_mut("kind"), &RESOURCES);
    for (kind, old, present) in FIELDS {
        if spec.get("kind").and_then(Value::as_str) == Some(kind) {
            rename_key(spec, old, present);
        }
    }
}

fn rename_key(object: &mut Map<String, Value>, old: &str, present: &str) {
    if let Some(value) = object.remove(old) {
        object.insert(present.to_owned(), value);
    }
}

fn rename_text(value: Option<&mut Value>, names: &[(&str, &str)]) {
    let Some(Value::String(text)) = value else {
        return;
    };
    if let Some((_, present)) = names.iter().find(|(old, _)| text.as_str() == *old) {
        *text = (*present).to_owned();
    }
}

fn rename_id(value: Option<&mut Value>) {
    if let Some(Value::String(id)) = value {
        *id = id.replacen(STEP.0, STEP.1, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_old_name_is_read_as_the_present_one() {
        for (kind, old, present) in [
            (
                OldRecord::Ledger,
                r#"{"r":"stands","run":1}"#,
                r#"{"r":"phase_applied","run":1}"#,
            ),
            (
                OldRecord::Ledger,
                r#"{"r":"clean_lane","steps":[],"holes":true}"#,
                r#"{"r":"cleanup_steps","steps":[],"partial":true}"#,
            ),
            (
                OldRecord::Ledger,
                r#"{"r":"reverted","thing":"file /a","left":["directory /d"]}"#,
                r#"{"r":"reverted","resource":"file /a","remaining":["directory /d"]}"#,
            ),
            (
                OldRecord::Ledger,
                r#"{"r":"withdrawn","thing":"file /a","in_use":true}"#,
                r#"{"r":"pruned","resource":"file /a","in_use":true}"#,
            ),
            (
                OldRecord::Ledger,
                r#"{"r":"lane_withdrawn","step":"p/sysctl_as_before:a"}"#,
                r#"{"r":"cleanup_done","step":"p/restore_sysctl:a"}"#,
            ),
            (
                OldRecord::Ledger,
                r#"{"r":"cleanup_steps","steps":[
                    {"id":"p/sysctl_as_before:a","spec":{"kind":"sysctl_before","key":"a"}},
                    {"id":"p/file:/a","spec":{"kind":"file","once":true}},
                    {"id":"p/directory:/d","spec":{"kind":"directory","whole":true}},
                    {"id":"p/firewall_chains:K-","spec":{"kind":"firewall_chains","spares_earlier":true}}]}"#,
                r#"{"r":"cleanup_steps","steps":[
                    {"id":"p/restore_sysctl:a","spec":{"kind":"sysctl_snapshot","key":"a"}},
                    {"id":"p/file:/a","spec":{"kind":"file","create_only":true}},
                    {"id":"p/directory:/d","spec":{"kind":"directory","exclusive":true}},
                    {"id":"p/firewall_chains:K-","spec":{"kind":"firewall_chains","keep_existing":true}}]}"#,
            ),
            (
                OldRecord::BackupManifest,
                r#"{"proven":"2026-03-04T03:00:09Z"}"#,
                r#"{"verified":"2026-03-04T03:00:09Z"}"#,
            ),
            (
                OldRecord::TimerRuns,
                r#"{"failures":0,"given_way":2}"#,
                r#"{"failures":0,"preempted":2}"#,
            ),
            (
                OldRecord::LastGoodRole,
                r#"{"version":1,"asked":"pf9-kube"}"#,
                r#"{"version":1,"requested":"pf9-kube"}"#,
            ),
        ] {
            let present: Value = serde_json::from_str(present).expect("it is JSON");
            let was: Value = read(kind, old.as_bytes()).expect("it is read");
            assert_eq!(was, present);
            let again = present.to_string();
            let is: Value = read(kind, again.as_bytes()).expect("it is read");
            assert_eq!(is, present, "present names stay");
        }
    }

    #[test]
    fn names_elsewhere_stay() {
        // A path, and a key of an object within the record.
        let text = r#"{"r":"undo","step":"p/file:left","undo":{"path":"left","thing":1}}"#;
        let read: Value = read(OldRecord::Ledger, text.as_bytes()).expect("it is read");
        let plain: Value = serde_json::from_str(text).expect("it is JSON");
        assert_eq!(read, plain);
    }

    #[test]
    fn an_old_facts_file_is_read() {
        let old = "version: 1\nfiles:\n  a: |-\n    b\n  stands: c\nstands: pf9-kube 1.20.2\n";
        let present =
            "version: 1\nfiles:\n  a: |-\n    b\n  stands: c\ninstalled_role: pf9-kube 1.20.2\n";
        assert_eq!(facts(old), present);
        assert_eq!(facts(present), present);
    }
}
