//! The commands of masters for other nodes: they run beside the status passes, and why one leaves something to do is remembered.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::worker::{Worker, message_of};
use crate::nodeletd::cluster_work::{self, ClusterWork};

/// Bound on a command of masters for other nodes.
const CLUSTER_WORK: Duration = Duration::from_secs(120);

impl Worker {
    /// Runs the command `words` whenever something waits for it, until `end` is cancelled.
    pub(super) fn keep_up(
        &self,
        work: ClusterWork,
        kubeconfig: PathBuf,
        words: Vec<String>,
        end: CancellationToken,
    ) {
        let worker = self.clone();
        tokio::spawn(async move {
            let run = || worker.settle(work, &words);
            let none_waits = || worker.work_is(work, String::new());
            tokio::select! {
                () = end.cancelled() => {}
                () = cluster_work::keep(work, &kubeconfig, run, none_waits) => {}
            }
            none_waits();
        });
    }

    /// Runs a command of masters for other nodes. Returns whether nothing is left to do.
    async fn settle(&self, work: ClusterWork, words: &[String]) -> bool {
        let mut argv = vec![self.nodelet.display().to_string()];
        argv.extend_from_slice(words);
        let child = self.short_child(argv, CLUSTER_WORK);
        let (left, not_run) = match work {
            ClusterWork::PodSubnets => (
                "not all nodes have a pod subnet",
                "could not give nodes their pod subnets",
            ),
            ClusterWork::Certificates => (
                "not all requests of nodes for certificates are decided",
                "could not decide about the requests of nodes for certificates",
            ),
            ClusterWork::Workers => (
                "not all workers are cared for",
                "could not label workers, and delete the nodes of those that have left",
            ),
        };
        let problem = match child.run(|line| tracing::info!("{line}")).await {
            Ok(ended) if ended.code == Some(0) => {
                // What still waits is left as it is on purpose.
                self.work_is(work, String::new());
                return true;
            }
            Ok(ended) => format!("{left}: {}", message_of(&ended)),
            Err(error) => format!("{not_run}: {error:#}"),
        };
        tracing::warn!("{problem}");
        self.work_is(work, problem);
        false
    }

    /// Remembers why something is left to do; an empty text if nothing is. The status of nodeletd shows it.
    fn work_is(&self, work: ClusterWork, problem: String) {
        let problems = self.cluster_problems.lock();
        let mut problems = problems.unwrap_or_else(PoisonError::into_inner);
        problems.set(work, problem);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::nodeletd::cluster_work::ClusterProblems;
    use crate::nodeletd::supervisor::worker::HostOps as _;
    use crate::nodeletd::supervisor::worker::test_worker::test_worker;

    #[tokio::test]
    async fn the_problem_of_each_work_is_kept_until_its_command_succeeds() {
        let worker = |nodelet: &str, problems: &Arc<Mutex<ClusterProblems>>| Worker {
            cluster_problems: Arc::clone(problems),
            ..test_worker(nodelet)
        };
        let problems = Arc::default();
        let (fails, succeeds) = (
            worker("/bin/false", &problems),
            worker("/bin/true", &problems),
        );
        for (work, of) in [
            (ClusterWork::PodSubnets, "a pod subnet"),
            (ClusterWork::Certificates, "are decided"),
            (ClusterWork::Workers, "are cared for"),
        ] {
            assert!(!fails.settle(work, &[]).await);
            let kept = fails.cluster_problems();
            let all = [&kept.subnets, &kept.certificates, &kept.workers];
            let text: String = all.into_iter().map(String::as_str).collect();
            assert!(text.contains(of), "{text}");
            assert!(succeeds.settle(work, &[]).await);
            assert_eq!(succeeds.cluster_problems(), ClusterProblems::default());
        }
    }
}
