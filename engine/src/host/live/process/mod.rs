//! Commands on the machine.

pub(in crate::host::live) mod age;
pub(in crate::host::live) mod group;
pub(in crate::host::live) mod stopped;
pub(in crate::host::live) mod tail;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::LiveHost;
use super::blocking::blocking;
use crate::host::live::process::group::Group;
use crate::host::live::process::tail::Tail;
use crate::host::{CommandOutput, CommandSpec, HostError, HostResult, Processes};

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
        let (mut group, pipes) = blocking(move || start(&spec)).await?;
        let mut stdout = Tail::new(command.whole.unwrap_or(CommandOutput::LIMIT));
        let mut stderr = Tail::new(CommandOutput::LIMIT);
        let ended = tokio::time::timeout(
            command.timeout,
            attend(&mut group, pipes, &command.stdin, &mut stdout, &mut stderr),
        )
        .await;
        let output = |status| CommandOutput {
            status,
            stdout: stdout.text(),
            stderr: stderr.text(),
        };
        match ended {
            Ok(Ok(_)) if command.whole.is_some() && stdout.is_cut() => Err(HostError::TooMuch {
                who: format!("`{}`", command.display()),
                limit: command.whole.unwrap_or_default(),
            }),
            Ok(Ok(status)) => Ok(output(status)),
            Ok(Err(source)) => Err(HostError::service(
                format!("wait for `{}`", command.display()),
                source,
            )),
            Err(_) => {
                group.kill();
                // Reap the process, so that the caller finds no trace of it; a process stuck in the kernel is left behind.
                let _ = tokio::time::timeout(LINGER, group.wait()).await;
                Err(too_late(command, &output(0)))
            }
        }
    }

    async fn stopped_processes(&self) -> HostResult<Vec<String>> {
        blocking(|| {
            crate::host::live::process::stopped::stopped_processes()
                .map_err(|error| HostError::service("list the processes of this host", error))
        })
        .await
    }

    async fn has_program(&self, name: &str) -> HostResult<bool> {
        let name = name.to_owned();
        blocking(move || Ok(find(&name).is_some())).await
    }
}

/// Our ends of a command's pipes.
struct Pipes {
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

fn start(spec: &CommandSpec) -> HostResult<(Group, Pipes)> {
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
    let command = duct::cmd(program, arguments).dir("/").full_env(environment);
    start_piped(&command, !spec.stdin.is_empty()).map_err(|source| spawn_error(name, source))
}

fn start_piped(command: &duct::Expression, feed: bool) -> io::Result<(Group, Pipes)> {
    let (stdout, stdout_theirs) = os_pipe::pipe()?;
    let (stderr, stderr_theirs) = os_pipe::pipe()?;
    let command = command
        .stdout_file(OwnedFd::from(stdout_theirs))
        .stderr_file(OwnedFd::from(stderr_theirs));
    let (command, stdin) = if feed {
        let (theirs, ours) = os_pipe::pipe()?;
        (command.stdin_file(OwnedFd::from(theirs)), Some(ours))
    } else {
        (command.stdin_null(), None)
    };
    let pipes = Pipes {
        stdin: stdin
            .map(|ours| pipe::Sender::from_owned_fd(ours.into()))
            .transpose()?,
        stdout: pipe::Receiver::from_owned_fd(stdout.into())?,
        stderr: pipe::Receiver::from_owned_fd(stderr.into())?,
    };
    // The expression is dropped with this function, and with it our copies of the child's ends of the pipes.
    Ok((Group::start(&command)?, pipes))
}

/// Feeds and reads until the command has ended and its pipes are closed. A grandchild that keeps a pipe open gets no longer than [`LINGER`]
/// and is then killed with its group.
async fn attend(
    group: &mut Group,
    pipes: Pipes,
    input: &[u8],
    stdout: &mut Tail,
    stderr: &mut Tail,
) -> io::Result<i32> {
    let streams = async {
        tokio::join!(
            feed(pipes.stdin, input),
            keep(pipes.stdout, stdout),
            keep(pipes.stderr, stderr),
        )
    };
    let mut streams = std::pin::pin!(streams);
    let mut closed = false;
    let status = {
        let mut ended = std::pin::pin!(group.wait());
        loop {
            tokio::select! {
                status = &mut ended => break status?,
                _ = &mut streams, if !closed => closed = true,
            }
        }
    };
    if closed || tokio::time::timeout(LINGER, streams).await.is_ok() {
        group.release();
    } else {
        group.kill();
    }
    Ok(status)
}

/// Writes the input. The command may end without reading all of it.
async fn feed(stdin: Option<pipe::Sender>, input: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input).await;
    }
}

async fn keep(mut stream: pipe::Receiver, tail: &mut Tail) {
    let mut chunk = vec![0; 16 * 1024];
    // An error of a pipe means what its end means: nothing more will come.
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        tail.push(&chunk[..length]);
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
