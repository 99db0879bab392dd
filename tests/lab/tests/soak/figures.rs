//! Sections of pages in `docs/` with figures, and the figures of predictions, one line each.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use behaviour::Fidelity;

/// The target, in percent.
const WANTED: f64 = 99.0;

/// The figures of one section.
#[derive(Default)]
pub(crate) struct Figures {
    table: String,
    bad: String,
}

impl Figures {
    /// Adds a line.
    pub(crate) fn take(&mut self, name: &str, fidelity: &Fidelity) {
        let line = line(name, fidelity);
        println!("{line}");
        let _ = writeln!(self.table, "{line}");
        if fidelity.score().is_some_and(|score| score < WANTED) {
            self.reject(&line);
        }
    }

    /// Adds a reason for which the section must not be published.
    pub(crate) fn reject(&mut self, what: &str) {
        let _ = writeln!(self.bad, "{what}");
    }

    /// With `UPDATE_GENERATED=1` the figures become the section with this title, under these words; the rest of the page stays.
    ///
    /// # Panics
    /// A prediction is not good enough, or the page cannot be written.
    pub(crate) fn publish(&self, title: &str, words: &str) {
        assert_eq!(self.bad, "", "below {WANTED} %");
        let table = format!(
            "| situation | steps | predicted to change | changed | of predictions done | of changes predicted | of all steps | misses |\n\
             |---|---:|---:|---:|---:|---:|---:|---|\n{}",
            self.table
        );
        write_section("docs/fidelity.md", title, words, &table);
    }
}

/// With `UPDATE_GENERATED=1` the tables become the section with this title on the page, under these words; the rest of the page
/// stays.
///
/// # Panics
/// The page cannot be written.
pub(crate) fn write_section(page: &str, title: &str, words: &str, tables: &str) {
    if std::env::var_os("UPDATE_GENERATED").is_none() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(page);
    let page = fs::read_to_string(&path).expect("the page is checked in");
    let section = format!("## {title}\n\n{words}\n\n{}\n\n{tables}", measured());
    fs::write(path, with_section(&page, title, &section)).expect("the page can be written");
}

/// When, on which commit and on which machine the figures were measured.
fn measured() -> String {
    // `cargo xtask soak` provides all of this.
    if let Ok(all) = std::env::var("NODELET_MEASURED_ON") {
        return all;
    }
    let said = |program: &str, words: &[&str]| {
        let output = Command::new(program)
            .args(words)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect(program);
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    format!(
        "- date: {}\n- commit: {}",
        said("date", &["--utc", "+%F"]),
        said("git", &["describe", "--always", "--dirty", "--abbrev=10"])
    )
}

/// A line of the table. It says so if there is nothing to divide by.
fn line(name: &str, fidelity: &Fidelity) -> String {
    if fidelity.steps == 0 {
        return format!("| {name} | 0 | 0 | 0 | nothing predicted | nothing done | — | none |");
    }
    let named: Vec<String> = fidelity.misses.iter().map(ToString::to_string).collect();
    let misses = if named.is_empty() {
        "none".to_owned()
    } else {
        named.join("; ")
    };
    let share = |share: Option<f64>, nothing: &str| {
        share.map_or(nothing.to_owned(), |share| format!("{share:.1} %"))
    };
    format!(
        "| {name} | {} | {} | {} | {} | {} | {} | {misses} |",
        fidelity.steps,
        fidelity.predicted,
        fidelity.done,
        share(fidelity.of_predicted(), "nothing predicted"),
        share(fidelity.of_done(), "nothing done"),
        share(fidelity.of_steps(), "—"),
    )
}

#[test]
fn nothing_of_nothing_is_no_percentage() {
    let nothing = Fidelity::of(&[], &[]);
    assert_eq!(
        line("idle", &nothing),
        "| idle | 0 | 0 | 0 | nothing predicted | nothing done | — | none |"
    );
    let idle = Fidelity {
        steps: 3,
        ..nothing
    };
    assert_eq!(
        line("idle", &idle),
        "| idle | 3 | 0 | 0 | nothing predicted | nothing done | 100.0 % | none |"
    );
}

/// The page with this section replaced, or added at the end.
fn with_section(page: &str, title: &str, section: &str) -> String {
    let heading = format!("## {title}\n");
    let Some(begin) = page.find(&heading) else {
        return format!("{}\n\n{section}", page.trim_end());
    };
    let end = page[begin + heading.len()..].find("\n## ");
    let rest = end.map_or("", |end| &page[begin + heading.len() + end..]);
    format!("{}{section}{rest}", &page[..begin])
}

#[test]
fn a_section_is_replaced_and_other_sections_stay() {
    let page = "# P\n\n## A\n\nold\n\n## B\n\nb\n";
    assert_eq!(
        with_section(page, "A", "## A\n\nnew\n"),
        "# P\n\n## A\n\nnew\n\n## B\n\nb\n"
    );
    assert_eq!(
        with_section(page, "B", "## B\n\nnew\n"),
        "# P\n\n## A\n\nold\n\n## B\n\nnew\n"
    );
    assert_eq!(with_section(page, "C", "## C\n"), format!("{page}\n## C\n"));
}
