//! Requests to the daemon: pauses, passes and repairs.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_paused_daemon_makes_passes_and_changes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |handles| {
        attempts(&host, 1).await;
        handles.ask(pause()).await;
        let view = handles.view.borrow().clone().expect("it has looked");
        assert!(view.paused_until.is_some(), "it is seen at once");
        tokio::time::sleep(Duration::from_secs(30)).await;
        let done = host.done().len();
        tokio::time::sleep(Duration::from_secs(1800)).await;
        assert_eq!(host.done().len(), done, "nothing was touched");
        let view = handles.view.borrow().clone().expect("it looks");
        assert_eq!(view.doing, "paused");
        handles.ask(Request::Resume).await;
        let view = handles.view.borrow().clone().expect("it looks");
        assert_eq!(view.paused_until, None);
        attempts(&host, 2).await;
    })
    .await;
}

/// The interval between two passes does not make a short pause longer.
#[tokio::test(start_paused = true)]
async fn failures_during_a_pause_are_repaired_after_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let short = Request::Pause {
            time: Duration::from_secs(15),
            because: "a look".to_owned(),
        };
        handles.ask(short).await;
        host.broken.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(14)).await;
        assert_eq!(host.done(), [], "it holds");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(host.attempts().len(), 1, "{:?}", host.done());
    })
    .await;
}

/// A decision by the old settings is dropped, and settings written during a change are not forgotten with the events of the change itself.
#[tokio::test(start_paused = true)]
async fn settings_that_are_written_during_a_pass_or_a_change_are_read_before_anything_else_is_done()
{
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    let seconds = Duration::from_secs;
    *host.pass_time.lock().expect("no test panicked") = seconds(10);
    beside(&host, directory.path(), async |_| {
        tokio::time::sleep(seconds(30)).await;
        host.is_to_be(ServiceState::False);
        tokio::time::sleep(seconds(5)).await;
        // The pass that has read them is under way.
        host.is_to_be(ServiceState::True);
        tokio::time::sleep(seconds(300)).await;
        assert_eq!(host.done(), [], "it is no longer to be down");

        *host.silent.lock().expect("no test panicked") = seconds(20);
        host.is_to_be(ServiceState::False);
        tokio::time::sleep(seconds(25)).await;
        assert_eq!(host.done().len(), 1, "it is being stopped");
        host.is_to_be(ServiceState::True);
        host.broken.store(true, Ordering::Relaxed);
        tokio::time::sleep(seconds(30)).await;
        assert_eq!(host.done().len(), 2, "{:?}", host.done());

        // The host is repaired even while settings are written all the time.
        let before = host.done().len();
        for _ in 0..600 {
            host.is_to_be(ServiceState::True);
            tokio::time::sleep(seconds(1)).await;
        }
        assert!(host.done().len() > before, "{:?}", host.done());
    })
    .await;
}

/// If nodeletd has reported that the pause is in force, an operator may already work on the host.
#[tokio::test(start_paused = true)]
async fn a_pause_that_comes_during_a_pass_holds_for_what_follows_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    *host.pass_time.lock().expect("no test panicked") = Duration::from_secs(20);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let asked = Instant::now();
        handles.ask(pause()).await;
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "it is not waited for"
        );
        let remembered = State::read(&directory.path().join("nodeletd.json"));
        assert!(remembered.paused_until.is_some());
        tokio::time::sleep(Duration::from_secs(1800)).await;
        assert_eq!(host.done(), [], "nothing was touched");
        // Other requests during a pass are respected as well.
        handles.ask(Request::Resume).await;
        attempts(&host, 1).await;
        let (at, _) = host.attempts()[0];
        assert!(at < Duration::from_secs(1900), "{at:?}");
    })
    .await;
}

/// The operator may have changed what the pass checked before the pause ended.
#[tokio::test(start_paused = true)]
async fn a_pass_that_began_before_the_end_of_a_pause_decides_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    let seconds = Duration::from_secs;
    *host.pass_time.lock().expect("no test panicked") = seconds(20);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(seconds(10)).await;
        handles.ask(pause()).await;
        handles.ask(Request::Resume).await;
        let resumed = Instant::now();
        attempts(&host, 1).await;
        // The rest of that pass, and all of the next one.
        assert!(resumed.elapsed() >= seconds(30), "{:?}", resumed.elapsed());
    })
    .await;
}

/// A restart of nodeletd would end such a pause, so its sender must know.
#[tokio::test(start_paused = true)]
async fn a_pause_that_cannot_be_saved_is_in_force_and_is_reported() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    let state_file = directory.path().join("nodeletd.json");
    std::fs::create_dir_all(state_file.join("of others")).expect("a directory in its place");
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        for is_saved in [false, true] {
            if is_saved {
                std::fs::remove_dir_all(&state_file).expect("it goes");
            }
            let (pending, in_force) = pause().pending();
            handles.requests.send(pending).await.expect("it listens");
            let saved = in_force.await.expect("it is taken");
            assert_eq!(saved.is_ok(), is_saved, "{saved:?}");
            let problem = saved.err().unwrap_or_default();
            assert_eq!(problem.contains("nodeletd.json"), !is_saved, "{problem}");
            let view = handles.view.borrow().clone().expect("it looks");
            assert!(view.paused_until.is_some(), "it holds all the same");
        }
    })
    .await;
    assert!(State::read(&state_file).paused_until.is_some());
}

/// A restart of nodeletd would bring the pause back, so the sender of the request must know.
#[tokio::test(start_paused = true)]
async fn a_resume_that_cannot_be_saved_is_in_force_and_is_reported() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    let state_file = directory.path().join("nodeletd.json");
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        handles.ask(pause()).await;
        // It may be written once more meanwhile.
        let blocked = (0..1000).any(|_| {
            let _ = std::fs::remove_file(&state_file);
            std::fs::create_dir_all(state_file.join("of others")).is_ok()
        });
        assert!(blocked, "a directory in its place");
        for is_saved in [false, true] {
            if is_saved {
                std::fs::remove_dir_all(&state_file).expect("it goes");
            }
            let (pending, is_over) = Request::Resume.pending();
            handles.requests.send(pending).await.expect("it listens");
            let saved = is_over.await.expect("it is taken");
            assert_eq!(saved.is_ok(), is_saved, "{saved:?}");
            let problem = saved.err().unwrap_or_default();
            assert_eq!(problem.contains("nodeletd.json"), !is_saved, "{problem}");
            let view = handles.view.borrow().clone().expect("it looks");
            assert_eq!(view.paused_until, None, "it is over all the same");
        }
    })
    .await;
    assert_eq!(State::read(&state_file).paused_until, None);
}

/// The pause is measured on the monotonic clock: here the time of day stands still.
#[tokio::test(start_paused = true)]
async fn a_pause_ends_with_its_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |handles| {
        attempts(&host, 1).await;
        handles.ask(pause()).await;
        tokio::time::sleep(Duration::from_secs(3590)).await;
        assert_eq!(host.attempts().len(), 1);
        attempts(&host, 2).await;
        let (at, _) = host.attempts()[1];
        assert!(at < Duration::from_secs(3700), "{at:?}");
        let remembered = State::read(&directory.path().join("nodeletd.json"));
        assert_eq!(remembered.paused_until, None, "no start goes on with it");
    })
    .await;
}

/// A pass under way may have made its checks before the request, so another pass is made.
#[tokio::test(start_paused = true)]
async fn a_pass_requested_during_a_pass_runs_afterwards() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    *host.pass_time.lock().expect("no test panicked") = Duration::from_secs(4);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        handles.ask(Request::Now).await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        let view = handles.view.borrow().clone().expect("it looks");
        assert_eq!(view.counters.passes, 2);
    })
    .await;
}

/// Both requests were accepted.
#[tokio::test(start_paused = true)]
async fn a_second_repair_that_is_asked_for_does_not_replace_the_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    *host.pass_time.lock().expect("no test panicked") = Duration::from_secs(5);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        for phase in ["kubelet", "docker", "kubelet"] {
            handles.ask(Request::Repair(vec![phase.to_owned()])).await;
        }
        attempts(&host, 1).await;
        assert_eq!(host.done()[0].1, "repair kubelet docker");
    })
    .await;
}

/// A requested repair is dropped if passes fail, and is not made hours later.
#[tokio::test(start_paused = true)]
async fn requests_from_before_failed_passes_are_dropped() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        host.unseen.store(true, Ordering::Relaxed);
        handles
            .ask(Request::Repair(vec!["kubelet".to_owned()]))
            .await;
        handles.ask(pause()).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let view = handles.view.borrow().clone().expect("it looks");
        assert_eq!((view.failed_in_a_row, view.counters.passes), (2, 1));
        assert!(view.paused_until.is_some(), "a pause holds all the same");
        handles.ask(Request::Resume).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
        host.unseen.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(host.done(), []);
    })
    .await;
}
