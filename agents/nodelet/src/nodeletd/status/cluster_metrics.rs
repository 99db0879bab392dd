//! Metrics of the whole cluster: the output of `nodelet cluster status --metrics`, which runs only while something reads the metrics.
//!
//! A request gets the last output, and starts the command for the next ones if that output is old. So no request waits, and however many
//! there are, the command runs at most once a minute.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::nodeletd::supervisor::worker::Worker;

/// Shortest time between two starts of the command; longer than it may run.
const AGAIN: Duration = Duration::from_secs(60);
/// Bound on the command, which ends by itself within 15 s.
const LIMIT: Duration = Duration::from_secs(30);
/// An older output is not shown any more.
const STALE: Duration = Duration::from_secs(300);
/// Bound on the output, in bytes: there are a few lines for each member of etcd.
const OUTPUT: usize = 64 * 1024;

/// The command.
const WORDS: [&str; 3] = ["cluster", "status", "--metrics"];

/// The last output, shared by all connections.
#[derive(Debug, Clone, Default)]
pub(in crate::nodeletd) struct ClusterMetrics {
    last: Arc<Mutex<Last>>,
}

#[derive(Debug, Default)]
struct Last {
    began: Option<Instant>,
    output: Option<(Instant, String)>,
}

impl ClusterMetrics {
    /// The last output; empty if there is none yet, or none that is young enough. Starts `gather` if its last start was a minute ago.
    pub(in crate::nodeletd) fn text<F>(&self, gather: impl FnOnce() -> F) -> String
    where
        F: Future<Output = Option<String>> + Send + 'static,
    {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last
            .began
            .is_none_or(|began| now.duration_since(began) >= AGAIN)
        {
            last.began = Some(now);
            let shared = Arc::clone(&self.last);
            let gathering = gather();
            tokio::spawn(async move {
                if let Some(text) = gathering.await {
                    let mut last = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    last.output = Some((Instant::now(), text));
                }
            });
        }
        match &last.output {
            Some((at, text)) if now.duration_since(*at) < STALE => text.clone(),
            Some(_) | None => String::new(),
        }
    }
}

/// Runs the command with lowered priority. `None` if it failed.
pub(in crate::nodeletd) async fn gather(worker: Worker, last_good: bool) -> Option<String> {
    let mut argv: Vec<String> = ["nice", "-n", "10"].map(str::to_owned).into();
    argv.extend(worker.nodelet(&WORDS, last_good));
    let child = worker.short_child(argv, LIMIT);
    let mut text = String::new();
    let mut fits = true;
    let ended = child
        .run(|line| {
            fits &= text.len() + line.len() < OUTPUT;
            if fits {
                text.push_str(&line);
                text.push('\n');
            }
        })
        .await;
    match ended {
        // Problems of the cluster are in the output.
        Ok(ended) if matches!(ended.code, Some(0..=2)) && fits && !text.is_empty() => Some(text),
        Ok(ended) => {
            tracing::debug!("no metrics of the cluster: {ended:?}");
            None
        }
        Err(error) => {
            tracing::debug!("no metrics of the cluster: could not {error:#}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;
    use crate::nodeletd::supervisor::worker::test_worker::test_worker;

    #[test]
    fn nodelet_understands_the_command() {
        for last_good in [false, true] {
            let argv = test_worker("nodelet").nodelet(&WORDS, last_good);
            assert!(Cli::try_parse_from(&argv).is_ok(), "{argv:?}");
        }
    }

    #[tokio::test]
    async fn a_command_that_writes_nothing_gives_no_metrics() {
        assert_eq!(gather(test_worker("/bin/true"), false).await, None);
        assert_eq!(gather(test_worker("/nowhere/nodelet"), false).await, None);
        let echoed = gather(test_worker("/bin/echo"), false)
            .await
            .expect("it writes");
        assert!(echoed.starts_with("cluster status --metrics"), "{echoed}");
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_requests_come_the_command_runs_once_a_minute() {
        let metrics = ClusterMetrics::default();
        let starts = Arc::new(AtomicUsize::new(0));
        let ask = |answer: Option<&str>| {
            let answer = answer.map(str::to_owned);
            metrics.text(|| {
                starts.fetch_add(1, Ordering::Relaxed);
                std::future::ready(answer)
            })
        };
        assert_eq!(ask(Some("a 1\n")), "");
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..100 {
            assert_eq!(ask(Some("a 2\n")), "a 1\n");
        }
        assert_eq!(starts.load(Ordering::Relaxed), 1);
        tokio::time::sleep(AGAIN).await;
        assert_eq!(ask(None), "a 1\n");
        assert_eq!(starts.load(Ordering::Relaxed), 2);
        tokio::time::sleep(STALE).await;
        assert_eq!(ask(None), "");
    }
}
