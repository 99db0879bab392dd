//! Records with the names that earlier commits wrote. To be removed at the first release.

use super::step;
use crate::host::Attributes;
use crate::ledger::Record;
use crate::model::old_records::{self, OldRecord};
use crate::model::{PhaseName, StepId};
use crate::plan::PlannedStep;
use crate::resource::{FileSource, FileSpec, FirewallChainsSpec, Owner, Spec, SysctlSnapshotSpec};

fn read(old: &str) -> Record {
    old_records::read(OldRecord::Ledger, old.as_bytes()).expect("it is a record")
}

#[test]
fn old_kinds_and_keys_of_records_are_read() {
    let phase: PhaseName = "etcd".parse().unwrap();
    let lines = [
        (
            r#"{"r":"stands","run":1,"phase":"etcd"}"#,
            Record::PhaseApplied {
                run: 1,
                phase: phase.clone(),
            },
        ),
        (
            r#"{"r":"reverted","run":1,"phase":"etcd","thing":"file /a","left":["directory /d"]}"#,
            Record::Reverted {
                run: 1,
                phase: phase.clone(),
                resource: Some("file /a".to_owned()),
                remaining: vec!["directory /d".to_owned()],
            },
        ),
        (
            r#"{"r":"withdrawn","run":1,"phase":"etcd","step":"etcd/file:/a","thing":"file /a","in_use":true}"#,
            Record::Pruned {
                run: 1,
                phase: phase.clone(),
                step: StepId::new(&phase, "file", "/a"),
                resource: "file /a".to_owned(),
                in_use: true,
            },
        ),
        (
            r#"{"r":"lane_withdrawn","run":1,"phase":"etcd","step":"etcd/sysctl_as_before:kernel.panic"}"#,
            Record::CleanupDone {
                run: 1,
                phase: phase.clone(),
                step: Some(StepId::new(&phase, "restore_sysctl", "kernel.panic")),
            },
        ),
    ];
    for (old, record) in lines {
        assert_eq!(read(old), record);
    }
}

/// Otherwise a clean would take other things off the host than the role's, and an apply after an interrupted clean would record a step a
/// second time.
#[test]
fn old_records_of_cleanup_steps_are_read() {
    let phase: PhaseName = "etcd".parse().unwrap();
    let planned = |label: &str, spec: Spec| PlannedStep {
        id: StepId::new(&phase, spec.kind(), label),
        spec,
        ..step("/d")
    };
    let mut directory = step("/d");
    if let Spec::Directory(spec) = &mut directory.spec {
        spec.exclusive = true;
    }
    let file = FileSpec {
        path: "/a".into(),
        source: FileSource::Copy("/b".into()),
        attributes: Attributes::root(0o644),
        owner: Owner::default(),
        create_only: true,
        secret: false,
        unit: false,
    };
    let chains = FirewallChainsSpec {
        prefix: "KUBE-".to_owned(),
        interface: None,
        keep_existing: true,
        spared: Vec::new(),
    };
    let setting = SysctlSnapshotSpec {
        key: "kernel.panic".parse().unwrap(),
        before: Some("0".to_owned()),
    };
    let record = Record::CleanupSteps {
        run: 1,
        phase: phase.clone(),
        steps: vec![
            directory,
            planned("/a", Spec::File(file)),
            planned("KUBE-", Spec::FirewallChains(chains)),
            planned("kernel.panic", Spec::SysctlSnapshot(setting)),
        ],
        partial: true,
    };
    let mut old = serde_json::to_string(&record).unwrap();
    for (present, name) in [
        ("\"cleanup_steps\"", "\"clean_lane\""),
        ("\"partial\"", "\"holes\""),
        ("\"exclusive\"", "\"whole\""),
        ("\"create_only\"", "\"once\""),
        ("\"keep_existing\"", "\"spares_earlier\""),
        ("\"sysctl_snapshot\"", "\"sysctl_before\""),
        ("/restore_sysctl:", "/sysctl_as_before:"),
    ] {
        assert!(old.contains(present), "{present} is not in {old}");
        old = old.replace(present, name);
    }
    assert_eq!(read(&old), record);
}
