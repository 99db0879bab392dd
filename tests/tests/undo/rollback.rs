//! A failed phase is restored to its state before the run, and no further: an operation that hangs is given up, what the phase had
//! before stays, and what others have made since stays theirs.

use behaviour::{Bringup, Run, Scripts, block_on};
use engine::exec::Event;
use engine::host::fake::{FakeHost, Fault, FaultKind, FaultPlan, Program, Trigger};
use engine::host::{CommandOutput, Services as _};
use engine::ledger::Record;
use engine::model::Outcome;

/// A phase with this name and these steps; `header` is the rest of its header.
fn phase(name: &str, header: &str, steps: &str) -> Scripts {
    with_phase(Scripts::default(), name, header, steps)
}

fn with_phase(scripts: Scripts, name: &str, header: &str, steps: &str) -> Scripts {
    let script = format!(
        "phase(\"{name}\").about(\"A phase of a test.\").nodes([\"master\"]){header};\n{steps}"
    );
    scripts.phase(name, &script)
}

/// A check that fails.
const DOOMED: &str = r#"check("nothing is enough").file_exists("/nowhere").timeout("1s");"#;

fn call(name: &str, argument: &str, fault_kind: FaultKind) -> FaultPlan {
    let trigger = Trigger::Call {
        name: name.to_owned(),
        argument: argument.to_owned(),
    };
    FaultPlan::none().with(Fault {
        trigger,
        fault_kind,
        remaining: None,
    })
}

/// A host with a program `mark` that leaves `/run/mark`.
fn marking_host() -> FakeHost {
    host_that_marks("/run/mark")
}

/// A host with a program `mark` that leaves this file.
fn host_that_marks(file: &'static str) -> FakeHost {
    let mark = Program::new(move |_, world| {
        world.file(file, "x");
        CommandOutput {
            status: 0,
            stdout: String::new(),
            stderr: String::new(),
        }
    });
    FakeHost::new()
        .with_file("/usr/bin/mark", "a program")
        .with_program("mark", mark)
}

fn left_by_first_phase(bringup: &Bringup, before: &FakeHost, host: &FakeHost) -> Vec<String> {
    Bringup::left_behind(&bringup.plan.phases[0], &before.snapshot(), host)
}

fn rollback_errors(run: &Run) -> Vec<String> {
    let reported_failure = run.events.iter().find_map(|event| match event {
        Event::PhaseRolledBack { errors, .. } => Some(errors.clone()),
        _ => None,
    });
    reported_failure.unwrap_or_else(|| panic!("no rollback: {}", run.text()))
}

#[test]
fn a_phase_timeout_reverts_the_running_step() {
    let bringup = Bringup::of_scripts(&phase(
        "slow",
        r#".timeout("10s")"#,
        r#"file("/etc/first").content("x");
           service("slow").enabled().started();"#,
    ));
    for fault_kind in [FaultKind::Stall, FaultKind::StallAfter] {
        let before = FakeHost::new().with_unit("slow.service", "[Service]\n");
        let host = before
            .fork()
            .with_faults(call("start_unit", "slow.service", fault_kind));
        let run = bringup.apply(&host);
        assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
        assert!(
            run.text().contains("finish phase slow"),
            "the phase's own time was up: {}",
            run.text()
        );
        assert_eq!(rollback_errors(&run), Vec::<String>::new());
        assert_eq!(
            left_by_first_phase(&bringup, &before, &host),
            Vec::<String>::new(),
            "{fault_kind:?}"
        );
    }
}

/// The first try has failed, and the time is over in the second one.
#[test]
fn a_phase_timeout_names_what_was_tried_and_its_last_error() {
    for (tried, named, (call, argument)) in [
        (
            r#"service("slow").started().retry(1000, "1s");"#,
            "service slow.service",
            ("start_unit", "slow.service"),
        ),
        (
            r#"check("it is there").file_exists("/etc/there").timeout("1h");"#,
            "check \"it is there\"",
            ("read", "/etc/there"),
        ),
    ] {
        let bringup = Bringup::of_scripts(&phase("slow", r#".timeout("10s")"#, tried));
        let faults = FaultPlan::none().fail(call, argument).times(1);
        let host = FakeHost::new()
            .with_unit("slow.service", "[Service]\n")
            .with_faults(faults.stall(call, argument));
        let run = bringup.apply(&host);
        assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
        let report = run.text();
        for says in [
            &format!(":1: {named}\n      could not finish phase slow within 10s\n"),
            "because: ",
            "(injected fault)",
        ] {
            assert!(report.contains(says), "{says}: {report}");
        }
    }
}

#[test]
fn on_rollback_does_not_run_where_nothing_was_changed() {
    let bringup = Bringup::of_scripts(&phase(
        "unchanged",
        "",
        &format!(
            r#"file("/etc/there").content("x");
               on_rollback(|| {{ service("theirs").stopped(); }});
               {DOOMED}"#
        ),
    ));
    let host = FakeHost::new()
        .with_file("/etc/there", "x")
        .with_active_unit("theirs.service", "[Service]\n");
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    assert_eq!(run.changes(), Vec::<String>::new());
    host.with_world(|world| assert!(world.unit_active("theirs.service")));
}

#[test]
fn on_rollback_runs_only_for_a_phase_that_began_in_this_run() {
    let scripts = |content: &str, check: &str| {
        phase(
            "grown",
            "",
            &format!(
                r#"file("/etc/ours").content("{content}");
                   on_rollback(|| {{ service("because-of-it").stopped(); }});
                   {check}"#
            ),
        )
    };
    let good = Bringup::of_scripts(&scripts("old", ""));
    let doomed = Bringup::of_scripts(&scripts("new", DOOMED));
    let bare = || FakeHost::new().with_active_unit("because-of-it.service", "[Service]\n");

    let host = bare();
    let run = doomed.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    host.with_world(|world| assert!(!world.unit_active("because-of-it.service")));

    let host = bare();
    assert_eq!(good.apply(&host).outcome, Outcome::Converged);
    let run = doomed.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    host.with_world(|world| {
        assert_eq!(world.text("/etc/ours").as_deref(), Some("old"));
        assert!(
            world.unit_active("because-of-it.service"),
            "a unit of a phase that was applied before is not ended"
        );
    });
}

#[test]
fn on_rollback_leaves_what_was_there_before() {
    let bringup = Bringup::of_scripts(&phase(
        "marks",
        "",
        &format!(
            r#"file("/etc/ours").content("x");
               on_rollback(|| {{ file("/run/mark").absent(); }});
               {DOOMED}"#
        ),
    ));
    let host = FakeHost::new().with_file("/run/mark", "theirs");
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    host.with_world(|world| {
        assert_eq!(world.text("/etc/ours"), None);
        assert_eq!(world.text("/run/mark").as_deref(), Some("theirs"));
    });
}

#[test]
fn on_rollback_takes_back_what_a_command_did() {
    let bringup = Bringup::of_scripts(&phase(
        "marks",
        "",
        &format!(
            r#"command(["mark"]).creates("/run/mark");
               on_rollback(|| {{ file("/run/mark").absent(); }});
               {DOOMED}"#
        ),
    ));
    let host = marking_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    assert!(run.text().contains("command mark"), "{}", run.text());
    host.with_world(|world| assert_eq!(world.text("/run/mark"), None));
}

/// The directory is not empty when its turn comes.
#[test]
fn a_directory_goes_after_what_on_rollback_removes_from_it() {
    let bringup = Bringup::of_scripts(&phase(
        "marks",
        "",
        &format!(
            r#"directory("/etc/ours");
               command(["mark"]).creates("/etc/ours/mark");
               on_rollback(|| {{ file("/etc/ours/mark").absent(); }});
               {DOOMED}"#
        ),
    ));
    let host = host_that_marks("/etc/ours/mark");
    let before = host.fork();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    assert_eq!(rollback_errors(&run), Vec::<String>::new());
    assert_eq!(
        left_by_first_phase(&bringup, &before, &host),
        Vec::<String>::new()
    );
}

/// Another program's file keeps the directory from being removed at once.
#[test]
fn a_directory_that_a_rollback_left_goes_with_a_clean() {
    let bringup = Bringup::of_scripts(&phase(
        "marks",
        "",
        &format!(
            r#"directory("/etc/ours");
               command(["mark"]).creates("/etc/ours/mark");
               {DOOMED}"#
        ),
    ));
    let host = host_that_marks("/etc/ours/mark");
    let before = host.fork();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    assert_eq!(rollback_errors(&run), Vec::<String>::new());
    host.with_world(|world| assert!(world.text("/etc/ours/mark").is_some()));
    // A clean leaves it as well while the file is there.
    let full = host.fork();
    let clean = Bringup::clean(&full, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    full.with_world(|world| assert!(world.text("/etc/ours/mark").is_some()));

    host.with_world_mut(|world| world.remove("/etc/ours/mark"));
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    assert_eq!(
        left_by_first_phase(&bringup, &before, &host),
        Vec::<String>::new()
    );
}

/// Such a directory does not count as a phase that was applied before.
#[test]
fn on_rollback_runs_again_where_a_rollback_left_a_directory() {
    let bringup = Bringup::of_scripts(&phase(
        "marks",
        "",
        &format!(
            r#"directory("/etc/ours");
               file("/etc/first").content("x");
               command(["mark"]).creates("/etc/ours/mark");
               on_rollback(|| {{ service("because-of-it").stopped(); }});
               {DOOMED}"#
        ),
    ));
    let host = host_that_marks("/etc/ours/mark");
    let host = host.with_unit("because-of-it.service", "[Service]\n");
    for _ in 0..2 {
        block_on(host.start_unit("because-of-it.service")).expect("it starts");
        let run = bringup.apply(&host);
        assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
        host.with_world(|world| assert!(!world.unit_active("because-of-it.service")));
    }
}

#[test]
fn a_rollback_carries_out_the_cleanup_steps_only_where_the_phase_began() {
    let scripts = |content: &str, check: &str| {
        phase(
            "traces",
            "",
            &format!(
                r#"file("/etc/ours").content("{content}");
                   on_clean(|| {{ directory("/var/lib/traces").absent(); }});
                   {check}"#
            ),
        )
    };
    let good = Bringup::of_scripts(&scripts("old", ""));
    let doomed = Bringup::of_scripts(&scripts("new", DOOMED));
    let host = FakeHost::new();
    assert_eq!(good.apply(&host).outcome, Outcome::Converged);
    host.with_world_mut(|world| world.file("/var/lib/traces/x", "x"));
    assert_eq!(doomed.apply(&host).outcome, Outcome::Failed);
    host.with_world(|world| assert!(world.text("/var/lib/traces/x").is_some()));
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    host.with_world(|world| assert_eq!(world.text("/var/lib/traces/x"), None));
}

#[test]
fn after_a_rollback_a_clean_leaves_what_others_made_since() {
    let bringup = Bringup::of_scripts(&phase(
        "traces",
        "",
        &format!(
            r#"file("/etc/ours").content("x");
               on_clean(|| {{ directory("/var/lib/traces").absent(); }});
               {DOOMED}"#
        ),
    ));
    let host = FakeHost::new();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    host.with_world_mut(|world| world.file("/var/lib/traces/theirs", "x"));
    let clean = Bringup::clean(&host, true);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    host.with_world(|world| assert!(world.text("/var/lib/traces/theirs").is_some()));
}

#[test]
fn a_hanging_undo_is_skipped_and_the_others_run() {
    let bringup = Bringup::of_scripts(&phase(
        "stuck",
        "",
        &format!(
            r#"file("/etc/first").content("x");
               file("/etc/second").content("x");
               file("/etc/third").content("x");
               {DOOMED}"#
        ),
    ));
    let host = FakeHost::new().with_faults(FaultPlan::none().stall("remove", "/etc/second"));
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
    let errors = rollback_errors(&run);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("/etc/second"), "{errors:?}");
    host.with_world(|world| {
        assert_eq!(world.text("/etc/first"), None);
        assert!(world.text("/etc/second").is_some());
        assert_eq!(world.text("/etc/third"), None);
    });
    // What could not be taken back stays in the ledger, so that a clean tries again.
    host.set_faults(FaultPlan::none());
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    host.with_world(|world| assert_eq!(world.text("/etc/second"), None));
}

#[test]
fn a_retried_step_has_one_ledger_record() {
    let bringup = Bringup::of_scripts(&phase(
        "again",
        "",
        r#"file("/etc/ours").content("x").retry(5, "1s");"#,
    ));
    let host = FakeHost::new().with_faults(FaultPlan::none().fail("write", "/etc/ours").times(3));
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let intents = Bringup::records(&host)
        .iter()
        .filter(|record| matches!(record, Record::Intent { .. }))
        .count();
    assert_eq!(intents, 1);
}

#[test]
fn a_met_precondition_is_not_checked_again() {
    let mut bringup = Bringup::of_scripts(&phase(
        "first",
        "",
        r#"require("memory").memory("1M");
           file("/etc/ours").content("x");"#,
    ));
    let host = FakeHost::new();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    // The host is ours now, and our programs use its memory.
    bringup.facts.memory_bytes = Some(0);
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let run = bringup.apply(&FakeHost::new());
    assert_eq!(run.outcome, Outcome::Refused, "{}", run.text());
}

/// An earlier release did not ask for the name. The host needs repairs as before, and with another name it would be another node.
#[test]
fn a_host_with_the_role_keeps_its_name_if_a_newer_role_refuses_it() {
    let bringup = |newer: &str| {
        let memory = r#"require("memory").memory("1M");"#;
        let file = r#"file("/etc/ours").content("x");"#;
        Bringup::of_scripts(&phase("first", "", &format!("{memory}\n{newer}\n{file}")))
    };
    let newer = bringup(r#"require("the name").host_name_not_of_api(["cp-1"]);"#);
    let host = FakeHost::new();
    let run = bringup("").apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let run = newer.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    // The record of met preconditions is lost.
    host.with_world_mut(|world| world.remove("/var/opt/pf9/nodelet/preflight.json"));
    let run = newer.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let run = newer.apply(&FakeHost::new());
    assert_eq!(run.outcome, Outcome::Refused, "{}", run.text());
}

#[test]
fn preconditions_count_also_if_a_run_begins_later() {
    let scripts = with_phase(
        phase("first", "", r#"require("much memory").memory("9000G");"#),
        "second",
        "",
        r#"file("/etc/ours").content("x");"#,
    );
    let bringup = Bringup::of_scripts(&scripts);
    let host = FakeHost::new();
    let run = bringup.apply_only(&host, &["second"]);
    assert_eq!(run.outcome, Outcome::Refused, "{}", run.text());
    assert_eq!(host.mutating_calls(), []);
}

#[test]
fn selected_phases_run_in_order() {
    let step = |name: &str| format!(r#"file("/etc/{name}").content("x").retry(5, "1s");"#);
    let scripts = phase("a", "", &step("a"));
    let scripts = with_phase(scripts, "b", r#".requires(["a"])"#, &step("b"));
    let scripts = with_phase(scripts, "c", r#".requires(["b"])"#, &step("c"));
    let bringup = Bringup::of_scripts(&scripts);
    // While the first phase waits for its second try, another one could begin.
    let host = FakeHost::new().with_faults(FaultPlan::none().fail("write", "/etc/a").times(2));
    let run = bringup.apply_only(&host, &["a", "c"]);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let place = |wanted: &str| {
        let calls = host.mutating_calls();
        let at = calls.iter().position(|call| {
            call.name == "write" && call.argument == wanted && call.error.is_none()
        });
        at.unwrap_or_else(|| panic!("{wanted} was written"))
    };
    assert!(place("/etc/a") < place("/etc/c"));
}

#[test]
fn an_unfinished_drain_is_repeated() {
    const MARK: &str = "KubeStackShutDown";
    let bringup = Bringup::of("cp-1");
    let healthy = bringup.bare_host();
    let run = bringup.apply(&healthy);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    // Whether the node is cordoned, and whether the cordon is marked as ours.
    let cordon = |host: &FakeHost| {
        let snapshot = host.snapshot();
        let mut nodes = snapshot
            .resources()
            .filter(|(resource, _)| resource.starts_with("node "));
        let (_, state) = nodes.next().expect("there is a node");
        (state.contains("unschedulable: true"), state.contains(MARK))
    };
    for faults in [
        FaultPlan::none().fail("evict_pods", "*"),
        FaultPlan::none().stall("evict_pods", "*"),
        call("patch_node", "*", FaultKind::Fail),
        call("patch_node", "*", FaultKind::CrashAfter),
    ] {
        let host = healthy.fork().with_faults(faults.clone());
        let _ = bringup.stop_phase(&host, "drain");
        host.end_crash();
        host.clear_journal();
        let (cordoned, marked) = cordon(&host);
        assert_eq!(
            cordoned, marked,
            "a cordon of ours has its mark: {faults:?}"
        );
        let run = bringup.stop_phase(&host, "drain");
        assert_eq!(run.outcome, Outcome::Stopped, "{}", run.text());
        assert_eq!(cordon(&host), (true, true), "{faults:?}");
        assert!(host.journal().iter().any(|call| call.name == "evict_pods"));
    }
}

#[test]
fn an_impossible_write_needs_no_undo_on_a_read_only_file_system() {
    let bringup = Bringup::of_scripts(&phase(
        "refused",
        "",
        r#"file("/etc/new").content("x").retry(1, "1s");"#,
    ));
    let replaces = Bringup::of_scripts(&phase(
        "refused",
        "",
        r#"file("/etc/old").content("x").retry(1, "1s");"#,
    ));
    for bringup in [bringup, replaces] {
        let mut faults = FaultPlan::none();
        for name in ["write", "remove", "set_attributes"] {
            faults = faults.with(Fault {
                trigger: Trigger::Call {
                    name: name.to_owned(),
                    argument: "/etc/*".to_owned(),
                },
                fault_kind: FaultKind::Fail,
                remaining: None,
            });
        }
        let host = FakeHost::new()
            .with_file("/etc/old", "theirs")
            .with_faults(faults);
        let run = bringup.apply(&host);
        assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
        assert_eq!(
            rollback_errors(&run),
            Vec::<String>::new(),
            "{}",
            run.text()
        );
        host.with_world(|world| assert_eq!(world.text("/etc/old").as_deref(), Some("theirs")));
    }
}
