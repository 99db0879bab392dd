//! `LiveHost` and real commands.

#![expect(
    clippy::disallowed_methods,
    reason = "a test looks at the machine itself"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use engine::host::live::LiveHost;
use engine::host::{CommandOutput, CommandSpec, HostError, Processes};

fn sh(script: &str) -> CommandSpec {
    CommandSpec::new(["sh", "-c", script])
}

/// Whether a process still runs; one that waits to be reaped does not.
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| {
        !stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .starts_with('Z')
    })
}

/// Looks until `holds` or five seconds have passed.
async fn soon(holds: impl Fn() -> bool) -> bool {
    for _ in 0..500 {
        if holds() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

fn content(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test]
async fn output_status_and_environment_are_as_said() {
    let mut command = sh("echo out; echo err >&2; echo $PATH $HOME $LANG $MORE $USER; exit 3");
    command.env.insert("MORE".into(), "more".into());
    let output = LiveHost::new().run(&command).await.expect("run");
    assert_eq!(output.status, 3);
    assert_eq!(output.stderr, "err\n");
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/pf9/pf9-kube/bin";
    assert_eq!(output.stdout, format!("out\n{path} /root C.UTF-8 more\n"));
    let output = LiveHost::new()
        .run(&sh("kill -TERM $$"))
        .await
        .expect("run");
    assert_eq!(output.status, -15);
}

/// More than is kept for messages; and more than was asked for in full, of which no part is handed on.
#[tokio::test]
async fn output_that_is_evaluated_is_there_in_full_or_is_an_error() {
    let host = LiveHost::new();
    let long = CommandOutput::LIMIT + 10;
    let command = sh(&format!(
        "printf begin; head -c {long} /dev/zero | tr '\\0' x"
    ));
    let tail = host.run(&command).await.expect("run").stdout;
    assert_eq!(tail.len(), CommandOutput::LIMIT);
    assert!(!tail.starts_with("begin"));
    let complete_output = host
        .run(&command.clone().complete_output())
        .await
        .expect("run")
        .stdout;
    assert_eq!(complete_output.len(), long + "begin".len());
    assert!(complete_output.starts_with("begin"));
    let mut bounded = command.complete_output();
    bounded.complete_output = Some(long);
    let error = host.run(&bounded).await.expect_err("it is too much");
    assert!(matches!(error, HostError::TooMuch { .. }), "{error}");
}

#[tokio::test]
async fn an_error_carries_the_end_of_stderr() {
    let error = LiveHost::new()
        .run_ok(&sh("seq 9 >&2; exit 1"))
        .await
        .expect_err("status 1");
    assert_eq!(
        error.to_string(),
        "run `sh -c seq 9 >&2; exit 1`: exit status 1: 5; 6; 7; 8; 9"
    );
}

#[tokio::test]
async fn input_reaches_the_command_and_may_be_ignored() {
    let mut command = CommandSpec::new(["cat"]);
    command.stdin = vec![b'x'; 200_000];
    let host = LiveHost::new();
    assert_eq!(host.run(&command).await.expect("run").stdout.len(), 200_000);
    command.argv = vec!["true".into()];
    assert!(host.run(&command).await.expect("run").success());
    // Without input its standard input ends at once; it does not inherit ours.
    assert_eq!(
        host.run(&CommandSpec::new(["cat"]))
            .await
            .expect("run")
            .stdout,
        ""
    );
}

#[tokio::test]
async fn endless_output_is_bounded_and_ends_at_the_deadline() {
    let host = LiveHost::new();
    let output = host
        .run(&sh("yes 0123456789 | head -c 20000000; echo end"))
        .await
        .expect("run");
    assert!(output.stdout.len() <= CommandOutput::LIMIT && output.stdout.ends_with("end\n"));
    let command = CommandSpec::new(["yes"]).timeout(Duration::from_millis(300));
    let error = host.run(&command).await.expect_err("deadline");
    assert!(matches!(error, HostError::Deadline { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "run `yes` (last it said: y): no answer within 300ms"
    );
}

#[tokio::test]
async fn the_deadline_kills_grandchildren() {
    let directory = tempfile::tempdir().expect("tempdir");
    let pid = directory.path().join("pid");
    let script = format!(
        "sh -c 'echo $$ > {}; exec sleep 1000' & wait",
        pid.display()
    );
    let started = Instant::now();
    let command = sh(&script).timeout(Duration::from_millis(500));
    let error = LiveHost::new().run(&command).await.expect_err("deadline");
    assert!(matches!(error, HostError::Deadline { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3));
    let pid = content(&pid);
    assert!(!pid.is_empty());
    assert!(soon(|| !runs(&pid)).await, "{pid} still runs");
}

#[tokio::test]
async fn dropping_the_call_kills_the_group() {
    let directory = tempfile::tempdir().expect("tempdir");
    let pid = directory.path().join("pid");
    let script = format!(
        "sh -c 'echo $$ > {}; exec sleep 1000' & wait",
        pid.display()
    );
    let call = tokio::spawn(async move { LiveHost::new().run(&sh(&script)).await });
    assert!(soon(|| content(&pid).ends_with('\n')).await);
    let pid = content(&pid);
    assert!(runs(&pid));
    call.abort();
    assert!(soon(|| !runs(&pid)).await, "{pid} still runs");
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_pipe_does_not_block_the_caller() {
    let started = Instant::now();
    let output = LiveHost::new()
        .run(&sh("sleep 1000 & echo $!"))
        .await
        .expect("run");
    assert!(output.success() && started.elapsed() < Duration::from_secs(5));
    assert!(soon(|| !runs(&output.stdout)).await);
}

#[tokio::test]
async fn a_grandchild_that_closed_the_pipes_is_left_alone() {
    let script = "sleep 5 </dev/null >/dev/null 2>&1 & echo $!";
    let output = LiveHost::new().run(&sh(script)).await.expect("run");
    assert!(runs(&output.stdout));
}

#[tokio::test]
async fn programs_are_found_on_the_fixed_path_only() {
    let host = LiveHost::new();
    for (name, there) in [
        ("sh", true),
        ("/bin/sh", true),
        ("no-such-program", false),
        ("", false),
        ("/etc", false),
    ] {
        assert_eq!(host.has_program(name).await.expect("look"), there, "{name}");
    }
    let error = host
        .run(&CommandSpec::new(["no-such-program"]))
        .await
        .expect_err("missing");
    assert!(matches!(error, HostError::Spawn { .. }));
    assert_eq!(error.to_string(), "start `no-such-program`");
}
