//! Commands on the machine.
//!
//! `age` tells when a process or a unit began, by clocks that cannot be set. `stopped` finds processes that a signal has stopped: they do
//! no work, and do not end by themselves; `shim` tells which of them are shims of containers.
//!
//! Not here: how a child is started and killed with its process group (`crates/child-process`), and units (`systemd`). Start with this
//! file.

pub(in crate::host::live) mod age;
mod shim;
pub(in crate::host::live) mod stopped;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use child_process::{Running, Sink, Tail, cmd};

use super::LiveHost;
use super::blocking::blocking;
use crate::host::{
    CommandOutput, CommandSpec, HostError, HostResult, Processes, StoppedProcess, StoppedShim,
};

/// Where programs are looked up: those that we start, and those that they start.
const PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/pf9/pf9-kube/bin";

/// How long a pipe may stay open after the command itself has ended.
const LINGER: Duration = Duration::from_secs(1);

#[async_trait::async_trait]
impl Processes for LiveHost {
    async fn run(&self, command: &CommandSpec) -> HostResult<CommandOutput> {
        let spec = command.clone();
        // If this future is dropped in the meantime, the result of the task is dropped too, and with it the group.
        let (running, spec) = blocking(move || Ok((start(&spec)?, spec))).await?;
        // Kills the group if this future is dropped.
        let _group = running.guard();
        blocking(move || attend(running, &spec)).await
    }

    async fn stopped_processes(&self) -> HostResult<Vec<StoppedProcess>> {
        blocking(|| {
            crate::host::live::process::stopped::stopped_processes()
                .map_err(|error| HostError::service("list the processes of this host", error))
        })
        .await
    }

    async fn stopped_shims(&self) -> HostResult<Vec<StoppedShim>> {
        blocking(|| {
            shim::stopped_shims()
                .map_err(|error| HostError::service("list the processes of this host", error))
        })
        .await
    }

    async fn has_program(&self, name: &str) -> HostResult<bool> {
        let name = name.to_owned();
        blocking(move || Ok(find(&name).is_some())).await
    }
}

fn start(spec: &CommandSpec) -> HostResult<Running> {
    let Some((name, arguments)) = spec.argv.split_first() else {
        return Err(spawn_error("", io::ErrorKind::InvalidInput.into()));
    };
    let program = find(name).ok_or_else(|| {
        let said = format!("there is no such program in {PATH}");
        spawn_error(name, io::Error::new(io::ErrorKind::NotFound, said))
    })?;
    let environment = [("PATH", PATH), ("LANG", "C.UTF-8"), ("HOME", "/root")];
    let environment = environment
        .into_iter()
        .chain(spec.env.iter().map(|(key, value)| (&**key, &**value)));
    let command = cmd(program, arguments).dir("/").full_env(environment);
    child_process::piped(&command, !spec.stdin.is_empty())
        .map_err(|source| spawn_error(name, source))
}

/// Feeds and reads until the command has ended and its pipes are closed. A grandchild that keeps a pipe open gets no longer than [`LINGER`]
/// and is then killed with its group.
fn attend(running: Running, command: &CommandSpec) -> HostResult<CommandOutput> {
    let mut stdout = Tail::new(command.complete_output.unwrap_or(CommandOutput::LIMIT));
    let mut stderr = Tail::new(CommandOutput::LIMIT);
    let sinks: [Sink<'_>; 2] = [&mut |part| stdout.push(part), &mut |part| stderr.push(part)];
    let ended = running.attend(&command.stdin, command.timeout, Some(LINGER), sinks);
    let output = |status| CommandOutput {
        status,
        stdout: stdout.text(),
        stderr: stderr.text(),
    };
    match ended {
        Ok(Some(_)) if command.complete_output.is_some() && stdout.is_cut() => {
            Err(HostError::TooMuch {
                who: format!("`{}`", command.display()),
                limit: command.complete_output.unwrap_or_default(),
            })
        }
        Ok(Some(status)) => {
            let signal = || -status.signal().unwrap_or_default();
            Ok(output(status.code().unwrap_or_else(signal)))
        }
        Ok(None) => Err(too_late(command, &output(0))),
        Err(source) => Err(HostError::service(
            format!("wait for `{}`", command.display()),
            source,
        )),
    }
}

/// The deadline passed. The last output of the command often says what it was waiting for.
fn too_late(command: &CommandSpec, output: &CommandOutput) -> HostError {
    let said = format!("{}\n{}", output.stdout, output.stderr);
    let words = said.lines().rev().find(|line| !line.trim().is_empty());
    let words = words.map_or_else(String::new, |line| {
        format!(" (last it said: {})", line.trim())
    });
    HostError::Deadline {
        action: format!("run `{}`{words}", command.display()),
        after: command.timeout,
    }
}

fn spawn_error(program: &str, source: io::Error) -> HostError {
    HostError::Spawn {
        program: program.to_owned(),
        source,
    }
}

/// An executable file of this name on [`PATH`]; a name with a slash is a path.
fn find(name: &str) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|there| there.is_file() && there.permissions().mode() & 0o111 != 0)
    };
    if name.is_empty() {
        return None;
    }
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(executable);
    }
    PATH.split(':')
        .map(|directory| Path::new(directory).join(name))
        .find(executable)
}
