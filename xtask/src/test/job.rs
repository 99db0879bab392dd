//! The jobs of a test run: one per test program, one per suite on lab hosts, and cargo's own checks.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Micro, Suites, command};

use super::build::Program;
use crate::repository::cargo;

/// The package with the suites that need labs and machines.
const LAB_SUITES: &str = "lab-suites";
/// Its targets that the step `tests` leaves out.
const SUITES: &str = "suites";
const MICRO: &str = "micro";

/// The environment variable with the path of nodelet for tests of the command line: otherwise they build it (`tests/src/program.rs`).
const BUILT: &str = "NODELET_BUILT_PROGRAM";
/// Prefix of the tests that run only inside a lab host, where the suite `live` starts them.
const INSIDE: &str = "live::inside::";

/// Time limit of a job. A job that hangs is killed and reported as failed.
const LIMIT: Duration = Duration::from_secs(1500);
/// Time limit of jobs that compute: they get the processor only when no suite needs it, so on a slow machine a job of five minutes may take
/// as long as all suites together.
const IDLE_LIMIT: Duration = Duration::from_secs(4200);
/// Time limit for listing the tests of a program.
const LISTS: Duration = Duration::from_secs(30);

/// The jobs that begin first, in this order; all others follow in the order of their names.
///
/// The longest jobs begin early, so that the run does not end with a long job alone. Suites with their own hosts begin before
/// suites that share hosts: a shared host exists until the end of the run, and uses processor time even while no suite uses it.
const FIRST: &[&str] = &[
    // No suite runs beside it, so it runs before the first one.
    "micro",
    "lab: cluster::masters",
    "lab: apply::faults::every_phase",
    "lab: repair::endurance",
    "lab: repair::certificates::certificates_are",
    "lab: repair::fault::faults",
    "lab: repair::fault::another",
    "lab: comms::plane",
    "lab: apply::up",
    "lab: cluster::virtual_ip",
    "lab: cluster::workers",
    "lab: apply::interrupt",
    "lab: apply::preflight",
    "lab: files::bitrot::state::a_role",
    "lab: clean",
    "lab: live::units",
    "lab: files::bitrot",
    "lab: repair::certificates",
    "lab: apply::attempts",
    "lab: repair::eviction",
    "lab: repair::timers",
    "lab: role",
    "lab: files::etcd_backup::schedule",
    "behaviour: crashes",
    "behaviour: repair",
    "behaviour: apply",
    "behaviour: undo",
    "nodelet: nodelet",
    "behaviour: properties",
    "engine: engine",
];

/// Which resource of the machine a job uses; see [`super::schedule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A suite with a lab host: it mostly waits, and its waits have deadlines.
    Lab,
    /// An emulated machine.
    Micro,
    /// A test program that computes.
    Compute,
    /// A cargo command; another one would wait for its lock.
    Cargo,
}

/// Something to run and to judge by its exit code.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) command: Command,
    pub(super) limit: Duration,
    /// What a developer types to run it again.
    pub(super) again: String,
}

impl Job {
    fn cargo(name: &str, words: &[&str]) -> Self {
        let mut command = cargo();
        command.args(words);
        Self {
            name: name.to_owned(),
            kind: Kind::Cargo,
            command,
            limit: IDLE_LIMIT,
            again: format!("cargo xtask test --only {name}"),
        }
    }

    pub(super) fn format() -> Self {
        Self::cargo("fmt", &["fmt", "--all", "--check"])
    }

    pub(super) fn clippy() -> Self {
        let words = ["clippy", "--quiet", "--workspace", "--all-targets"];
        Self::cargo(
            "clippy",
            &[&words[..], &["--", "--deny", "warnings"]].concat(),
        )
    }

    pub(super) fn rustdoc() -> Self {
        let words = ["doc", "--quiet", "--workspace", "--no-deps"];
        let mut job = Self::cargo(
            "rustdoc",
            &[&words[..], &["--document-private-items"]].concat(),
        );
        job.command.env("RUSTDOCFLAGS", "-D warnings");
        job
    }

    /// The job's position in the start order: a lower rank begins earlier.
    pub(super) fn rank(&self) -> usize {
        FIRST
            .iter()
            .position(|long| self.name.starts_with(long))
            .unwrap_or(FIRST.len())
    }

    fn of(program: &Program, name: String, kind: Kind) -> Self {
        let mut command = Command::new(&program.path);
        command
            .current_dir(&program.directory)
            .env("CARGO_MANIFEST_DIR", &program.directory)
            // Snapshots are reviewed by people; a test run never writes one.
            .env("INSTA_UPDATE", "no");
        Self {
            name,
            kind,
            command,
            limit: if kind == Kind::Compute {
                IDLE_LIMIT
            } else {
                LIMIT
            },
            again: format!(
                "cargo test --package {} --test {}",
                program.package, program.target
            ),
        }
    }
}

/// The test programs that need nothing but the checkout, and the examples in docs. With `names`, only the tests whose name contains
/// one of them. Tests of the command line run the program `nodelet`.
pub(super) fn tests(programs: &[Program], nodelet: &Path, names: &[String]) -> Vec<Job> {
    let needs_more = |program: &&Program| [SUITES, MICRO].contains(&program.target.as_str());
    let mut jobs: Vec<Job> = programs
        .iter()
        .filter(|program| !needs_more(program))
        .map(|program| {
            let name = format!("{}: {}", program.package, program.target);
            let mut job = Job::of(program, name, Kind::Compute);
            job.command.args(names).env(BUILT, nodelet);
            job
        })
        .collect();
    if names.is_empty() {
        jobs.push(Job::cargo(
            "doctests",
            &["test", "--quiet", "--workspace", "--doc"],
        ));
    }
    jobs
}

/// The test on an emulated machine.
pub(super) fn micro(programs: &[Program], micro: &Micro) -> Option<Job> {
    let program = find(programs, MICRO)?;
    let mut job = Job::of(program, MICRO.to_owned(), Kind::Micro);
    job.command
        .args(["--include-ignored", "--nocapture"])
        .envs(micro.variables());
    "cargo xtask test --only micro".clone_into(&mut job.again);
    Some(job)
}

/// A job for each suite whose name contains one of `names`; for every suite if there are no names.
///
/// # Errors
/// The program with the suites does not list them, or no suite has such a name.
pub(super) fn lab(programs: &[Program], suites: &Suites, names: &[String]) -> Result<Vec<Job>> {
    let program = find(programs, SUITES).context("cargo built no suites")?;
    let mut list = Command::new(&program.path);
    list.args(["--list", "--format", "terse"]);
    let listing = command::text(&list, LISTS)?;
    let jobs: Vec<Job> = listed(&listing)
        .filter(|suite| !suite.starts_with(INSIDE))
        .filter(|suite| names.is_empty() || names.iter().any(|name| suite.contains(name.as_str())))
        .map(|suite| {
            let mut job = Job::of(program, format!("lab: {suite}"), Kind::Lab);
            job.command
                .args(["--exact", suite, "--include-ignored", "--nocapture"])
                .envs(suites.variables());
            job.again = format!("cargo xtask test --only lab -- {suite}");
            job
        })
        .collect();
    if jobs.is_empty() {
        bail!("no suite has {} in its name", names.join(" or "));
    }
    Ok(jobs)
}

fn find<'a>(programs: &'a [Program], target: &str) -> Option<&'a Program> {
    programs
        .iter()
        .find(|program| program.package == LAB_SUITES && program.target == target)
}

/// The names in a terse list of tests.
fn listed(listing: &str) -> impl Iterator<Item = &str> {
    listing
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn program(package: &str, target: &str) -> Program {
        Program {
            package: package.to_owned(),
            target: target.to_owned(),
            path: PathBuf::from("/t"),
            directory: PathBuf::from("/"),
        }
    }

    #[test]
    fn tests_leave_out_what_needs_hosts_and_machines() {
        let programs = [
            program("engine", "engine"),
            program(LAB_SUITES, SUITES),
            program(LAB_SUITES, MICRO),
            program(LAB_SUITES, "soak"),
        ];
        let nodelet = Path::new("/t/nodelet");
        let names: Vec<String> = tests(&programs, nodelet, &[])
            .into_iter()
            .map(|job| job.name)
            .collect();
        assert_eq!(names, ["engine: engine", "lab-suites: soak", "doctests"]);
    }

    #[test]
    fn lists_tests() {
        let listing = "again::a: test\ncluster::b: test\nbench: benchmark\n";
        assert_eq!(
            listed(listing).collect::<Vec<_>>(),
            ["again::a", "cluster::b"]
        );
    }

    #[test]
    fn early_jobs_are_sorted_first() {
        let rank = |name: &str| Job::cargo(name, &[]).rank();
        assert!(rank("micro") < rank("lab: repair::certificates::x"));
        assert!(rank("lab: repair::fault::faults_x") < rank("lab: files::bitrot::role::y"));
        assert!(rank("lab: repair::endurance::x") < rank("lab: comms::plane::y"));
        assert!(rank("lab: comms::plane::x") < rank("lab: comms::unit::y"));
        assert_eq!(
            rank("lab: repair::fault::what"),
            rank("lab: apply::second_apply::y")
        );
        assert!(rank("lab: files::bitrot::role::y") < rank("lab: apply::second_apply::y"));
        assert_eq!(
            rank("lab: apply::second_apply::y"),
            rank("lab: apply::refusal::z")
        );
    }
}
