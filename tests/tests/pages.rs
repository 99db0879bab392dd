//! The pages for engineers: the paths that they name exist, and the daemon that CONTRIBUTING.md shows is the one that is compiled.

use std::fs;

use behaviour::{checked_in_part, repository, text};

/// Directories with pages.
const WITH_PAGES: [&str; 4] = [".", "docs", "docs/internals", "phases"];
/// A text in backticks that begins like this is a path from the repository's root.
const ROOTS: [&str; 10] = [
    "agents/",
    "crates/",
    "docs/",
    "engine/",
    "lab/",
    "phases/",
    "roles/",
    "snapshots/",
    "tests/",
    "xtask/",
];

fn pages() -> Vec<String> {
    let mut pages = Vec::new();
    for directory in WITH_PAGES {
        let entries = fs::read_dir(repository().join(directory)).expect("it is there");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let names = names.filter(|name| name.ends_with(".md"));
        pages.extend(names.map(|name| format!("{directory}/{name}")));
    }
    pages
}

/// The paths that a line names in backticks. A path with a placeholder has other letters.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let is_of_path =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_');
    let words = line.split('`').skip(1).step_by(2);
    words.filter(move |word| {
        ROOTS.iter().any(|root| word.starts_with(*root)) && word.bytes().all(is_of_path)
    })
}

/// The files to which a line links.
fn links(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1);
    let targets = targets.filter_map(|rest| Some(rest.split_once(')')?.0));
    let files = targets.filter_map(|target| target.split('#').next());
    files.filter(|file| !file.is_empty() && !file.contains(':'))
}

#[test]
fn files_named_in_pages_exist() {
    let mut missing = Vec::new();
    for page in pages() {
        let file = repository().join(&page);
        let beside = file.parent().expect("a page is in a directory");
        for (index, line) in text(&file).lines().enumerate() {
            let named = paths(line).map(|path| repository().join(path));
            let linked = links(line).map(|path| beside.join(path));
            for path in named.chain(linked).filter(|path| !path.exists()) {
                missing.push(format!("{page}:{}: {}", index + 1, path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_daemon_to_begin_with_is_the_one_that_is_compiled() {
    for (file, language) in [("exampled.rs", "rust"), ("exampled.service", "ini")] {
        let content = text(repository().join("crates/daemon/examples").join(file));
        let shown = format!("```{language}\n{content}```\n");
        checked_in_part("CONTRIBUTING.md", file, &shown);
    }
}
