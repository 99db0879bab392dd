//! Watches nodeletd at work: its view of the host, and its events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use engine::exec::Event;
use engine::model::{PhaseName, Verb};
use serde_json::Value;

use crate::master::Node;

/// The file with the recorded events.
const RECORD: &str = "/run/nodelet-suite-events";

/// Settings with a pass every five seconds, so that a suite need not wait for minutes.
pub const SCALED: &[(&str, &str)] = &[("LOOP_INTERVAL", "5s"), ("KUBE_SERVICE_STATE", "true")];

/// Time limit until nodeletd finds the host as it should be, on a busy machine where it has to repair something first.
pub const CALM: Duration = Duration::from_secs(240);

/// nodeletd on a master.
#[derive(Debug)]
pub struct Watch<'a> {
    master: &'a Node,
}

impl<'a> Watch<'a> {
    /// Starts nodeletd, and waits until it finds the host as it should be.
    #[track_caller]
    pub fn start(master: &'a Node) -> Self {
        Self::start_within(master, CALM)
    }

    /// The same with a longer limit, if nodeletd has to change something first.
    #[track_caller]
    pub fn start_within(master: &'a Node, limit: Duration) -> Self {
        master.sh("systemctl start pf9-nodeletd");
        let watch = Self { master };
        watch.wait_until_healthy(limit);
        watch
    }

    /// nodeletd in its present state. It is stopped when this value is dropped.
    #[must_use]
    pub fn of(master: &'a Node) -> Self {
        Self { master }
    }

    /// nodeletd's view of the host; `None` if it does not answer.
    #[must_use]
    pub fn view(&self) -> Option<Value> {
        let output = self.master.try_sh("nodelet status --json");
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The metrics of nodeletd by name, without those with labels.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let text = self
            .master
            .sh("curl -s --unix-socket /run/pf9/nodeletd.sock http://nodeletd/metrics");
        let metric = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        text.lines().filter_map(metric).collect()
    }

    /// Whether every condition holds and nothing is being done.
    #[must_use]
    pub fn is_healthy(view: &Value) -> bool {
        let holds = |condition: &Value| condition["status"] == "True";
        let all = |list: &Value, holds: &dyn Fn(&Value) -> bool| {
            list.as_array().is_some_and(|list| list.iter().all(holds))
        };
        view["doing"] == "watching"
            && view["attempts"] == 0
            && view["node_state"] == "ok"
            && all(&view["conditions"], &holds)
            && all(&view["phases"], &|phase| all(&phase["conditions"], &holds))
    }

    /// Whether nothing is being done to the host.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let idle = |view: Value| view["doing"] == "watching" || view["doing"] == "paused";
        self.view().is_some_and(idle)
    }

    /// Waits until a pass that began after this call finds every condition holding.
    #[track_caller]
    pub fn wait_until_healthy(&self, limit: Duration) {
        let passes = |view: &Value| view["counters"]["passes"].as_u64().unwrap_or(0);
        let before = self.view().as_ref().map_or(0, passes);
        let mut last = None;
        let calm = crate::poll(limit, || {
            let view = self.view()?;
            let calm = Self::is_healthy(&view) && passes(&view) > before;
            last = Some(view);
            calm.then_some(())
        });
        assert!(
            calm.is_some(),
            "not calm within {} s: {:#}\n{}",
            limit.as_secs(),
            last.unwrap_or_default(),
            self.journal()
        );
    }

    /// Waits until nodeletd reports that the host cannot use this setting, and so uses the last good ones.
    #[track_caller]
    pub fn refuses(&self, key: &str, value: &str, limit: Duration) {
        self.until(&format!("{key}={value} is reported"), limit, || {
            self.wrong("SettingsValid")
                .is_some_and(|reason| reason.contains(key) || reason.contains(value))
        });
    }

    /// Waits until this condition of nodeletd itself is False, for a reason with these words.
    #[track_caller]
    pub fn tells(&self, condition: &str, words: &str, limit: Duration) {
        self.until(&format!("{condition} says {words}"), limit, || {
            self.wrong(condition)
                .is_some_and(|reason| reason.contains(words))
        });
    }

    /// Why this condition of nodeletd itself is False; `None` if it is not.
    fn wrong(&self, condition: &str) -> Option<String> {
        let view = self.view()?;
        let mut conditions = view["conditions"].as_array()?.iter();
        let its = conditions.find(|one| one["name"] == condition && one["status"] == "False")?;
        its["reason"].as_str().map(str::to_owned)
    }

    /// The last lines of nodeletd's journal.
    #[must_use]
    pub fn journal(&self) -> String {
        self.master
            .sh("journalctl --no-pager --output cat --lines 60 --unit pf9-nodeletd")
    }

    /// Begins to record events, in an empty file. It continues if nodeletd is started again, but the events before its first pass
    /// are lost.
    pub fn record(&self) {
        self.master.sh(&format!(
            "systemctl stop nodelet-suite-events 2> /dev/null || true
             systemctl reset-failed nodelet-suite-events 2> /dev/null || true
             : > {RECORD}
             systemd-run --quiet --unit nodelet-suite-events --property StandardOutput=append:{RECORD} \
                 --property Restart=always --property RestartSec=100ms --property StartLimitIntervalSec=0 \
                 curl -sN --unix-socket /run/pf9/nodeletd.sock http://nodeletd/v1/events"
        ));
        // Before the connection is established, events could be missed.
        self.master.wait_for(
            "the recorder listens",
            "ss -xH state established src /run/pf9/nodeletd.sock | grep -q .",
            Duration::from_secs(10),
        );
    }

    /// What was recorded so far.
    #[must_use]
    pub fn recorded(&self) -> Vec<Event> {
        let text = self.master.sh(&format!("cat {RECORD}"));
        assert!(
            !text.contains("\"event\":\"missed\""),
            "the recorder was too slow, and events were lost:\n{text}"
        );
        // A line may be incomplete: the last one, and the one during which nodeletd ended.
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits for so many passes more.
    #[track_caller]
    pub fn passes(&self, more: u64, limit: Duration) {
        let passes = || self.view()?["counters"]["passes"].as_u64();
        let before = passes().unwrap_or_default();
        self.until("passes are made", limit, || {
            passes().is_some_and(|now| now >= before + more)
        });
    }

    /// Waits until `done` holds, and gives how long that took.
    #[track_caller]
    pub fn until(&self, what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
        let began = Instant::now();
        let seen = crate::poll(limit, || done().then_some(began.elapsed()));
        seen.unwrap_or_else(|| {
            let view = self.view().unwrap_or_default();
            panic!(
                "{what}: not within {} s: {view:#}\n{}",
                limit.as_secs(),
                self.journal()
            )
        })
    }
}

impl Drop for Watch<'_> {
    /// The next user of the host finds it without nodeletd.
    fn drop(&mut self) {
        let _ = self
            .master
            .try_sh("systemctl stop pf9-nodeletd nodelet-suite-events");
    }
}

/// The phases that repairs restarted, each once, in the order of the first events; other runs are a failure. A repair that is still
/// stopping has announced what it stops, and not yet what it restarts.
#[must_use]
pub fn restarted(events: &[Event]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut announced: BTreeSet<&str> = BTreeSet::new();
    for event in events {
        if let Event::RunStarted { verb, phases, .. } = event {
            announced.extend(phases.iter().map(PhaseName::as_str));
            assert!(
                matches!(verb, Verb::Restart | Verb::Stop),
                "a {verb:?} is no partial restart"
            );
            for phase in phases.iter().filter(|_| *verb == Verb::Restart) {
                if !names.iter().any(|name| name == phase.as_str()) {
                    names.push(phase.to_string());
                }
            }
        }
    }
    // Only announced phases may have been touched.
    for event in events {
        if let Event::PhaseStarted { phase, .. } = event {
            assert!(
                announced.contains(phase.as_str()),
                "{phase} was touched without being announced: {events:?}"
            );
        }
    }
    names
}
