//! The lines of the journal about conditions: one line when a condition begins to fail, and one when it no longer fails. The lines about a
//! change and a failed pass are not here.
//!
//! A condition may fail for days without any change of the host, for example because a key was replaced. Then these lines are the only
//! ones in the journal.

use std::collections::{BTreeMap, BTreeSet};

use engine::exec::{ConditionKind, Status};
use engine::model::PhaseName;

use crate::pass::{Pass, ServiceState};

/// A phase and what a check of it asserts.
type Name = (PhaseName, String);

/// The conditions that are known not to hold.
#[derive(Debug, Default)]
pub(super) struct Problems(BTreeMap<Name, ConditionKind>);

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Warning(String),
    Information(String),
}

impl Line {
    /// Writes it to the log.
    pub(super) fn write(&self) {
        match self {
            Self::Warning(text) => tracing::warn!("{text}"),
            Self::Information(text) => tracing::info!("{text}"),
        }
    }
}

impl Problems {
    /// The lines about conditions that began to fail, or no longer fail, since the last pass. An unknown result changes nothing.
    pub(super) fn lines(&mut self, pass: &Pass) -> Vec<Line> {
        // The role is not on the host, or is to be down, so its checks fail on purpose.
        if !pass.installed || pass.desired.service_state == ServiceState::False {
            self.0.clear();
            return Vec::new();
        }
        let mut lines = Vec::new();
        let mut failing = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        let mut orphans_are_unknown = false;
        for phase in &pass.health {
            for its in &phase.conditions {
                let name = (phase.phase.clone(), its.check.clone());
                match its.status {
                    Status::True => {}
                    Status::Unknown => {
                        orphans_are_unknown |= its.kind == ConditionKind::Orphans;
                        unknown.insert(name);
                    }
                    Status::False => {
                        if !self.0.contains_key(&name) {
                            let (phase, check) = &name;
                            lines.push(Line::Warning(format!(
                                "a condition does not hold: {phase}: {check}: {}",
                                its.reason
                            )));
                        }
                        failing.insert(name, its.kind);
                    }
                }
            }
        }
        for (name, kind) in std::mem::take(&mut self.0) {
            if failing.contains_key(&name) {
                continue;
            }
            // A pass has a condition about orphans only if there are some, or if it is unknown whether there are any.
            if unknown.contains(&name) || kind == ConditionKind::Orphans && orphans_are_unknown {
                self.0.insert(name, kind);
            } else {
                let (phase, check) = name;
                lines.push(Line::Information(format!(
                    "no longer a problem: {phase}: {check}"
                )));
            }
        }
        self.0.append(&mut failing);
        lines
    }
}

/// The line for a host on which no phase fails any more after attempts. The host is healthy only if nothing else is wrong.
pub(super) fn after_attempts(attempt: u32, pass: &Pass) -> Line {
    let left = still_wrong(pass);
    if left.is_empty() {
        return Line::Information(format!("healthy again after attempt {attempt}"));
    }
    Line::Warning(format!(
        "no phase fails any more after attempt {attempt}, but the host is not healthy, and a repair cannot fix this: {}",
        left.join("; ")
    ))
}

/// What is wrong although no phase fails.
fn still_wrong(pass: &Pass) -> Vec<String> {
    let of_nodeletd = [
        (
            "LedgerValid",
            !pass.ledger_lost.is_empty() || !pass.ledger_problem.is_empty(),
        ),
        ("RoleValid", !pass.role_problems.is_empty()),
        ("SettingsValid", !pass.settings_problems.is_empty()),
        ("SettingsAllowed", pass.refused.is_some()),
    ];
    let of_nodeletd = of_nodeletd.into_iter().filter(|(_, is_wrong)| *is_wrong);
    let mut wrong: Vec<String> = of_nodeletd.map(|(name, _)| name.to_owned()).collect();
    for phase in &pass.health {
        let failing = phase.conditions.iter();
        let failing = failing.filter(|its| its.status == Status::False);
        wrong.extend(failing.map(|its| format!("{}: {}", phase.phase, its.check)));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use engine::exec::{Condition, PhaseHealth};
    use engine::model::Span;

    use super::*;
    use crate::pass::{Desired, WatchList};

    const KEYS: &str = "keys and authorities are those that this host keeps";

    /// A pass with one phase, `certs`, that has this condition; with none if there is no status.
    fn pass(kind: ConditionKind, status: Option<Status>, reason: &str) -> Pass {
        let health = PhaseHealth {
            phase: "certs".parse().expect("a name"),
            skipped: None,
            conditions: status
                .into_iter()
                .map(|status| Condition {
                    kind,
                    check: KEYS.to_owned(),
                    span: Span::file("phases/certs.rhai"),
                    status,
                    reason: reason.to_owned(),
                    advisory: true,
                    failed_in_a_row: 0,
                    deferred: false,
                })
                .collect(),
        };
        let pass = serde_json::json!({
            "desired": Desired::default(), "settings_problems": [], "refused": null, "digest": "d", "health": [health],
            "failed": [], "due": [], "interests": WatchList::default(), "stands": true,
        });
        serde_json::from_value(pass).expect("a pass")
    }

    fn check(status: Status, reason: &str) -> Pass {
        pass(ConditionKind::Check, Some(status), reason)
    }

    #[test]
    fn a_condition_is_logged_once_when_it_begins_and_once_when_it_ends() {
        let mut problems = Problems::default();
        let begun = Line::Warning(format!(
            "a condition does not hold: certs: {KEYS}: svcacct.key: it is another key"
        ));
        let ended = Line::Information(format!("no longer a problem: certs: {KEYS}"));
        let lost = check(Status::False, "svcacct.key: it is another key");
        assert_eq!(problems.lines(&check(Status::True, "")), []);
        assert_eq!(problems.lines(&lost), std::slice::from_ref(&begun));
        assert_eq!(problems.lines(&lost), [], "once");
        // Another reason or an unknown result is not logged.
        assert_eq!(problems.lines(&check(Status::False, "it is missing")), []);
        assert_eq!(problems.lines(&check(Status::Unknown, "no answer")), []);
        assert_eq!(problems.lines(&lost), []);
        assert_eq!(
            problems.lines(&check(Status::True, "")),
            std::slice::from_ref(&ended)
        );
        assert_eq!(problems.lines(&check(Status::True, "")), [], "once");
        // The next failure is logged again. A condition that the plan no longer has does not fail any more.
        assert_eq!(problems.lines(&lost), [begun]);
        let without = pass(ConditionKind::Check, None, "");
        assert_eq!(problems.lines(&without), [ended]);
        assert_eq!(problems.lines(&check(Status::Unknown, "")), []);
    }

    /// If it is unknown whether there are orphans, the condition is in another phase, and that of the orphans is missing.
    #[test]
    fn an_unknown_result_about_orphans_does_not_end_their_condition() {
        let mut problems = Problems::default();
        let orphans = |status| pass(ConditionKind::Orphans, status, "file /etc/x");
        assert_eq!(problems.lines(&orphans(Some(Status::False))).len(), 1);
        let mut unknown = orphans(Some(Status::Unknown));
        unknown.health[0].phase = "etcd".parse().expect("a name");
        assert_eq!(problems.lines(&unknown), []);
        assert_eq!(problems.lines(&orphans(None)).len(), 1);
    }

    #[test]
    fn checks_of_a_role_that_is_not_to_be_there_are_not_logged() {
        let mut problems = Problems::default();
        let mut bare = check(Status::False, "it is missing");
        bare.installed = false;
        assert_eq!(problems.lines(&bare), []);
        let mut down = check(Status::False, "it is missing");
        down.desired.service_state = ServiceState::False;
        assert_eq!(problems.lines(&down), []);
        assert_eq!(
            problems.lines(&check(Status::False, "it is missing")).len(),
            1
        );
    }

    #[test]
    fn a_host_is_not_healthy_again_while_something_is_wrong_that_a_repair_cannot_fix() {
        let healthy = Line::Information("healthy again after attempt 3".to_owned());
        assert_eq!(after_attempts(3, &check(Status::True, "")), healthy);
        let mut held = check(Status::False, "it is another key");
        "the ledger is lost".clone_into(&mut held.ledger_lost);
        let Line::Warning(text) = after_attempts(3, &held) else {
            panic!("it is not healthy");
        };
        assert!(!text.contains("healthy again"), "{text}");
        assert!(
            text.ends_with(&format!("LedgerValid; certs: {KEYS}")),
            "{text}"
        );
        let changes: [fn(&mut Pass); 4] = [
            |pass| pass.ledger_problem.push('x'),
            |pass| pass.role_problems.push("x".to_owned()),
            |pass| pass.settings_problems.push("x".to_owned()),
            |pass| pass.refused = Some("x".to_owned()),
        ];
        for (change, name) in changes.into_iter().zip([
            "LedgerValid",
            "RoleValid",
            "SettingsValid",
            "SettingsAllowed",
        ]) {
            let mut pass = check(Status::True, "");
            change(&mut pass);
            let Line::Warning(text) = after_attempts(1, &pass) else {
                panic!("{name}: it is not healthy");
            };
            assert!(text.ends_with(&format!(": {name}")), "{text}");
        }
    }
}
