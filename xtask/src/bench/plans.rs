//! The figures that need no host: planning the role for a host described by a file, and roles of any size.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::command;

use super::figures::{Figure, Target, Unit, growth};
use super::synthetic;
use crate::repository::checkout;
use crate::resource_usage::{self, Usage};

/// Bound on one plan.
const LIMIT: Duration = Duration::from_secs(300);
/// Phases of the synthetic roles.
const SIZES: [usize; 3] = [250, 500, 1000];
/// Above this exponent growth is more than noise around linear.
const LINEAR: f64 = 1.15;

/// One way to plan a synthetic role.
struct Reading {
    name: &'static str,
    verb: &'static str,
    /// What the largest may take.
    most: Target,
    /// Milliseconds by size, each repetition's.
    taken: [Vec<f64>; SIZES.len()],
}

/// Measures so many repetitions of everything, interleaved.
pub(super) fn measure(nodelet: &Path, repetitions: usize) -> Result<Vec<Figure>> {
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let roles = SIZES
        .iter()
        .map(|&size| synthetic::write(scratch.path(), size))
        .collect::<Result<Vec<PathBuf>>>()?;
    let role = checkout().join("roles/pf9-kube");
    let (mut plan, mut memory) = (Vec::new(), Vec::new());
    let mut readings = [
        reading("planned (`phases`)", "phases", Target::AtMost(1000.0)),
        reading(
            "planned and predicted (`plan`)",
            "plan",
            Target::AtMost(1000.0),
        ),
    ];
    // One of each that is not counted: the first reads the files from disk.
    for path in roles.iter().chain([&role]) {
        run(nodelet, "phases", path)?;
    }
    for _ in 0..repetitions {
        let usage = run(nodelet, "plan", &role)?;
        plan.push(usage.seconds * 1e3);
        memory.push(usage.megabytes);
        for reading in &mut readings {
            for (path, taken) in roles.iter().zip(&mut reading.taken) {
                taken.push(run(nodelet, reading.verb, path)?.seconds * 1e3);
            }
        }
    }
    let mut figures = vec![
        ours(
            "`plan` for a host described by a file",
            Unit::Milliseconds,
            plan,
            Target::AtMost(100.0),
        ),
        ours(
            "the same, peak resident memory",
            Unit::Megabytes,
            memory,
            Target::AtMost(40.0),
        ),
    ];
    for reading in readings {
        figures.extend(reading.figures());
    }
    Ok(figures)
}

fn reading(name: &'static str, verb: &'static str, most: Target) -> Reading {
    Reading {
        name,
        verb,
        most,
        taken: Default::default(),
    }
}

impl Reading {
    fn figures(self) -> Vec<Figure> {
        let [small, .., large] = &self.taken;
        let exponents = small
            .iter()
            .zip(large)
            .map(|(small, large)| growth((sizes(0), *small), (sizes(SIZES.len() - 1), *large)))
            .collect();
        let last = ours(
            &format!("{}: k of t ~ n^k", self.name),
            Unit::Number,
            exponents,
            Target::AtMost(LINEAR),
        );
        let all = SIZES.iter().zip(self.taken).map(|(size, taken)| {
            let target = if *size == SIZES[SIZES.len() - 1] {
                self.most
            } else {
                Target::None
            };
            let name = format!(
                "{} phases, {} steps, {}",
                size,
                size * synthetic::STEPS,
                self.name
            );
            ours(&name, Unit::Milliseconds, taken, target)
        });
        all.chain([last]).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes are small")]
fn sizes(index: usize) -> f64 {
    SIZES[index] as f64
}

fn ours(name: &str, unit: Unit, ours: Vec<f64>, target: Target) -> Figure {
    Figure {
        name: name.to_owned(),
        unit,
        ours,
        theirs: Vec::new(),
        target,
    }
}

/// One run of nodelet, in a process of its own that counts what it takes.
fn run(nodelet: &Path, verb: &str, role: &Path) -> Result<Usage> {
    let fixtures = checkout().join("tests/fixtures");
    // Not by its path: a build that goes on meanwhile may have replaced the file.
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["measured", "--"])
        .arg(nodelet)
        .args([verb, "--role"])
        .arg(role)
        .arg("--config")
        .arg(fixtures.join("settings/cp-1.yaml"))
        .arg("--facts")
        .arg(fixtures.join("hosts/cp-1.yaml"));
    resource_usage::parse(&command::text(&command, LIMIT)?)
}
