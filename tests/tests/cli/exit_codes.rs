//! Exit codes, help, the log, and a result or an error that cannot be written.

use behaviour::{Program, fixtures, golden};

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
fn a_log_in_a_file_has_no_colours() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("log");
    let log = std::fs::File::create(&path).expect("a file of our own");
    let program = Program::for_cp_1("plan", &[]).env("NODELET_LOG", "trace");
    assert_eq!(program.code_with_errors_into(log), 0);
    let log = std::fs::read_to_string(&path).expect("a log");
    assert!(!log.contains('\u{1b}'), "{log}");
}
