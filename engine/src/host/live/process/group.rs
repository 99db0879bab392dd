//! A child process and everything it started, as one thing that can be ended.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::sync::Arc;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A started command in a process group of its own. Dropping it kills the group, unless it was [released].
///
/// [released]: Group::release
#[derive(Debug)]
pub(in crate::host::live) struct Group {
    handle: Arc<duct::Handle>,
    /// `None` once the group was killed or released.
    id: Option<Pid>,
}

impl Group {
    /// Starts an expression of a single command. Blocks until the program has been executed.
    pub(in crate::host::live) fn start(command: &duct::Expression) -> io::Result<Self> {
        let handle = command
            .unchecked()
            .before_spawn(|command| {
                command.process_group(0);
                Ok(())
            })
            .start()?;
        let id = handle
            .pids()
            .first()
            .and_then(|pid| i32::try_from(*pid).ok())
            .map(Pid::from_raw);
        Ok(Self {
            handle: Arc::new(handle),
            id,
        })
    }

    /// Waits for the child to end and returns its exit status; negative is the signal that ended it. Cancel safe.
    pub(in crate::host::live) async fn wait(&self) -> io::Result<i32> {
        let handle = Arc::clone(&self.handle);
        let status = tokio::task::spawn_blocking(move || handle.wait().map(|output| output.status))
            .await
            .map_err(io::Error::other)??;
        Ok(status
            .code()
            .unwrap_or_else(|| -status.signal().unwrap_or_default()))
    }

    /// Kills all processes that are left in the group.
    pub(in crate::host::live) fn kill(&mut self) {
        if let Some(id) = self.id.take() {
            // ESRCH: no process is left, as wanted.
            let _ = killpg(id, Signal::SIGKILL);
        }
    }

    /// Keeps the processes that the child left running on purpose.
    pub(in crate::host::live) fn release(&mut self) {
        self.id = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
