//! A repair stops nothing that it cannot bring up again: it tries first what it is going to write, and starts again what it has stopped in
//! vain.

use std::collections::BTreeSet;
use std::path::Path;

use behaviour::{Bringup, block_on};
use engine::exec::{
    Event, EventSink, Outcome, Recording, Runner, STATE, failed_phases, restart_set,
};
use engine::host::fake::{FakeHost, FaultPlan, difference};
use engine::host::{Containers as _, Files as _, Services as _, Space};
use engine::plan::PhaseName;
use engine::report::{Detail, render};
use engine::resource::MaskedSecrets;
use tokio_util::sync::CancellationToken;

const KUBELET: &str = "pf9-kubelet.service";
const KUBELET_CONFIG: &str = "/etc/pf9/kube.d/kubelet/config.yaml";
const ETCD_CONFIG: &str = "/etc/pf9/kube.d/etcd/etcd.env";

fn standing() -> (Bringup, FakeHost) {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    (bringup, host)
}

fn runner<'a>(bringup: &'a Bringup, host: &'a FakeHost, events: &'a dyn EventSink) -> Runner<'a> {
    Runner::new(&bringup.plan, host, &bringup.facts, &MaskedSecrets, events)
}

fn edit(host: &FakeHost, path: &str) {
    assert!(host.look(|world| world.text(path)).is_some(), "{path}");
    host.meddle(|world| world.file_with_mode(path, "edited: true\n", 0o600));
}

fn failed(bringup: &Bringup, host: &FakeHost) -> BTreeSet<PhaseName> {
    failed_phases(&bringup.check(host))
}

/// Repairs what fails. Gives the outcome and what was told.
fn repair(bringup: &Bringup, host: &FakeHost) -> (Outcome, String) {
    let events = Recording::default();
    let set = restart_set(&bringup.plan, &failed(bringup, host));
    let outcome = block_on(runner(bringup, host, &events).restart(&set, &[]));
    (outcome.expect("it is written down"), text(&events.events()))
}

fn text(events: &[Event]) -> String {
    let detail = Detail {
        unchanged: false,
        diffs: false,
        times: false,
    };
    events.iter().map(|event| render(event, detail)).collect()
}

fn names(phases: impl IntoIterator<Item = PhaseName>) -> Vec<String> {
    phases.into_iter().map(|name| name.to_string()).collect()
}

fn runs(host: &FakeHost, unit: &str) -> bool {
    block_on(host.unit(unit)).is_ok_and(|unit| unit.is_active())
}

#[test]
fn what_cannot_be_written_stops_nothing() {
    let (bringup, host) = standing();
    edit(&host, KUBELET_CONFIG);
    let directory = Path::new(KUBELET_CONFIG).parent().expect("it has one");
    let full = Space {
        free: 1024,
        total: 1 << 30,
        device: 7,
    };
    type Spoil<'a> = (&'a str, &'a dyn Fn(&FakeHost), &'a str);
    let ways: [Spoil<'_>; 4] = [
        (
            "the file is immutable",
            &|host| host.meddle(|world| world.protect(KUBELET_CONFIG)),
            "lsattr",
        ),
        (
            "its directory is",
            &|host| host.meddle(|world| world.protect(directory)),
            "lsattr",
        ),
        (
            "the disk is full",
            &|host| host.meddle(|world| world.set_space(directory, full)),
            "df -h",
        ),
        (
            "the disk hangs",
            &|host| host.set_faults(FaultPlan::none().stall("try_write", KUBELET_CONFIG)),
            "",
        ),
    ];
    for (what, spoil, next) in ways {
        let host = host.fork();
        spoil(&host);
        let before = (host.snapshot(), block_on(host.unit(KUBELET)));
        host.clear_journal();
        let (outcome, told) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Refused, "{what}: {told}");
        assert_eq!(host.mutating_calls(), vec![], "{what}");
        assert_eq!(
            difference(&before.0, &host.snapshot()),
            Vec::<String>::new()
        );
        assert_eq!(block_on(host.unit(KUBELET)).ok(), before.1.ok());
        for wanted in [KUBELET_CONFIG, "phases/kubelet.rhai:", next] {
            assert!(told.contains(wanted), "{what}: `{wanted}`: {told}");
        }
        // Nor could a full clean help: an apply after it would meet the same.
        let unheard = Recording::default();
        let mut afresh = runner(&bringup, &host, &unheard);
        afresh.afresh = true;
        let problems = block_on(afresh.misfits()).expect("the host says");
        let named = problems
            .iter()
            .any(|one| one.problem.contains(KUBELET_CONFIG));
        assert!(named, "{what}: {problems:?}");
    }
    // What protects a file that is as it should be is no obstacle.
    host.meddle(|world| world.protect(ETCD_CONFIG));
    let (outcome, told) = repair(&bringup, &host);
    assert_eq!(outcome, Outcome::Converged, "{told}");
    assert_eq!(names(failed(&bringup, &host)), [""; 0]);
}

#[test]
fn our_own_records_are_tried_as_well() {
    let (bringup, host) = standing();
    edit(&host, KUBELET_CONFIG);
    host.meddle(|world| world.protect(Path::new(STATE)));
    host.clear_journal();
    let (outcome, told) = repair(&bringup, &host);
    assert_eq!(outcome, Outcome::Refused, "{told}");
    assert_eq!(host.mutating_calls(), vec![]);
    let events = Recording::default();
    let failed = failed(&bringup, &host);
    let (set, problems) = block_on(runner(&bringup, &host, &events).restartable(&failed));
    assert_eq!((set, problems.len()), (Vec::new(), 1));
}

#[test]
fn what_cannot_be_written_keeps_nothing_else_from_being_repaired() {
    let (bringup, host) = standing();
    edit(&host, KUBELET_CONFIG);
    host.meddle(|world| {
        world.protect(KUBELET_CONFIG);
        world.remove_container("proxy");
    });
    let kubelet = || block_on(host.unit(KUBELET)).expect("systemd answers");
    let before = kubelet();
    let failed = failed(&bringup, &host);
    assert_eq!(names(failed.clone()), ["kube-proxy", "kubelet"]);
    let events = Recording::default();
    let (set, problems) = block_on(runner(&bringup, &host, &events).restartable(&failed));
    assert_eq!(names(set.clone()), ["kube-proxy"]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
    assert_eq!(outcome.expect("it is written down"), Outcome::Converged);
    assert_eq!(kubelet(), before);
    assert!(
        block_on(host.container("proxy"))
            .expect("docker answers")
            .is_some()
    );
}

/// Where a trial could not tell: the disk fails at the very moment.
#[test]
fn what_was_stopped_in_vain_runs_again() {
    let (bringup, host) = standing();
    for (path, unit, container) in [
        (KUBELET_CONFIG, KUBELET, None),
        (ETCD_CONFIG, KUBELET, Some("etcd")),
    ] {
        let host = host.fork();
        let config = |name: &str| block_on(host.container_config(name)).expect("docker answers");
        let before = container.map(config);
        edit(&host, path);
        host.set_faults(FaultPlan::none().fail("write", path));
        let (outcome, told) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Failed, "{told}");
        assert!(told.contains("started again as it was"), "{told}");
        assert!(runs(&host, unit), "{path}: {told}");
        if let Some(name) = container {
            let state = block_on(host.container(name)).expect("docker answers");
            assert!(state.is_some_and(|state| state.running), "{told}");
            assert_eq!(container.map(config), before, "as it was");
        }
        // The next repair that can write ends well, and a clean knows of all that runs.
        host.set_faults(FaultPlan::none());
        let (outcome, told) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Converged, "{told}");
        let bare = bringup.bare_host().snapshot();
        let clean = Bringup::clean(&host, false);
        assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
        let left = bringup.not_cleaned(&bare, &host, false);
        assert_eq!(left, Vec::<String>::new());
    }
}

/// Asks the run to end as soon as it has stopped kubelet.
struct Signal {
    cancel: CancellationToken,
    events: Recording,
}

impl EventSink for Signal {
    fn emit(&self, event: Event) {
        if let Event::StepStopped { step, .. } = &event
            && step.as_str().contains(KUBELET)
        {
            self.cancel.cancel();
        }
        self.events.emit(event);
    }
}

#[test]
fn a_repair_that_is_asked_to_end_leaves_nothing_stopped() {
    let (bringup, host) = standing();
    edit(&host, KUBELET_CONFIG);
    let sink = Signal {
        cancel: CancellationToken::new(),
        events: Recording::default(),
    };
    let set = restart_set(&bringup.plan, &failed(&bringup, &host));
    let mut runner = runner(&bringup, &host, &sink);
    runner.cancel = sink.cancel.clone();
    let outcome = block_on(runner.restart(&set, &[])).expect("it is written down");
    assert_eq!(outcome, Outcome::Interrupted);
    assert!(runs(&host, KUBELET), "{}", text(&sink.events.events()));
}

#[test]
fn a_unit_that_does_not_run_is_to_be_started_and_not_created() {
    let (bringup, host) = standing();
    block_on(host.stop_unit(KUBELET)).expect("it stops");
    let health = bringup.check(&host);
    let reasons: Vec<&str> = health
        .iter()
        .flat_map(|phase| &phase.conditions)
        .map(|condition| condition.reason.as_str())
        .collect();
    let told = reasons.join("\n");
    assert!(
        told.contains("service pf9-kubelet.service would be started"),
        "{told}"
    );
    assert!(!told.contains("would be created"), "{told}");
}

/// The real thing, on the file system of this machine: nothing stays behind, and what cannot be replaced is told.
#[test]
fn a_trial_on_a_real_disk_leaves_no_trace() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let host = engine::host::live::LiveHost::new();
    let tries = |path: &Path, room| block_on(host.try_write(path, room));
    std::fs::write(at("file"), "as it was").expect("it is written");
    std::fs::create_dir(at("directory")).expect("it is made");
    tries(&at("file"), 1 << 16).expect("it can be replaced");
    tries(&at("new"), 1 << 16).expect("it can be made");
    tries(&at("a/b/c/new"), 1 << 16).expect("its directories can be made");
    let below = tries(&at("file/new"), 0).expect_err("that is no directory");
    assert!(below.to_string().contains("file/new"), "{below}");
    tries(Path::new("/proc/new"), 0).expect_err("the kernel makes no file there");
    let full = tries(&at("new"), 1 << 60).expect_err("no disk has this room");
    assert!(full.to_string().starts_with("write "), "{full}");
    let listed = std::fs::read_dir(directory.path()).expect("a listing");
    let mut left: Vec<_> = listed
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["directory", "file"]);
    let content = std::fs::read_to_string(at("file")).expect("it is read");
    assert_eq!(content, "as it was");
}
