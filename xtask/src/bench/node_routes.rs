//! The routes to the pods of 5,000 nodes: a check and a change of one route, beside the least that any program has to do for them.
//!
//! Routes are made in a network namespace of their own, and never on the machine itself. `namespace` is the process that runs there,
//! `server` the fake API server, `nodes` what it serves. The program that is measured is `engine/examples/node_routes_pass.rs`, because it has
//! to be a release build.

mod namespace;
mod nodes;
mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::command;

use super::figures::{Figure, Target, Unit};
use crate::nodelet;

pub(crate) use namespace::{Arguments, run};

/// Bound on one repetition.
const LIMIT: Duration = Duration::from_secs(300);
/// The list has a deadline of ten seconds in nodelet, and a busy master needs room.
const MOST: f64 = 5000.0;

/// What is measured, as the program names it, with its title, its unit and what is wanted.
const ROWS: [(&str, &str, Unit, Target); 5] = [
    (
        "check",
        "check: all routes are as planned",
        Unit::Milliseconds,
        Target::AtMost(MOST),
    ),
    (
        "change",
        "change of one route, from the event of its node on",
        Unit::Milliseconds,
        Target::AtMost(MOST),
    ),
    (
        "first",
        "all routes are made",
        Unit::Milliseconds,
        Target::None,
    ),
    (
        "watch",
        "a new watch, until all nodes are listed",
        Unit::Milliseconds,
        Target::None,
    ),
    (
        "memory",
        "peak resident memory",
        Unit::Megabytes,
        Target::None,
    ),
];

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Ours,
    Peer,
}

impl Who {
    /// The first word of the program.
    fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Peer => "peer",
        }
    }
}

type Samples = BTreeMap<(Who, String), Vec<f64>>;

/// Builds the program that is measured, if it is not built yet. It takes minutes, so it is done before the machine has to be quiet.
///
/// # Errors
/// The program does not build.
pub(super) fn build() -> Result<PathBuf> {
    nodelet::build_example("engine", "node_routes_pass")
}

/// Measures so many repetitions; who begins changes from one to the next.
///
/// # Errors
/// The program does not build, this process may not make a network namespace, or a run fails.
pub(super) fn measure(repetitions: usize) -> Result<Vec<Figure>> {
    let program = build()?;
    let mut samples = Samples::new();
    for number in 0..=repetitions {
        let mut order = [Who::Ours, Who::Peer];
        order.rotate_left(number % 2);
        // By the process and not by its path: a build that goes on meanwhile may have replaced the file.
        let this = format!("/proc/{}/exe", process::id());
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--", &this, "node-routes-run", "--outside"])
            .arg(process::id().to_string())
            .arg("--program")
            .arg(&program)
            .args(order.map(Who::word));
        let text = command::text(&command, LIMIT).context("cannot measure the routes")?;
        // The first one is not counted.
        if number > 0 {
            read(&text, &mut samples)?;
            println!("[{number}/{repetitions}] {}", text.replace('\n', ", "));
        }
    }
    Ok(figures(&samples))
}

/// Reads lines `WHO WHAT NUMBER`.
fn read(text: &str, samples: &mut Samples) -> Result<()> {
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [who, what, number] = words[..] else {
            bail!("`{line}` is no measurement");
        };
        let who = match who {
            "ours" => Who::Ours,
            "peer" => Who::Peer,
            _ => bail!("`{line}` is no measurement"),
        };
        let number = number
            .parse()
            .with_context(|| format!("`{line}` is no measurement"))?;
        samples
            .entry((who, what.to_owned()))
            .or_default()
            .push(number);
    }
    Ok(())
}

fn figures(samples: &Samples) -> Vec<Figure> {
    let of = |who, what: &str| samples.get(&(who, what.to_owned())).cloned();
    ROWS.iter()
        .map(|(what, name, unit, target)| Figure {
            name: (*name).to_owned(),
            unit: *unit,
            ours: of(Who::Ours, what).unwrap_or_default(),
            theirs: of(Who::Peer, what).unwrap_or_default(),
            target: *target,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_read_from_what_the_program_prints() {
        let mut samples = Samples::new();
        let text = "ours first 900.0\nours check 400.5\nours watch 380\nours change 700\nours memory 40\n\
            peer first 500\npeer check 300\npeer change 400\npeer memory 30";
        read(text, &mut samples).expect("measurements");
        read(text, &mut samples).expect("measurements");
        for figure in figures(&samples) {
            assert_eq!(figure.ours.len(), 2, "{}", figure.name);
            // Only nodelet has a watch.
            let theirs = if figure.name.contains("watch") { 0 } else { 2 };
            assert_eq!(figure.theirs.len(), theirs, "{}", figure.name);
        }
        for wrong in ["ours check", "we check 1", "ours check fast"] {
            read(wrong, &mut samples).expect_err(wrong);
        }
    }
}
