//! Exit codes, as documented in the README.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is as it should be.
    Ok,
    /// Something failed; what was wrong has been told.
    Failed,
    /// Changes are pending, the run was interrupted, or a check does not hold.
    Pending,
    /// The arguments are wrong (`EX_USAGE` of sysexits.h).
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Pending => 2,
            Exit::Usage => 64,
        })
    }
}

/// Arguments that do not go together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUsage(pub(crate) String);

/// The code for an error.
pub(crate) fn of(error: &anyhow::Error) -> Exit {
    if error.is::<engine::exec::SelectionError>() || error.is::<WrongUsage>() {
        Exit::Usage
    } else {
        Exit::Failed
    }
}
