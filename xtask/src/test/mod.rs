//! `cargo xtask test`: every check of the project but not the soaks (`cargo xtask soak`). Everything is built once, then the checks
//! run in parallel.
//!
//! [`job`] defines the jobs, [`build`] compiles the test programs, [`schedule`] decides what runs next, [`mod@run`] runs it and
//! reports. Suites on lab hosts mostly wait, so several of them run at a time. Jobs that compute run beside them at idle priority,
//! so that they do not delay a suite past its deadline.
//!
//! Not here: soaks (`soak`), and labs for suites (`temporary_lab`). Start with [`job`].

mod build;
mod job;
mod run;
mod schedule;

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use lab::{Cache, Micro, Setup, Suites, command};

use crate::temporary_lab::{suites, with_labs};
use build::Built;
use job::Job;
use run::TestSummary;

/// The options of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave out the suites that need a lab.
    #[arg(long)]
    skip_lab: bool,
    /// Run only this step.
    #[arg(long, value_name = "STEP")]
    only: Option<String>,
    /// How many suites on lab hosts run at a time.
    #[arg(long, value_name = "NUMBER", default_value_t = schedule::lab_workers())]
    lab_workers: usize,
    /// Which tests the steps `tests` and `lab` run, after `--`: parts of their names.
    #[arg(last = true, requires = "only")]
    names: Vec<String>,
}

/// A part of the checks that can be run separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Format,
    Clippy,
    Rustdoc,
    /// Unit, snapshot and fault tests, which need nothing but the checkout.
    Tests,
    /// The limits of status passes, on a kernel with version 2 of control groups.
    Micro,
    /// The suites on real hosts.
    Lab,
}

const STEPS: &[(&str, Step)] = &[
    ("fmt", Step::Format),
    ("clippy", Step::Clippy),
    ("rustdoc", Step::Rustdoc),
    ("tests", Step::Tests),
    ("micro", Step::Micro),
    ("lab", Step::Lab),
];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    let steps = chosen(arguments)?;
    let mut jobs = Vec::new();
    if steps.contains(&Step::Format) {
        // It takes a second, and it is the check that fails most often.
        run::at_once(&Job::format())?;
    }
    let needs_programs = [Step::Tests, Step::Micro, Step::Lab]
        .iter()
        .any(|step| steps.contains(step));
    let began_building = Instant::now();
    let built = if needs_programs {
        Built::all()?
    } else {
        Built::default()
    };
    let building = began_building.elapsed();
    let cache = Cache::locate()?;
    if steps.contains(&Step::Tests) {
        lab::install_packages_for_tests(&cache)?;
        jobs.extend(job::tests(
            &built.tests,
            &built.nodelet()?,
            &arguments.names,
        ));
    }
    if steps.contains(&Step::Clippy) {
        jobs.push(Job::clippy());
    }
    if steps.contains(&Step::Rustdoc) {
        jobs.push(Job::rustdoc());
    }
    if steps.contains(&Step::Micro) {
        let micro = Micro {
            kernel: Micro::prepare(&cache)?,
            nodelet: built.nodelet()?,
        };
        jobs.extend(job::micro(&built.tests, &micro));
    }
    let test_summary = if steps.contains(&Step::Lab) {
        with_suites(&cache, &built, jobs, arguments)?
    } else {
        run::all(jobs, None, None, arguments.lab_workers)?
    };
    let summary = test_summary.summary(began.elapsed());
    println!("{summary}");
    if steps.len() == STEPS.len() && arguments.names.is_empty() {
        // What makes a run long can be read there after its output is gone.
        let times = format!("{}{summary}\n", test_summary.times(building));
        let log = cache.logs()?.join("tests.log");
        if let Err(error) = fs::write(&log, times) {
            println!("cannot write {}: {error}", log.display());
        }
    }
    if test_summary.failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("these failed: {}", test_summary.failed.join(", "))
}

/// Runs these jobs and the suites on lab hosts. The suites begin when the set-up of the hosts is complete. The labs are removed
/// afterwards, also if suites fail.
fn with_suites(
    cache: &Cache,
    built: &Built,
    jobs: Vec<Job>,
    arguments: &Arguments,
) -> Result<TestSummary> {
    command::outlive_interrupts();
    let nodelet = built.nodelet()?;
    let run = Suites::run_name();
    let made = Mutex::new(None);
    let place = || made.lock().unwrap_or_else(PoisonError::into_inner);
    let prepare = || {
        let setup = Setup::run(cache)?;
        let suites = suites(&setup, nodelet);
        *place() = Some(setup);
        job::lab(&built.tests, &suites, &arguments.names)
    };
    let take_down = || {
        let setup = place().take();
        setup.map_or(Ok(()), |setup| with_labs(setup, &run, |_| Ok(())))
    };
    run::all(
        jobs,
        Some(Box::new(prepare)),
        Some(Box::new(take_down)),
        arguments.lab_workers,
    )
}

/// The steps to run.
fn chosen(arguments: &Arguments) -> Result<BTreeSet<Step>> {
    let Some(only) = &arguments.only else {
        let all = STEPS.iter().map(|(_, step)| *step);
        return Ok(all
            .filter(|step| !(*step == Step::Lab && arguments.skip_lab))
            .collect());
    };
    let step = STEPS.iter().find(|(name, _)| name == only);
    let (_, step) = step.with_context(|| {
        let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
        format!("there is no step `{only}`; there are {}", names.join(", "))
    })?;
    if !matches!(step, Step::Lab | Step::Tests) && !arguments.names.is_empty() {
        bail!("the step `{only}` takes no names of tests; `tests` and `lab` do");
    }
    Ok(BTreeSet::from([*step]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(skip_lab: bool, only: Option<&str>, names: &[&str]) -> Result<Vec<Step>> {
        let arguments = Arguments {
            skip_lab,
            only: only.map(str::to_owned),
            lab_workers: 1,
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        Ok(chosen(&arguments)?.into_iter().collect())
    }

    #[test]
    fn chooses_steps() {
        use Step::{Clippy, Format, Lab, Micro, Rustdoc, Tests};
        let quick = [Format, Clippy, Rustdoc, Tests, Micro];
        assert_eq!(steps(true, None, &[]).expect("steps"), quick);
        let all = steps(false, None, &[]).expect("steps");
        assert_eq!(all.last(), Some(&Lab));
        assert_eq!(steps(true, Some("lab"), &["faults"]).expect("steps"), [Lab]);
        steps(false, Some("fmt"), &["faults"]).expect_err("it has no tests");
        assert!(
            steps(false, Some("lint"), &[])
                .expect_err("unknown")
                .to_string()
                .contains("clippy")
        );
    }
}
