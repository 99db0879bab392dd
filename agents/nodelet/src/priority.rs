//! Lowered priority, for what may not cost the host more than it has to spare and finds no control group that says so.

use std::process::{Command, Stdio};

/// Lowers the priority of this process and of what it starts from now on. What cannot be lowered stays as it is.
pub(crate) fn lower() {
    let own = std::process::id().to_string();
    for words in [
        ["renice", "-n", "10", "-p"].as_slice(),
        ["ionice", "-c", "3", "-p"].as_slice(),
    ] {
        let _ = Command::new(words[0])
            .args(&words[1..])
            .arg(&own)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}
