//! A worker follows the masters that replace the authority of the cluster: looks at intervals what they have published, and runs `nodelet trust`
//! if this host is not so far.

use std::time::Duration;

use engine::exec::is_worker_behind;
use engine::host::live::LiveHost;
use engine::model::chain;
use tokio_util::sync::CancellationToken;

use super::masters::{Updated, keep};
use super::worker::Worker;

/// Pause between two looks, in addition to that of [`keep`]: each one is a request to the API server, from each worker.
const INTERVAL: Duration = Duration::from_secs(50);
/// Bound on the command: an apply, and the renewal of each component.
const LIMIT: Duration = Duration::from_secs(1800);

impl Worker {
    /// Follows the masters until `end` is cancelled. On a master it does nothing. With `last_good`, the last good settings are planned, because
    /// those in use are refused.
    pub(super) fn keep_trust(&self, last_good: bool, end: CancellationToken) {
        let worker = self.clone();
        tokio::spawn(async move {
            let host = LiveHost::new();
            let differs = || is_behind(&host);
            let update = || worker.follow(last_good);
            keep(differs, update, &end).await;
        });
    }

    /// Takes the authorities.
    async fn follow(&self, last_good: bool) -> Updated {
        let argv = self.nodelet(&["trust"], last_good);
        let what = "take the authorities that the masters have published";
        self.update(argv, LIMIT, what).await
    }
}

/// Whether this worker is not so far as the masters. If that is not known, nothing is done.
async fn is_behind(host: &LiveHost) -> bool {
    tokio::time::sleep(INTERVAL).await;
    is_worker_behind(host).await.unwrap_or_else(|error| {
        let why = chain(&error).join(": ");
        tracing::debug!("the authorities stay as they are: could not {why}");
        false
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::{Cli, Command};
    use crate::nodeletd::supervisor::worker::test_worker::test_worker;

    /// It reads settings as a pass does, so it plans the same.
    #[test]
    fn nodelet_understands_the_call() {
        let worker = test_worker("nodelet");
        for last_good in [false, true] {
            let argv = worker.nodelet(&["trust"], last_good);
            let Command::Trust(args) = Cli::parse_from(argv).command else {
                panic!("it is another command");
            };
            assert_eq!(args.role.merged_settings, last_good);
        }
    }
}
