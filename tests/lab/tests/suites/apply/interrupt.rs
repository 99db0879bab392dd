//! One apply at a time; and an apply that is interrupted, by a signal or by a kill, is continued by the next one.

use std::time::Duration;

use lab_suites::{Image, Master, Run};
use serde_json::Value;

/// An apply in the background, as a unit of its own on the host.
struct Background<'a> {
    master: &'a Master,
    unit: &'static str,
}

impl<'a> Background<'a> {
    /// Starts it and waits until its output contains `text`.
    fn start(master: &'a Master, unit: &'static str, text: &str) -> Self {
        master.sh(&format!(
            "systemd-run --quiet --unit={unit} --property=StandardOutput=file:/run/{unit}.out \
             --property=StandardError=file:/run/{unit}.err nodelet apply --json"
        ));
        let script = format!("grep -q '{text}' /run/{unit}.out");
        master.wait_for(
            "the apply has come that far",
            &script,
            Duration::from_secs(120),
        );
        Self { master, unit }
    }

    fn property(&self, name: &str) -> String {
        self.master.sh(&format!(
            "systemctl show --value --property {name} {}",
            self.unit
        ))
    }

    /// Sends the signal and gives the exit code and the output.
    fn end(self, signal: &str) -> (String, String) {
        let unit = self.unit;
        self.master
            .sh(&format!("systemctl kill --signal {signal} {unit}"));
        let over = format!("! systemctl is-active --quiet {unit}");
        self.master
            .wait_for("the apply ends", &over, Duration::from_secs(60));
        (
            self.property("ExecMainStatus"),
            self.master
                .sh(&format!("cat /run/{unit}.out /run/{unit}.err")),
        )
    }
}

/// Asserts that a run ended at a safe point in one of these phases or between phases, said so, and did not begin the phase that waits for the node.
fn interrupted(streams: &(String, String), phases: &[&str]) {
    let (code, text) = streams;
    assert_eq!(code, "2", "{text}");
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let all = |event: &str| -> Vec<&str> {
        let those = events.iter().filter(|it| it["event"] == event);
        those.filter_map(|it| it["phase"].as_str()).collect()
    };
    let interrupted = all("phase_interrupted");
    let begun = all("phase_started");
    // The end of a phase is a safe point, too: then none is interrupted.
    let is_between = interrupted.is_empty() && all("phase_finished").len() == begun.len();
    assert!(
        is_between || interrupted.iter().any(|phase| phases.contains(phase)),
        "{interrupted:?} were interrupted, none of {phases:?}, in\n{text}"
    );
    // This phase comes after all of them; other phases may run beside them.
    assert!(
        !begun.contains(&"kubernetes-ready"),
        "kubernetes-ready was begun in\n{text}"
    );
    for wanted in [r#""outcome":"interrupted""#, "finishing the current step"] {
        assert!(text.contains(wanted), "`{wanted}` is missing in\n{text}");
    }
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn applies_are_exclusive_and_continue_after_interruption() {
    let master = Master::create("cut", Image::Bare, false);

    // The phases of images run in parallel, and etcd beside them. How far the run is when the signal comes depends on the machine;
    // at the latest it waits for the API server.
    let first = Background::start(&master, "first", r#""step_changing","phase":"etcd-image""#);
    let parts = [
        "etcd-image",
        "images",
        "controller-images",
        "etcd",
        "etcd-vote",
        "control-plane",
        "cni",
        "kubelet",
        "api-ready",
    ];
    interrupted(&first.end("INT"), &parts);

    let second = Background::start(&master, "second", r#""phase_started","phase":"api-ready""#);
    // It waits for the API server, which needs more time on a busy machine.
    let process = second.property("MainPID");
    let refused: Run = master.nodelet(&["stop"]).exits(75);
    refused.says(&[
        "this host is being worked on by `nodelet apply`",
        &format!("process {process}"),
    ]);
    interrupted(&second.end("TERM"), &["api-ready"]);
    master.check(&["--to", "kubelet"]).exits(0);

    // A kill without warning, in the middle of a phase.
    master.sh("docker rm --force etcd");
    let third = Background::start(&master, "third", r#""step_changing","phase":"etcd""#);
    assert_eq!(third.end("KILL").0, "9");

    let last = master.apply(&[]).exits(0);
    assert_eq!(last.event("run_finished")["outcome"], "converged");
    master.wait_until_well();
    master.apply(&[]).exits(0).changes_nothing();
}
