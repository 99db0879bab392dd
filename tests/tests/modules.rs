//! The structure of the crates: imports follow the tables in ARCHITECTURE.md, cycles are short, directories are small.

use std::collections::BTreeSet;
use std::fs;

use behaviour::modules::{Imports, Module, crowded};
use behaviour::repository;

/// Most files that may import from one another.
const CYCLE: usize = 3;
/// Most source files of a directory.
const FILES: usize = 12;

/// Crates whose modules have an order: the first column of their table in ARCHITECTURE.md, and their sources.
const ORDERED: [(&str, &str); 4] = [
    ("module of the engine", "engine/src"),
    ("module of nodelet", "agents/nodelet/src"),
    ("module of comms", "agents/comms/src"),
    ("module of the plane", "plane/src"),
];

/// All sources.
const SOURCES: [&str; 18] = [
    "engine/src",
    "engine/examples",
    "engine/tests",
    "agents/comms/examples",
    "agents/comms/src",
    "agents/comms/tests",
    "agents/nodelet/src",
    "agents/nodelet/tests",
    "crates",
    "lab/src",
    "lab/tests",
    "plane/examples",
    "plane/src",
    "plane/tests",
    "xtask/src",
    "tests/src",
    "tests/tests",
    "tests/lab",
];

/// Sources of one crate each. In `engine/tests`, `agents/nodelet/tests` and `lab/tests` each file is a crate. So is each file directly in
/// `tests/tests`, `agents/comms/tests` and `plane/tests`: such a crate has one file and no cycle.
const CRATES: [&str; 28] = [
    "engine/src",
    "engine/tests",
    "agents/comms/src",
    "agents/comms/tests/comms",
    "agents/nodelet/src",
    "agents/nodelet/tests",
    "crates/atomic-files/src",
    "crates/bounds/src",
    "crates/child-process/src",
    "crates/daemon/src",
    "crates/traced/src",
    "crates/wire/src",
    "crates/yaml-limits/src",
    "lab/src",
    "lab/tests",
    "plane/src",
    "plane/tests/plane",
    "xtask/src",
    "tests/src",
    "tests/tests/apply",
    "tests/tests/cli",
    "tests/tests/repair",
    "tests/tests/scripts",
    "tests/tests/undo",
    "tests/lab/src",
    "tests/lab/tests/micro",
    "tests/lab/tests/soak",
    "tests/lab/tests/suites",
];

/// The modules from the lowest to the highest, as a table in ARCHITECTURE.md lists them: each row begins with a module's name.
fn order(table: &str) -> Vec<String> {
    let text = fs::read_to_string(repository().join("ARCHITECTURE.md")).expect("it is there");
    let (_, table) = text
        .split_once(&format!("| {table} |"))
        .unwrap_or_else(|| panic!("ARCHITECTURE.md has a table `{table}`"));
    let rows = table.lines().skip(2);
    let rows = rows.map_while(|row| row.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect()
}

fn imports(root: &str) -> Imports {
    Imports::of(&repository().join(root))
}

fn named(module: &Module) -> String {
    module.join("::")
}

#[test]
fn no_module_imports_from_a_higher_one() {
    for (table, root) in ORDERED {
        let order = order(table);
        let imports = imports(root);
        // Programs only call the crate.
        let all = imports.edges.keys().filter_map(|it| it.first());
        let all: BTreeSet<&String> = all.filter(|it| *it != "bin").collect();
        let listed: BTreeSet<&String> = order.iter().collect();
        assert_eq!(all, listed, "the table `{table}` is complete");
        let height = |module: &Module| order.iter().position(|name| Some(name) == module.first());
        let mut upward = Vec::new();
        for (module, targets) in &imports.edges {
            for target in targets {
                let is_upward = target.is_empty() || height(target) > height(module);
                if !module.is_empty() && is_upward {
                    upward.push(format!("{} imports from {}", named(module), named(target)));
                }
            }
        }
        assert!(upward.is_empty(), "{root}: {}", upward.join("\n"));
    }
}

#[test]
fn no_import_cycle_crosses_a_module_or_is_longer_than_three_files() {
    for root in CRATES {
        let imports = imports(root);
        let cycles = imports.cycles();
        let wrong = cycles.iter().filter(|cycle| {
            let modules: BTreeSet<Option<&String>> = cycle.iter().map(|it| it.first()).collect();
            cycle.len() > CYCLE || modules.len() > 1
        });
        let wrong: Vec<String> = wrong
            .map(|cycle| {
                let files: Vec<String> = cycle.iter().map(|module| named(module)).collect();
                files.join(", ")
            })
            .collect();
        assert!(wrong.is_empty(), "{root}: {}", wrong.join("\n"));
    }
}

#[test]
fn a_name_that_a_file_exports_and_uses_is_an_import() {
    // The variable `listed` has the name of an exported function, which is not called.
    let library = "
        pub use calls::called;
        pub use kind::Kind;
        pub use list::listed;
        pub struct All(Kind);
        fn all(listed: u8) {
            assert!(called(listed) && listed > 0);
        }
    ";
    let files = [
        ("lib.rs", library),
        ("calls.rs", "pub fn called() {}"),
        ("kind.rs", "pub struct Kind(Box<crate::All>);"),
        ("list.rs", "pub fn listed() {}"),
    ];
    let root = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        fs::write(root.path().join(name), text).expect("it can be written");
    }
    let imports = Imports::of(root.path());
    let of_crate = imports.edges[&Module::new()].iter();
    let of_crate: Vec<String> = of_crate.map(named).collect();
    assert_eq!(of_crate, ["calls", "kind"]);
    let cycles = imports.cycles();
    let files: Vec<usize> = cycles.iter().map(BTreeSet::len).collect();
    assert_eq!(files, [2], "{cycles:?}");
}

#[test]
fn no_directory_has_more_than_twelve_source_files() {
    for root in SOURCES {
        let crowded = crowded(&repository().join(root), FILES);
        assert!(crowded.is_empty(), "{crowded:?}");
    }
}
