//! A host whose ledger was lost, and a daemon whose state file was changed or lost.

use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::exec::Status;

use super::{Broken, beside, kept};
use crate::nodeletd::state::State;
use crate::nodeletd::status::kube_status::NodeState;

/// Failures are reported, but not repaired: a repair that is recorded nowhere could not be rolled back.
#[tokio::test(start_paused = true)]
async fn a_host_without_its_ledger_is_only_watched_and_not_ok() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    let says = |lost: &str| {
        lost.clone_into(&mut host.ledger_lost.lock().expect("no test panicked"));
    };
    says("could not use the ledger: it is missing");
    beside(&host, directory.path(), async |handles| {
        let condition = || {
            let view = handles.view.borrow().clone().expect("a pass was made");
            let mut all = view.conditions.iter();
            let ledger = all.find(|one| one.name == "LedgerValid").cloned();
            (ledger.expect("it is told"), view.counters.passes)
        };
        for broken in [false, true] {
            host.broken.store(broken, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(130)).await;
            let (ledger, _) = condition();
            assert_eq!(ledger.status, Status::False);
            assert!(ledger.reason.contains("it is missing"), "{ledger:?}");
            let status = kept(directory.path());
            assert_ne!(status.pf9_kube_node_state, NodeState::Ok);
            assert_eq!(status.last_failed_status_check, "ledger");
            assert_eq!(host.done(), [], "nothing is changed");
        }
        let (_, passes) = condition();
        assert!(passes >= 4, "it goes on looking: {passes}");
        host.broken.store(false, Ordering::Relaxed);
        says("");
        tokio::time::sleep(Duration::from_secs(130)).await;
        assert_eq!(condition().0.status, Status::True);
        assert_eq!(kept(directory.path()).pf9_kube_node_state, NodeState::Ok);
    })
    .await;
}

/// For example a pause: the next daemon would not know of it.
#[tokio::test(start_paused = true)]
async fn a_changed_state_file_is_written_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("nodeletd.json");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        handles.ask(super::pause()).await;
        let paused = || State::read(&path).paused_because;
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(paused(), "a look");
        for content in ["", "rubbish", "{\"paused_because\": \"another host\"}"] {
            std::fs::write(&path, content).expect("it is changed");
            tokio::time::sleep(Duration::from_secs(61)).await;
            assert_eq!(paused(), "a look", "after {content:?}");
        }
        std::fs::remove_file(&path).expect("it is removed");
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(paused(), "a look");
    })
    .await;
}
