//! Lowered priority, for work that may use only what the host can spare, and that has no control group to limit it.

use std::ffi::OsStr;
use std::time::Duration;

use child_process::cmd;

/// Deadline of the programs that set a priority.
const LIMIT: Duration = Duration::from_secs(10);

/// Lowers the priority of this process and of what it starts from now on. What cannot be lowered stays as it is.
pub(crate) fn lower() {
    set("10", "3");
}

/// The priority of this process, by `nice`; `None` where the kernel does not tell.
pub(crate) fn own() -> Option<i32> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may have blanks in it; the priority is the 17th field after it (`proc(5)`).
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    fields.nth(16)?.parse().ok()
}

/// Restores the previous priority of this process, for what it starts from now on.
pub(crate) fn restore(priority: i32) {
    set(&priority.to_string(), "0");
}

fn set(nice: &str, class: &str) {
    // Each thread has a priority of its own, which the processes that it starts inherit.
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let own: Vec<_> = threads.flatten().map(|thread| thread.file_name()).collect();
    for words in [
        ["renice", "-n", nice, "-p"].as_slice(),
        ["ionice", "-c", class, "-p"].as_slice(),
    ] {
        let threads = own.iter().map(|thread| thread.as_os_str());
        let arguments = words[1..].iter().map(OsStr::new).chain(threads);
        // Without pipes, so there is nothing to feed and to read.
        let quiet = cmd(words[0], arguments).stdin_null().stdout_null();
        let _ = child_process::start(&quiet.stderr_null())
            .and_then(|running| running.attend(&[], LIMIT, None, [&mut |_| {}, &mut |_| {}]));
    }
}
