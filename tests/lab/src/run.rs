//! One run of nodelet: its exit code and its output.

use std::process::Output;
use std::time::Duration;

use engine::exec::Event;
use serde_json::Value;

/// A run that is over.
#[derive(Debug)]
pub struct Run {
    command: String,
    code: Option<i32>,
    out: String,
    err: String,
    /// How long it took.
    pub took: Duration,
}

impl Run {
    pub(crate) fn of(command: &str, output: &Output, took: Duration) -> Self {
        Self {
            command: command.to_owned(),
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            took,
        }
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.text());
        self
    }

    /// Asserts that it was refused before it changed a step. For runs with `--json`.
    #[track_caller]
    pub fn refused(self) -> Self {
        let run = self.exits(1);
        let end = run.event("run_finished");
        assert_eq!(end["outcome"], "refused", "{}", run.text());
        let begun = run.events("step_changing");
        assert!(begun.is_empty(), "{}", run.text());
        run
    }

    /// Whether it ended with this exit code.
    #[must_use]
    pub fn exited(&self, code: i32) -> bool {
        self.code == Some(code)
    }

    /// Asserts that each of these texts was printed.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        let text = self.text();
        for wanted in texts {
            assert!(
                text.contains(wanted),
                "`{wanted}` is missing in the output:\n{text}"
            );
        }
        self
    }

    /// Everything it printed, for messages and searches.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "`{}` ended with {:?} after {:.1} s\n{}\n{}",
            self.command,
            self.code,
            self.took.as_secs_f64(),
            self.out.trim_end(),
            self.err.trim_end()
        )
    }

    /// The events of this kind, in order. For runs with `--json`.
    #[track_caller]
    #[must_use]
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let parse = |line: &str| -> Value {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("`{line}` is no event: {error}\n{}", self.text()))
        };
        self.out
            .lines()
            .map(parse)
            .filter(|event| event["event"] == kind)
            .collect()
    }

    /// The one value that it printed.
    #[track_caller]
    #[must_use]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("it is not what was expected: {error}\n{}", self.text()))
    }

    /// Everything it printed with `--json`.
    #[must_use]
    pub fn record(&self) -> Vec<Event> {
        let parse = |line| serde_json::from_str(line).ok();
        self.out.lines().filter_map(parse).collect()
    }

    /// The one event of this kind.
    #[track_caller]
    #[must_use]
    pub fn event(&self, kind: &str) -> Value {
        let mut events = self.events(kind);
        assert_eq!(
            events.len(),
            1,
            "one event `{kind}` is expected\n{}",
            self.text()
        );
        events.remove(0)
    }

    /// Asserts that the run of a master changed nothing and evaluated no precondition again.
    #[track_caller]
    pub fn changes_nothing(&self) {
        self.changes_none_of(40);
    }

    /// The same of a run with more steps than this, which all are as planned.
    #[track_caller]
    pub fn changes_none_of(&self, steps: u64) {
        let changing: Vec<Value> = self
            .events("step_changing")
            .iter()
            .map(|event| event["step"].clone())
            .collect();
        assert!(changing.is_empty(), "these steps changed: {changing:?}");
        let end = self.event("run_finished");
        assert_eq!(end["changed"], 0, "{end}");
        assert!(end["unchanged"].as_u64() > Some(steps), "{end}");
        assert_eq!(
            self.event("preflight_passed")["evaluated"],
            0,
            "preconditions are evaluated once"
        );
    }
}
