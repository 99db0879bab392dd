//! Child processes: in a process group of their own, with a deadline and bounded output, and ended when [`Child::run`] returns.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use child_process::{Tail, cmd};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::codec::{Decoder as _, LinesCodec};
use tokio_util::sync::CancellationToken;

/// Longest line that is taken, in bytes.
const LINE: usize = 8 * 1024 * 1024;
/// Bytes kept of a child's standard error.
const ERRORS: usize = 16 * 1024;
/// Parts of its output that may wait to be taken. If there are more, the child waits.
const WAITING: usize = 16;

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
        let running = child_process::piped(&cmd(program, arguments).dir("/"), false)
            .with_context(|| format!("start {program}"))?;
        // Kills the group when this future is dropped, or returns before the child has ended.
        let group = running.guard();
        let (taken, mut chunks) = mpsc::channel::<Vec<u8>>(WAITING);
        let limit = self.limit;
        let attended = spawn_blocking(move || {
            let mut errors = Tail::new(ERRORS);
            // It is no error if the receiver is gone: then the group is being killed.
            let mut take = |chunk: &[u8]| drop(taken.blocking_send(chunk.to_vec()));
            let mut keep = |chunk: &[u8]| errors.push(chunk);
            let status = running.attend(&[], limit, None, [&mut take, &mut keep]);
            (status, errors.text())
        });
        let work = async {
            let mut codec = LinesCodec::new_with_max_length(LINE);
            let mut said = BytesMut::new();
            let unread = || format!("read what {program} says");
            while let Some(chunk) = chunks.recv().await {
                said.extend_from_slice(&chunk);
                while let Some(next) = codec.decode(&mut said).with_context(unread)? {
                    line(next);
                }
            }
            while let Some(next) = codec.decode_eof(&mut said).with_context(unread)? {
                line(next);
            }
            let unseen = || format!("wait for {program}");
            let (status, errors) = attended.await.with_context(unseen)?;
            let Some(status) = status.with_context(unseen)? else {
                let (what, limit) = (self.argv.join(" "), limit.as_secs());
                bail!("run {what}: no end within {limit} s")
            };
            anyhow::Ok(Ended {
                code: status.code(),
                signal: status.signal(),
                errors,
            })
        };
        let asked_to_end = async {
            self.cancel.cancelled().await;
            group.terminate();
            tokio::time::sleep(self.grace).await;
        };
        tokio::select! {
            ended = work => ended,
            () = asked_to_end => {
                bail!("run {}: asked to end, and no end within {} s", self.argv.join(" "), self.grace.as_secs())
            }
        }
    }
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
    async fn a_killed_child_differs_from_a_failed_one() {
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
    async fn a_child_can_write_output_after_sigterm() {
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
