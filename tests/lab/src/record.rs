//! The results of a soak, for the page that `cargo xtask soak --write` makes of them.

use std::fs::File;
use std::io::Write;

use lab::Suites;
use lab::snapshot::Comparison;

/// Records how a host compares with its state before. A scenario that fails panics earlier and records nothing.
pub fn record(scenario: &str, compared: &Comparison) {
    println!(
        "{scenario}: {} items compared, {} differences; empty both times: {}",
        compared.items,
        compared.differences.len(),
        compared.empty.join(", ")
    );
    let Some(path) = Suites::record_file() else {
        return;
    };
    let line = serde_json::json!({
        "scenario": scenario,
        "items": compared.items,
        "differences": compared.differences.len(),
        "empty": compared.empty,
    });
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .expect("the record can be opened");
    writeln!(file, "{line}").expect("the record is written");
}
