//! What a soak has seen, for the page that `cargo xtask soak --write` makes of it.

use std::fs::File;
use std::io::Write;

use lab::Suites;
use lab::snapshot::Comparison;

/// Notes how a host compared after this with what it was before. A scenario that fails panics before that and notes nothing.
pub fn record(scenario: &str, compared: &Comparison) {
    println!(
        "{scenario}: {} things compared, {} differences; empty both times: {}",
        compared.things,
        compared.differences.len(),
        compared.empty.join(", ")
    );
    let Some(path) = Suites::record_file() else {
        return;
    };
    let line = serde_json::json!({
        "scenario": scenario,
        "things": compared.things,
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
