//! Lowered priority, for work that may use only what the host can spare, and that has no control group to limit it.

use std::process::{Command, Stdio};

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
        let _ = Command::new(words[0])
            .args(&words[1..])
            .args(&own)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}
