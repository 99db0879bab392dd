//! JSON: one value or one event per line, and errors with their place in fields.

use behaviour::{Answer, Program, fixtures, repository, text};
use serde_json::Value;

use crate::{ROLE, copy};

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
