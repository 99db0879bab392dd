//! What the daemon reports: its health, its conditions and `kube_status`.

use super::*;

/// Changes of the longest duration, and a day without events.
#[tokio::test(start_paused = true)]
async fn a_daemon_that_changes_or_waits_is_healthy() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    *host.silent.lock().expect("no test panicked") = CHANGE + GRACE;
    beside(&host, directory.path(), async |_outside| {
        attempts(&host, 3).await;
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    })
    .await;
}

/// Other processes read kube_status, and may damage it.
#[tokio::test(start_paused = true)]
async fn foreign_content_of_the_status_file_is_ignored() {
    for number in ["9", "4294967295"] {
        let directory = tempfile::tempdir().expect("a directory");
        let status = format!("{{\"pf9_kube_start_attempt\": {number}}}");
        std::fs::write(directory.path().join("kube_status"), status).expect("it is written");
        let host = Broken::new();
        beside(&host, directory.path(), async |_| attempts(&host, 1).await).await;
        assert_eq!(host.cleans(), 0);
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 1);
    }
}

/// After three failed passes the status file no longer reports the old state. The host is not changed for this.
#[tokio::test(start_paused = true)]
async fn three_failed_passes_are_reported() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    beside(&host, directory.path(), async |_outside| {
        let interval = Duration::from_secs(60);
        tokio::time::sleep(interval / 2).await;
        assert_eq!(kept(directory.path()).pf9_kube_service_state, "true");
        host.unseen.store(true, Ordering::Relaxed);
        tokio::time::sleep(2 * interval).await;
        assert_eq!(kept(directory.path()).pf9_kube_service_state, "true");
        tokio::time::sleep(interval).await;
        let status = kept(directory.path());
        assert_eq!(status.pf9_kube_service_state, "false");
        assert_eq!(status.pf9_kube_node_state, NodeState::Converging);
        assert_eq!(status.last_failed_status_check, "a status pass");
        assert_eq!(status.pf9_kube_start_attempt, 0);
        host.unseen.store(false, Ordering::Relaxed);
        tokio::time::sleep(interval).await;
        assert_eq!(kept(directory.path()).pf9_kube_service_state, "true");
        assert_eq!(kept(directory.path()).pf9_kube_node_state, NodeState::Ok);
        assert!(host.done().is_empty(), "{:?}", host.done());
    })
    .await;
}

/// A check that can never be made is no reason for a repair, but the host must not be reported as healthy.
#[tokio::test(start_paused = true)]
async fn results_unknown_for_three_intervals_are_reported_without_a_repair() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    let says = || {
        let status = kept(directory.path());
        (status.pf9_kube_service_state, status.pf9_kube_node_state)
    };
    let up = || ("true".to_owned(), NodeState::Ok);
    beside(&host, directory.path(), async |_outside| {
        let interval = Duration::from_secs(60);
        tokio::time::sleep(interval / 2).await;
        host.failures.store(1, Ordering::Relaxed);
        tokio::time::sleep(3 * interval).await;
        assert_eq!(says(), up(), "it has not been so for long");
        tokio::time::sleep(interval).await;
        assert_eq!(says(), ("false".to_owned(), NodeState::Converging));
        assert_eq!(kept(directory.path()).last_failed_status_check, "etcd");
        host.failures.store(0, Ordering::Relaxed);
        tokio::time::sleep(interval).await;
        assert_eq!(says(), up());
        assert!(host.done().is_empty(), "{:?}", host.done());
    })
    .await;
}

/// A foreign count is not shown either while the daemon waits for its next attempt.
#[tokio::test(start_paused = true)]
async fn the_status_file_shows_what_the_daemon_has_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    beside(&host, directory.path(), async |_| attempts(&host, 5).await).await;
    let status = r#"{"pf9_kube_start_attempt": 77}"#;
    std::fs::write(directory.path().join("kube_status"), status).expect("it is written");
    beside(&host, directory.path(), async |_| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(kept(directory.path()).pf9_kube_start_attempt, 5);
    })
    .await;
}

/// After a boot, for example after a power cut, the file still has the state from before.
#[tokio::test(start_paused = true)]
async fn services_are_not_up_after_a_boot_before_they_are_observed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let state = path.join("nodeletd.json");
    let host = Broken::new();
    let says = || {
        let status = kept(path);
        (status.pf9_kube_service_state, status.pf9_kube_node_state)
    };
    let up = || ("true".to_owned(), NodeState::Ok);
    beside(&host, path, async |_| attempts(&host, 3).await).await;
    host.broken.store(false, Ordering::Relaxed);
    beside(&host, path, async |_| {
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert_eq!(says(), up());
    })
    .await;
    host.booting.store(true, Ordering::Relaxed);
    beside(&host, path, async |_| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(says(), up(), "only the daemon was restarted");
    })
    .await;
    let mut before = State::read(&state);
    assert!(!before.has_booted());
    before.up_in = "the boot before".to_owned();
    before.write(&state).expect("it is written");
    *host.pass_time.lock().expect("no test panicked") = Duration::from_secs(10);
    beside(&host, path, async |_| {
        for seconds in [1, 10] {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            assert_eq!(says(), ("false".to_owned(), NodeState::Converging));
        }
        host.booting.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(71)).await;
        assert_eq!(says(), up());
    })
    .await;
    assert!(!State::read(&state).has_booted());
}

/// A role that was up before may have been removed by hand, or by a setting.
#[tokio::test(start_paused = true)]
async fn a_bare_host_expects_nothing_after_a_boot() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let state = path.join("nodeletd.json");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    for (wanted, bare, remembered) in [
        (ServiceState::True, false, true),
        (ServiceState::True, true, false),
        (ServiceState::Ignore, true, false),
    ] {
        *host.wanted.lock().expect("no test panicked") = wanted;
        host.bare.store(bare, Ordering::Relaxed);
        let cluster = if bare { "" } else { "c" };
        cluster.clone_into(&mut host.cluster.lock().expect("no test panicked"));
        beside(&host, path, async |_| {
            tokio::time::sleep(Duration::from_secs(1)).await;
        })
        .await;
        let up_in = State::read(&state).up_in;
        assert_eq!(!up_in.is_empty(), remembered, "{up_in}");
    }
}

/// Otherwise readers of the file would take its old content for the present state.
#[tokio::test(start_paused = true)]
async fn an_unwritable_status_file_is_reported() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    let in_its_place = directory.path().join("kube_status/other");
    std::fs::create_dir_all(&in_its_place).expect("a directory in its place");
    beside(&host, directory.path(), async |handles| {
        let condition_now = || condition(handles, "StateWritten");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (status, reason) = condition_now().expect("it is a condition");
        assert_eq!(status, Status::False);
        assert!(reason.contains("kube_status"), "{reason}");
        assert!(reason.contains("move it away"), "{reason}");
        std::fs::remove_dir_all(directory.path().join("kube_status")).expect("it goes");
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(condition_now(), Some((Status::True, String::new())));
    })
    .await;
}

/// A pause that ended while the disk was full must not be in force for a later daemon.
#[tokio::test(start_paused = true)]
async fn state_is_written_as_soon_as_the_disk_accepts_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    let state_file = directory.path().join("nodeletd.json");
    beside(&host, directory.path(), async |handles| {
        let written = || {
            let view = handles.view.borrow().clone().expect("it looks");
            let mut conditions = view.conditions.iter();
            let written = conditions.find(|one| one.name == "StateWritten");
            written.map(|one| one.status)
        };
        handles.ask(pause()).await;
        // It may be written once more meanwhile.
        let blocked = (0..1000).any(|_| {
            let _ = std::fs::remove_file(&state_file);
            std::fs::create_dir_all(state_file.join("of others")).is_ok()
        });
        assert!(blocked, "a directory in its place");
        handles.ask(Request::Resume).await;
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(written(), Some(Status::False));
        std::fs::remove_dir_all(&state_file).expect("it goes");
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(written(), Some(Status::True));
        assert_eq!(State::read(&state_file).paused_until, None);
        assert!(state_file.is_file());
    })
    .await;
}

/// No attempt will ever be made on this host.
#[tokio::test(start_paused = true)]
async fn an_unassigned_host_does_not_stay_converging() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.cluster.lock().expect("no test panicked").clear();
    host.bare.store(true, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(restraints(handles), (false, true));
        let status = kept(directory.path());
        assert_eq!(status.pf9_kube_node_state, NodeState::Ok);
        assert_eq!(status.pf9_kube_start_attempt, 0);
        assert_eq!(status.pf9_kube_service_state, "false");
        assert_eq!(host.done(), []);
    })
    .await;
}

/// An operator starts a stopped role by hand: it is stopped again, because the settings still ask for that.
#[tokio::test(start_paused = true)]
async fn a_role_that_must_be_down_is_kept_stopped() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    *host.wanted.lock().expect("no test panicked") = ServiceState::False;
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let view = handles.view.borrow().clone().expect("it looks");
        assert_eq!(view.doing, "watching", "the stop is over");
        tokio::time::sleep(Duration::from_secs(565)).await;
        assert_eq!(host.done().len(), 1, "{:?}", host.done());
        host.runs.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(host.done().len(), 2, "{:?}", host.done());
        host.runs.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(host.done().len(), 2, "{:?}", host.done());
        host.untold.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(host.done().len(), 2, "if unknown, it is not stopped");
    })
    .await;
}

/// A condition says that a role that is to be down does not stop, until it has stopped.
#[tokio::test(start_paused = true)]
async fn a_role_that_does_not_stop_is_reported() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    *host.wanted.lock().expect("no test panicked") = ServiceState::False;
    beside(&host, directory.path(), async |handles| {
        let condition_now = || condition(handles, "RoleStops");
        tokio::time::sleep(Duration::from_secs(90)).await;
        let (status, reason) = condition_now().expect("it is a condition");
        assert_eq!(status, Status::False);
        assert_eq!(reason, "etcd: it does not end");
        let state = || kept(directory.path()).pf9_kube_node_state;
        assert_eq!(state(), NodeState::Converging);
        assert!(host.done().len() >= 2, "it is tried again");
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert_eq!(condition_now().expect("it is a condition").0, Status::True);
        assert_eq!(state(), NodeState::Ok);
        let done = host.done().len();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(host.done().len(), done, "it is down");
    })
    .await;
}

/// A disk stalls for a minute, also during a change: the daemon goes on, answers requests, and reports this.
#[tokio::test(start_paused = true)]
async fn a_stalled_disk_is_reported_and_blocks_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut host = Broken::new();
    let (stalls, stalled) = watch::channel(false);
    host.disk = Disk::of(move |write| {
        let mut stalled = stalled.clone();
        Box::pin(async move {
            stalled.wait_for(|stalls| !stalls).await?;
            write()
        })
    });
    let says = |handles: &Handles| {
        let view = handles.view.borrow().clone().expect("it looks");
        let mut conditions = view.conditions.iter();
        let written = conditions.find(|one| one.name == "StateWritten");
        written.map(|one| (one.status, one.reason.clone()))
    };
    // `beside` checks each second that the watchdog has no reason to let systemd kill the daemon.
    beside(&host, directory.path(), async |handles| {
        attempts(&host, 1).await;
        stalls.send_replace(true);
        let before = host.attempts().len();
        attempts(&host, before + 3).await;
        let (status, reason) = says(handles).expect("it is a condition");
        assert_eq!(status, Status::False);
        assert!(reason.contains("the disk has not taken it"), "{reason}");
        // Requests are answered.
        handles.ask(pause()).await;
        stalls.send_replace(false);
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(says(handles), Some((Status::True, String::new())));
        let state = State::read(&directory.path().join("nodeletd.json"));
        assert_eq!(state.paused_because, "a look");
    })
    .await;
}

/// The role was applied by hand, without a CLUSTER_ID, and is to be kept.
#[tokio::test(start_paused = true)]
async fn an_applied_role_without_a_cluster_id_is_repaired_and_reported() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.cluster.lock().expect("no test panicked").clear();
    beside(&host, directory.path(), async |handles| {
        attempts(&host, 1).await;
        let view = handles.view.borrow().clone().expect("it looks");
        assert_ne!(view.node_state, NodeState::Ok);
        let mut conditions = view.conditions.iter();
        let condition_now = conditions.find(|one| one.name == "ClusterIdSet");
        let condition_now = condition_now.expect("it is a condition");
        assert_eq!(condition_now.status, Status::False);
        assert!(
            condition_now.reason.starts_with("CLUSTER_ID is not set"),
            "{condition_now:?}"
        );
    })
    .await;
}

/// With an invalid script no full clean may be made: the host might not come up again. What is down is restarted all the same.
#[tokio::test(start_paused = true)]
async fn while_the_role_is_invalid_units_are_repaired_and_nothing_is_cleaned() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    let wrong = "phases/etcd.rhai:3:5: unknown word".to_owned();
    host.role_problems
        .lock()
        .expect("no test panicked")
        .push(wrong);
    beside(&host, directory.path(), async |handles| {
        // More than FULL_RETRY_COUNT.
        attempts(&host, 15).await;
        assert_eq!(host.cleans(), 0);
        assert!(host.went_by_last_good.load(Ordering::Relaxed));
        let view = handles.view.borrow().clone().expect("it looks");
        assert!(view.keeps_last_good);
        assert!(host.listens_with_last_good.load(Ordering::Relaxed));
        let mut conditions = view.conditions.iter();
        let condition_now = conditions.find(|one| one.name == "RoleValid");
        let condition_now = condition_now.expect("it is a condition");
        assert!(
            condition_now.reason.contains("phases/etcd.rhai:3:5"),
            "{condition_now:?}"
        );
        // Once the role is valid again, the full clean has its turn.
        host.role_problems.lock().expect("no test panicked").clear();
        attempts(&host, 30).await;
        assert!(host.cleans() > 0);
        assert!(!host.listens_with_last_good.load(Ordering::Relaxed));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_refused_with_its_settings_is_not_ok() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(kept(directory.path()).pf9_kube_node_state, NodeState::Ok);
        assert_eq!(restraints(handles), (false, false));
        let refused = "CLUSTER_ID is another one".to_owned();
        *host.refused.lock().expect("no test panicked") = Some(refused);
        tokio::time::sleep(Duration::from_secs(120)).await;
        let status = kept(directory.path());
        assert_eq!(status.pf9_kube_node_state, NodeState::Converging);
        assert_eq!(status.last_failed_status_check, "settings");
        assert_eq!(restraints(handles), (true, false));
        *host.refused.lock().expect("no test panicked") = None;
        *host.ledger_lost.lock().expect("no test panicked") = "it is lost".to_owned();
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(restraints(handles), (true, false));
    })
    .await;
}

/// The node is known by its old name, so what is down is started again with that name. A full clean would end this.
#[tokio::test(start_paused = true)]
async fn while_the_host_has_a_wrong_name_what_fails_is_restarted() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    let refused = "use the node name=m-2 on this host".to_owned();
    *host.refused.lock().expect("no test panicked") = Some(refused);
    host.renamed.store(true, Ordering::Relaxed);
    *host.pending_release.lock().expect("no test panicked") = Some("2".to_owned());
    beside(&host, directory.path(), async |handles| {
        // More than FULL_RETRY_COUNT.
        attempts(&host, 15).await;
        assert_eq!(host.cleans(), 0);
        assert!(host.went_by_last_good.load(Ordering::Relaxed));
        assert_eq!(restraints(handles), (false, false));
        let (status, reason) = condition(handles, "SettingsAllowed").expect("it is a condition");
        assert_eq!(status, Status::False);
        for part in [
            "could not use the node name=m-2",
            "repairs what fails",
            "release 2 of the role is installed",
        ] {
            assert!(reason.contains(part), "{reason}");
        }
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(600)).await;
        let status = kept(directory.path());
        assert_eq!(status.pf9_kube_node_state, NodeState::Converging);
        assert_eq!(status.last_failed_status_check, "settings");
        let due = vec!["kubelet".to_owned()];
        *host.due.lock().expect("no test panicked") = due;
        let before = host.done().len();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(host.done().len(), before, "nothing is renewed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn unknown_subnets_are_not_reported_as_healthy() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        let condition_now = async || {
            tokio::time::sleep(Duration::from_secs(120)).await;
            let view = handles.view.borrow().clone().expect("it looks");
            let mut conditions = view.conditions.iter();
            let found = conditions.find(|one| one.name == "NodesHaveSubnets");
            let found = found.expect("it is a condition");
            (found.status, found.reason.clone())
        };
        assert_eq!(condition_now().await, (Status::True, String::new()));
        let report_subnets =
            |found: WithoutSubnet| *host.without_subnet.lock().expect("no test panicked") = found;
        report_subnets(WithoutSubnet {
            unknown: "the API server did not answer".to_owned(),
            ..WithoutSubnet::default()
        });
        let (status, reason) = condition_now().await;
        assert_eq!(status, Status::Unknown);
        assert!(reason.contains("did not answer"), "{reason}");
        report_subnets(WithoutSubnet {
            named: vec!["worker-1".to_owned()],
            more: 2,
            ..WithoutSubnet::default()
        });
        let (status, reason) = condition_now().await;
        assert_eq!(status, Status::False);
        assert!(reason.contains("worker-1 and 2 more"), "{reason}");
        // On a host that assigns them.
        report_subnets(WithoutSubnet::default());
        let used_up = "no subnet is left in 10.20.0.0/16".to_owned();
        *host.cluster_problems.lock().expect("no test panicked") = ClusterProblems {
            subnets: used_up.clone(),
            certificates: "a request is left".to_owned(),
            workers: "a worker is left".to_owned(),
        };
        assert_eq!(condition_now().await, (Status::False, used_up));
        for (name, why) in [
            ("RequestsDecided", "a request is left"),
            ("WorkersCaredFor", "a worker is left"),
        ] {
            let expected = Some((Status::False, why.to_owned()));
            assert_eq!(condition(handles, name), expected);
        }
    })
    .await;
}

/// A reader of the file sees how far a pass or a change is.
#[tokio::test(start_paused = true)]
async fn the_status_file_shows_what_is_looked_at_and_what_is_done() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    *host.pass_time.lock().expect("no test panicked") = Duration::from_secs(10);
    *host.silent.lock().expect("no test panicked") = Duration::from_secs(30);
    let shown = || {
        let status = kept(directory.path());
        (status.current_status_check, status.current_task)
    };
    let says = |check: &str, task: &str| (check.to_owned(), task.to_owned());
    beside(&host, directory.path(), async |_outside| {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(shown(), says("etcd", ""), "during the pass");
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(shown(), says("", "etcd"), "during the repair");
        host.broken.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(shown(), says("etcd", ""), "during the pass after it");
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(shown(), says("", ""), "at rest");
    })
    .await;
}

/// A restart would not bring the key back, and its checks only warn; all the same the host is not `ok`.
#[tokio::test(start_paused = true)]
async fn a_host_with_a_lost_kept_key_is_not_ok_and_not_repaired() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = Broken::new();
    host.broken.store(false, Ordering::Relaxed);
    beside(&host, directory.path(), async |handles| {
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(kept(directory.path()).pf9_kube_node_state, NodeState::Ok);
        host.keyless.store(true, Ordering::Relaxed);
        // Also while other results are unknown because the key is missing.
        for booting in [false, true] {
            host.booting.store(booting, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(130)).await;
            let status = kept(directory.path());
            assert_eq!(status.pf9_kube_node_state, NodeState::Converging);
            assert_eq!(status.last_failed_status_check, "certs");
            let view = handles.view.borrow().clone().expect("it looks");
            assert_eq!(view.node_state, NodeState::Converging);
            assert_eq!(host.done(), [], "nothing is restarted for it");
        }
        host.booting.store(false, Ordering::Relaxed);
        host.keyless.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(65)).await;
        assert_eq!(kept(directory.path()).pf9_kube_node_state, NodeState::Ok);
    })
    .await;
}
