//! `cargo xtask measured -- PROGRAM …`: one run of a program, its wall time and its peak memory, as `SECONDS KIBIBYTES`.
//!
//! A process of its own, because the system adds up what all children of a process took: here there is only one. The peak has a
//! floor, the few megabytes of this process itself, which the child has in common with it until it becomes the program.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};

/// The words of `measured`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The program and its arguments. What it prints is read by nobody.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) seconds: f64,
    pub(crate) megabytes: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let [program, words @ ..] = arguments.command.as_slice() else {
        bail!("no program is named");
    };
    let began = Instant::now();
    let status = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    let seconds = began.elapsed().as_secs_f64();
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN)
        .context("the system does not tell what a child took")?
        .max_rss();
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    println!("{seconds:.6} {peak}");
    Ok(ExitCode::SUCCESS)
}

/// Reads what [`run`] printed.
pub(crate) fn parse(text: &str) -> Result<Usage> {
    let numbers: Vec<f64> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()
        .with_context(|| format!("`{text}` is no measurement"))?;
    match numbers.as_slice() {
        [seconds, kibibytes] => Ok(Usage {
            seconds: *seconds,
            megabytes: kibibytes * 1024.0 / 1e6,
        }),
        _ => bail!("`{text}` is no measurement"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_has_two_numbers() {
        let usage = parse("0.250000 2048\n").expect("two numbers");
        assert!((usage.seconds - 0.25).abs() < 1e-9 && (usage.megabytes - 2.097_152).abs() < 1e-9);
        parse("0.25").expect_err("one number");
        parse("a b").expect_err("words");
    }
}
