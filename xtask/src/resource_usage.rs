//! `cargo xtask measured -- PROGRAM …`: one run of a program, its wall time and its peak memory, as `SECONDS KIBIBYTES`.
//!
//! It is a separate process because the kernel reports the usage of all children of a process together: this process has only one
//! child. The peak is never below the few megabytes of this process itself: the child shares its memory until it executes the
//! program.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};

/// The options of `measured`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The program and its arguments. Its standard output is discarded.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Run time and peak memory of one run.
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
        .context("cannot read the resource usage of the child")?
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
