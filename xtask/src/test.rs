//! `cargo xtask test`: every check of the project as a named step, stopping at the first that fails.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::{Cache, Micro, Setup, command};

use crate::nodelet::{self, Profile};
use crate::transient::{suites, with_labs};

/// The options of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave out the suites that need a lab.
    #[arg(long)]
    skip_lab: bool,
    /// Run this step alone.
    #[arg(long, value_name = "STEP")]
    only: Option<String>,
    /// Which suites the step `lab` runs, after `--`: parts of their names.
    #[arg(last = true, requires = "only")]
    suites: Vec<String>,
}

/// One check: a cargo command and its environment.
#[derive(Debug)]
struct Step {
    name: &'static str,
    cargo: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    needs: Needs,
}

/// What there has to be beside the checkout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Packages of this machine.
    Packages,
    /// An emulator and a kernel.
    Micro,
    /// All that labs are made of.
    Lab,
}

const fn step(
    name: &'static str,
    cargo: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
) -> Step {
    Step {
        name,
        cargo,
        environment,
        needs: Needs::Nothing,
    }
}

const STEPS: &[Step] = &[
    step("fmt", &["fmt", "--all", "--check"], &[]),
    step(
        "clippy",
        &[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ],
        &[],
    ),
    step(
        "rustdoc",
        &[
            "doc",
            "--quiet",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ],
        &[("RUSTDOCFLAGS", "-D warnings")],
    ),
    // Snapshots are reviewed by people; a test run never writes one.
    Step {
        name: "tests",
        cargo: &["test", "--quiet", "--workspace", "--exclude", LAB_SUITES],
        environment: &[("INSTA_UPDATE", "no")],
        needs: Needs::Packages,
    },
    Step {
        name: "micro",
        cargo: &[
            "test",
            "--quiet",
            "--package",
            LAB_SUITES,
            "--test",
            "micro",
            "--",
            "--ignored",
        ],
        environment: &[],
        needs: Needs::Micro,
    },
    Step {
        name: "lab",
        cargo: &["test", "--package", LAB_SUITES, "--", "--test-threads", "2"],
        environment: &[("INSTA_UPDATE", "no")],
        needs: Needs::Lab,
    },
];

/// The crate with the suites that bring up labs.
const LAB_SUITES: &str = "lab-suites";

/// More than the suites ever take.
const LAB: Duration = Duration::from_secs(3600);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    let mut times = Vec::new();
    for step in chosen(arguments)? {
        println!("==> {}", step.name);
        let began = Instant::now();
        let passed = match step.needs {
            Needs::Nothing => passes(&mut cargo(step))?,
            Needs::Packages => {
                lab::install_packages_for_tests(&Cache::locate()?)?;
                passes(&mut cargo(step))?
            }
            Needs::Micro => in_micro_machines(step)?,
            Needs::Lab => in_labs(step, &arguments.suites)?,
        };
        times.push(format!("{} {}", step.name, seconds(began)));
        if !passed {
            println!("{}", times.join(", "));
            bail!(
                "the step `{0}` failed; repeat it with `cargo xtask test --only {0}`",
                step.name
            );
        }
    }
    println!("All passed in {}: {}.", seconds(began), times.join(", "));
    Ok(ExitCode::SUCCESS)
}

fn seconds(since: Instant) -> String {
    format!("{:.0} s", since.elapsed().as_secs_f64())
}

fn cargo(step: &Step) -> Command {
    let mut command = crate::cargo();
    command
        .args(step.cargo)
        .envs(step.environment.iter().copied());
    command
}

fn passes(cargo: &mut Command) -> Result<bool> {
    let status = cargo.status().context("cannot start cargo")?;
    Ok(status.success())
}

/// Runs what needs a kernel of its own, and no lab.
fn in_micro_machines(step: &Step) -> Result<bool> {
    let micro = Micro {
        kernel: Micro::prepare(&Cache::locate()?)?,
        nodelet: nodelet::build(Profile::Dev)?,
    };
    passes(cargo(step).envs(micro.variables()))
}

/// Runs the suites on labs of their own, which are gone afterwards, however the suites end.
fn in_labs(step: &Step, filter: &[String]) -> Result<bool> {
    let setup = Setup::run(&Cache::locate()?)?;
    let suites = suites(&setup, Profile::Dev)?;
    let mut cargo = cargo(step);
    cargo.args(filter).envs(suites.variables());
    with_labs(setup, &suites.run, |_| {
        Ok(command::streaming(&mut cargo, LAB)?.success())
    })
}

/// The steps to run, in order.
fn chosen(arguments: &Arguments) -> Result<Vec<&'static Step>> {
    let Some(only) = &arguments.only else {
        let quick = |step: &&Step| !(step.needs == Needs::Lab && arguments.skip_lab);
        return Ok(STEPS.iter().filter(quick).collect());
    };
    let step = STEPS.iter().find(|step| step.name == only);
    let step = step.with_context(|| {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        format!("there is no step `{only}`; there are {}", names.join(", "))
    })?;
    if step.needs != Needs::Lab && !arguments.suites.is_empty() {
        bail!("the step `{only}` takes no names of suites; only `lab` does");
    }
    Ok(vec![step])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(skip_lab: bool, only: Option<&str>, suites: &[&str]) -> Result<Vec<&'static str>> {
        let arguments = Arguments {
            skip_lab,
            only: only.map(str::to_owned),
            suites: suites.iter().map(|&name| name.to_owned()).collect(),
        };
        Ok(chosen(&arguments)?.iter().map(|step| step.name).collect())
    }

    #[test]
    fn chooses_steps() {
        let quick = ["fmt", "clippy", "rustdoc", "tests", "micro"];
        assert_eq!(names(true, None, &[]).expect("steps"), quick);
        let all = names(false, None, &[]).expect("steps");
        assert_eq!(all.last(), Some(&"lab"));
        assert_eq!(
            names(true, Some("lab"), &["faults"]).expect("steps"),
            ["lab"]
        );
        names(false, Some("fmt"), &["faults"]).expect_err("no suites there");
        assert!(
            names(false, Some("lint"), &[])
                .expect_err("unknown")
                .to_string()
                .contains("clippy")
        );
    }
}
