//! The system calls of a test's own code, in order: for tests of what is on the disk at which time. It needs `strace`.
//!
//! Not here: traces of other programs. Tests of `crates/daemon` (`files`), of the engine (`host::live::files::durable`), of nodelet
//! (`etcd::store`) and of comms (`enroll::install`) use it. Start with [`calls`].

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Set in the traced process: the directory in which it works.
const DIRECTORY: &str = "NODELET_TEST_TRACED_IN";

/// The directory in which the traced process works.
///
/// # Panics
/// This process is not traced.
#[must_use]
pub fn directory() -> PathBuf {
    PathBuf::from(std::env::var_os(DIRECTORY).expect("this process is traced"))
}

/// Runs the test with this full name once more in a traced process, and returns its system calls on its own directory: names and paths, in
/// order. Returns `None` in the traced process, where the test is to do its work in [`directory`].
///
/// # Panics
/// `strace` is not installed, or the test fails.
#[must_use]
pub fn calls(test: &str) -> Option<Vec<String>> {
    if std::env::var_os(DIRECTORY).is_some() {
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let real = directory.path().canonicalize().expect("it is there");
    let log = real.join("trace");
    let output = Command::new("strace")
        .args(["-f", "-y", "-qq", "-s", "0", "-o"])
        .arg(&log)
        .args([
            "-e",
            "trace=write,fsync,fdatasync,syncfs,rename,renameat,renameat2,mkdir,rmdir,unlink,unlinkat",
        ])
        .arg(std::env::current_exe().expect("a test knows its own path"))
        .args(["--exact", test])
        .env(DIRECTORY, &real)
        .output()
        .expect("strace is installed (`apt-get install strace`); `cargo xtask test` does that");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    let text = fs::read_to_string(&log).expect("a trace");
    let within = format!("{}/", real.display());
    let calls = text
        .lines()
        .filter(|line| line.contains(&*real.to_string_lossy()));
    Some(
        calls
            .filter(|line| !line.contains("resumed>"))
            .map(|line| short_call(line, &within))
            .collect(),
    )
}

/// `PID fsync(5</tmp/x/a>) = 0` as `fsync a`; the directory itself is `.`.
fn short_call(line: &str, within: &str) -> String {
    let call = line.trim_start_matches(|one: char| one.is_ascii_digit() || one == ' ');
    let (name, arguments) = call.split_once('(').expect("a call");
    let bare = within.trim_end_matches('/');
    let mut paths = Vec::new();
    for part in arguments.split(['<', '>', '"', ',']) {
        if part == bare {
            paths.push(".");
        } else if let Some(path) = part.strip_prefix(within) {
            paths.push(path);
        }
    }
    // renameat2 and unlinkat also name the directory that a path is relative to.
    format!("{name} {}", paths.join(" "))
}

/// The position of the first call that is wanted.
///
/// # Panics
/// There is none.
pub fn position(calls: &[String], wanted: impl Fn(&str) -> bool, what: &str) -> usize {
    let at = calls.iter().position(|call| wanted(call));
    at.unwrap_or_else(|| panic!("no {what} among {calls:#?}"))
}

/// Whether a call has one of these names and is about this path.
#[must_use]
pub fn is(call: &str, names: &[&str], path: &str) -> bool {
    let (name, paths) = call.split_once(' ').unwrap_or((call, ""));
    names.contains(&name) && paths.split(' ').any(|one| one == path)
}

/// Calls that give a file its name.
pub const RENAMES: &[&str] = &["rename", "renameat", "renameat2"];
/// Calls that bring a file to the disk.
pub const SYNCS: &[&str] = &["fsync", "fdatasync"];
