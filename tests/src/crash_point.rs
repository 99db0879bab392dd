//! Interrupted runs: the states in which a host is left by a program that ends in the middle of its work.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::host::fake::{Call, FakeHost};
use engine::host::partial_file;
use engine::model::STATE;

/// Where a run was interrupted, and the host that it left.
pub struct CrashPoint {
    /// Between which calls.
    pub place: String,
    /// The host, for a new program to start on.
    pub host: FakeHost,
}

impl Debug for CrashPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place)
    }
}

impl CrashPoint {
    /// Every place at which the calls on a host since [`FakeHost::with_history`] could have been interrupted: before the first
    /// mutating call, between any two, and within each write of a file. Calls that changed nothing are left out: the world is the
    /// same before and after them.
    #[must_use]
    pub fn all(host: &FakeHost) -> Vec<Self> {
        let calls = host.mutating_calls();
        let mut worlds = host.past();
        assert_eq!(calls.len(), worlds.len(), "the past has every call");
        worlds.push(host.fork());
        let mut points = Vec::new();
        for (n, pair) in worlds.windows(2).enumerate() {
            let (before, after) = (&pair[0], &pair[1]);
            let call = format!("call {}, {} {}", n + 1, calls[n].name, calls[n].argument);
            if n == 0 {
                points.push(Self {
                    place: format!("before {call}"),
                    host: before.fork(),
                });
            }
            if let Some(host) =
                partly_appended(before, after, n).or_else(|| half_written(before, &calls[n]))
            {
                points.push(Self {
                    place: format!("within {call}"),
                    host,
                });
            }
            points.push(Self {
                place: format!("after {call}"),
                host: after.fork(),
            });
        }
        points
    }
}

/// The world in which a file was written half under its temporary name, and not renamed yet.
fn half_written(before: &FakeHost, call: &Call) -> Option<FakeHost> {
    if call.name != "write" {
        return None;
    }
    let host = before.fork();
    let sibling = partial_file(Path::new(&call.argument));
    host.with_world_mut(|world| world.file_with_mode(sibling, "half", 0o600));
    Some(host)
}

/// The world in which only a part of what was appended to the ledger was written: in turn one byte, half of it, all but the end of
/// the line.
fn partly_appended(before: &FakeHost, after: &FakeHost, n: usize) -> Option<FakeHost> {
    let ledger = Path::new(STATE).join("ledger.jsonl");
    let text = |host: &FakeHost| host.with_world(|world| world.text(&ledger));
    let (old, new) = (text(before)?, text(after)?);
    let line = new.strip_prefix(&old).filter(|line| !line.is_empty())?;
    let arrived = [1, line.len() / 2, line.len() - 1][n % 3];
    let host = before.fork();
    // The ledger may hold more than ASCII, and an interruption may split a character.
    let bytes = &new.as_bytes()[..old.len() + arrived];
    host.with_world_mut(|world| world.file_with_mode(&ledger, bytes, 0o600));
    Some(host)
}

/// Whether all cases are tried, however long that takes: `NODELET_SOAK` is set.
#[must_use]
pub fn soaks() -> bool {
    std::env::var_os("NODELET_SOAK").is_some_and(|value| value != "0" && !value.is_empty())
}

/// Every `nth` one; all if `NODELET_SOAK` is set.
#[must_use]
pub fn sample<T>(all: Vec<T>, nth: usize) -> Vec<T> {
    let step = if soaks() { 1 } else { nth };
    all.into_iter().step_by(step).collect()
}

fn panicked(one: &impl Debug) -> String {
    format!("a panic, printed above, with {one:?}")
}

/// Tries each of them, on all processors, and fails with all problems that were found.
///
/// # Panics
/// There are problems.
pub fn try_each<T: Debug + Sync>(all: &[T], attempt: impl Fn(&T) -> Vec<String> + Sync) {
    let problems = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let attempt = AssertUnwindSafe(|| attempt(one));
                    let found = catch_unwind(attempt).unwrap_or_else(|_| vec![panicked(one)]);
                    problems
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .extend(found);
                }
            });
        }
    });
    let problems = problems
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    assert!(
        problems.is_empty(),
        "{} problems in {} tries:\n{}",
        problems.len(),
        all.len(),
        problems[..problems.len().min(20)].join("\n")
    );
}

/// The differences of two lists of lines: `-` what is missing, `+` what is new.
#[must_use]
pub fn differences(wanted: &[String], found: &[String]) -> Vec<String> {
    let missing = wanted.iter().filter(|line| !found.contains(line));
    let new = found.iter().filter(|line| !wanted.contains(line));
    let lines = missing
        .map(|line| format!("- {line}"))
        .chain(new.map(|line| format!("+ {line}")));
    lines.collect()
}
