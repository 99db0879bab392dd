//! The structure of the engine: imports follow the table in ARCHITECTURE.md, cycles are short, directories are small.

use std::collections::BTreeSet;
use std::fs;

use behaviour::modules::{Imports, Module, crowded};
use behaviour::repository;

/// Most files that may import from one another.
const CYCLE: usize = 3;
/// Most source files of a directory.
const FILES: usize = 12;

/// The modules of the engine from the lowest to the highest, as ARCHITECTURE.md lists them: each row begins with a module's name.
fn order() -> Vec<String> {
    let text = fs::read_to_string(repository().join("ARCHITECTURE.md")).expect("it is there");
    let (_, table) = text
        .split_once("| module of the engine |")
        .expect("ARCHITECTURE.md has a table of the engine's modules");
    let rows = table.lines().skip(2);
    let rows = rows.map_while(|row| row.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect()
}

fn engine() -> Imports {
    Imports::of(&repository().join("engine/src"))
}

fn named(module: &Module) -> String {
    module.join("::")
}

#[test]
fn no_module_of_the_engine_imports_from_a_higher_one() {
    let order = order();
    let imports = engine();
    let all: BTreeSet<&String> = imports.edges.keys().filter_map(|it| it.first()).collect();
    let listed: BTreeSet<&String> = order.iter().collect();
    assert_eq!(all, listed, "the table of ARCHITECTURE.md is complete");
    let height = |module: &Module| order.iter().position(|name| Some(name) == module.first());
    let mut upward = Vec::new();
    for (module, targets) in &imports.edges {
        // The crate itself has no code.
        for target in targets.iter().filter(|it| !it.is_empty()) {
            if !module.is_empty() && height(target) > height(module) {
                upward.push(format!("{} imports from {}", named(module), named(target)));
            }
        }
    }
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

#[test]
fn no_import_cycle_of_the_engine_is_longer_than_three_files() {
    let imports = engine();
    let long: Vec<String> = imports
        .cycles()
        .iter()
        .filter(|cycle| cycle.len() > CYCLE)
        .map(|cycle| {
            let files: Vec<String> = cycle.iter().map(|module| named(module)).collect();
            files.join(", ")
        })
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn no_directory_of_the_engine_has_more_than_twelve_source_files() {
    let crowded = crowded(&repository().join("engine/src"), FILES);
    assert!(crowded.is_empty(), "{crowded:?}");
}
