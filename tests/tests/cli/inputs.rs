//! Settings and facts: which are refused, which are ignored, and how a message names the place.

use behaviour::{Program, fixtures, repository, text};

use crate::ROLE;

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
    let own = write("own.yaml", b"ROLE: worker\nMASTER_IP: 172.30.0.11\n");
    let worker = write("worker.yaml", b"ROLE: worker\nMASTER_IP: 172.30.0.99\n");
    std::fs::create_dir(folder.path().join("phases")).expect("a directory of our own");
    let script =
        b"phase(\"one\").about(\"One thing.\").nodes([\"master\"]);\ndirectory(\"/etc/one\");\n";
    let _ = write("phases/one.rhai", script);
    let manifest =
        b"version: 1\nname: one\nrelease: 1.0.0\nabout: One thing.\nnodes:\n  master:\n    - one\npayload: []\n";
    let _ = write("role.yaml", manifest);
    let masters_only = folder.path().display().to_string();
    let facts = write("facts.yaml", b"version: 1\nhostname: [\n");
    let newer = write("newer.yaml", b"version: 2\nhostname: a\n");
    let bytes = write("bytes.yaml", b"version: \xff\n");
    let unlike_a_host = write(
        "unlike.yaml",
        b"version: 1\nhostname: a\nlinks: []\ndefault_route:\n  link: nolink\n",
    );
    let twice = write("twice.yaml", b"version: 1\nhostname: a\nhostname: b\n");
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
        (
            ROLE,
            &own,
            &host,
            "MASTER_IP is 172.30.0.11, which is this host itself",
        ),
        (
            masters_only.as_str(),
            &worker,
            &host,
            "no phases for node kind `worker`",
        ),
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
        (ROLE, &right, &unlike_a_host, "line 5: `default_route.link`"),
        (ROLE, &right, &twice, "`hostname` is there twice at line 3"),
    ] {
        let arguments = ["plan", "--role", role, "--config", config, "--facts", facts];
        let answer = Program::nodelet(&arguments).answer();
        assert_eq!(answer.code, 1, "{arguments:?}: {}", answer.err);
        assert!(answer.err.contains(expect), "{arguments:?}: {}", answer.err);
        assert_eq!(answer.out, "", "{arguments:?}");
    }
}

/// An apply would find these only in the phase that needs them.
#[test]
fn settings_that_do_not_fit_the_host_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, content: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file in a directory of our own");
        path.display().to_string()
    };
    let facts = text(fixtures("hosts/cp-1.yaml")).replace(
        "\ndisks:\n",
        "\ndisks:\n- path: /etc/shadow\n  free: 64424509440\n  total: 107374182400\n  taken_by: a file\n",
    );
    let facts = write("facts.yaml", facts);
    let settings = text(fixtures("settings/cp-1.yaml"));
    let line = settings.lines().count() + 1;
    let place = format!("settings.yaml:{line}:1: USER_IMAGES_DIR: /etc/shadow is not a directory");
    for (setting, expect) in [
        ("USER_IMAGES_DIR: /etc/shadow\n", place.as_str()),
        ("RESERVED_CPUS: 0-999\n", "`0-999` names processor 2"),
    ] {
        let config = write("settings.yaml", format!("{settings}{setting}"));
        let answer = Program::nodelet(&[
            "plan", "--role", ROLE, "--config", &config, "--facts", &facts,
        ])
        .answer();
        assert_eq!(answer.code, 1, "{setting}: {}", answer.err);
        let told = format!("{}{}", answer.out, answer.err);
        assert!(told.contains(expect), "{setting}: {told}");
    }
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
fn facts_are_a_fixture_file_without_contents() {
    let answer = Program::nodelet(&["facts"]).answer();
    assert_eq!(answer.code, 0, "{}", answer.err);
    let facts =
        engine::facts::Facts::from_yaml(&answer.out).expect("what facts prints is a facts file");
    assert!(facts.files.is_empty());
}
