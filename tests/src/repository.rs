//! The repository's own files: fixtures that are read, snapshots and generated files that are compared.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("this package is in the repository")
        .to_path_buf()
}

/// A path below `tests/fixtures`.
#[must_use]
pub fn fixtures(path: impl AsRef<Path>) -> PathBuf {
    repository().join("tests/fixtures").join(path)
}

/// The text of a file.
///
/// # Panics
/// It cannot be read.
#[must_use]
pub fn text(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares a text with `snapshots/<folder>/<name>.snap`.
///
/// # Panics
/// They differ. `INSTA_UPDATE=always` writes the snapshot again.
pub fn golden(folder: &str, name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(repository().join("snapshots").join(folder));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Names of the snapshots in `snapshots/<folder>`, without their suffix.
#[must_use]
pub fn snapshot_names(folder: &str) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(repository().join("snapshots").join(folder)) else {
        return BTreeSet::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".snap").map(str::to_owned))
        .collect()
}

/// Compares a generated text with the file it is checked in as; `UPDATE_GENERATED=1` writes it again.
///
/// # Panics
/// They differ, or the file cannot be written.
pub fn checked_in(path: &str, generated: &str) {
    let file = repository().join(path);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&file, generated).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let on_disk = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        on_disk == generated,
        "{path} is not what the table of words generates; run this test with UPDATE_GENERATED=1"
    );
}

/// Compares a generated part of a checked-in file with what is between `<!-- generated: NAME -->` and the next `<!-- end -->`; see
/// [`checked_in`].
///
/// # Panics
/// The file has no such marks, or [`checked_in`] panics.
pub fn checked_in_part(path: &str, name: &str, generated: &str) {
    let begin = format!("<!-- generated: {name} -->\n");
    let page = text(repository().join(path));
    let (head, rest) = page.split_once(&begin).expect("the page has the mark");
    let (_, tail) = rest
        .split_once("<!-- end -->")
        .expect("the part has an end");
    checked_in(path, &format!("{head}{begin}{generated}<!-- end -->{tail}"));
}
