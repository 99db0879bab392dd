//! What `nodelet history` and `nodelet why` say about failed runs, and about resources that the ledger does not know.

use behaviour::{Bringup, block_on};
use engine::exec::{Planned, Recording, Runner};
use engine::host::fake::{FakeHost, FaultPlan};
use engine::ledger::{History, Why};
use engine::model::Outcome;
use engine::report;
use engine::resource::MaskedSecrets;

fn applied_host(bringup: &Bringup) -> FakeHost {
    let host = bringup.bare_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host
}

/// The last run as `nodelet history --run` shows it.
fn last_run(host: &FakeHost) -> String {
    let history = History::of(&Bringup::records(host));
    report::run_in_full(history.runs.last().expect("there was a run"))
}

/// The lines about the failures of the last run in the list of runs.
fn listed_failure(host: &FakeHost) -> String {
    let mut history = History::of(&Bringup::records(host));
    let earlier = history.runs.len().saturating_sub(1);
    history.runs.drain(..earlier);
    let text = report::history(&history);
    let lines = text.lines().filter(|line| line.contains("failed at"));
    let lines: Vec<&str> = lines.collect();
    assert!(!lines.is_empty(), "{text}");
    lines.join("\n")
}

#[test]
fn a_stop_that_failed_says_why() {
    let bringup = Bringup::of("cp-1");
    let host = applied_host(&bringup);
    host.set_faults(FaultPlan::none().fail("stop_unit", "pf9-kubelet.service"));
    assert_eq!(bringup.stop(&host).outcome, Outcome::Failed);
    let run_text = last_run(&host);
    for text in [
        "stop pf9-kube",
        "failed at phases/kubelet.rhai:",
        "stop service pf9-kubelet.service",
        "stop_unit pf9-kubelet.service",
        "next: see what keeps it from ending",
    ] {
        assert!(run_text.contains(text), "{text}: {run_text}");
    }
    // The list has the reason, too, and a stop reverts nothing.
    let listed = listed_failure(&host);
    for text in [
        "kubelet failed at phases/kubelet.rhai:",
        ": stop service pf9-kubelet.service: ",
        "stop_unit pf9-kubelet.service",
        "; not ended; the stop continued with the rest",
    ] {
        assert!(listed.contains(text), "{text}: {listed}");
    }
    assert!(!listed.contains("reverted"), "{listed}");
    // No other run has a reason.
    host.set_faults(FaultPlan::none());
    assert_eq!(bringup.stop(&host).outcome, Outcome::Stopped);
    assert!(!last_run(&host).contains("failed at"));
}

#[test]
fn a_clean_that_failed_says_why() {
    let bringup = Bringup::of("cp-1");
    let host = applied_host(&bringup);
    host.set_faults(FaultPlan::none().fail("remove", "/etc/pf9/kube.env"));
    assert_eq!(Bringup::clean(&host, true).outcome, Outcome::Failed);
    let run_text = last_run(&host);
    assert!(
        run_text.contains("taking back file /etc/pf9/kube.env"),
        "{run_text}"
    );
    assert!(run_text.contains("remove /etc/pf9/kube.env"), "{run_text}");
    let listed = listed_failure(&host);
    assert!(listed.contains("remove /etc/pf9/kube.env"), "{listed}");
    assert!(listed.contains("; not taken back;"), "{listed}");
    assert!(!listed.contains("reverted"), "{listed}");
}

#[test]
fn the_list_says_whether_a_failed_phase_was_reverted_and_why_it_failed() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    host.set_faults(FaultPlan::none().fail("write", "/etc/pf9/kube.env"));
    assert_eq!(bringup.apply(&host).outcome, Outcome::Failed);
    let listed = listed_failure(&host);
    assert!(listed.contains("write /etc/pf9/kube.env"), "{listed}");
    assert!(listed.ends_with("; reverted"), "{listed}");
    assert!(!listed.contains("only partly"), "{listed}");
}

/// An operator has the name of a file from an error or from a directory.
#[test]
fn the_name_of_a_file_stands_for_the_paths_of_the_plan_that_end_with_it() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    let ignored_events = Recording::default();
    let runner = Runner::new(
        &bringup.plan,
        &host,
        &bringup.facts,
        &MaskedSecrets,
        &ignored_events,
    );
    assert_eq!(runner.paths_named("kube.env"), ["/etc/pf9/kube.env"]);
    let keys = runner.paths_named("svcacct.key");
    assert_eq!(
        keys,
        [
            "/etc/pf9/kube.d/certs/apiserver/svcacct.key",
            "/etc/pf9/kube.d/certs/kube-controller-manager/svcacct.key",
        ]
    );
    // Each of them is the role's.
    for path in &keys {
        let (planned, text) = why(&bringup, &host, path);
        assert!(!planned.is_empty(), "{text}");
    }
    let text = report::several_paths("svcacct.key", &keys);
    assert!(
        text.starts_with("svcacct.key is the last part of 2 paths of the plan"),
        "{text}"
    );
    assert!(keys.iter().all(|path| text.contains(path)), "{text}");
    // Only whole names count, and only the last part of a path.
    for name in ["", "/", "svcacct", "apiserver/svcacct.key", "passwd"] {
        assert_eq!(runner.paths_named(name), [""; 0], "{name}");
    }
}

fn why(bringup: &Bringup, host: &FakeHost, resource: &str) -> (Vec<Planned>, String) {
    let ignored_events = Recording::default();
    let runner = Runner::new(
        &bringup.plan,
        host,
        &bringup.facts,
        &MaskedSecrets,
        &ignored_events,
    );
    let planned = block_on(runner.planned(resource));
    let text = report::why(&Why::of(&Bringup::records(host), resource), Some(&planned));
    (planned, text)
}

#[test]
fn planned_but_unapplied_resources_are_reported() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    for resource in ["/etc/pf9/kube.env", "etcd", "pf9-kubelet", "kubelet"] {
        let (planned, text) = why(&bringup, &host, resource);
        assert!(!planned.is_empty(), "{resource}");
        assert!(
            text.contains("it is planned by phase ")
                && text.contains("phases/")
                && text.contains("was not applied yet"),
            "{resource}: {text}"
        );
        assert!(!text.contains("it is not ours"), "{resource}: {text}");
    }
    // A step that the plan skips is the role's, too.
    let (planned, text) = why(&bringup, &host, "ip_vs_rr");
    assert_eq!(planned.len(), 1, "{planned:?}");
    assert!(
        text.contains("it is planned by phase node-config")
            && text.contains("but it is skipped on this host: the condition at phases/"),
        "{text}"
    );
    let (planned, text) = why(&bringup, &host, "/etc/passwd");
    assert_eq!(planned, []);
    assert!(text.contains("no step of the plan is about it"), "{text}");
    // Without a plan `nodelet why` claims nothing.
    let unknown = Why::of(&Bringup::records(&host), "/etc/passwd");
    let text = report::why(&unknown, None);
    assert!(
        text.contains(
            "it is not known whether it is the role's, because the plan could not be read"
        ),
        "{text}"
    );
    // No run changes a file that already was as planned.
    host.with_world_mut(|world| {
        world.set_sysctl("net.ipv4.ip_forward", "1");
        world.file(
            "/etc/sysctl.d/90-pf9-net.ipv4.ip_forward.conf",
            "net.ipv4.ip_forward = 1\n",
        );
    });
    let (_, text) = why(&bringup, &host, "net.ipv4.ip_forward");
    assert!(text.contains("it was like that before the role"), "{text}");
}
