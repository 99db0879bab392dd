//! A clean on a fake host, from the ledger alone: after it the host is as it was before the role came.

use behaviour::{Bringup, Scripts, block_on};
use engine::exec::{Event, Outcome};
use engine::host::Files as _;
use engine::host::fake::{FakeHost, FaultPlan};
use engine::ledger::{Cause, Why};
use engine::plan::Probe;

const CASES: &[&str] = &["cp-1", "cp-1-vip", "cp-2-nodocker"];

/// The bring-up of a case, without what a fake host does not have: the containers of static pods.
fn bringup(case: &str) -> Bringup {
    let mut bringup = Bringup::of(case);
    for phase in &mut bringup.plan.phases {
        phase
            .checks
            .retain(|check| !matches!(check.probe, Probe::PodRunning { .. }));
    }
    bringup
}

/// A bare host on which what runs leaves its traces, and on which others live.
fn lived_in(bringup: &Bringup) -> FakeHost {
    let host = bringup
        .bare_host()
        .with_kubernetes(|rules| rules.leaves_traces = true);
    host.meddle(|world| {
        world.file_with_mode(
            "/etc/docker/daemon.json",
            "{\"log-driver\": \"journald\"}",
            0o600,
        );
        world.firewall_rule("iptables", "filter", "MINE", "-p tcp -j ACCEPT");
        world.firewall_rule("iptables", "filter", "INPUT", "-j MINE");
        world.file("/opt/mine", "x");
    });
    host
}

#[test]
fn the_host_is_as_it_was() {
    for case in CASES {
        for purge in [false, true] {
            let bringup = bringup(case);
            let host = lived_in(&bringup);
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
                "{case}: copies of what stood before, which may hold secrets"
            );

            host.clear_journal();
            let second = Bringup::clean(&host, purge);
            assert_eq!(second.outcome, Outcome::Cleaned);
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

#[test]
fn a_purge_takes_what_a_clean_has_kept() {
    let bringup = bringup("cp-1");
    let host = lived_in(&bringup);
    let before = host.snapshot();
    let _ = bringup.apply(&host);
    let clean = Bringup::clean(&host, false);
    assert!(
        clean
            .events
            .iter()
            .any(|event| matches!(event, Event::ThingsKept { .. }))
    );
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
        let bringup = bringup(case);
        let host = lived_in(&bringup);
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
        let bringup = bringup(case);
        let host = lived_in(&bringup);
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
    let bringup = bringup("cp-1");
    let applied = lived_in(&bringup);
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
fn what_was_there_before_is_not_ours() {
    let bringup = bringup("cp-1");
    let host = lived_in(&bringup);
    host.meddle(|world| {
        world.file("/var/lib/cni/results/theirs", "x");
        world.firewall_rule("iptables", "nat", "CNI-THEIRS", "-j RETURN");
    });
    let _ = bringup.apply(&host);
    let clean = Bringup::clean(&host, true);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    host.look(|world| assert!(world.text("/var/lib/cni/results/theirs").is_some()));
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

#[test]
fn data_that_is_to_be_kept_from_now_on_is_kept() {
    let script = |keep: &str| {
        let script = format!(
            "phase(\"data\").about(\"Has some.\").nodes([\"master\"]);\ndirectory(\"/var/lib/data\"){keep};\n"
        );
        Bringup::of_scripts(&Scripts::default().phase("data", &script))
    };
    let (before, since) = (script(""), script(".keep()"));
    let host = FakeHost::new();
    assert_eq!(before.apply(&host).outcome, Outcome::Converged);
    let run = since.apply(&host);
    assert_eq!(run.changes(), Vec::<String>::new(), "{}", run.text());
    host.clear_journal();
    let run = since.apply(&host);
    assert_eq!(
        host.mutations(),
        0,
        "it is written down once: {}",
        run.text()
    );
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    let stands = || block_on(host.entry("/var/lib/data".as_ref())).expect("it can be looked at");
    assert!(stands().is_some(), "{}", clean.text());
    let purge = Bringup::clean(&host, true);
    assert!(stands().is_none(), "{}", purge.text());
}

#[test]
fn what_runs_leaves_behind_is_owed_to_a_line_as_well() {
    let bringup = bringup("cp-1");
    let host = lived_in(&bringup);
    let _ = bringup.apply(&host);
    let records = Bringup::records(&host);
    for (thing, phase) in [
        ("KUBE-SVC-XGLOHA7QRQ3V22RZ", "kube-proxy"),
        ("net.ipv4.conf.all.route_localnet", "kube-proxy"),
        ("kernel.panic", "kubelet"),
        ("/var/lib/dockershim", "kubelet"),
    ] {
        let why = Why::of(&records, thing);
        let its = |cause: &&Cause| cause.step.phase() == Some(phase) && cause.span.is_some();
        assert!(
            why.causes.iter().any(|cause| its(&cause)),
            "{thing}: {why:#?}"
        );
    }
    assert!(!Why::of(&records, "d").is_known(), "a name is whole");
}
