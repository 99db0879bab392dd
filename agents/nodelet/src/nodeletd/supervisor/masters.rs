//! Keeps the list of masters on this host as etcd has it: looks at intervals whether they differ, and runs `nodelet masters` if they do.
//!
//! It goes on while this host is paused: the other masters share the virtual IP with this one, and a host that refuses the messages of a new
//! master would hold the address at the same time.

use std::net::IpAddr;
use std::time::Duration;

use daemon::child::Child;
use engine::host::Host;
use engine::host::live::LiveHost;
use engine::kubernetes::masters::{self, members};
use engine::model::doubled;
use tokio_util::sync::CancellationToken;

use super::worker::{GRACE, Worker, message_of};
use crate::output::exit::Exit;

/// Pause between two looks. A master that joins needs longer than this to come up.
const INTERVAL: Duration = Duration::from_secs(10);
/// Pause while another command works on the host. This is no failure: it may take a few seconds only.
const BUSY_INTERVAL: Duration = Duration::from_secs(2);
/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Bound on the command: the two phases that it applies have three minutes, and a rollback follows a failure.
const LIMIT: Duration = Duration::from_secs(300);

/// How an update ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Updated {
    Done,
    /// Another command works on the host.
    Busy,
    Failed,
}

impl Worker {
    /// Keeps the list until `end` is cancelled. `address` is that of this host's member of etcd. With `last_good`, keepalived gets the last
    /// good settings, because those in use are refused.
    pub(super) fn keep_masters(&self, address: IpAddr, last_good: bool, end: CancellationToken) {
        let worker = self.clone();
        tokio::spawn(async move {
            let host = LiveHost::new();
            let differs = || is_outdated(&host, address);
            let update = || worker.update_masters(address, last_good);
            keep(differs, update, &end).await;
        });
    }

    /// How `nodelet` is called.
    fn masters_argv(&self, address: IpAddr, last_good: bool) -> Vec<String> {
        let address = address.to_string();
        self.nodelet(&["masters", "--address", &address], last_good)
    }

    /// Writes the list and applies what depends on it.
    async fn update_masters(&self, address: IpAddr, last_good: bool) -> Updated {
        let argv = self.masters_argv(address, last_good);
        let what = "bring the list of masters up to date";
        self.update(argv, LIMIT, what).await
    }

    /// Runs `nodelet` to change what [`keep`] has found different. `what` it does is for the log.
    pub(super) async fn update(&self, argv: Vec<String>, limit: Duration, what: &str) -> Updated {
        let child = Child {
            argv,
            limit,
            grace: GRACE,
            cancel: self.shutdown.clone(),
        };
        let problem = match child.run(|line| tracing::info!("{line}")).await {
            Ok(ended) if ended.code == Some(Exit::Ok.code().into()) => return Updated::Done,
            Ok(ended) if ended.code == Some(Exit::Busy.code().into()) => return Updated::Busy,
            Ok(ended) => message_of(&ended),
            Err(error) => format!("{error:#}"),
        };
        tracing::warn!("could not {what}: {problem}");
        Updated::Failed
    }
}

/// Whether the list on the host is not what etcd says, or is not applied yet. If etcd does not answer, or has no quorum, the list stays.
async fn is_outdated(host: &dyn Host, address: IpAddr) -> bool {
    match members(host, address).await {
        Ok(found) => masters::is_outdated(host, &found).await,
        Err(error) => {
            let why = engine::model::chain(&error).join(": ");
            tracing::debug!("the masters stay as they are known: could not {why}");
            false
        }
    }
}

/// Looks at intervals, and updates what differs. An update that has begun is not ended by `end`: it changes the host.
pub(super) async fn keep<D, U>(
    mut differs: impl FnMut() -> D,
    mut update: impl FnMut() -> U,
    end: &CancellationToken,
) where
    D: Future<Output = bool>,
    U: Future<Output = Updated>,
{
    let mut failures: u32 = 0;
    let mut is_busy = false;
    loop {
        let look = async {
            let pause = match is_busy {
                true => BUSY_INTERVAL,
                false => doubled(failures.saturating_add(1), INTERVAL, LONGEST_PAUSE),
            };
            tokio::time::sleep(pause).await;
            differs().await
        };
        let is_different = tokio::select! {
            () = end.cancelled() => return,
            is_different = look => is_different,
        };
        let updated = match is_different {
            true => update().await,
            false => Updated::Done,
        };
        is_busy = updated == Updated::Busy;
        failures = match updated {
            Updated::Done => 0,
            Updated::Busy => failures,
            Updated::Failed => failures.saturating_add(1),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use clap::Parser as _;
    use engine::host::fake::FakeHost;
    use engine::kubernetes::masters::write;
    use tokio::time::Instant;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::nodeletd::supervisor::worker::test_worker::test_worker;

    /// A master whose member of etcd answers so.
    fn master(health: &str) -> FakeHost {
        let list = r#"[{"id":1,"name":"cp-1","peerURLs":["https://172.30.0.11:2380"]}]"#;
        let mut host = FakeHost::new()
            .with_directory("/var/opt/pf9/nodelet")
            .with_endpoint("127.0.0.1:4001", 200, health)
            .with_endpoint("172.30.0.11:2380", 200, list);
        for directory in ["etcdctl/etcd", "etcd/peer"] {
            for file in ["ca.crt", "request.crt", "request.key"] {
                host = host.with_file(format!("/etc/pf9/kube.d/certs/{directory}/{file}"), "pem");
            }
        }
        host
    }

    #[tokio::test]
    async fn an_update_is_judged_by_its_exit_code() {
        let worker = test_worker("nodelet");
        for (exit, expected) in [
            (Exit::Ok, Updated::Done),
            (Exit::Busy, Updated::Busy),
            (Exit::Failed, Updated::Failed),
        ] {
            let script = format!("exit {}", exit.code());
            let argv = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
            let updated = worker.update(argv, LIMIT, "test").await;
            assert_eq!(updated, expected, "{script}");
        }
    }

    #[tokio::test]
    async fn the_list_is_outdated_only_if_etcd_says_so() {
        let address: IpAddr = "172.30.0.11".parse().expect("an address");
        let host = master(r#"{"health":"true"}"#);
        assert!(is_outdated(&host, address).await, "there is no list yet");
        let found = members(&host, address).await.expect("it answers");
        write(&host, &found).await.expect("it can be written");
        assert!(!is_outdated(&host, address).await);
        masters::write_pending(&host, &found)
            .await
            .expect("it can be written");
        assert!(is_outdated(&host, address).await, "it is not applied");
        masters::settle(&host).await.expect("it can be removed");
        let damaged = host.with_file(engine::kubernetes::masters::MASTERS, "{");
        assert!(is_outdated(&damaged, address).await);
        let alone = master(r#"{"health":"false"}"#);
        assert!(!is_outdated(&alone, address).await, "it has no quorum");
    }

    #[tokio::test(start_paused = true)]
    async fn failed_updates_are_tried_again_later_and_later() {
        let began = Instant::now();
        let at = Mutex::new(Vec::new());
        let end = CancellationToken::new();
        let update = || {
            at.lock().unwrap().push(began.elapsed().as_secs());
            let is_done = at.lock().unwrap().len() > 4;
            std::future::ready(match is_done {
                true => Updated::Done,
                false => Updated::Failed,
            })
        };
        let work = keep(|| std::future::ready(true), update, &end);
        let ending = async {
            tokio::time::sleep(Duration::from_secs(235)).await;
            end.cancel();
        };
        tokio::join!(work, ending);
        assert_eq!(
            at.into_inner().unwrap(),
            [10, 30, 70, 130, 190, 200, 210, 220, 230]
        );
    }

    /// Another command has the lock for a few seconds. It may be tried soon, and a failure before it still counts.
    #[tokio::test(start_paused = true)]
    async fn a_busy_host_is_asked_again_soon() {
        use Updated::{Busy, Done, Failed};
        let began = Instant::now();
        let at = Mutex::new(Vec::new());
        let end = CancellationToken::new();
        let update = || {
            at.lock().unwrap().push(began.elapsed().as_secs());
            let updates = [Failed, Busy, Busy, Failed, Done];
            let tries = at.lock().unwrap().len();
            std::future::ready(updates.get(tries - 1).copied().unwrap_or(Done))
        };
        let work = keep(|| std::future::ready(true), update, &end);
        let ending = async {
            tokio::time::sleep(Duration::from_secs(85)).await;
            end.cancel();
        };
        tokio::join!(work, ending);
        assert_eq!(at.into_inner().unwrap(), [10, 30, 32, 34, 74, 84]);
    }

    /// It reads settings as a pass does, so it plans the same.
    #[test]
    fn nodelet_understands_the_call() {
        let address: IpAddr = "fd00::11".parse().expect("an address");
        let worker = test_worker("nodelet");
        for last_good in [false, true] {
            let argv = worker.masters_argv(address, last_good);
            let Command::Masters(args) = Cli::parse_from(argv).command else {
                panic!("it is another command");
            };
            assert_eq!(args.address, address);
            assert_eq!(args.role.merged_settings, last_good);
        }
    }
}
