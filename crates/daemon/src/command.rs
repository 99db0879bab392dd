//! Commands of an operator, which a daemon's program has beside the daemon: what they print, and how they end.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

/// Prints the answer of a command.
///
/// # Errors
/// It cannot be written. A reader that has ended, as `head` does, is no error.
pub fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}

/// The exit code of a command. An error goes to standard error, with its causes.
#[must_use]
pub fn exit_code(program: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: could not {error:#}");
            ExitCode::FAILURE
        }
    }
}
