//! The docker client, always with the lab's own socket and a deadline.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::command;

/// Where Debian's docker.io puts its client. A newer client may be first on PATH; its protocol is too new for this daemon.
const CLIENT: &str = "/usr/bin/docker";

/// Deadline of a call that does no heavy work.
pub(crate) const SHORT: Duration = Duration::from_secs(60);

/// A docker daemon, reached through its socket.
#[derive(Clone, Debug)]
pub struct Docker {
    socket: PathBuf,
}

impl Docker {
    /// The daemon behind this socket, running or not.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// The daemon's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client command with these arguments, for callers that connect its streams themselves.
    pub fn command<I: AsRef<std::ffi::OsStr>>(&self, arguments: &[I]) -> Command {
        let mut command = Command::new(CLIENT);
        // A context or host that the user has chosen would select another daemon.
        command
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_TLS_VERIFY");
        command
            .arg("-H")
            .arg(format!("unix://{}", self.socket.display()))
            .args(arguments);
        command
    }

    /// True if the daemon answers.
    pub fn answers(&self) -> bool {
        self.socket.exists()
            && self
                .text(&["version", "--format", "{{.Server.Version}}"])
                .is_ok()
    }

    /// Runs a client command and gives what it printed; failure is an error with docker's words.
    pub fn text<I: AsRef<std::ffi::OsStr>>(&self, arguments: &[I]) -> Result<String> {
        command::text(&self.command(arguments), SHORT)
    }

    /// Like [`Self::text`] for calls that move a lot of data.
    pub fn text_within<I: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: &[I],
        limit: Duration,
    ) -> Result<String> {
        command::text(&self.command(arguments), limit)
    }

    /// Runs a client command. Its failure is no error here: the output has the exit status.
    pub fn output<I: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: &[I],
        input: Option<&[u8]>,
        limit: Duration,
    ) -> Result<Output> {
        command::output(&self.command(arguments), input, limit)
    }

    /// What `docker … ls` with a label filter lists, one name per line.
    pub(crate) fn list(&self, arguments: &[&str]) -> Result<Vec<String>> {
        Ok(self.text(arguments)?.lines().map(str::to_owned).collect())
    }

    /// Removes each of `names` with the words in `verb`; collects failures, so that one does not keep the rest alive.
    pub(crate) fn remove(&self, verb: &[&str], names: &[String]) -> Result<()> {
        let mut failures = Vec::new();
        for name in names {
            let words: Vec<&str> = verb.iter().copied().chain([name.as_str()]).collect();
            if let Err(error) = self.text_within(&words, Duration::from_secs(120)) {
                failures.push(format!("{error:#}"));
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            bail!("{}", failures.join("; "))
        }
    }
}
