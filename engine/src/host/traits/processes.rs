//! Commands.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::HostResult;

/// A command to run. No shell is involved; secrets belong on `stdin`, never in `argv`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSpec {
    /// Program and arguments. The program is looked up in a fixed PATH.
    pub argv: Vec<String>,
    /// Variables added to a minimal environment (PATH, LANG=C.UTF-8, HOME=/root).
    pub env: BTreeMap<String, String>,
    /// What is written to its standard input.
    pub stdin: Vec<u8>,
    /// After this long its whole process group is killed.
    pub timeout: Duration,
    /// Standard output longer than this many bytes is an error. Without this limit only the end of the output is kept. That is good for
    /// messages only: output without its beginning cannot be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_output: Option<usize>,
    /// The command only reads, and its output holds for one look at the host: a [`View`](crate::host::View) runs it once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached_per_pass: bool,
}

impl CommandSpec {
    /// A command without input, with a timeout of one minute.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            stdin: Vec::new(),
            timeout: Duration::from_secs(60),
            complete_output: None,
            cached_per_pass: false,
        }
    }

    /// The same command, whose output will be evaluated: the whole output, or an error.
    #[must_use]
    pub fn complete_output(mut self) -> Self {
        self.complete_output = Some(CommandOutput::WHOLE);
        self
    }

    /// The same command, run once for all callers in one look at the host.
    #[must_use]
    pub fn cached_per_pass(mut self) -> Self {
        self.cached_per_pass = true;
        self
    }

    /// The same command with another timeout.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The command line for messages.
    #[must_use]
    pub fn display(&self) -> String {
        self.argv.join(" ")
    }
}

/// The result of a command. Output beyond [`CommandOutput::LIMIT`] per stream is dropped from the front, unless the command asks for its
/// [complete](CommandSpec::complete_output) output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOutput {
    /// Exit status; negative is the signal that ended it.
    pub status: i32,
    /// Standard output, or its tail.
    pub stdout: String,
    /// Tail of standard error.
    pub stderr: String,
}

impl CommandOutput {
    /// Bytes kept of each stream.
    pub const LIMIT: usize = 256 * 1024;

    /// Most bytes of an output that is evaluated: several hundred thousand rules of the packet filter.
    pub const WHOLE: usize = 64 * 1024 * 1024;

    /// Whether the command said it did its work.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// A process that a signal has stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoppedProcess {
    /// Its number.
    pub pid: u32,
    /// The name of its program, as the kernel keeps it: 15 bytes at most.
    pub name: String,
    /// Its control groups, as `/proc/PID/cgroup` shows them.
    pub groups: String,
}

impl StoppedProcess {
    /// Whether one of its control groups is the one of this unit, or below it.
    #[must_use]
    pub fn is_of_unit(&self, unit: &str) -> bool {
        let mut lines = self.groups.lines();
        lines.any(|line| line.split('/').any(|part| part == unit))
    }
}

/// A `containerd-shim` that a signal has stopped. docker ends a container through the container's shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedShim {
    /// Its process id.
    pub pid: u32,
    /// The id of its container.
    pub container: String,
}

/// Runs commands.
#[async_trait::async_trait]
pub trait Processes {
    /// Runs a command in its own process group and waits for it. At the timeout, and when the future is dropped, the whole group is killed.
    /// Returns the output for any exit status.
    ///
    /// # Errors
    /// The program cannot be started, or the deadline passed.
    async fn run(&self, command: &CommandSpec) -> HostResult<CommandOutput>;

    /// Like [`Processes::run`], but an exit status other than 0 is an error that carries the tail of stderr.
    async fn run_ok(&self, command: &CommandSpec) -> HostResult<CommandOutput> {
        let output = self.run(command).await?;
        if output.success() {
            return Ok(output);
        }
        let said = if output.stderr.trim().is_empty() {
            &output.stdout
        } else {
            &output.stderr
        };
        let lines: Vec<&str> = said.trim().lines().collect();
        Err(crate::host::HostError::Exit {
            command: command.display(),
            status: output.status,
            stderr: lines[lines.len().saturating_sub(5)..].join("; "),
        })
    }

    /// The processes that a signal has stopped (SIGSTOP). Such a process answers nothing until it is continued or killed. Cancel safe.
    async fn stopped_processes(&self) -> HostResult<Vec<StoppedProcess>>;

    /// The shims of containers that a signal has stopped (SIGSTOP). Cancel safe.
    async fn stopped_shims(&self) -> HostResult<Vec<StoppedShim>>;

    /// Whether a program of this name is on the fixed PATH.
    async fn has_program(&self, name: &str) -> HostResult<bool>;
}
