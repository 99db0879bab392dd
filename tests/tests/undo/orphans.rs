//! What the plan no longer has is taken back: a phase that is skipped now or is no longer part of the role, or a step whose
//! condition became false. Afterwards the host is like one that never had it.

use behaviour::{
    Bringup, Case, CrashPoint, Fidelity, Mismatch, Scripts, block_on, differences, fixtures,
    sample, text, try_each,
};
use engine::exec::{AnotherRole, ConditionKind, Event, Recording, Runner, Status};
use engine::host::fake::{FakeHost, FaultPlan};
use engine::host::{Kernel as _, Network as _, Transport, VirtualService};
use engine::ledger::{History, Ledger, Record, RunId};
use engine::model::{Outcome, StepId};
use engine::plan::{PlannedPhase, Probe};
use engine::resource::{Action, MaskedSecrets, Spec, Undo};

const CREDENTIALS: &str = "/var/lib/kubelet/config.json";

/// The bring-up of a case, without the containers of static pods, which a fake host does not have.
fn bringup(case: Case) -> Bringup {
    let mut bringup = Bringup::from_case(case);
    for phase in &mut bringup.plan.phases {
        phase
            .checks
            .retain(|check| !matches!(check.probe, Probe::PodRunning { .. }));
    }
    bringup
}

/// Case `cp-1` with these additional settings.
fn with(settings: &str) -> Bringup {
    let usual = text(fixtures("settings/cp-1.yaml"));
    bringup(Case::of("cp-1", &format!("{usual}{settings}")))
}

/// The role without a phase.
fn without(mut bringup: Bringup, phase: &str) -> Bringup {
    bringup.plan.phases.retain(|its| its.name.as_str() != phase);
    bringup
}

fn applied(bringup: &Bringup) -> FakeHost {
    let host = bringup
        .bare_host()
        .with_kubernetes(|rules| rules.leaves_traces = true);
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host
}

/// A plan that had something, and the same without it.
fn changes() -> Vec<(&'static str, Bringup, Bringup)> {
    let vip = || bringup(Case::named("cp-1-vip"));
    vec![
        ("the virtual IP", vip(), with("")),
        (
            "credentials",
            with("DOCKERHUB_ID: me\nDOCKERHUB_PASSWORD: secret\n"),
            with(""),
        ),
        (
            "a proxy",
            with("HTTP_PROXY: http://10.0.0.1:3128\n"),
            with(""),
        ),
        (
            "the phase kube-proxy",
            with(""),
            without(with(""), "kube-proxy"),
        ),
        (
            "the phase keepalived",
            vip(),
            without(with(""), "keepalived"),
        ),
    ]
}

#[test]
fn pruning_leaves_no_difference_to_a_host_without_the_phase() {
    for (name, had, has) in changes() {
        let host = applied(&had);
        let never = applied(&has);
        let predicted = has.predict(&host);
        let done = has.apply(&host);
        assert_eq!(done.outcome, Outcome::Converged, "{name}: {}", done.text());
        let removed = done.events.iter().filter(|event| {
            matches!(event, Event::StepChanging { change, .. } if change.action == Action::Remove)
        });
        assert!(removed.count() > 0, "{name}: {}", done.text());
        let fidelity = Fidelity::of(&predicted.events, &done.events);
        // Only a command can list the chains, and a dry run runs none.
        let chains = |miss: &Mismatch| miss.step.kind() == Some("firewall_chains");
        assert!(
            fidelity.misses.iter().all(chains),
            "{name}: {:?}",
            fidelity.misses
        );
        let mut differs = differences(&Bringup::shape(&never), &Bringup::shape(&host));
        // The role's own package: a fake host has only the files of it that its plan names.
        differs.retain(|line| !line.contains("/current/payload/"));
        assert_eq!(differs, Vec::<String>::new(), "{name}: {}", done.text());

        host.clear_journal();
        let second = has.apply(&host);
        assert_eq!(host.mutating_calls(), [], "{name}: {}", second.text());
        assert_eq!(second.changes(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn an_interrupted_prune_is_continued_by_the_next_run() {
    for (name, had, has) in changes() {
        let start = had.bare_host().snapshot();
        let host = applied(&had);
        host.clear_journal();
        let whole = host.fork();
        let host = host.with_history();
        let _ = has.apply(&whole);
        let shape = Bringup::shape(&whole);
        let run = has.apply(&host);
        assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
        // A prime number, so that the sample is not in step with calls that recur for each resource.
        let points = sample(CrashPoint::all(&host), 5);
        try_each(&points, |point| {
            let mut problems = Vec::new();
            let host = point.host.fork();
            let next = has.apply(&host);
            if next.outcome != Outcome::Converged {
                problems.push(format!("the next apply: {}", next.text()));
            }
            problems.extend(differences(&shape, &Bringup::shape(&host)));
            host.clear_journal();
            let _ = has.apply(&host);
            if host.mutations() > 0 {
                problems.push("not settled".to_owned());
            }
            let clean = Bringup::clean(&host, false);
            let left = has.not_cleaned(&start, &host, false);
            if clean.outcome != Outcome::Cleaned || !left.is_empty() {
                problems.push(format!("clean leaves {left:?}: {}", clean.text()));
            }
            problems
                .into_iter()
                .map(|problem| format!("{name}, {}: {problem}", point.place))
                .collect()
        });
    }
}

#[test]
fn the_check_fails_until_the_cause_is_removed() {
    for (name, had, has) in changes() {
        let host = applied(&had);
        let left = |host: &FakeHost| {
            let health = has.check(host);
            let conditions = health.into_iter().flat_map(|phase| phase.conditions);
            conditions
                .filter(|condition| condition.kind == ConditionKind::Orphans)
                .map(|condition| (condition.status, condition.reason))
                .collect::<Vec<_>>()
        };
        let found = left(&host);
        // The virtual IP has two phases, and every other change has one.
        let of_virtual_ip = ["the virtual IP", "the phase keepalived"].contains(&name);
        let phases = if of_virtual_ip { 2 } else { 1 };
        assert_eq!(found.len(), phases, "{name}: {found:?}");
        let all_fail = found.iter().all(|(status, _)| *status == Status::False);
        assert!(all_fail, "{name}: {found:?}");
        let _ = has.apply(&host);
        assert_eq!(left(&host), [], "{name}");
    }
}

#[test]
fn a_partial_run_prunes_only_the_selected_phases() {
    let had = with("DOCKERHUB_ID: me\nDOCKERHUB_PASSWORD: secret\n");
    let has = with("");
    let host = applied(&had);
    let there = |host: &FakeHost| host.with_world(|world| world.text(CREDENTIALS)).is_some();
    assert!(there(&host));
    let _ = has.apply_only(&host, &["node-config", "cni"]);
    assert!(there(&host), "phase kubelet was not named");
    let run = has.apply_only(&host, &["kubelet"]);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert!(!there(&host), "{}", run.text());

    let gone = without(with(""), "kube-proxy");
    let host = applied(&with(""));
    let run = gone.apply_only(&host, &["kubelet"]);
    assert_eq!(run.changes(), Vec::<String>::new(), "{}", run.text());
}

#[test]
fn a_resource_of_another_step_stays() {
    let had = with("");
    let mut has = with("");
    let moved = |phase: &mut PlannedPhase| {
        let at = phase.steps.iter().position(|step| {
            matches!(&step.spec, Spec::File(file) if file.path.ends_with("kubelet/config.yaml"))
        });
        phase
            .steps
            .remove(at.expect("kubelet has its configuration"))
    };
    let place = |bringup: &Bringup, name: &str| {
        let mut phases = bringup.plan.phases.iter();
        phases
            .position(|phase| phase.name.as_str() == name)
            .expect("a phase")
    };
    let (from, to) = (place(&has, "kubelet"), place(&has, "node-config"));
    let mut step = moved(&mut has.plan.phases[from]);
    step.id = StepId::new(
        &has.plan.phases[to].name,
        step.spec.kind(),
        &step.spec.label(),
    );
    has.plan.phases[to].steps.push(step);
    let host = applied(&had);
    host.clear_journal();
    let run = has.apply(&host);
    assert_eq!(run.changes(), Vec::<String>::new(), "{}", run.text());
    assert_eq!(host.mutating_calls(), []);
}

#[test]
fn a_failed_undo_fails_the_run_and_blocks_no_other_undo() {
    let (_, had, has) = changes().remove(0);
    let host = applied(&had);
    host.set_faults(FaultPlan::none().fail("purge_packages", "*").times(1));
    // A later phase has something to do.
    host.with_world_mut(|world| world.remove_container("etcd"));
    let run = has.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    assert!(run.text().contains("packages keepalived"), "{}", run.text());
    assert!(
        run.changes()
            .iter()
            .any(|step| step == "etcd/container:etcd"),
        "the other phases were applied: {}",
        run.text()
    );
    let next = has.apply(&host);
    assert_eq!(next.outcome, Outcome::Converged, "{}", next.text());
    assert_eq!(
        next.changes(),
        ["keepalived/packages:keepalived"],
        "{}",
        next.text()
    );
}

/// A plan with the module `ip_vs`, the same without it, and what uses the module.
fn module_of_a_plan() -> (Bringup, Bringup, VirtualService) {
    let planned = |steps: &str| {
        let header = r#"phase("example").about("A phase of a test.").nodes(["master"]);"#;
        let script = format!("{header}\n{steps}");
        Bringup::of_scripts(&Scripts::default().phase("example", &script))
    };
    let file = r#"file("/etc/ours").content("x");"#;
    let had = planned(&format!(r#"kernel_module("ip_vs"); {file}"#));
    let uses = VirtualService {
        transport: Transport::Udp,
        at: "192.0.2.1:53".parse().expect("an address"),
    };
    (had, planned(file), uses)
}

/// A run takes back what the plan no longer has before its phases end what uses a module.
#[test]
fn a_module_in_use_stays_until_a_clean() {
    let (had, has, uses) = module_of_a_plan();
    let host = FakeHost::new();
    let run = had.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host.with_world_mut(|world| world.balance(&uses));
    let loaded = || block_on(host.module_loaded("ip_vs")).expect("the kernel answers");
    let run = has.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let left = |event: &Event| matches!(event, Event::ResourceLeft { resource, .. } if resource == "module ip_vs");
    assert!(run.events.iter().any(left), "{}", run.text());
    assert!(loaded(), "it is in use");
    // It is no drift, and the next runs leave it alone.
    let mut all = has.check(&host).into_iter().flat_map(|its| its.conditions);
    let orphan = all.find(|its| its.kind == ConditionKind::Orphans);
    assert!(orphan.is_none(), "{orphan:?}");
    host.clear_journal();
    let again = has.apply(&host);
    assert_eq!(again.changes(), Vec::<String>::new(), "{}", again.text());
    assert_eq!(host.mutating_calls(), []);

    block_on(host.remove_virtual_service(&uses)).expect("it goes");
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    assert!(!loaded(), "{}", clean.text());
}

/// The module is still loaded when the plan has it again, so no step loads it and notes its undo.
#[test]
fn a_module_that_was_in_use_and_is_in_the_plan_again_is_taken_back_later() {
    let (had, has, uses) = module_of_a_plan();
    let host = FakeHost::new();
    let apply = |bringup: &Bringup| {
        let run = bringup.apply(&host);
        assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    };
    let loaded = || block_on(host.module_loaded("ip_vs")).expect("the kernel answers");
    apply(&had);
    host.with_world_mut(|world| world.balance(&uses));
    apply(&has);
    assert!(loaded(), "it is in use");
    apply(&had);
    // The mark ends only once.
    let records = Bringup::records(&host);
    let noted_in = records.iter().filter_map(|record| match record {
        Record::Undo {
            run,
            undo: Undo::UnloadModule { .. },
            ..
        } => Some(*run),
        _ => None,
    });
    let noted_in: Vec<RunId> = noted_in.collect();
    let (first, last) = (noted_in.first(), noted_in.last());
    assert_eq!(
        first, last,
        "a rollback of a later run must not take it back"
    );
    assert!(noted_in.len() > 1, "it is noted again: {noted_in:?}");
    apply(&had);
    assert_eq!(Bringup::records(&host), records);
    block_on(host.remove_virtual_service(&uses)).expect("it goes");
    apply(&has);
    assert!(!loaded(), "nothing uses it");
}

/// The role on the host, if `nodelet` would refuse to apply this one.
fn another_role(bringup: &Bringup, host: &FakeHost) -> Option<AnotherRole> {
    let ignored_events = Recording::default();
    let runner = Runner::new(
        &bringup.plan,
        host,
        &bringup.facts,
        &MaskedSecrets,
        &ignored_events,
    );
    block_on(runner.another_role()).expect("the ledger can be read")
}

#[test]
fn another_role_is_reported_with_what_it_would_remove() {
    let had = with("");
    let mut has = without(with(""), "kube-proxy");
    assert_eq!(another_role(&had, &had.bare_host()), None, "it is bare");
    let host = applied(&had);
    assert_eq!(another_role(&has, &host), None, "its name is the same");
    has.plan.role = "other 1".to_owned();
    host.clear_journal();
    let found = another_role(&has, &host).expect("it is another role");
    assert_eq!(host.mutating_calls(), []);
    assert_eq!(found.installed_role, had.plan.role);
    assert_eq!(found.planned, "other 1");
    // What an operator is told is what a run removes.
    assert!(!found.removed.is_empty());
    let all = found.removed.iter();
    let mut others = all.filter(|step| step.phase() != Some("kube-proxy"));
    assert_eq!(others.next(), None, "the plan has all other phases");
    let run = has.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    for event in &run.events {
        if let Event::StepChanging { phase, step, .. } = event
            && phase.as_str() == "kube-proxy"
            && step.kind() != Some("directory")
        {
            assert!(found.removed.contains(step), "{step}: {:?}", found.removed);
        }
    }
    // Now this is the role of the host, and the first one is another role.
    assert_eq!(another_role(&has, &host), None);
    let back = another_role(&had, &host).expect("it is another role");
    assert_eq!(back.installed_role, "other 1");
    // What a clean keeps is of no role.
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    assert_eq!(another_role(&had, &host), None);
}

#[test]
fn the_ledger_lists_removals_with_their_time() {
    let (_, had, has) = changes().remove(0);
    let host = applied(&had);
    let _ = has.apply(&host);
    let records = Bringup::records(&host);
    let history = History::of(&records);
    let last = history.runs.last().expect("a run");
    let steps = &last.phases[&"keepalived".parse().expect("a name")].steps;
    assert!(
        steps.iter().all(|(_, action, _)| *action == Action::Remove),
        "{steps:?}"
    );
    assert!(
        Ledger::live_in(&records)
            .iter()
            .all(|live| live.phase.as_str() != "keepalived"),
        "nothing of it is left"
    );
}
