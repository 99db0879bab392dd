//! Child processes: in a process group of their own, with a deadline and bounded output, and ended when [`Child::run`] returns.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::sync::CancellationToken;

/// Longest line that is taken, in bytes.
const LINE: usize = 8 * 1024 * 1024;
/// Bytes kept of a child's standard error.
const ERRORS: usize = 16 * 1024;

/// A program to run, and its bounds.
#[derive(Debug, Clone)]
pub struct Child {
    /// Program and arguments. No secrets: every user can read them.
    pub argv: Vec<String>,
    /// After this long its whole group is killed.
    pub limit: Duration,
    /// How long it may go on after it was asked to end (SIGTERM) because `cancel` was cancelled.
    pub grace: Duration,
    /// Asks it to end.
    pub cancel: CancellationToken,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The end of what it wrote to standard error.
    pub errors: String,
}

impl Child {
    /// Runs it to its end and hands over each line of its standard output as it comes.
    ///
    /// # Errors
    /// It cannot be started, wrote a line that is too long, or did not end in time; its group is gone then.
    ///
    /// # Cancel safety
    /// When the future is dropped, the child is killed.
    pub async fn run(&self, mut line: impl FnMut(String)) -> Result<Ended> {
        let (program, arguments) = self
            .argv
            .split_first()
            .context("run a command without a name")?;
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
        let stdout = child.stdout.take().context("its output is piped")?;
        let stderr = child.stderr.take().context("its errors are piped")?;
        let work = async {
            let lines = async {
                let mut lines = FramedRead::new(stdout, LinesCodec::new_with_max_length(LINE));
                while let Some(next) = lines.next().await {
                    line(next.with_context(|| format!("read what {program} says"))?);
                }
                anyhow::Ok(())
            };
            let (said, errors) = tokio::join!(lines, tail(stderr));
            said?;
            let status = child
                .wait()
                .await
                .with_context(|| format!("wait for {program}"))?;
            anyhow::Ok(Ended {
                code: status.code(),
                signal: status.signal(),
                errors,
            })
        };
        let mut work = std::pin::pin!(work);
        let leader = group.0;
        let asked_to_end = async {
            self.cancel.cancelled().await;
            // Only the leader: it knows in which order its own children have to end.
            if let Some(id) = leader {
                let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            }
            tokio::time::sleep(self.grace).await;
        };
        let ended = tokio::select! {
            ended = &mut work => ended,
            () = tokio::time::sleep(self.limit) => {
                group.kill();
                bail!("run {}: no end within {} s", self.argv.join(" "), self.limit.as_secs())
            }
            () = asked_to_end => {
                group.kill();
                bail!("run {}: asked to end, and no end within {} s", self.argv.join(" "), self.grace.as_secs())
            }
        };
        // From now on the kernel may reuse the process id. The processes that the child started have closed its output; otherwise we
        // would still read it.
        if ended.is_ok() {
            group.release();
        }
        ended
    }
}

/// The process group of a child.
struct Group(Option<i32>);

impl Group {
    fn kill(&self) {
        if let Some(id) = self.0 {
            // It is fine if the group is gone already.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }

    fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last [`ERRORS`] bytes of a stream, as text.
async fn tail(mut stream: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..length]);
        if kept.len() > 2 * ERRORS {
            kept.drain(..kept.len() - ERRORS);
        }
    }
    let from = kept.len().saturating_sub(ERRORS);
    String::from_utf8_lossy(&kept[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        Child {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            limit: Duration::from_secs(20),
            grace: Duration::from_secs(20),
            cancel: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn lines_errors_and_the_status_come_through() {
        let mut lines = Vec::new();
        let ended = shell("echo one; echo two; echo wrong >&2; exit 3")
            .run(|line| lines.push(line))
            .await
            .expect("it runs");
        assert_eq!(lines, ["one", "two"]);
        assert_eq!((ended.code, ended.errors.as_str()), (Some(3), "wrong\n"));
        assert_eq!(ended.signal, None);
    }

    #[tokio::test]
    async fn a_child_that_is_killed_is_told_from_one_that_failed() {
        let ended = shell("kill -9 $$").run(|_| {}).await.expect("it runs");
        assert_eq!((ended.code, ended.signal), (None, Some(9)));
    }

    #[tokio::test]
    async fn a_child_that_does_not_end_is_killed_with_what_it_started() {
        let mut child = shell("sleep 1000 & echo $!; wait");
        child.limit = Duration::from_millis(500);
        let mut started = String::new();
        let error = child
            .run(|line| started = line)
            .await
            .expect_err("it is late");
        assert!(error.to_string().contains("no end within"), "{error}");
        let path = format!("/proc/{started}/stat");
        let gone = || std::fs::read_to_string(&path).map_or(true, |stat| stat.contains(") Z "));
        for _ in 0..200 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("process {started} still runs");
    }

    #[tokio::test]
    async fn a_child_that_is_asked_to_end_may_say_goodbye() {
        let child = shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done");
        let cancel = child.cancel.clone();
        let mut lines = Vec::new();
        let ended = child
            .run(|line| {
                if line == "up" {
                    cancel.cancel();
                }
                lines.push(line);
            })
            .await
            .expect("it ends");
        assert_eq!(ended.code, Some(0));
        assert_eq!(lines, ["up", "bye"]);
    }
}
