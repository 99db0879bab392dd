//! What counts as an attempt, when the next one comes, and which of them is a full clean.

use super::*;
use crate::nodeletd::state::retry::backoff;

#[tokio::test(start_paused = true)]
async fn attempts_one_to_twelve_at_the_usual_intervals() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_outside| {
        for number in 1..=12 {
            attempts(&host, number).await;
            let status = kept(directory.path());
            let number = u32::try_from(number).expect("a small number");
            assert_eq!(status.pf9_kube_start_attempt, number);
            let state = match number {
                1 => NodeState::Converging,
                2..=10 => NodeState::Retrying,
                _ => NodeState::Failed,
            };
            assert_eq!(status.pf9_kube_node_state, state, "attempt {number}");
        }
        let all = host.attempts();
        let full: Vec<usize> = (1..=12).filter(|number| all[number - 1].1).collect();
        assert_eq!(full, [10], "only the tenth is a full clean");
        // Each pause is as decided, and at most a fifth longer.
        for (number, pair) in all.windows(2).enumerate() {
            let waited = pair[1].0 - pair[0].0;
            let failed = u32::try_from(number + 1).expect("a small number");
            let least = backoff(failed, Duration::from_secs(60));
            assert!(
                waited >= least && waited <= least.mul_f64(1.2) + Duration::from_secs(60),
                "after attempt {failed}: {waited:?} for {least:?}"
            );
        }
        // Once the cause is removed, the next attempt is successful, and the count begins at 0 again.
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        let status = kept(directory.path());
        assert_eq!(
            (status.pf9_kube_start_attempt, status.pf9_kube_node_state),
            (0, NodeState::Ok)
        );
    })
    .await;
}

/// The cluster refuses the token of a worker, and an operator brings another one.
#[tokio::test(start_paused = true)]
async fn the_attempt_after_a_new_join_file_does_not_wait() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_| {
        attempts(&host, 7).await;
        // The attempt ends, and the next one is minutes away.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(host.attempts().len(), 7);
        let triggers = host.triggers.lock().expect("no test panicked").clone();
        triggers.add_for_join_file("file /etc/pf9/nodelet/join.age".to_owned());
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(host.attempts().len(), 8);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_on_by_the_next_daemon() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    for so_far in [4, 8, 11] {
        beside(&host, directory.path(), async |_| {
            attempts(&host, so_far).await;
        })
        .await;
    }
    let full: Vec<usize> = (0..11).filter(|at| host.attempts()[*at].1).collect();
    assert_eq!(full, [9], "three daemons counted to ten together");
}

/// Right after a boot all results are unknown.
#[tokio::test(start_paused = true)]
async fn attempts_are_counted_across_a_boot() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_| attempts(&host, 8).await).await;
    host.booting.store(true, Ordering::Relaxed);
    beside(&host, directory.path(), async |_| {
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 8);
        host.booting.store(false, Ordering::Relaxed);
        attempts(&host, 10).await;
    })
    .await;
    assert!(host.attempts()[9].1, "the tenth is a full clean");
}

/// A wrong setting never leads to a full clean, even if it stays for hours.
#[tokio::test(start_paused = true)]
async fn a_host_that_is_refused_is_never_cleaned() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.refuses.store(true, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
        assert_eq!(host.attempts(), [], "nothing was touched");
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
        let view = handles.view.borrow().clone().expect("it looks");
        let fits = view.conditions.iter().find(|one| one.name == "HostFits");
        let fits = fits.expect("it is a condition");
        assert_eq!(fits.status, Status::False);
        assert!(fits.reason.contains("no eth9"), "{}", fits.reason);
        // Once the preconditions hold again, attempts are made as usual.
        host.refuses.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(180)).await;
        let view = handles.view.borrow().clone().expect("it looks");
        let fits = view.conditions.iter().find(|one| one.name == "HostFits");
        assert_eq!(fits.map(|fits| fits.status), Some(Status::True));
        assert!(!host.attempts().is_empty());
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        let view = handles.view.borrow().clone().expect("it looks");
        assert!(view.conditions.iter().all(|one| one.status == Status::True));
    })
    .await;
}

/// At the tenth attempt a precondition no longer holds: no full clean is made, because the host could not come up again.
#[tokio::test(start_paused = true)]
async fn no_clean_starts_if_the_role_could_not_be_applied_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_outside| {
        attempts(&host, 9).await;
        host.refuses_clean.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
        assert_eq!(host.cleans(), 0);
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 9);
        // Repairs go on meanwhile.
        assert!(host.attempts().len() > 20, "{:?}", host.attempts());
        host.refuses_clean.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1800)).await;
        assert_eq!(host.cleans(), 1, "its turn was kept");
    })
    .await;
}

/// Nine failures from before the daemon's start: of an older program, or before a boot.
#[tokio::test(start_paused = true)]
async fn a_restarted_daemon_repairs_before_it_cleans() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_| attempts(&host, 9).await).await;
    // A daemon that is restarted again and again never makes a full clean.
    for start in 0..5 {
        beside(&host, directory.path(), async |_| {
            attempts(&host, 10 + start).await;
        })
        .await;
        assert_eq!(host.cleans(), 0);
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 9);
    }
    // With a new plan the count begins at 0 again.
    "another plan".clone_into(&mut host.digest.lock().expect("no test panicked"));
    beside(&host, directory.path(), async |_| attempts(&host, 20).await).await;
    assert_eq!(host.cleans(), 0);
}

/// An operator who requests an attempt wants a repair, not a full clean.
#[tokio::test(start_paused = true)]
async fn a_requested_attempt_never_cleans_a_host() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |handles| {
        attempts(&host, 9).await;
        for (number, request) in [Request::Now, Request::Repair(vec!["kube-proxy".to_owned()])]
            .into_iter()
            .cycle()
            .take(6)
            .enumerate()
        {
            handles.ask(request).await;
            attempts(&host, 10 + number).await;
        }
        assert_eq!(host.cleans(), 0);
        // After a pause the count begins at 0 again: the operator has worked on the host.
        handles.ask(pause()).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        handles.ask(Request::Resume).await;
        let before = host.attempts().len();
        attempts(&host, before + 5).await;
        assert_eq!(host.cleans(), 0);
    })
    .await;
}

/// A change that is interrupted or never began does not count as an attempt.
#[tokio::test(start_paused = true)]
async fn unfinished_attempts_are_not_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.interrupts.store(true, Ordering::Relaxed);
    for start in 1..15 {
        beside(&host, directory.path(), async |_| {
            attempts(&host, start).await;
        })
        .await;
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
    }
    host.interrupts.store(false, Ordering::Relaxed);
    host.unable.store(true, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
        let view = handles.view.borrow().clone().expect("it looks");
        let fits = view.conditions.iter().find(|one| one.name == "HostFits");
        assert!(fits.is_some_and(|fits| fits.reason.contains("no memory")));
    })
    .await;
    assert_eq!(host.cleans(), 0);
}

/// Killed, for example because memory was short: it is unknown whether the repair would have helped, and it may be killed again.
#[tokio::test(start_paused = true)]
async fn a_killed_repair_is_not_counted_and_is_retried_with_a_pause() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.interrupts.store(true, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(4 * 3600)).await;
        let tried = host.attempts();
        assert!((20..100).contains(&tried.len()), "{}", tried.len());
        let usual = |(number, pair): (usize, &[(Duration, bool)])| {
            let number = u32::try_from(number + 1).expect("a small number");
            pair[1].0 - pair[0].0 >= backoff(number, Duration::from_secs(60))
        };
        assert!(tried.windows(2).enumerate().all(usual), "{tried:?}");
        assert_eq!(host.cleans(), 0);
        attempts(&host, tried.len() + 1).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
        let condition_now = || condition(handles, "ChangesComplete");
        let (status, reason) = condition_now().expect("it is a condition");
        assert_eq!(status, Status::False);
        assert!(reason.starts_with("`nodelet repair"), "{reason}");
        host.interrupts.store(false, Ordering::Relaxed);
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(condition_now().expect("it is a condition").0, Status::True);
    })
    .await;
}

/// A change that does not end in time at the daemon's shutdown is killed, and says nothing about the host.
#[tokio::test(start_paused = true)]
async fn runs_interrupted_by_a_daemon_stop_are_not_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.interrupts.store(true, Ordering::Relaxed);
    host.lingers.store(true, Ordering::Relaxed);
    for start in 1..12 {
        beside(&host, directory.path(), async |_| {
            attempts(&host, start).await
        })
        .await;
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
    }
    assert_eq!(host.cleans(), 0);
}

/// For example, an operator has restarted it by hand between the pass and the lock.
#[tokio::test(start_paused = true)]
async fn a_phase_that_is_healthy_at_repair_time_is_restarted_at_most_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.comes_and_goes.store(true, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        attempts(&host, 1).await;
        // A phase that every pass sees failing is restarted in the end, even if it is healthy in between.
        let (at, words) = host.done().remove(0);
        assert_eq!(words, "repair etcd");
        assert!(at < Duration::from_secs(10), "{at:?}");
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 1);
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        let done = host.done().len();
        // A pass has seen it healthy meanwhile, so the next repair checks it again first.
        host.broken.store(true, Ordering::Relaxed);
        host.comes_and_goes.store(false, Ordering::Relaxed);
        attempts(&host, done + 1).await;
        assert_eq!(host.done()[done].1, "repair --if-failing etcd");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let view = handles.view.borrow().clone().expect("it looks");
        assert_eq!(view.counters.repairs, host.done().len() as u64);
    })
    .await;
}

/// Nine repairs did not help, and before the tenth an operator has fixed it by hand.
#[tokio::test(start_paused = true)]
async fn recovered_phases_are_not_cleaned() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_outside| {
        attempts(&host, 9).await;
        host.comes_and_goes.store(true, Ordering::Relaxed);
        assert_eq!(host.found_well.load(Ordering::Relaxed), 0);
        attempts(&host, 10).await;
        assert_eq!(host.found_well.load(Ordering::Relaxed), 1);
        // But if every pass sees it failing, the full clean is made in the end.
        assert_eq!(host.done()[9].1, CLEAN, "without another check");
    })
    .await;
}

/// Each pass gets the counts of failures of the one before. A check that has not failed often enough yet does not end a row of attempts.
/// This is so after a start of the daemon, which counts failures from 0.
#[tokio::test(start_paused = true)]
async fn failure_counts_pass_from_pass_to_pass() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_| {
        attempts(&host, 3).await;
        host.failures.store(1, Ordering::Relaxed);
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!host.before.lock().expect("no test panicked").is_empty());
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 3);
        host.failures.store(0, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert!(host.before.lock().expect("no test panicked").is_empty());
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 0);
    })
    .await;
}

/// For example a masked unit: the full clean of the tenth attempt cannot fix it, so the twentieth is a repair. If another phase fails as
/// well, a full clean is made again.
#[tokio::test(start_paused = true)]
async fn a_useless_full_clean_is_not_repeated_for_the_same_phases() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |handles| {
        let condition_now = || condition(handles, "FullCleanHelps");
        attempts(&host, 9).await;
        assert_eq!(condition_now(), Some((Status::True, String::new())));
        attempts(&host, 25).await;
        assert_eq!(host.cleans(), 1, "only the tenth");
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 25);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (status, reason) = condition_now().expect("it is a condition");
        assert_eq!(status, Status::False);
        assert!(
            reason.contains("attempt 10 did not repair etcd"),
            "{reason}"
        );
    })
    .await;
    // The next daemon knows of it, too.
    beside(&host, directory.path(), async |_| {
        attempts(&host, 35).await;
        assert_eq!(host.cleans(), 1);
        let kubelet = "kubelet".parse().expect("a name");
        host.others.lock().expect("no test panicked").push(kubelet);
        attempts(&host, 40).await;
        let full = |(at, (_, cleans)): (usize, &(Duration, bool))| cleans.then_some(at + 1);
        let all = host.attempts();
        let full: Vec<usize> = all.iter().enumerate().filter_map(full).collect();
        assert_eq!(full, [10, 40], "another phase fails");
        // With another plan the count begins at 0 again.
        "another plan".clone_into(&mut host.digest.lock().expect("no test panicked"));
        attempts(&host, 50).await;
        assert_eq!(host.cleans(), 3);
    })
    .await;
}

/// If events during a refused attempt were dropped, the daemon would see the change only a minute later.
#[tokio::test(start_paused = true)]
async fn events_during_a_refused_attempt_trigger_a_delayed_pass() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.refuses.store(true, Ordering::Relaxed);
    host.stirs.store(true, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        let passes = || {
            let view = handles.view.borrow().clone().expect("it looks");
            view.counters.passes
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = passes();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(passes(), before + 1);
        let before = passes();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!((55..=65).contains(&(passes() - before)), "{}", passes());
        // Once no events come any more, passes are made at the usual interval again.
        host.stirs.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(125)).await;
        let before = passes();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(passes() - before <= 1, "nothing has happened");
    })
    .await;
}

/// What a stop was refused for counts more than what it could not end.
#[tokio::test(start_paused = true)]
async fn a_role_whose_stop_is_refused_late_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.fails_in("etcd", "end phase etcd: etcd would lose its quorum");
    *host.wanted.lock().expect("no test panicked") = ServiceState::False;
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(90)).await;
        let (status, reason) = condition(handles, "RoleStops").expect("it is a condition");
        assert_eq!(status, Status::False);
        assert!(reason.contains("etcd would lose its quorum"), "{reason}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_the_last_failed_attempt_is_a_condition_until_it_is_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.fails_in("certs", "the request was denied");
    beside(&host, directory.path(), async |handles| {
        attempts(&host, 2).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (status, reason) = condition(handles, "LastRepairSucceeded").expect("a condition");
        assert_eq!(status, Status::False);
        assert!(
            reason.starts_with("certs failed at phases/etcd.rhai")
                && reason.ends_with("the request was denied; next: look at it"),
            "{reason}"
        );
    })
    .await;
    // The next daemon knows it, too.
    beside(&host, directory.path(), async |handles| {
        let now = || condition(handles, "LastRepairSucceeded").map(|its| its.0);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(now(), Some(Status::False));
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert_eq!(now(), Some(Status::True));
    })
    .await;
}

/// A role that is to be down needs no repair.
#[tokio::test(start_paused = true)]
async fn a_failed_repair_is_forgotten_when_the_role_is_down_as_desired() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.fails_in("etcd", "it does not start");
    beside(&host, directory.path(), async |_| attempts(&host, 1).await).await;
    host.broken.store(false, Ordering::Relaxed);
    *host.wanted.lock().expect("no test panicked") = ServiceState::False;
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(150)).await;
        let condition = condition(handles, "LastRepairSucceeded");
        assert_eq!(condition, Some((Status::True, String::new())));
    })
    .await;
}
