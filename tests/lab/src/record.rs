//! What a soak has seen, for the page that `cargo xtask soak --write` makes of it.

use std::fs::File;
use std::io::Write;

use lab::Suites;

use crate::slate::Slate;

/// Notes that a host was the same after this as before. A scenario that fails panics and notes nothing.
pub fn record(scenario: &str, before: &Slate) {
    let things: usize = before.things().values().sum();
    println!("{scenario}: the host is as it was, {things} things compared");
    let Some(path) = Suites::record_file() else {
        return;
    };
    let line = serde_json::json!({ "scenario": scenario, "things": things });
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .expect("the record can be opened");
    writeln!(file, "{line}").expect("the record is written");
}
