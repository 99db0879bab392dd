//! Commands on a host, of a master and of a worker alike.

use std::process::Output;
use std::time::{Duration, Instant};

use lab::package::ROLE;
use lab::{Host, Image};

use crate::run::Run;

/// Time limit of one run of nodelet.
const LIMIT: Duration = Duration::from_secs(900);
/// Time limit on a virtual machine, whose every instruction is emulated.
const EMULATED: Duration = Duration::from_secs(1800);
/// Time limit of any other command.
const SHORT: Duration = Duration::from_secs(400);
/// Time limit of one look while something is waited for: a look that hangs must not use up the wait.
const LOOK: Duration = Duration::from_secs(120);

/// Time limit of one run of nodelet on this host.
pub(super) fn limit(host: &Host) -> Duration {
    match host.image() {
        Image::Machine => EMULATED,
        Image::Bare | Image::NoDocker | Image::Plane => LIMIT,
    }
}

/// Runs nodelet.
pub(super) fn nodelet(host: &Host, words: &[&str]) -> Run {
    let began = Instant::now();
    let all: Vec<&str> = ["nodelet"].iter().chain(words).copied().collect();
    let output = host
        .exec_within(&all, None, limit(host))
        .expect("the host runs commands");
    Run::of(&all.join(" "), &output, began.elapsed())
}

/// `nodelet apply --json` with more arguments.
pub(super) fn apply(host: &Host, words: &[&str]) -> Run {
    let all: Vec<&str> = ["apply", "--role", ROLE, "--json"]
        .iter()
        .chain(words)
        .copied()
        .collect();
    nodelet(host, &all)
}

/// Runs a shell script on the host. Its failure is no error here.
pub(crate) fn try_sh(host: &Host, script: &str) -> Output {
    host.exec_within(&["bash", "-c", script], None, SHORT)
        .expect("the host runs commands")
}

/// Runs a shell script that must succeed and gives what it printed.
#[track_caller]
pub(crate) fn sh(host: &Host, script: &str) -> String {
    let output = try_sh(host, &format!("set -e -o pipefail\n{script}"));
    let out = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "on the host this failed ({}):\n{script}\n{out}\n{error}",
        output.status
    );
    out
}

/// Waits until a shell script succeeds.
#[track_caller]
pub(crate) fn wait_for(host: &Host, what: &str, script: &str, limit: Duration) {
    let mut unanswered = String::new();
    let seen = crate::poll(limit, || {
        let look = host.exec_within(&["bash", "-c", script], None, LOOK);
        match look {
            Ok(output) => output.status.success().then_some(()),
            // An emulated machine that boots may be too slow to answer at all.
            Err(error) => {
                unanswered = format!("; last: {error:#}");
                None
            }
        }
    });
    assert!(
        seen.is_some(),
        "{what}: not within {} s: {script}{unanswered}",
        limit.as_secs()
    );
}

/// Prints what these scripts say, because a suite has failed.
pub(crate) fn explain_failure(host: &Host, scripts: &[&str]) {
    eprintln!("the host {} after its suite failed:", host.container());
    for script in scripts {
        let output = host.exec(&["sh", "-c", script]);
        let text =
            output.map(|o| String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned());
        eprintln!(
            "# {script}\n{}",
            text.unwrap_or_else(|error| format!("{error:#}"))
        );
    }
}
