//! The words of the language and the settings they read: every example works, the reference page matches the table, and every
//! setting has a reader.

use std::collections::BTreeSet;

use behaviour::{Case, Scripts, checked_in, fixtures, repository, text};
use engine::env::{DefaultValue, KEYS};
use engine::script::{WORDS, WordKind, reference};

/// Settings that neither planner nor scripts read, each with its reader.
const READ_LATER: &[(&str, &str)] = &[
    ("ETCD_BACKUP_COUNT", BACKUP),
    ("ETCD_BACKUP_KEEP", BACKUP),
    ("ETCD_BACKUP_MASTERS", BACKUP),
    ("KUBE_SERVICE_STATE", NODELETD),
    ("LOOP_INTERVAL", NODELETD),
    ("FULL_RETRY_COUNT", NODELETD),
    ("USE_CGROUPS", NODELETD),
    ("CPU_LIMIT", NODELETD),
    ("METRICS_PORT", NODELETD),
    ("DEBUG", NODELETD),
];
const BACKUP: &str = "read by `nodelet etcd backup`";
const NODELETD: &str = "read by nodeletd, which comes with the loop that holds a host at its role";

#[test]
fn every_words_example_is_a_script() {
    let case = Case::named("cp-1");
    for word in WORDS {
        let header = match word.kind() {
            WordKind::Header => String::new(),
            _ => "phase(\"example\").about(\"Shows the words.\").nodes([\"master\"]);\n".to_owned(),
        };
        let plan = Scripts::default()
            .phase("example", &format!("{header}{}", word.example))
            .template(
                "example/greeting.tmpl",
                &text(fixtures("templates/example/greeting.tmpl")),
            )
            .plan(&case)
            .unwrap_or_else(|message| panic!("{}: {message}", word.name));
        let phase = plan.phase("example").expect("it was planned");
        let said = phase.steps.len()
            + phase.on_stop.len()
            + phase.on_clean.len()
            + phase.checks.len()
            + phase.requirements.len();
        assert_eq!(
            said,
            usize::from(word.kind() != WordKind::Header),
            "{}: one word, one thing",
            word.name
        );
    }
}

#[test]
fn the_reference_page_is_that_of_the_table() {
    checked_in("phases/REFERENCE.md", &reference());
}

#[test]
fn every_setting_is_read() {
    let mut readers = text(repository().join("engine/src/planner.rs"));
    readers.push_str(&text(repository().join("engine/src/planner/context.rs")));
    for entry in std::fs::read_dir(repository().join("phases")).expect("the phases") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "rhai")
        {
            readers.push_str(&text(path));
        }
    }
    for key in KEYS {
        if let DefaultValue::Derived(pattern) = key.default {
            readers.push_str(pattern);
        }
    }
    let words: BTreeSet<&str> = readers
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .collect();
    let unread: BTreeSet<&str> = KEYS
        .iter()
        .map(|key| key.name)
        .filter(|name| !words.contains(name))
        .collect();
    let known: BTreeSet<&str> = READ_LATER.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        unread, known,
        "left: settings without a reader, right: settings in `READ_LATER`"
    );
}
