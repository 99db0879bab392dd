//! A clean on a fake host, which uses only the ledger. Afterwards the host is as it was before the role.

use behaviour::{Bringup, Run, Scripts, block_on, foreign_container};
use engine::exec::Event;
use engine::host::fake::{FakeHost, FaultPlan};
use engine::host::{Containers as _, Files as _, Services as _};
use engine::kubernetes::etcd_backup::BACKUP_LEFT;
use engine::kubernetes::join_file::{IDENTITY, JOIN_FILE};
use engine::kubernetes::masters::{MASTERS, PENDING};
use engine::ledger::{Cause, Record, Why};
use engine::model::Outcome;
use engine::report;

const CASES: &[&str] = &["cp-1", "cp-1-vip", "cp-2-nodocker", "cp-2-ipvs", "wk-1"];

/// The restore test of a backup was interrupted, for example by a power cut, and its container stayed. No ledger knows of it.
#[test]
fn clean_and_stop_remove_a_leftover_restore_test_container() {
    assert_clean_result(Outcome::Cleaned, |_, host| Bringup::clean(host, true));
    assert_clean_result(Outcome::Stopped, Bringup::stop);
}

fn assert_clean_result(outcome: Outcome, end: impl Fn(&Bringup, &FakeHost) -> Run) {
    let bringup = Bringup::without_pods("cp-1");
    let host = bringup.populated_host();
    let applied = bringup.apply(&host);
    assert_eq!(applied.outcome, Outcome::Converged, "{}", applied.text());
    for (name, owner) in [("pf9-etcd-proof", Some("etcd-proof")), ("theirs", None)] {
        let mut container = foreign_container(name);
        let label = owner.map(|owner| ("pf9.io/owner".to_owned(), owner.to_owned()));
        container.labels.extend(label);
        host.with_world_mut(|world| world.image(&container.image));
        block_on(host.create_container(&container)).expect("it is made");
    }
    let copy = "/var/opt/pf9/nodelet/etcd-proof/data/member/snap/db";
    host.with_world_mut(|world| world.file_with_mode(copy, "all the cluster's secrets", 0o600));
    let ended = end(&bringup, &host);
    assert_eq!(ended.outcome, outcome, "{}", ended.text());
    if outcome == Outcome::Stopped {
        block_on(host.start_unit("docker.service")).expect("an operator starts it");
    }
    let state = |name| block_on(host.container(name)).expect("docker answers");
    assert!(state("pf9-etcd-proof").is_none());
    assert!(state("theirs").is_some());
    assert!(
        block_on(host.entry(copy.as_ref()))
            .expect("it can be looked for")
            .is_none()
    );
}

#[test]
fn clean_restores_the_host() {
    for case in CASES {
        for purge in [false, true] {
            let bringup = Bringup::without_pods(case);
            let host = bringup.populated_host();
            let before = host.snapshot();
            let applied = bringup.apply(&host);
            assert_eq!(
                applied.outcome,
                Outcome::Converged,
                "{case}: {}",
                applied.text()
            );
            let clean = Bringup::clean(&host, purge);
            assert_eq!(clean.outcome, Outcome::Cleaned, "{case}: {}", clean.text());
            let left = bringup.not_cleaned(&before, &host, purge);
            assert_eq!(
                left,
                Vec::<String>::new(),
                "{case}, purge {purge}: {}",
                clean.text()
            );

            let copies = block_on(host.list("/var/opt/pf9/nodelet/content".as_ref()));
            assert_eq!(
                copies.expect("the directory can be listed"),
                Vec::<String>::new(),
                "{case}: copies of earlier files, which may hold secrets"
            );

            host.clear_journal();
            let second = Bringup::clean(&host, purge);
            assert_eq!(second.outcome, Outcome::Cleaned);
            let nothing = "clean: nothing of the role is left on this host";
            let ends = match purge {
                false => format!("{nothing} except what is listed above ("),
                true => format!("{nothing}\n"),
            };
            let text = second.text();
            assert!(text.contains(&ends), "{case}, purge {purge}: {text}");
            let lists = text.contains("kept, until `nodelet clean --purge`:\n");
            assert_eq!(lists, !purge, "{case}: {text}");
            assert_eq!(
                host.mutating_calls(),
                [],
                "{case}: the second clean touched the host"
            );

            let again = bringup.apply(&host);
            assert_eq!(
                again.outcome,
                Outcome::Converged,
                "{case}: {}",
                again.text()
            );
        }
    }
}

/// No ledger has them: operators and nodeletd put them there. The key opens the join file, which may have all keys of a cluster.
#[test]
fn a_purge_removes_join_file_key_and_list_of_masters() {
    // The last one is of a `nodelet pki key` that was killed.
    let unfinished = "/var/opt/pf9/nodelet/age.new-17";
    let of_cluster = [JOIN_FILE, IDENTITY, MASTERS, BACKUP_LEFT, unfinished];
    let bringup = Bringup::without_pods("cp-1");
    let host = bringup.populated_host();
    let _ = bringup.apply(&host);
    host.with_world_mut(|world| {
        for path in of_cluster.iter().chain([&PENDING]) {
            world.file_with_mode(path, "of the cluster", 0o600);
        }
    });
    let is_there = |path: &str| host.with_world(|world| world.text(path).is_some());
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    assert!(of_cluster.into_iter().all(is_there));
    assert!(!is_there(PENDING), "keepalived is gone");
    host.set_faults(FaultPlan::none().fail("remove", IDENTITY));
    let failed = Bringup::clean(&host, true);
    assert_eq!(failed.outcome, Outcome::Failed, "{}", failed.text());
    assert!(failed.text().contains(IDENTITY), "{}", failed.text());
    // The ledger has nothing left by now.
    host.set_faults(FaultPlan::none());
    let purge = Bringup::clean(&host, true);
    assert_eq!(purge.outcome, Outcome::Cleaned, "{}", purge.text());
    assert!(!of_cluster.into_iter().any(is_there));
}

#[test]
fn a_purge_removes_what_a_clean_kept() {
    let bringup = Bringup::without_pods("cp-1");
    let host = bringup.populated_host();
    let before = host.snapshot();
    let _ = bringup.apply(&host);
    let clean = Bringup::clean(&host, false);
    assert!(
        clean
            .events
            .iter()
            .any(|event| matches!(event, Event::ResourcesKept { .. }))
    );
    // The events and the history say the same of what stays.
    let told = clean.events.iter().rev().find_map(|event| match event {
        Event::RunFinished {
            changed, unchanged, ..
        } => Some((*changed, *unchanged)),
        _ => None,
    });
    let records = Bringup::records(&host);
    let recorded = records.iter().rev().find_map(|record| match record {
        Record::End {
            changed, unchanged, ..
        } => Some((*changed, *unchanged)),
        _ => None,
    });
    assert!(told.is_some_and(|(_, unchanged)| unchanged > 0));
    assert_eq!(recorded, told);
    let purge = Bringup::clean(&host, true);
    assert_eq!(purge.outcome, Outcome::Cleaned, "{}", purge.text());
    assert_eq!(
        bringup.not_cleaned(&before, &host, true),
        Vec::<String>::new(),
        "{}",
        purge.text()
    );
}

#[test]
fn every_prefix_of_the_phases_is_taken_back() {
    for case in CASES {
        let bringup = Bringup::without_pods(case);
        let host = bringup.populated_host();
        let before = host.snapshot();
        for phase in bringup
            .plan
            .phases
            .iter()
            .filter(|phase| phase.skipped.is_none())
        {
            let run = bringup.apply_phase(&host, phase);
            assert_eq!(run.outcome, Outcome::Converged, "{case}: {}", run.text());
            let cleaned = host.fork();
            let clean = Bringup::clean(&cleaned, false);
            assert_eq!(
                clean.outcome,
                Outcome::Cleaned,
                "{case}, {}: {}",
                phase.name,
                clean.text()
            );
            let left = bringup.not_cleaned(&before, &cleaned, false);
            assert_eq!(left, Vec::<String>::new(), "{case}, up to {}", phase.name);
        }
    }
}

#[test]
fn a_stopped_host_is_cleaned_too() {
    for case in CASES {
        let bringup = Bringup::without_pods(case);
        let host = bringup.populated_host();
        let before = host.snapshot();
        let _ = bringup.apply(&host);
        let _ = bringup.stop(&host);
        let clean = Bringup::clean(&host, false);
        assert_eq!(clean.outcome, Outcome::Cleaned, "{case}: {}", clean.text());
        assert_eq!(
            bringup.not_cleaned(&before, &host, false),
            Vec::<String>::new(),
            "{case}"
        );
    }
}

#[test]
fn a_clean_that_fails_skips_nothing_and_the_next_one_ends_it() {
    let bringup = Bringup::without_pods("cp-1");
    let applied = bringup.populated_host();
    let before = applied.snapshot();
    let _ = bringup.apply(&applied);
    let trial = applied.fork();
    let _ = Bringup::clean(&trial, false);
    let calls = trial.mutating_calls();
    for (index, call) in calls.iter().enumerate() {
        let host = applied
            .fork()
            .with_faults(FaultPlan::none().fail_call(index + 1));
        let _ = Bringup::clean(&host, false);
        host.set_faults(FaultPlan::none());
        let next = Bringup::clean(&host, false);
        let name = format!("{} {}", call.name, call.argument);
        assert_eq!(next.outcome, Outcome::Cleaned, "{name}: {}", next.text());
        let left = bringup.not_cleaned(&before, &host, false);
        assert_eq!(left, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn earlier_resources_are_foreign() {
    let bringup = Bringup::without_pods("cp-1");
    let host = bringup.populated_host();
    host.with_world_mut(|world| {
        world.file("/var/lib/cni/results/theirs", "x");
        world.firewall_rule("iptables", "nat", "CNI-THEIRS", "-j RETURN");
    });
    let _ = bringup.apply(&host);
    let clean = Bringup::clean(&host, true);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    host.with_world(|world| assert!(world.text("/var/lib/cni/results/theirs").is_some()));
}

#[test]
fn a_host_that_we_never_touched_stays_untouched() {
    let host = FakeHost::new();
    let clean = Bringup::clean(&host, true);
    assert_eq!(
        (clean.outcome, host.mutations()),
        (Outcome::Cleaned, 0),
        "{}",
        clean.text()
    );
}

/// A role of one phase with this name and these steps.
fn role(phase: &str, steps: &str) -> Bringup {
    let script = format!("phase(\"{phase}\").about(\"Has data.\").nodes([\"master\"]);\n{steps}\n");
    Bringup::of_scripts(&Scripts::default().phase(phase, &script))
}

#[test]
fn newly_kept_data_is_kept() {
    let data = r#"directory("/var/lib/data").exclusive()"#;
    let before = role("data", &format!("{data};"));
    for (what, since) in [
        (
            "nothing else is new",
            role("data", &format!("{data}.keep();")),
        ),
        (
            "a change comes with it",
            role("data", &format!("{data}.mode(\"0700\").keep();")),
        ),
        (
            "another phase has it now",
            role("store", &format!("{data}.keep();")),
        ),
    ] {
        let host = FakeHost::new();
        assert_eq!(before.apply(&host).outcome, Outcome::Converged);
        host.with_world_mut(|world| world.file("/var/lib/data/x", "x"));
        let run = since.apply(&host);
        assert_eq!(run.outcome, Outcome::Converged, "{what}: {}", run.text());
        host.clear_journal();
        let run = since.apply(&host);
        assert_eq!(host.mutations(), 0, "{what}, once: {}", run.text());
        let clean = Bringup::clean(&host, false);
        assert_eq!(clean.outcome, Outcome::Cleaned, "{what}: {}", clean.text());
        let is_there = || host.with_world(|world| world.text("/var/lib/data/x").is_some());
        assert!(is_there(), "{what}: {}", clean.text());
        let purge = Bringup::clean(&host, true);
        assert!(!is_there(), "{what}: {}", purge.text());
    }
}

#[test]
fn a_foreign_container_in_the_place_of_ours_stays() {
    let bringup = Bringup::without_pods("cp-1");
    let host = bringup.populated_host();
    let _ = bringup.apply(&host);
    host.with_world_mut(|world| {
        world.remove_container("proxy");
        world.image("example/foreign:1");
    });
    block_on(host.create_container(&foreign_container("proxy"))).expect("it is made");
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    let left = block_on(host.container("proxy")).expect("docker answers");
    assert!(left.is_some(), "{}", clean.text());
    let is_reported = |event: &Event| matches!(event, Event::ResourceLeft { resource, .. } if resource == "container proxy");
    assert!(clean.events.iter().any(is_reported), "{}", clean.text());
}

#[test]
fn left_firewall_chains_have_a_ledger_line() {
    let bringup = Bringup::without_pods("cp-1");
    let host = bringup.populated_host();
    host.with_world_mut(|world| world.firewall_rule("iptables", "nat", "KUBE-THEIRS", "-j RETURN"));
    let _ = bringup.apply(&host);
    let records = Bringup::records(&host);
    for (resource, phase) in [
        ("KUBE-SVC-XGLOHA7QRQ3V22RZ", "kube-proxy"),
        ("KUBE-MARK-DROP", "kubelet"),
        ("net.ipv4.conf.all.route_localnet", "kube-proxy"),
        ("kernel.panic", "kubelet"),
        ("/var/lib/dockershim", "kubelet"),
    ] {
        let why = Why::of(&records, resource);
        let its = |cause: &Cause| cause.step.phase() == Some(phase) && cause.span.is_some();
        assert!(why.causes.iter().any(its), "{resource}: {why:#?}");
        assert!(
            report::why(&why, None).contains("next: `nodelet clean` takes it back"),
            "{resource}"
        );
    }
    let chains = |resource: &str| {
        let why = Why::of(&records, resource);
        let of_chains = |cause: &&Cause| cause.step.kind() == Some("firewall_chains");
        why.causes.iter().filter(of_chains).count()
    };
    assert_eq!(chains("KUBE-SVC-XGLOHA7QRQ3V22RZ"), 1, "the nearest one");
    assert_eq!(chains("KUBE-THEIRS"), 0, "it was there before us");
}

#[test]
fn failures_are_matched_by_complete_names() {
    let doomed = role("data", r#"file("/etc/passwd/d").content("x");"#);
    let host = FakeHost::new().with_file("/etc/passwd", "x");
    assert_eq!(doomed.apply(&host).outcome, Outcome::Failed);
    let records = Bringup::records(&host);
    assert!(Why::of(&records, "/etc/passwd/d").is_known());
    assert!(!Why::of(&records, "d").is_known());
}
