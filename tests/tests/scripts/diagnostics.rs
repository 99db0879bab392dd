//! The messages about an author's mistakes. Each folder of the corpora has one mistake; the rendered message is the snapshot.

use std::collections::BTreeSet;
use std::path::Path;

use behaviour::{Case, Scripts, block_on, fixtures, folders, golden, snapshot_names, text};
use engine::host::live::LiveHost;
use engine::model::{Diagnostic, Sources};
use engine::role::{RoleError, RolePackage};
use engine::script::SIZE_LIMIT;

#[test]
fn mistakes_in_scripts_read_well() {
    let case = Case::named("cp-1");
    each("diagnostics", "diagnostics/scripts", |folder| {
        let message = Scripts::read(folder).plan(&case).err();
        message.unwrap_or_else(|| panic!("{} has a mistake, yet there is a plan", folder.display()))
    });
}

#[test]
fn mistakes_in_roles_read_well() {
    each("roles/invalid", "diagnostics/roles", |folder| {
        let role = folder.display().to_string();
        match block_on(RolePackage::load(&LiveHost::new(), &role)) {
            Err(RoleError::Invalid { findings, .. }) => Sources::default().render(&findings),
            other => panic!("{role} has a mistake, yet loading it gives {other:?}"),
        }
    });
}

#[test]
fn a_script_beyond_the_limit_is_refused_unread() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let manifest = text(fixtures("roles/invalid/empty-script/role.yaml"));
    std::fs::create_dir_all(folder.path().join("phases/templates"))
        .expect("a directory of our own");
    std::fs::write(folder.path().join("role.yaml"), manifest).expect("a file of our own");
    let script = vec![b' '; usize::try_from(SIZE_LIMIT).expect("it fits") + 1];
    std::fs::write(folder.path().join("phases/example.rhai"), script).expect("a file of our own");
    match block_on(RolePackage::load(
        &LiveHost::new(),
        &folder.path().display().to_string(),
    )) {
        Err(RoleError::Invalid { findings, .. }) => assert_eq!(
            findings.iter().map(Diagnostic::short).collect::<Vec<_>>(),
            ["phases/example.rhai:1: P0605 the file is larger than 262144 bytes"]
        ),
        other => panic!("{other:?}"),
    }
}

/// Compares the message about every folder in `corpus` with its snapshot, and the snapshots with the folders.
fn each(corpus: &str, snapshots: &str, message: impl Fn(&Path) -> String) {
    let mut names = BTreeSet::new();
    for folder in folders(fixtures(corpus)) {
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let found_message = message(&folder);
        golden(snapshots, &name, &found_message);
        assert!(
            names_a_place(&found_message),
            "{name}: no file and line in:\n{found_message}"
        );
        names.insert(name);
    }
    assert!(!names.is_empty(), "{corpus} has cases");
    assert_eq!(
        snapshot_names(snapshots),
        names,
        "left: snapshots, right: cases"
    );
}

/// Whether a message says `file.ext:line`.
fn names_a_place(message: &str) -> bool {
    message.split([' ', '[', ']', '\n']).any(|word| {
        let mut parts = word.split(':');
        let file = parts.next().is_some_and(|file| file.contains('.'));
        file && parts
            .next()
            .is_some_and(|line| line.parse::<usize>().is_ok_and(|line| line > 0))
    })
}
