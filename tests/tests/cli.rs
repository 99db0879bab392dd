//! How the program answers: exit codes, messages, JSON, help.

use behaviour::{Answer, Program, fixtures, golden, repository, text};
use serde_json::Value;

/// The role of the checkout. A plain name means an installed role.
const ROLE: &str = "./roles/pf9-kube";

/// Copies a directory with all that is in it; the copy belongs to us.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory of our own");
    for entry in std::fs::read_dir(from).expect("a directory of the checkout") {
        let entry = entry.expect("an entry");
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            let text = std::fs::read(&path).expect("a file of the checkout");
            std::fs::write(to, text).expect("a file of our own");
        }
    }
}

/// A plan for another host changes nothing here, so root may make one from a role in any directory. The suite `refusal` tests what
/// root refuses.
#[test]
fn a_role_that_another_user_can_change_is_planned_for_another_host() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    copy(&repository().join("phases"), &folder.path().join("phases"));
    let role = folder.path().join("roles/pf9-kube");
    copy(&repository().join("roles/pf9-kube"), &role);
    let script = folder.path().join("phases/etcd.rhai");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&script, open).expect("it is ours");
    let (role, settings, facts) = (
        role.display().to_string(),
        fixtures("settings/cp-1.yaml").display().to_string(),
        fixtures("hosts/cp-1.yaml").display().to_string(),
    );
    let elsewhere = [
        "phases", "--role", &role, "--config", &settings, "--facts", &facts,
    ];
    let answer = Program::nodelet(&elsewhere).answer();
    assert_eq!((answer.code, answer.err.as_str()), (0, ""));
    assert!(answer.out.contains("etcd"), "{}", answer.out);
}

/// An installed package names its checksums.
#[test]
fn the_payload_of_a_role_with_checksums_is_verified() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    copy(&repository().join("phases"), &folder.path().join("phases"));
    let role = folder.path().join("roles/pf9-kube");
    copy(&repository().join("roles/pf9-kube"), &role);
    let (file, digest) = (role.join("role.yaml"), "0f".repeat(32));
    let plan = |checksums: &str| {
        let text = text(repository().join("roles/pf9-kube/role.yaml"));
        let with_checksums =
            text.replace("\npayload:", &format!("\nchecksums: {checksums}\npayload:"));
        std::fs::write(&file, with_checksums).expect("a file of our own");
        let (role, settings, facts) = (
            role.display().to_string(),
            fixtures("settings/cp-1.yaml").display().to_string(),
            fixtures("hosts/cp-1.yaml").display().to_string(),
        );
        let arguments = [
            "plan", "--json", "--role", &role, "--config", &settings, "--facts", &facts,
        ];
        Program::nodelet(&arguments).answer()
    };
    let answer = plan(&digest);
    assert_eq!(answer.code, 0, "{}", answer.err);
    let planned: Value = serde_json::from_str(&answer.out).expect("one JSON value");
    let (mut compared, mut brought) = (0, 0);
    for phase in planned["plan"]["phases"].as_array().expect("phases") {
        for step in phase["steps"].as_array().expect("steps") {
            if matches!(step["spec"]["kind"].as_str(), Some("image" | "packages")) {
                brought += 1;
                let its = &step["spec"]["checksums"];
                assert_eq!(its["sha256"], digest.as_str(), "{step}");
                assert_eq!(its["file"], "/opt/pf9/roles/pf9-kube/current/SHA256SUMS");
                compared += 1;
            }
        }
    }
    assert!(
        brought > 8 && compared == brought,
        "{compared} of {brought}"
    );
    let answer = plan("none");
    assert_eq!(answer.code, 1, "{}", answer.out);
    assert!(
        answer.err.contains("`none` is no SHA-256"),
        "{}",
        answer.err
    );
}

/// The current directory may belong to another user.
#[test]
fn a_role_name_does_not_mean_a_local_directory() {
    let settings = fixtures("settings/cp-1.yaml").display().to_string();
    for facts in [&[][..], &["--facts", "tests/fixtures/hosts/cp-1.yaml"]] {
        let named = [&["phases", "--config", &settings][..], facts].concat();
        let answer = Program::nodelet(&named).answer();
        assert_eq!(answer.code, 1, "{}", answer.out);
        assert!(
            answer
                .err
                .contains("looked in /opt/pf9/roles/pf9-kube/current")
                && answer.err.contains("./roles/pf9-kube"),
            "{}",
            answer.err
        );
    }
}

/// Where a user names such a directory by its name, the message says how to name it.
#[test]
fn a_role_directory_is_named_by_a_path() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(folder.path().join("chrony")).expect("a directory of our own");
    let (settings, facts) = (
        fixtures("settings/cp-1.yaml").display().to_string(),
        fixtures("hosts/cp-1.yaml").display().to_string(),
    );
    for (name, hint) in [("chrony", true), ("chronyd", false)] {
        let arguments = [
            "plan", "--role", name, "--config", &settings, "--facts", &facts,
        ];
        let answer = Program::nodelet(&arguments)
            .in_directory(folder.path())
            .answer();
        assert_eq!(answer.code, 1, "{}", answer.out);
        for part in [
            "a name means an installed role",
            "next: use `--role ./chrony`",
        ] {
            assert_eq!(answer.err.contains(part), hint, "{}", answer.err);
        }
    }
}

#[test]
fn reading_commands_end_with_0() {
    for (verb, more) in [
        ("plan", &[][..]),
        ("plan", &["--full"]),
        ("plan", &["--dry-run"]),
        ("plan", &["--only", "etcd"]),
        ("phases", &[]),
    ] {
        let answer = Program::for_cp_1(verb, more).answer();
        assert_eq!(
            (answer.code, answer.err.as_str()),
            (0, ""),
            "{verb} {more:?}"
        );
        assert!(!answer.out.is_empty(), "{verb} {more:?}");
    }
}

#[test]
fn wrong_usage_ends_with_64() {
    for (more, expect) in [
        (&["--frobnicate"][..], "unexpected argument '--frobnicate'"),
        (
            &["--only", "ectd"],
            "could not choose phases: there is no phase `ectd` (did you mean `etcd`?)",
        ),
        (
            &["--from", "etcd", "--to", "certs"],
            "`etcd` comes after `certs`",
        ),
        (
            &["--from", "etcd", "--only", "certs"],
            "cannot be used with",
        ),
        (&["--details", "--full"], "cannot be used with"),
    ] {
        let answer = Program::for_cp_1("plan", more).answer();
        assert_eq!(answer.code, 64, "{more:?}: {}", answer.err);
        assert!(answer.err.contains(expect), "{more:?}: {}", answer.err);
        assert_eq!(answer.out, "", "{more:?}");
    }
    assert_eq!(
        Program::nodelet(&["plan", "--dry-run"]).answer().code,
        64,
        "--dry-run needs --facts"
    );
    assert_eq!(
        Program::nodelet(&[]).answer().code,
        64,
        "a command is needed"
    );
    assert_eq!(
        Program::nodelet(&["paln"]).answer().code,
        64,
        "no such command"
    );
}

#[test]
fn wrong_inputs_end_with_1_and_are_named() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file in a directory of our own");
        path.display().to_string()
    };
    let settings = write(
        "settings.yaml",
        b"ROLE: master\nMASTER_IP: 172.30.0.11\nMTU_SIZE: wide\n",
    );
    let worker = write("worker.yaml", b"ROLE: worker\nMASTER_IP: 172.30.0.11\n");
    let facts = write("facts.yaml", b"version: 1\nhostname: [\n");
    let newer = write("newer.yaml", b"version: 2\nhostname: a\n");
    let bytes = write("bytes.yaml", b"version: \xff\n");
    let (no_file, right) = (
        format!("{}/none", folder.path().display()),
        fixtures("settings/cp-1.yaml"),
    );
    let (right, host) = (
        right.display().to_string(),
        fixtures("hosts/cp-1.yaml").display().to_string(),
    );
    for (role, config, facts, expect) in [
        (ROLE, &no_file, &host, "none is not there"),
        (ROLE, &settings, &host, "settings.yaml:3"),
        (ROLE, &worker, &host, "no phases for node kind `worker`"),
        (
            "pf9-cube",
            &right,
            &host,
            "find role `pf9-cube`: looked in /opt/pf9/roles/pf9-cube/current",
        ),
        (ROLE, &right, &no_file, "none is not there"),
        (ROLE, &right, &facts, "line 3"),
        (ROLE, &right, &newer, "they are of version 2"),
        (ROLE, &right, &bytes, "bytes.yaml is not text"),
    ] {
        let arguments = ["plan", "--role", role, "--config", config, "--facts", facts];
        let answer = Program::nodelet(&arguments).answer();
        assert_eq!(answer.code, 1, "{arguments:?}: {}", answer.err);
        assert!(answer.err.contains(expect), "{arguments:?}: {}", answer.err);
        assert_eq!(answer.out, "", "{arguments:?}");
    }
}

#[test]
fn a_host_without_a_role_is_reported() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let config = folder.path().join("settings.yaml");
    std::fs::write(&config, "MASTER_IP: 172.30.0.11\n").expect("a file in a directory of our own");
    let (config, host) = (
        config.display().to_string(),
        fixtures("hosts/cp-1.yaml").display().to_string(),
    );
    for verb in ["plan", "diff"] {
        let arguments = [verb, "--role", ROLE, "--config", &config, "--facts", &host];
        let answer = Program::nodelet(&arguments).answer();
        assert_eq!(answer.code, 0, "{verb}: {}", answer.err);
        let told = "nothing to do: ROLE is none";
        assert!(answer.out.contains(told), "{verb}: {}", answer.out);
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

#[test]
fn skipped_phases_are_shown_with_their_reason() {
    let review = Program::for_cp_1("plan", &[]).answer();
    let full = Program::for_cp_1("plan", &["--full"]).answer();
    for (what, answer) in [("the review", review), ("the plan in full", full)] {
        let is_skipped = |line: &str| {
            line.starts_with("  · kernel_module ip_vs_rr skipped: its condition (phases/")
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
fn facts_of_a_host_at_its_role_are_warned_of() {
    let facts = text(fixtures("hosts/cp-1.yaml"));
    let folder = tempfile::tempdir().expect("a temporary directory");
    let facts_of_master = folder.path().join("standing.yaml");
    std::fs::write(
        &facts_of_master,
        format!("{facts}installed_role: pf9-kube 1.20.2\n"),
    )
    .expect("a file in a directory of our own");
    let facts_of_master = facts_of_master.display().to_string();
    let told = "was taken on a host with pf9-kube 1.20.2: it has";
    let usual = Program::for_cp_1("plan", &[]).answer();
    assert!(!usual.err.contains(told), "{}", usual.err);
    let config = fixtures("settings/cp-1.yaml").display().to_string();
    for verb in ["plan", "diff"] {
        let arguments = [
            verb,
            "--role",
            ROLE,
            "--config",
            &config,
            "--facts",
            &facts_of_master,
        ];
        let answer = Program::nodelet(&arguments).answer();
        assert!(
            answer.err.contains(told),
            "{verb}: {} {}",
            answer.out,
            answer.err
        );
    }
}

#[test]
fn changing_commands_refuse_facts() {
    // Commands that only look at this host refuse facts, too: the role of a facts file may belong to any user, and its programs
    // would run as root.
    for (verb, more) in [
        ("apply", &[][..]),
        ("stop", &[]),
        ("clean", &[]),
        ("check", &[]),
        ("why", &["etcd"]),
        ("repair", &[]),
        ("recover", &[]),
        ("drain", &[]),
        ("pass", &[]),
    ] {
        let answer = Program::for_cp_1(verb, more).answer();
        assert_eq!(answer.code, 64, "{verb}: {}", answer.err);
        let parts = [
            "unexpected argument '--facts'",
            "--facts is for `nodelet plan`, `nodelet diff` and `nodelet phases`",
        ];
        assert!(
            parts.iter().all(|part| answer.err.contains(part)),
            "{verb}: {}",
            answer.err
        );
    }
}

#[test]
fn only_commands_that_plan_list_facts_in_their_help() {
    for (command, takes) in [
        (&["plan"][..], true),
        (&["diff"], true),
        (&["phases"], true),
        (&["apply"], false),
        (&["check"], false),
        (&["stop"], false),
        (&["drain"], false),
        (&["repair"], false),
        (&["clean"], false),
        (&["recover"], false),
        (&["why"], false),
        (&["certs", "renew"], false),
        (&["certs", "rotate"], false),
        (&["etcd", "backup"], false),
        (&["etcd", "list"], false),
        (&["etcd", "verify"], false),
        (&["etcd", "status"], false),
    ] {
        let answer = Program::nodelet(&[command, &["--help"][..]].concat()).answer();
        assert_eq!(answer.code, 0, "{command:?}");
        let listed = answer.out.contains("--facts <FILE>");
        assert_eq!(listed, takes, "{command:?}: {}", answer.out);
    }
}

#[test]
fn changing_commands_refuse_others_than_root() {
    let place = tempfile::tempdir_in("/tmp").expect("a temporary directory");
    for verb in ["apply", "stop"] {
        let config = fixtures("settings/cp-1.yaml").display().to_string();
        let answer = Program::as_unprivileged(place.path(), &[verb, "--config", &config]).answer();
        assert_eq!(answer.code, 1, "{verb}: {}", answer.err);
        assert!(
            answer.err.contains("only root can"),
            "{verb}: {}",
            answer.err
        );
    }
}

#[test]
fn json_is_one_value_or_one_event_per_line() {
    let value =
        |answer: &Answer| serde_json::from_str::<Value>(&answer.out).expect("one JSON value");
    let plan = value(&Program::for_cp_1("plan", &["--json", "--only", "etcd"]).answer());
    assert_eq!(plan["plan"]["phases"][0]["name"], "etcd");
    assert_eq!(plan["plan"]["phases"].as_array().map(Vec::len), Some(1));
    let phases = value(&Program::for_cp_1("phases", &["--json"]).answer());
    assert_eq!(phases[0]["name"], "preflight");

    let events = Program::for_cp_1("plan", &["--json", "--dry-run"])
        .answer()
        .out;
    let events: Vec<Value> = events
        .lines()
        .map(|line| serde_json::from_str(line).expect("one event per line"))
        .collect();
    assert_eq!(
        events.first().map(|event| &event["event"]),
        Some(&Value::from("run_started"))
    );
    assert_eq!(
        events.last().map(|event| &event["event"]),
        Some(&Value::from("run_finished"))
    );
    assert_eq!(
        events.last().map(|event| &event["outcome"]),
        Some(&Value::from("predicted"))
    );
}

#[test]
fn phases_and_help_are_as_reviewed() {
    golden(
        "docs",
        "phases",
        &Program::for_cp_1("phases", &[]).answer().out,
    );
    golden("docs", "help", &Program::nodelet(&["--help"]).answer().out);
    for verb in [
        "plan", "diff", "apply", "check", "stop", "clean", "phases", "facts", "history", "why",
    ] {
        let answer = Program::nodelet(&[verb, "--help"]).answer();
        assert_eq!(answer.code, 0, "{verb}");
        golden("docs", &format!("help-{verb}"), &answer.out);
    }
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
fn facts_are_a_fixture_file_without_contents() {
    let answer = Program::nodelet(&["facts"]).answer();
    assert_eq!(answer.code, 0, "{}", answer.err);
    let facts =
        engine::facts::Facts::from_yaml(&answer.out).expect("what facts prints is a facts file");
    assert!(facts.files.is_empty());
}

#[test]
fn a_result_that_cannot_be_written_is_no_success() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("every Linux has it");
    for more in [&["--full"][..], &["--json"], &["--dry-run", "--json"]] {
        let out = full.try_clone().expect("a file can be shared");
        let answer = Program::for_cp_1("plan", more).into(out).answer();
        assert_eq!(answer.code, 1, "{more:?}: {}", answer.err);
        assert!(
            answer.err.contains("No space left on device"),
            "{more:?}: {}",
            answer.err
        );
    }
}

#[test]
fn a_role_without_a_name_is_wrong_usage() {
    let answer = Program::nodelet(&["plan", "--role", ""]).answer();
    assert_eq!(answer.code, 64, "{}", answer.err);
}

#[test]
fn with_json_an_error_is_one_object_on_standard_error() {
    let settings = fixtures("settings/cp-1.yaml").display().to_string();
    let arguments = [
        "plan", "--json", "--role", "pf9-cube", "--config", &settings,
    ];
    let answer = Program::nodelet(&arguments).answer();
    assert_eq!(
        (answer.code, answer.out.as_str()),
        (1, ""),
        "{}",
        answer.err
    );
    let told: serde_json::Value = serde_json::from_str(&answer.err).expect("one JSON object");
    assert!(
        told["error"][0]
            .as_str()
            .is_some_and(|text| text.contains("load role pf9-cube")),
        "{told}"
    );
    assert!(
        told["next"]
            .as_str()
            .is_some_and(|text| text.contains("--role PATH")),
        "{told}"
    );
}

#[test]
fn with_json_each_problem_has_its_place_in_fields() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let host = fixtures("hosts/cp-1.yaml").display().to_string();
    let first_problem = |role: &str, config: &str| {
        let arguments = [
            "plan", "--json", "--role", role, "--config", config, "--facts", &host,
        ];
        let answer = Program::nodelet(&arguments).answer();
        assert_eq!(answer.code, 1, "{}", answer.err);
        let told: Value = serde_json::from_str(&answer.err).expect("one JSON object");
        told["problems"][0].clone()
    };
    let wrong = folder.path().join("settings.yaml");
    std::fs::write(
        &wrong,
        "ROLE: master\nMASTER_IP: 172.30.0.11\nMTU_SIZE: wide\n",
    )
    .expect("a file of our own");
    let wrong = wrong.display().to_string();
    let problem = first_problem(ROLE, &wrong);
    assert_eq!(problem["file"], wrong.as_str());
    assert_eq!(problem["line"], 3);
    let message = problem["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("MTU_SIZE: expected"), "{problem}");

    copy(&repository().join("phases"), &folder.path().join("phases"));
    let role = folder.path().join("roles/pf9-kube");
    copy(&repository().join("roles/pf9-kube"), &role);
    let script = folder.path().join("phases/etcd.rhai");
    let mistaken = text(&script).replacen(".mode(", ".moed(", 1);
    let before = mistaken.lines().position(|line| line.contains(".moed("));
    let line = before.expect("a step has a mode") + 1;
    std::fs::write(&script, mistaken).expect("a file of our own");
    let right = fixtures("settings/cp-1.yaml").display().to_string();
    let problem = first_problem(&role.display().to_string(), &right);
    assert_eq!(problem["file"], "phases/etcd.rhai");
    assert_eq!(problem["line"], line);
    assert!(problem["column"].is_u64(), "{problem}");
    let code = problem["code"].as_str().unwrap_or_default();
    assert!(code.starts_with("P0"), "{problem}");
    let message = problem["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("moed") && !message.contains('\n'),
        "{problem}"
    );
    assert!(problem["help"].is_string(), "{problem}");
}

#[test]
fn a_broken_link_among_the_settings_is_named() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let name = "10-\u{1b}[2J\n.yaml";
    std::os::unix::fs::symlink("/nowhere/at-all", folder.path().join(name)).expect("a link");
    let config = folder.path().display().to_string();
    let answer = Program::nodelet(&["plan", "--config", &config]).answer();
    assert_eq!(answer.code, 1, "{}", answer.err);
    assert!(
        answer.err.contains("is a link to /nowhere/at-all"),
        "{}",
        answer.err
    );
    assert!(
        answer.err.contains("10-\\u{1b}[2J\\n.yaml"),
        "{}",
        answer.err
    );
    assert!(!answer.err.contains('\u{1b}'), "{}", answer.err);
}

/// A file that cannot be written, and a pipe without a reader.
fn unwritable() -> [std::process::Stdio; 2] {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("every Linux has it");
    let (_, without_reader) = std::io::pipe().expect("a pipe");
    [full.into(), without_reader.into()]
}

#[test]
fn errors_that_cannot_be_written_change_no_exit_code() {
    for (arguments, code) in [
        (&["plan", "--role", "nope"][..], 1),
        (&["plan", "--json", "--role", "nope"], 1),
        (&["paln"], 64),
        (&["certs", "renew", "no-such"], 64),
        (&["etcd", "verify", "/nowhere"], 1),
    ] {
        for errors in unwritable() {
            let program = Program::nodelet(arguments).env("NODELET_LOG", "trace");
            assert_eq!(program.code_with_errors_into(errors), code, "{arguments:?}");
        }
    }
}

#[test]
fn help_that_cannot_be_written_is_no_success() {
    let full = || {
        let file = std::fs::File::options().write(true).open("/dev/full");
        file.expect("every Linux has it")
    };
    let answer = Program::nodelet(&["--help"]).into(full()).answer();
    assert_eq!(answer.code, 1, "{}", answer.err);
    assert!(
        answer.err.contains("could not write the help"),
        "{}",
        answer.err
    );
    assert_eq!(Program::nodelet(&["--help"]).answer().code, 0);
}

#[test]
fn hidden_files_are_ignored_and_upper_case_extensions_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, content: &str| {
        std::fs::write(folder.path().join(name), content).expect("a file of our own");
    };
    write("10.yaml", &behaviour::text(fixtures("settings/cp-1.yaml")));
    write(".10.yaml", "NO_SUCH: key\n");
    write(".yaml", "NO_SUCH: key\n");
    write("notes.txt", "NO_SUCH: key\n");
    let (config, facts) = (
        folder.path().display().to_string(),
        fixtures("hosts/cp-1.yaml").display().to_string(),
    );
    let plan = || {
        // The shortest path works, too: a role may be the current directory.
        Program::nodelet(&[
            "phases", "--role", ".", "--config", &config, "--facts", &facts,
        ])
        .in_directory(repository().join("roles/pf9-kube"))
        .answer()
    };
    let answer = plan();
    assert_eq!((answer.code, answer.err.as_str()), (0, ""));
    write("20.YAML", "MTU_SIZE: 1400\n");
    let answer = plan();
    assert_eq!(answer.code, 1, "{}", answer.err);
    assert!(
        answer
            .err
            .contains("20.YAML must be lower-case `.yaml` or `.yml`"),
        "{}",
        answer.err
    );
}

#[test]
fn a_log_in_a_file_has_no_colours() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("log");
    let log = std::fs::File::create(&path).expect("a file of our own");
    let program = Program::for_cp_1("plan", &[]).env("NODELET_LOG", "trace");
    assert_eq!(program.code_with_errors_into(log), 0);
    let log = std::fs::read_to_string(&path).expect("a log");
    assert!(!log.contains('\u{1b}'), "{log}");
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
