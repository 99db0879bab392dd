//! Runs jobs in parallel, reports how each ended, and counts the tests.

use std::collections::VecDeque;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::command;

use super::job::{Job, Kind};
use super::schedule::{Limits, processors};

/// How the jobs ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TestSummary {
    /// The names of the jobs that failed.
    pub(super) failed: Vec<String>,
    counts: Counts,
    /// How long each job took, with its name.
    took: Vec<(Duration, String)>,
}

/// The numbers of tests, as their programs report them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    /// Tests that need another environment, and soaks.
    skipped: u64,
}

impl TestSummary {
    /// A line for the build and for each job with its time in seconds, the longest first.
    pub(super) fn times(&self, building: Duration) -> String {
        let mut took = self.took.clone();
        took.push((building, "build".to_owned()));
        took.sort_by(|a, b| b.cmp(a));
        let lines = took.into_iter();
        lines
            .map(|(took, name)| format!("{:>7.1}  {name}\n", took.as_secs_f64()))
            .collect()
    }

    /// The last lines of a run.
    pub(super) fn summary(&self, took: Duration) -> String {
        let Counts {
            passed,
            failed,
            skipped,
        } = self.counts;
        format!(
            "\nAll checks took {:.0} s.\ntests: {passed} passed, {failed} failed, {skipped} skipped",
            took.as_secs_f64()
        )
    }
}

/// Runs one job alone, before all others.
///
/// # Errors
/// It failed.
pub(super) fn at_once(job: &Job) -> Result<()> {
    println!("==> {}", job.name);
    if command::streaming(&job.command, job.limit)?.success() {
        return Ok(());
    }
    bail!("`{}` failed; repeat it with `{}`", job.name, job.again)
}

/// Makes more jobs, while others run already.
pub(super) type Later<'a> = Box<dyn FnOnce() -> Result<Vec<Job>> + Send + 'a>;

/// Called when the last suite on a lab host has ended, so that hosts are removed while other jobs still compute.
pub(super) type Over<'a> = Box<dyn FnOnce() -> Result<()> + Send + 'a>;

/// Messages from the threads.
enum Message {
    /// These jobs can be run as well.
    Jobs(Result<Vec<Job>>),
    Ended(Box<Job>, Result<Output>, Duration),
    /// The call after the last suite has ended.
    Over(Result<()>),
}

/// Runs all jobs, and those that `later` makes, each as soon as the limits allow it. A failure is reported at once and does not
/// stop other jobs.
///
/// # Errors
/// `later` or `over` failed, or there was an interrupt.
pub(super) fn all(
    mut jobs: Vec<Job>,
    later: Option<Later<'_>>,
    mut over: Option<Over<'_>>,
    lab_workers: usize,
) -> Result<TestSummary> {
    let limits = Limits {
        lab: lab_workers.max(1),
        compute: processors(),
    };
    // Jobs that compute yield to jobs that have deadlines.
    let yields = later.is_some() || jobs.iter().any(|job| job.kind == Kind::Micro);
    jobs.sort_by_key(Job::rank);
    let mut total = jobs.len();
    let mut pending = VecDeque::from(jobs);
    let mut running: Vec<Kind> = Vec::new();
    let mut test_summary = TestSummary::default();
    let mut ended = 0;
    let mut preparing = later.is_some();
    let mut ending = false;
    let mut failure = Ok(());
    let (tell, messages) = mpsc::channel();
    thread::scope(|scope| {
        if let Some(later) = later {
            let tell = tell.clone();
            // The receiver lives until every thread has sent its message.
            scope.spawn(move || drop(tell.send(Message::Jobs(later()))));
        }
        loop {
            if command::was_interrupted() {
                pending.clear();
            }
            while let Some(at) = pending
                .iter()
                .position(|job| limits.allow(job.kind, &running))
            {
                let Some(job) = pending.remove(at) else { break };
                running.push(job.kind);
                let tell = tell.clone();
                scope.spawn(move || {
                    let began = Instant::now();
                    let output = execute(&job, yields);
                    drop(tell.send(Message::Ended(Box::new(job), output, began.elapsed())));
                });
            }
            let has_suites =
                pending.iter().any(|job| job.kind == Kind::Lab) || running.contains(&Kind::Lab);
            if !preparing
                && !has_suites
                && let Some(over) = over.take()
            {
                ending = true;
                let tell = tell.clone();
                scope.spawn(move || drop(tell.send(Message::Over(over()))));
            }
            if running.is_empty() && !preparing && !ending {
                break;
            }
            match messages.recv().context("a job ended without a message")? {
                Message::Jobs(Ok(more)) => {
                    preparing = false;
                    total += more.len();
                    pending.extend(more);
                    pending.make_contiguous().sort_by_key(Job::rank);
                }
                Message::Jobs(Err(error)) => {
                    preparing = false;
                    failure = Err(error);
                }
                Message::Over(result) => {
                    ending = false;
                    failure = failure.and(result);
                }
                Message::Ended(job, output, took) => {
                    let place = running.iter().position(|kind| *kind == job.kind);
                    running.swap_remove(place.context("a job ended that did not run")?);
                    ended += 1;
                    test_summary.note(&job, output, took, &format!("{ended}/{total}"));
                }
            }
        }
        failure?;
        if command::was_interrupted() {
            bail!("interrupted; {ended} of {total} checks had ended");
        }
        Ok(test_summary)
    })
}

/// Runs a job, at idle priority if `yields` is true and the job computes.
fn execute(job: &Job, yields: bool) -> Result<Output> {
    let idle = yields && matches!(job.kind, Kind::Compute | Kind::Cargo);
    let lowered = idle.then(|| lowered(&job.command));
    command::output(lowered.as_ref().unwrap_or(&job.command), None, job.limit)
}

/// The same program with the same arguments, environment and directory, at idle priority.
fn lowered(command: &Command) -> Command {
    let mut chrt = Command::new("chrt");
    chrt.args(["--idle", "0"]).arg(command.get_program());
    chrt.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => chrt.env(name, value),
            None => chrt.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        chrt.current_dir(directory);
    }
    chrt
}

impl TestSummary {
    fn note(&mut self, job: &Job, output: Result<Output>, took: Duration, place: &str) {
        let (passed, text) = match output {
            Ok(output) => (
                output.status.success(),
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            ),
            Err(error) => (false, format!("{error:#}")),
        };
        let counts = Counts::of(&text);
        self.counts.add(counts);
        self.took.push((took, job.name.clone()));
        let seconds = took.as_secs_f64();
        if passed {
            println!("[{place}] ok {:>6.1} s  {}", seconds, job.name);
            return;
        }
        println!("[{place}] FAILED after {seconds:.1} s: {}", job.name);
        println!("{}\nrepeat it with `{}`\n", text.trim_end(), job.again);
        if counts.failed == 0 {
            self.counts.failed += 1;
        }
        self.failed.push(job.name.clone());
    }
}

impl Counts {
    /// The sum of the result lines in the output of a test program.
    fn of(text: &str) -> Self {
        let mut counts = Self::default();
        for line in text.lines() {
            let Some((_, result)) = line.split_once("test result: ") else {
                continue;
            };
            for part in result.split([';', '.']) {
                let mut words = part.split_whitespace();
                let (number, what) = (words.next(), words.next());
                let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) else {
                    continue;
                };
                match what {
                    Some("passed") => counts.passed += number,
                    Some("failed") => counts.failed += number,
                    Some("ignored") => counts.skipped += number,
                    _ => {}
                }
            }
        }
        counts
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn job(name: &str, kind: Kind, script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job {
            name: name.to_owned(),
            kind,
            command,
            limit: Duration::from_secs(20),
            again: "sh".to_owned(),
        }
    }

    #[test]
    fn counts_what_programs_say() {
        let text = "running 3 tests\n\ntest result: ok. 8 passed; 0 failed; 2 ignored; 0 measured; 4 filtered out; finished in 2.11s\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let counts = Counts::of(text);
        assert_eq!((counts.passed, counts.failed, counts.skipped), (9, 1, 2));
    }

    #[test]
    fn times_begin_with_the_longest() {
        let took = |seconds, name: &str| (Duration::from_secs(seconds), name.to_owned());
        let test_summary = TestSummary {
            took: vec![took(2, "quick"), took(466, "lab: masters")],
            ..TestSummary::default()
        };
        assert_eq!(
            test_summary.times(Duration::from_secs(30)),
            "  466.0  lab: masters\n   30.0  build\n    2.0  quick\n"
        );
    }

    #[test]
    fn a_failure_is_reported_and_does_not_stop_other_jobs() {
        let passing = "echo 'test result: ok. 2 passed; 0 failed; 1 ignored'";
        let jobs = vec![
            job("bad", Kind::Compute, "echo oh; exit 1"),
            job("good", Kind::Lab, passing),
            job("late", Kind::Compute, passing),
            job("lost", Kind::Compute, "kill -9 $$"),
        ];
        let mut test_summary = all(jobs, None, None, 1).expect("they run");
        test_summary.failed.sort();
        assert_eq!(test_summary.failed, ["bad", "lost"]);
        assert_eq!(test_summary.times(Duration::ZERO).lines().count(), 5);
        let counts = test_summary.counts;
        assert_eq!((counts.passed, counts.failed, counts.skipped), (4, 2, 2));
        assert!(
            test_summary
                .summary(Duration::ZERO)
                .ends_with("\ntests: 4 passed, 2 failed, 2 skipped")
        );
    }

    #[test]
    fn a_timer_added_later_runs_and_its_errors_are_reported() {
        let first = || vec![job("first", Kind::Compute, "true")];
        let later: Later<'_> = Box::new(|| Ok(vec![job("bad", Kind::Lab, "false")]));
        let test_summary = all(first(), Some(later), None, 1).expect("they run");
        assert_eq!(test_summary.failed, ["bad"]);
        let later: Later<'_> = Box::new(|| bail!("no host image"));
        let error = all(first(), Some(later), None, 1).expect_err("it is told");
        assert_eq!(error.to_string(), "no host image");
    }

    #[test]
    fn the_later_job_starts_after_the_last_suite() {
        let directory = tempfile::tempdir().expect("a directory");
        let mark = directory.path().join("over");
        let waits = format!("until test -e {}; do sleep 0.05; done", mark.display());
        let jobs = vec![
            job("computes", Kind::Compute, &waits),
            job("suite", Kind::Lab, ""),
            job(
                "other suite",
                Kind::Lab,
                &format!("! test -e {}", mark.display()),
            ),
        ];
        let over: Over<'_> = Box::new(|| std::fs::write(&mark, "").context("the mark"));
        let test_summary = all(jobs, None, Some(over), 1).expect("they run");
        assert_eq!(test_summary.failed, [""; 0]);
        let over: Over<'_> = Box::new(|| bail!("hosts stay"));
        let error = all(vec![job("suite", Kind::Lab, "")], None, Some(over), 1);
        let error = error.expect_err("it is told").to_string();
        assert!(error.contains("hosts stay"), "{error}");
    }

    #[test]
    fn a_job_that_hangs_is_ended() {
        let mut hangs = job("hangs", Kind::Lab, "sleep 60");
        hangs.limit = Duration::from_millis(200);
        let test_summary = all(vec![hangs], None, None, 1).expect("it runs");
        assert_eq!(test_summary.failed, ["hangs"]);
    }
}
