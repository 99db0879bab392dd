//! The system calls of a test's own code, in order: for tests of what is on the disk at which time. And kills at each of them: for tests of what a
//! crash leaves. It needs `strace`.
//!
//! Not here: traces of other programs. Tests of `crates/daemon` (`files`), of the engine (`host::live::files::durable`), of nodelet
//! (`etcd::store`) and of comms (`enroll::install`, `enroll::crashes`) use it. Start with [`calls`].

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Set in the traced process: the directory in which it works.
const DIRECTORY: &str = "NODELET_TEST_TRACED_IN";
/// System calls that change a file or a name. The one that makes a file (`openat`) is not among them, because most of its kind only read: what it has made is
/// there at the next call.
const CHANGES: &[&str] = &[
    "chmod",
    "chown",
    "fchmod",
    "fchown",
    "mkdir",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "symlink",
    "unlink",
    "unlinkat",
    "write",
];
/// More calls of `write` than the harness of tests makes in its own thread. strace counts the calls of each thread.
const WRITES_OF_HARNESS: usize = 16;
/// More calls of one kind than a test makes in a process that is killed.
const MOST_CALLS: usize = 500;
/// SIGKILL.
const KILL: i32 = 9;

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
    if is_traced() {
        return None;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let real = directory.path().canonicalize().expect("it is there");
    let log = real.join("trace");
    let output = run(
        test,
        &real,
        &[
            "-y",
            "-s",
            "0",
            "-o",
            log.to_str().expect("its path is text"),
            "-e",
            "trace=write,fsync,fdatasync,syncfs,rename,renameat,renameat2,mkdir,rmdir,unlink,unlinkat",
        ],
    );
    assert_passed(&output);
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

/// Runs the test with this full name in traced processes that are killed: each of them right before another one of the system calls that change files. Before each
/// run, `prepare` gets the directory of the process, which is empty. After each kill, `check` gets it, with the name of the call and its number among those of
/// this name. Returns how many kills there were, or `None` in the traced process, where the test is to do its work in [`directory`], in its own thread.
///
/// # Panics
/// `strace` is not installed, or the test fails in a process that was not killed.
#[must_use]
pub fn kills(
    test: &str,
    prepare: impl Fn(&Path),
    mut check: impl FnMut(&Path, &str),
) -> Option<usize> {
    if is_traced() {
        // From here on, a call of `write` with a higher number is one of the test.
        let nowhere = File::options().write(true).open("/dev/null");
        let mut nowhere = nowhere.expect("a device");
        for _ in 0..WRITES_OF_HARNESS {
            nowhere.write_all(b" ").expect("it is written");
        }
        return None;
    }
    let mut count = 0;
    for name in CHANGES {
        let first = match *name {
            "write" => WRITES_OF_HARNESS + 1,
            _ => 1,
        };
        for at in first.. {
            assert!(at < MOST_CALLS, "{name}: each process is killed");
            let directory = tempfile::tempdir().expect("a directory");
            let real = directory.path().canonicalize().expect("it is there");
            prepare(&real);
            let trace = format!("trace={name}");
            let inject = format!("inject={name}:signal=KILL:when={at}");
            let options = [
                "-o",
                "/dev/null",
                "-e",
                trace.as_str(),
                "-e",
                inject.as_str(),
            ];
            let output = run(test, &real, &options);
            if output.status.signal() != Some(KILL) {
                assert_passed(&output);
                break;
            }
            count += 1;
            check(&real, &format!("{name} {at}"));
        }
    }
    Some(count)
}

fn is_traced() -> bool {
    std::env::var_os(DIRECTORY).is_some()
}

/// Runs the test with this full name in a process that works in this directory. strace traces it with these options, and ends as the process ends.
fn run(test: &str, directory: &Path, options: &[&str]) -> Output {
    Command::new("strace")
        .args(["-f", "-qq"])
        .args(options)
        .arg(std::env::current_exe().expect("a test knows its own path"))
        .args(["--exact", test])
        .env(DIRECTORY, directory)
        .output()
        .expect("strace is installed (`apt-get install strace`); `cargo xtask test` does that")
}

fn assert_passed(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_killed_before_each_call_that_changes_files() {
        let test = "tests::a_process_is_killed_before_each_call_that_changes_files";
        let prepare = |directory: &Path| {
            fs::write(directory.join("a"), "before").expect("it is written");
        };
        let mut seen = Vec::new();
        let check = |directory: &Path, call: &str| {
            let content = |name: &str| fs::read_to_string(directory.join(name)).ok();
            let (kind, _) = call.split_once(' ').expect("a name and a number");
            seen.push((kind.to_owned(), content("a"), content("b")));
        };
        let Some(count) = kills(test, prepare, check) else {
            let (from, to) = (directory().join("a"), directory().join("b"));
            fs::rename(&from, &to).expect("it is there");
            fs::write(&from, "after").expect("it is written");
            fs::remove_file(&to).expect("it is there");
            return;
        };
        let text = |its: &str| Some(its.to_owned());
        let wanted = [
            ("rename", text("before"), None),
            ("unlink", text("after"), text("before")),
            ("write", text(""), text("before")),
        ];
        let wanted = wanted.map(|(call, a, b)| (call.to_owned(), a, b));
        assert_eq!(seen, wanted);
        assert_eq!(count, wanted.len());
    }
}
