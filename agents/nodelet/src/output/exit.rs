//! Exit codes, as documented in the README.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is as it should be.
    Ok,
    /// Something failed; the error has been reported.
    Failed,
    /// Changes are pending, the run was interrupted, or a check does not hold.
    Pending,
    /// The arguments are wrong (`EX_USAGE` of sysexits.h).
    Usage,
    /// Another command works on the host (`EX_TEMPFAIL`).
    Busy,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Pending => 2,
            Self::Usage => 64,
            Self::Busy => 75,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Arguments that the parser takes one by one, and that are wrong together or for this command. The text says what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongArguments(pub(crate) String);

/// The code for an error.
pub(crate) fn of(error: &anyhow::Error) -> Exit {
    if error.is::<engine::exec::SelectionError>() || error.is::<WrongArguments>() {
        Exit::Usage
    } else if error.is::<crate::process::lock::Busy>() {
        Exit::Busy
    } else {
        Exit::Failed
    }
}
