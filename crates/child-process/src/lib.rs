//! Child processes: one implementation for the engine, the daemons and the lab.
//!
//! A program starts without a shell, in a process group of its own. Its deadline kills the whole group. [`piped`] or [`start`] starts it,
//! and [`Running::attend`] blocks until it has ended. A future runs `attend` on another thread and keeps a [`Guard`]: if the future is
//! dropped, the group is killed and `attend` returns.
//!
//! Not here: which environment a program gets, and what its output means; its callers decide that (`host::live::process` of the engine,
//! `daemon::child`, `lab::command`). Start with [`Running::attend`].

mod tail;

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use duct::unix::HandleExt as _;
pub use duct::{Expression, cmd};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

pub use crate::tail::Tail;

/// The clock cannot tell every deadline beyond this.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// Longest pause until the end of a child is noticed if its pipes stay open.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// First pause between two looks at a child without open pipes: it usually closes them when it ends.
const SOON: Duration = Duration::from_micros(500);
/// How long a killed child is waited for. A process that is stuck in the kernel is left behind.
const REAP: Duration = Duration::from_secs(1);

/// Takes the next part of an output.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]);

/// A started program. Dropping it kills its group.
#[derive(Debug)]
pub struct Running {
    guard: Guard,
    /// Our ends of its pipes, which never block. `None` is closed.
    stdin: Option<PipeWriter>,
    outputs: [Option<PipeReader>; 2],
}

/// Starts a program whose standard streams are what the expression says.
pub fn start(program: &Expression) -> io::Result<Running> {
    let in_own_group = program.unchecked().before_spawn(|command| {
        command.process_group(0);
        Ok(())
    });
    let handle = in_own_group.start()?;
    let leader = handle.pids().first().copied();
    let group = Group {
        leader: leader.ok_or(ErrorKind::NotFound)?,
        handle,
        held: Mutex::new(true),
    };
    Ok(Running {
        guard: Guard(Arc::new(group)),
        stdin: None,
        outputs: [None, None],
    })
}

/// Starts a program with pipes for standard output and standard error. With `feed` there is one for standard input, too; without it, the
/// program has nothing to read.
pub fn piped(program: &Expression, feed: bool) -> io::Result<Running> {
    let (stdin_theirs, stdin) = pipe()?;
    let (stdout, stdout_theirs) = pipe()?;
    let (stderr, stderr_theirs) = pipe()?;
    for ours in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    // The expression is dropped with this function, and with it our copies of the child's ends.
    let program = program
        .stdout_file(OwnedFd::from(stdout_theirs))
        .stderr_file(OwnedFd::from(stderr_theirs));
    let program = if feed {
        program.stdin_file(OwnedFd::from(stdin_theirs))
    } else {
        program.stdin_null()
    };
    let mut running = start(&program)?;
    running.stdin = feed.then_some(stdin);
    running.outputs = [Some(stdout), Some(stderr)];
    Ok(running)
}

/// Kills a process group. It is fine if the group is gone already.
pub fn kill_group(leader: u32) {
    if let Ok(leader) = i32::try_from(leader) {
        let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    }
}

impl Running {
    /// Its process id, which is that of its group.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.guard.0.leader
    }

    /// What ends the group from another thread.
    #[must_use]
    pub fn guard(&self) -> Guard {
        Guard(Arc::clone(&self.guard.0))
    }

    /// Feeds the child, and hands its standard output and standard error to the sinks, until it has ended and its pipes are closed. What it
    /// started and left running on purpose goes on. A descendant that keeps a pipe open gets `linger` after the child's end, or the rest
    /// of `limit`, and is then killed with the group.
    ///
    /// Gives `None` if all this took longer than `limit`. The group is killed then.
    pub fn attend(
        mut self,
        mut input: &[u8],
        limit: Duration,
        linger: Option<Duration>,
        mut sinks: [Sink<'_>; 2],
    ) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit.min(LONGEST);
        let (mut until, mut has_ended, mut pause) = (deadline, false, SOON);
        loop {
            if !has_ended && self.guard.has_ended()? {
                has_ended = true;
                if let Some(linger) = linger {
                    until = deadline.min(Instant::now() + linger);
                }
            }
            let closed = self.stdin.is_none() && self.outputs.iter().all(Option::is_none);
            if closed && has_ended {
                return self.guard.release();
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.guard.holds() {
                break;
            }
            if closed {
                thread::sleep(pause.min(left));
                pause = (pause * 2).min(POLL_INTERVAL);
            } else {
                self.transfer(&mut input, left.min(POLL_INTERVAL), &mut sinks);
            }
        }
        self.guard.kill();
        let killed = Instant::now();
        // Reap it, so that the caller finds no trace of it.
        let mut status = self.guard.status()?;
        while status.is_none() && killed.elapsed() < REAP {
            thread::sleep(SOON);
            status = self.guard.status()?;
        }
        Ok(status.filter(|_| killed < deadline))
    }

    /// Waits until a pipe is ready, for about `pause` at most, and passes on what there is.
    fn transfer(&mut self, input: &mut &[u8], pause: Duration, sinks: &mut [Sink<'_>; 2]) {
        let readers = self.outputs.iter().flatten();
        let readers = readers.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        let writers = self.stdin.iter();
        let writers = writers.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT));
        let mut open: Vec<PollFd<'_>> = readers.chain(writers).collect();
        // Rounded up. If a signal ends it early, the caller comes again.
        let pause = u16::try_from(pause.as_millis() + 1).unwrap_or(u16::MAX);
        let _ = poll(&mut open, pause);
        if let Some(pipe) = &mut self.stdin {
            match pipe.write(input) {
                Ok(length) => *input = &input[length..],
                Err(error) if is_not_ready(&error) => {}
                // The child may end without reading all of it.
                Err(_) => *input = &[],
            }
            if input.is_empty() {
                self.stdin = None;
            }
        }
        let mut chunk = [0; 16 * 1024];
        for (output, sink) in self.outputs.iter_mut().zip(sinks) {
            let Some(pipe) = output else { continue };
            match pipe.read(&mut chunk) {
                Ok(length @ 1..) => (*sink)(&chunk[..length]),
                Err(error) if is_not_ready(&error) => {}
                // An error of a pipe means what its end means: nothing more will come.
                _ => *output = None,
            }
        }
    }
}

fn is_not_ready(error: &io::Error) -> bool {
    [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind())
}

/// Kills a child and all that it started when it is dropped, unless [`Running::attend`] has returned before.
#[derive(Debug)]
pub struct Guard(Arc<Group>);

#[derive(Debug)]
struct Group {
    handle: duct::Handle,
    leader: u32,
    /// False once it was killed, or left alone. Before that, the leader is not reaped, so the kernel does not reuse its process id.
    held: Mutex<bool>,
}

impl Guard {
    /// Asks the child to end (SIGTERM). Only the child: it knows in which order its own children have to end.
    pub fn terminate(&self) {
        // It is fine if it has ended already.
        let _ = self.0.handle.send_signal(Signal::SIGTERM as i32);
    }

    /// Whether it would still kill the group.
    #[must_use]
    pub fn holds(&self) -> bool {
        *self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&self) {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *held) {
            kill_group(self.0.leader);
        }
    }

    /// Whether the child has ended. It is not reaped.
    fn has_ended(&self) -> io::Result<bool> {
        let leader = i32::try_from(self.0.leader).map_err(io::Error::other)?;
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let state = waitid(Id::Pid(Pid::from_raw(leader)), flags)?;
        Ok(state != WaitStatus::StillAlive)
    }

    /// Leaves the group alone, and reaps the child.
    fn release(&self) -> io::Result<Option<ExitStatus>> {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = false;
        self.status()
    }

    fn status(&self) -> io::Result<Option<ExitStatus>> {
        let output = self.0.handle.try_wait()?;
        Ok(output.map(|output| output.status))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const LINGER: Duration = Duration::from_millis(500);

    fn shell(script: &str) -> Running {
        piped(&cmd("sh", ["-c", script]), false).expect("it starts")
    }

    /// How it ended, and its standard output.
    fn ended(running: Running, limit: Duration) -> (Option<ExitStatus>, String) {
        let mut said = Tail::new(1024);
        let mut keep = |chunk: &[u8]| said.push(chunk);
        let sinks: [Sink<'_>; 2] = [&mut keep, &mut |_| {}];
        let status = running.attend(&[], limit, Some(LINGER), sinks);
        (status.expect("it can be waited for"), said.text())
    }

    fn runs(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// Whether a process ends within ten seconds.
    fn ends(pid: &str) -> bool {
        (0..1000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            !runs(pid)
        })
    }

    #[test]
    fn the_deadline_kills_what_the_child_started() {
        let limit = Duration::from_millis(300);
        let (status, pid) = ended(shell("sleep 1000 & echo $!; wait"), limit);
        assert_eq!(status, None);
        assert!(ends(&pid), "{pid} still runs");
    }

    #[test]
    fn a_descendant_that_keeps_a_pipe_is_killed_and_another_one_goes_on() {
        let (status, pid) = ended(shell("sleep 1000 & echo $!"), LONG);
        assert!(status.is_some_and(|status| status.success()));
        assert!(ends(&pid), "{pid} still runs");
        let (_, pid) = ended(shell("sleep 5 >/dev/null 2>&1 & echo $!"), LONG);
        assert!(runs(&pid), "{pid} was killed");
    }

    #[test]
    fn a_guard_ends_a_child_that_another_thread_attends() {
        let began = Instant::now();
        let dropped = shell("sleep 1000 & wait");
        let asked = shell("trap 'exit 3' TERM; echo; while :; do sleep 0.05; done");
        let (guard, other) = (dropped.guard(), asked.guard());
        thread::scope(|scope| {
            let dropped = scope.spawn(|| ended(dropped, LONG));
            let asked = scope.spawn(|| {
                let mut ask = |_: &[u8]| other.terminate();
                asked.attend(&[], LONG, None, [&mut ask, &mut |_| {}])
            });
            drop(guard);
            let (status, _) = dropped.join().expect("no panic");
            assert_eq!(status.and_then(|status| status.signal()), Some(9));
            let status = asked.join().expect("no panic").expect("it is waited for");
            assert_eq!(status.and_then(|status| status.code()), Some(3));
        });
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn streams_may_lead_elsewhere() {
        let quiet = cmd("sh", ["-c", "kill -9 $$"]).stdin_null().stdout_null();
        let (status, said) = ended(start(&quiet).expect("it starts"), LONG);
        assert_eq!(status.and_then(|status| status.signal()), Some(9));
        assert_eq!(said, "");
    }
}
