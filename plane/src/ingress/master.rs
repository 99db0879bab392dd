//! Commands for the running HAProxy, by the socket of its master process (HAProxy's Management Guide, section 9.4).

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Time for a command. HAProxy takes part of a second for a list of some thousand sessions.
const LIMIT: Duration = Duration::from_secs(10);
/// Time for a look at a worker that starts, and for its start.
const LOOK: Duration = Duration::from_secs(1);
const STARTED: Duration = Duration::from_secs(15);
/// A new worker starts within this time after the command, if it was heard.
const HEARD: Duration = Duration::from_secs(5);
/// Time for a worker to end.
const ENDED: Duration = Duration::from_secs(10);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(100);
/// Largest answer that is read, in bytes: a session has about 300 bytes there, and an ingress may have hundreds of thousands.
const LARGEST: u64 = 256 * 1024 * 1024;

/// The socket.
#[derive(Debug, Clone)]
pub struct Master(pub PathBuf);

/// A worker: the present one, or one from before a reload that still has connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Its process.
    pub pid: u32,
    /// Whether it accepts connections.
    pub is_present: bool,
    /// For how many whole seconds it has run.
    pub uptime: u64,
}

impl Master {
    /// Whether an HAProxy runs.
    ///
    /// # Errors
    /// It cannot be told: this user may not use the socket, for example.
    pub async fn is_there(&self) -> Result<bool> {
        let tried = tokio::time::timeout(LIMIT, UnixStream::connect(&self.0)).await;
        let doing = || format!("reach HAProxy at {}", self.0.display());
        match tried.with_context(doing)? {
            Ok(_) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error).with_context(doing),
        }
    }

    /// Sends a command to the master process, and returns its answer.
    ///
    /// # Errors
    /// HAProxy does not run, gives no answer in time, or a longer one than is read.
    pub async fn command(&self, command: &str) -> Result<String> {
        let place = self.0.display();
        // A command may have a secret: only its first word is shown.
        let words: Vec<&str> = command.split_whitespace().take(3).collect();
        let doing = || format!("ask HAProxy at {place} for `{}`", words.join(" "));
        let asked = async {
            let mut stream = UnixStream::connect(&self.0).await?;
            stream.write_all(command.as_bytes()).await?;
            stream.write_all(b"\n").await?;
            // Otherwise it waits for more commands after its answer.
            stream.shutdown().await?;
            whole(stream, LARGEST).await
        };
        let answer = tokio::time::timeout(LIMIT, asked).await;
        let answer = answer
            .with_context(|| format!("{}: no answer within {} s", doing(), LIMIT.as_secs()))?;
        answer.with_context(doing)
    }

    /// Sends a command to a worker, and returns its answer.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn ask(&self, worker: Worker, command: &str) -> Result<String> {
        self.command(&format!("@!{} {command}", worker.pid)).await
    }

    /// Sends a command whose answer has to have one of these words; no word means an empty answer.
    ///
    /// # Errors
    /// As [`Self::command`]; or the worker says something else.
    pub async fn tell(&self, worker: Worker, command: &str, good: &[&str]) -> Result<()> {
        let answer = self.ask(worker, command).await?;
        let answer = answer.trim();
        let is_good = match good {
            [] => answer.is_empty(),
            words => words.iter().any(|its| answer.contains(its)),
        };
        if !is_good {
            let words: Vec<&str> = command.split_whitespace().take(3).collect();
            bail!("HAProxy answers to `{}`: {answer}", words.join(" "))
        }
        Ok(())
    }

    /// The workers, the present one first.
    ///
    /// # Errors
    /// As [`Self::command`]; or the answer cannot be understood.
    pub async fn workers(&self) -> Result<Vec<Worker>> {
        let answer = self.command("show proc").await?;
        let workers = workers(&answer);
        if !workers.iter().any(|its| its.is_present) {
            bail!("find HAProxy's workers: it names none that accepts connections");
        }
        Ok(workers)
    }

    /// Replaces the worker by one that has read all files again, and waits for it. Open connections stay with the one before.
    ///
    /// # Errors
    /// As [`Self::command`]; or the new worker does not start. Then the one before goes on.
    pub async fn reload(&self) -> Result<()> {
        let before = self.workers().await?;
        let is_new = |its: &Worker| its.is_present && !before.iter().any(|old| old.pid == its.pid);
        let began = async {
            loop {
                // A master that starts itself again does not hear it, and loses an answer that it has begun: so it is told more than once.
                let told = tokio::time::timeout(LOOK, self.command("reload")).await;
                drop(told);
                let told_at = tokio::time::Instant::now();
                while told_at.elapsed() < HEARD {
                    let now = tokio::time::timeout(LOOK, self.workers()).await;
                    if let Ok(Ok(now)) = now
                        && now.iter().any(is_new)
                    {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        let began = tokio::time::timeout(STARTED, began).await;
        began
            .context("reload HAProxy: no new worker starts; `journalctl -u haproxy` has the reason")
    }

    /// Ends a worker with all its connections. If it is the present one, another one takes its place before.
    ///
    /// # Errors
    /// As [`Self::reload`]; or the worker does not end.
    pub async fn end(&self, worker: Worker) -> Result<()> {
        let is_present = |its: &Worker| its.is_present && its.pid == worker.pid;
        if self.workers().await?.iter().any(is_present) {
            self.reload().await?;
        }
        let command = format!("expert-mode on; @!{} debug dev exit 0", worker.pid);
        let ended = async {
            loop {
                // A master that starts itself again does not answer.
                let now = tokio::time::timeout(LOOK, self.workers()).await;
                if let Ok(Ok(now)) = now
                    && !now.iter().any(|its| its.pid == worker.pid)
                {
                    return;
                }
                // The answer of the worker ends with it.
                drop(tokio::time::timeout(LOOK, self.command(&command)).await);
                tokio::time::sleep(PAUSE).await;
            }
        };
        let ended = tokio::time::timeout(ENDED, ended).await;
        ended.with_context(|| format!("end HAProxy's worker {}", worker.pid))
    }

    /// When the present worker began, at the latest: it has read all files that are older.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn present_since(&self, now: SystemTime) -> Result<SystemTime> {
        let workers = self.workers().await?;
        let present = workers.iter().filter(|its| its.is_present);
        let uptime = present.map(|its| its.uptime).min().unwrap_or_default();
        Ok(now - Duration::from_secs(uptime))
    }
}

/// Reads an answer to its end. The sessions that are missing in one that is cut off would stay open, and count as ended.
async fn whole(stream: impl AsyncRead + Unpin, largest: u64) -> std::io::Result<String> {
    let mut answer = Vec::new();
    stream.take(largest + 1).read_to_end(&mut answer).await?;
    if answer.len() as u64 > largest {
        return Err(std::io::Error::other(format!(
            "its answer has more than {largest} bytes; lower `connections` of the ingress"
        )));
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The workers in the answer to `show proc`: lines of columns (process, type, reloads, uptime) below headings that are comments.
fn workers(answer: &str) -> Vec<Worker> {
    let mut is_present = true;
    let mut all = Vec::new();
    for line in answer.lines() {
        if line.starts_with('#') {
            is_present &= !line.contains("old");
            continue;
        }
        let columns: Vec<&str> = line.split_whitespace().collect();
        if let [pid, "worker", _, uptime, ..] = columns[..]
            && let Ok(pid) = pid.parse()
        {
            let uptime = seconds(uptime).unwrap_or_default();
            all.push(Worker {
                pid,
                is_present,
                uptime,
            });
        }
    }
    all
}

/// The seconds in `0d00h00m05s`.
fn seconds(uptime: &str) -> Option<u64> {
    let (days, rest) = uptime.split_once('d')?;
    let (hours, rest) = rest.split_once('h')?;
    let (minutes, rest) = rest.split_once('m')?;
    let parts = [days, hours, minutes, rest.strip_suffix('s')?];
    let mut all = 0_u64;
    for (part, in_one) in parts.into_iter().zip([1, 24, 60, 60]) {
        all = all.checked_mul(in_one)?.checked_add(part.parse().ok()?)?;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use bounds::{content, quickly};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn workers_are_found_with_those_of_before() {
        let answer = "#<PID>          <type>          <reloads>       <uptime>        <version>\n\
            10              master          1               0d00h00m05s     2.6.12-1\n\
            # workers\n\
            12              worker          0               0d00h00m01s     2.6.12-1\n\
            # old workers\n\
            11              worker          1               1d02h03m04s     2.6.12-1\n\
            # programs\n\n";
        let worker = |pid, is_present, uptime| Worker {
            pid,
            is_present,
            uptime,
        };
        let old = 4 + 60 * (3 + 60 * (2 + 24));
        assert_eq!(
            workers(answer),
            [worker(12, true, 1), worker(11, false, old)]
        );
        assert!(workers("").is_empty());
        assert!(workers("x y z\n# workers\nworker 1\n").is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_would_be_cut_off_is_an_error() {
        assert_eq!(whole(&b"0x1"[..], 3).await.expect("it is read"), "0x1");
        let error = whole(&b"0x12"[..], 3).await.expect_err("it is longer");
        let said = error.to_string();
        assert!(said.contains("more than 3 bytes; lower"), "{said}");
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(answer in "(?s).{0,400}", line in "[0-9a-z ]{0,60}") {
            workers(&answer);
            workers(&format!("12 worker {line}"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// As long as one about some thousand workers.
        #[test]
        fn a_long_answer_is_read_quickly(
            answer in content(256 * 1024, &[
                "12 ", "worker ", "master ", "0 ", "1d02h03m04s ", "9", "d", "h", "m", "s", "\n",
                "# old workers\n", "#", "\t",
            ]),
        ) {
            let answer = String::from_utf8_lossy(&answer);
            quickly(|| workers(&answer));
        }
    }
}
