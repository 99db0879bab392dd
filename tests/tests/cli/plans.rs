//! What the commands that only read (plan, phases, a dry run, diff) show, and that they change nothing.

use behaviour::{Program, fixtures, golden, repository};
use serde_json::Value;

use crate::{ROLE, copy};

#[test]
fn a_plan_is_a_review_and_a_diff_is_what_changes() {
    let plan = Program::for_cp_1("plan", &[]).answer();
    assert_eq!(plan.code, 0, "{}", plan.err);
    golden("docs", "review", &plan.out);
    let diff = Program::for_cp_1("diff", &[]).answer();
    assert_eq!(diff.code, 2, "{}", diff.err);
    assert_eq!(
        plan.out.lines().last(),
        diff.out.lines().last(),
        "both have the same sum"
    );
    assert!(
        !diff.out.contains("will be checked") && !diff.out.contains("unchanged,"),
        "{}",
        diff.out
    );
    let events = Program::for_cp_1("diff", &["--json"]).answer();
    assert_eq!(events.code, 2);
    for line in events.out.lines() {
        serde_json::from_str::<engine::exec::Event>(line)
            .unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn an_unfit_host_fails_the_dry_run_with_1() {
    let path = |path: &str| fixtures(path).display().to_string();
    let (settings, host) = (path("settings/unfit.yaml"), path("hosts/unfit.yaml"));
    let arguments = [
        "plan",
        "--dry-run",
        "--role",
        ROLE,
        "--config",
        &settings,
        "--facts",
        &host,
    ];
    let answer = Program::nodelet(&arguments).answer();
    assert_eq!(answer.code, 1, "{}", answer.out);
    // The refusal is the last thing that a reader sees: what does not hold, what to do, and that nothing happens.
    let (_, verdict) = answer
        .out
        .split_once("\npreconditions that do not hold (")
        .unwrap_or_else(|| panic!("{}", answer.out));
    assert!(verdict.contains("required at phases/preflight.rhai:"));
    let last = verdict.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("nothing would be changed: an apply would refuse this host"),
        "{last}"
    );
    let first = answer.out.lines().nth(1).unwrap_or_default();
    assert!(
        first.ends_with("preconditions do not hold; see the end"),
        "{first}"
    );
}

#[test]
fn phases_that_are_required_and_not_planned_are_named() {
    let answer = Program::for_cp_1("plan", &["--only", "kubelet"]).answer();
    assert_eq!(answer.code, 0, "{}", answer.err);
    let last = answer.out.lines().last().unwrap_or_default();
    assert!(
        last.contains("they require configure-docker, which the host does not have yet")
            && last.contains("`nodelet plan --to kubelet`"),
        "{last}"
    );
    let answer = Program::for_cp_1("plan", &["--only", "preflight"]).answer();
    assert!(!answer.out.contains("they require"), "{}", answer.out);
}

/// A prediction for this machine, which is no node, says what an apply would say.
#[test]
fn a_phase_that_could_not_be_applied_alone_is_not_predicted_alone() {
    let settings = fixtures("settings/cp-1.yaml").display().to_string();
    // As root, only a role that belongs to root is read for this machine.
    let folder = tempfile::tempdir().expect("a temporary directory");
    copy(&repository().join("phases"), &folder.path().join("phases"));
    let role = folder.path().join("roles/pf9-kube");
    copy(&repository().join("roles/pf9-kube"), &role);
    let role = role.display().to_string();
    for verb in ["plan", "diff"] {
        let only = [
            verb, "--role", &role, "--config", &settings, "--only", "kubelet",
        ];
        let answer = Program::nodelet(&only).answer();
        assert_eq!(answer.code, 1, "{}", answer.err);
        assert!(
            answer.err.contains("they require") && answer.err.contains("--to kubelet"),
            "{}",
            answer.err
        );
    }
}

#[test]
fn skipped_phases_are_shown_with_their_reason() {
    let review = Program::for_cp_1("plan", &[]).answer();
    let full = Program::for_cp_1("plan", &["--full"]).answer();
    for (what, answer) in [("the review", review), ("the plan in full", full)] {
        let is_skipped = |line: &str| {
            line.starts_with("  · skipped: kernel_module ip_vs_rr (the condition at phases/")
        };
        assert!(answer.out.lines().any(is_skipped), "{what}: {}", answer.out);
    }
    let json = Program::for_cp_1("plan", &["--json", "--only", "node-config"]).answer();
    let plan: Value = serde_json::from_str(&json.out).expect("one JSON value");
    let skipped = &plan["plan"]["phases"][0]["skipped_words"];
    assert_eq!(skipped.as_array().map(Vec::len), Some(4), "{skipped}");
    assert_eq!(skipped[0]["word"], "kernel_module");
}

#[test]
fn a_plan_in_full_begins_with_its_phases_and_ends_with_what_it_is() {
    let answer = Program::for_cp_1("plan", &["--full", "--only", "etcd"]).answer();
    let lines: Vec<&str> = answer.out.lines().collect();
    assert!(lines[0].starts_with("plan of "), "{}", answer.out);
    assert!(lines[1].starts_with("  1  etcd  "), "{}", answer.out);
    assert_eq!(lines[2], "");
    assert!(lines[3].starts_with("etcd: "), "{}", answer.out);
    let last = lines.last().expect("it has lines");
    assert!(
        last.starts_with("this is the plan and no prediction"),
        "{last}"
    );
}

#[test]
fn modes_in_a_plan_are_octal() {
    let answer = Program::for_cp_1("plan", &["--json", "--only", "etcd"]).answer();
    let plan: Value = serde_json::from_str(&answer.out).expect("one JSON value");
    let steps = plan["plan"]["phases"][0]["steps"].as_array();
    let modes: Vec<&Value> = steps
        .into_iter()
        .flatten()
        .filter_map(|step| step["spec"].pointer("/attributes/mode"))
        .collect();
    assert!(modes.contains(&&Value::from("0700")), "{modes:?}");
    assert!(modes.iter().all(|mode| mode.is_string()), "{modes:?}");
}

#[test]
fn reading_commands_leave_the_directory_as_it_was() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let home = folder.path().display().to_string();
    for (verb, more) in [
        ("plan", &[][..]),
        ("plan", &["--full"]),
        ("diff", &[]),
        ("diff", &["--json"]),
        ("phases", &[]),
    ] {
        let program = Program::for_cp_1(verb, more)
            .in_directory(folder.path())
            .env("HOME", &home);
        let answer = program.env("TMPDIR", &home).answer();
        assert_eq!(
            answer.code,
            if verb == "diff" { 2 } else { 0 },
            "{verb} {more:?}: {}",
            answer.err
        );
    }
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("the directory")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
