//! `cargo xtask test`: every check of the project as a named step, stopping at the first that fails.

use std::process::{Command, ExitCode};
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::checkout;

/// The options of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave out the suites that need a lab.
    #[arg(long)]
    skip_lab: bool,
    /// Run this step alone.
    #[arg(long, value_name = "STEP")]
    only: Option<String>,
}

/// One check: a cargo command and its environment.
#[derive(Debug)]
struct Step {
    name: &'static str,
    cargo: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    needs_lab: bool,
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
        needs_lab: false,
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
    step(
        "tests",
        &["test", "--quiet", "--workspace", "--exclude", LAB_SUITES],
        &[("INSTA_UPDATE", "no")],
    ),
    Step {
        name: "lab",
        cargo: &["test", "--package", LAB_SUITES, "--", "--test-threads", "1"],
        environment: &[("INSTA_UPDATE", "no")],
        needs_lab: true,
    },
];

/// The crate with the suites that bring up labs.
const LAB_SUITES: &str = "lab-suites";

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let steps = chosen(arguments, fs::exists(checkout().join("tests/Cargo.toml"))?)?;
    let mut times = Vec::new();
    for step in &steps {
        println!("==> {}", step.name);
        let began = Instant::now();
        let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(step.cargo)
            .envs(step.environment.iter().copied())
            .current_dir(checkout())
            .status()
            .context("cannot start cargo")?;
        times.push(format!(
            "{} {:.0} s",
            step.name,
            began.elapsed().as_secs_f64()
        ));
        if !status.success() {
            println!("{}", times.join(", "));
            bail!(
                "the step `{0}` failed; repeat it with `cargo xtask test --only {0}`",
                step.name
            );
        }
    }
    println!("All passed: {}.", times.join(", "));
    Ok(ExitCode::SUCCESS)
}

/// The steps to run, in order. `suites` tells whether the checkout has suites for the lab.
fn chosen(arguments: &Arguments, suites: bool) -> Result<Vec<&'static Step>> {
    let names = || {
        STEPS
            .iter()
            .map(|step| step.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(only) = &arguments.only {
        let step = STEPS.iter().find(|step| step.name == only);
        return Ok(vec![step.with_context(|| {
            format!("there is no step `{only}`; there are {}", names())
        })?]);
    }
    Ok(STEPS
        .iter()
        .filter(|step| !step.needs_lab || (suites && !arguments.skip_lab))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(skip_lab: bool, only: Option<&str>, suites: bool) -> Result<Vec<&'static str>> {
        let arguments = Arguments {
            skip_lab,
            only: only.map(str::to_owned),
        };
        Ok(chosen(&arguments, suites)?
            .iter()
            .map(|step| step.name)
            .collect())
    }

    #[test]
    fn chooses_steps() {
        let quick = ["fmt", "clippy", "rustdoc", "tests"];
        assert_eq!(names(true, None, true).expect("steps"), quick);
        assert_eq!(names(false, None, false).expect("steps"), quick);
        assert_eq!(
            names(false, None, true).expect("steps").last(),
            Some(&"lab")
        );
        assert_eq!(names(true, Some("lab"), true).expect("steps"), ["lab"]);
        assert!(
            names(false, Some("lint"), true)
                .expect_err("unknown")
                .to_string()
                .contains("clippy")
        );
    }
}
