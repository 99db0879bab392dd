//! The lines of the journal about what a pass finds: one line when a condition begins to fail, one when it no longer fails, and one for
//! each problem of the settings, the role or the ledger. The lines about a change and a failed pass are not here.
//!
//! A condition may fail for days without any change of the host, for example because a key was replaced. Then these lines are the only
//! ones in the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

use engine::exec::{ConditionKind, Status};
use engine::model::PhaseName;

use crate::nodeletd::status::view::{
    LEDGER_VALID, ROLE_VALID, SETTINGS_ALLOWED, SETTINGS_VALID, joined,
};
use crate::nodeletd::supervisor::known_problems::KnownProblems;
use crate::pass::{Pass, ServiceState};

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Failing {
    phase: PhaseName,
    /// What the check asserts.
    check: String,
    is_about_orphans: bool,
}

impl Display for Failing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.phase, self.check)
    }
}

/// The conditions that are known not to hold.
#[derive(Debug, Default)]
pub(super) struct Problems(KnownProblems<Failing>);

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
            self.0 = KnownProblems::default();
            return Vec::new();
        }
        let mut failing = Vec::new();
        let mut reasons = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        let mut orphans_are_unknown = false;
        for phase in &pass.health {
            for its in &phase.conditions {
                let condition = Failing {
                    phase: phase.phase.clone(),
                    check: its.check.clone(),
                    is_about_orphans: its.kind == ConditionKind::Orphans,
                };
                match its.status {
                    Status::True => {}
                    Status::Unknown => {
                        orphans_are_unknown |= condition.is_about_orphans;
                        unknown.insert(condition);
                    }
                    Status::False => {
                        reasons.insert(condition.clone(), its.reason.as_str());
                        failing.push(condition);
                    }
                }
            }
        }
        // A pass has a condition about orphans only if there are some, or if it is unknown whether there are any.
        let stays =
            |one: &&Failing| unknown.contains(*one) || one.is_about_orphans && orphans_are_unknown;
        failing.extend(self.0.all().filter(stays).cloned());
        let changes = self.0.update(failing);
        let begun = changes.begun.iter().map(|one| {
            let reason = reasons.get(one).copied().unwrap_or_default();
            Line::Warning(format!("a condition does not hold: {one}: {reason}"))
        });
        let ended = changes.ended.iter();
        let ended = ended.map(|one| Line::Information(format!("no longer a problem: {one}")));
        begun.chain(ended).collect()
    }
}

/// Warnings about the settings, the role and the ledger of a pass, one for each.
pub(super) fn warnings_of(pass: &Pass) -> Vec<String> {
    let mut warnings = Vec::new();
    for (what, problems) in [
        ("settings", &pass.settings_problems),
        ("role", &pass.role_problems),
    ] {
        if !problems.is_empty() {
            let problems = joined(problems);
            warnings.push(format!("keeping the last good {what}: {problems}"));
        }
    }
    if let Some(refused) = &pass.refused {
        let does = match pass.restarts_only {
            true => {
                "restarting what fails by the last good settings and role, and changing nothing else"
            }
            false => "changing nothing",
        };
        warnings.push(format!("{does}: could not {refused}"));
    }
    let problems = [&pass.ledger_lost, &pass.ledger_problem];
    warnings.extend(problems.into_iter().filter(|one| !one.is_empty()).cloned());
    warnings
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
    let of_nodeletd = [LEDGER_VALID, ROLE_VALID, SETTINGS_VALID, SETTINGS_ALLOWED];
    let of_nodeletd = of_nodeletd.iter().filter(|its| its.is_wrong(pass));
    let mut wrong: Vec<String> = of_nodeletd.map(|its| its.name.to_owned()).collect();
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
    fn a_warning_is_one_entry_and_is_repeated_only_after_a_change() {
        let mut known = KnownProblems::default();
        let mut new = |pass: &Pass| known.update(warnings_of(pass)).begun;
        let mut pass = check(Status::True, "");
        let problems = [
            "use role r: 1 mistake\n",
            "phases/etcd.rhai:3:5: unknown word",
        ];
        pass.role_problems = problems.map(str::to_owned).to_vec();
        let both =
            "keeping the last good role: use role r: 1 mistake; phases/etcd.rhai:3:5: unknown word";
        assert_eq!(new(&pass), [both]);
        assert_eq!(new(&pass), [""; 0]);
        pass.refused = Some("use another name".to_owned());
        let refused = "changing nothing: could not use another name";
        assert_eq!(new(&pass), [refused]);
        pass.restarts_only = true;
        let restarts = new(&pass);
        assert_eq!(restarts.len(), 1, "{restarts:?}");
        assert!(
            restarts[0].starts_with("restarting what fails"),
            "{restarts:?}"
        );
        // After a pass without problems, the same problem is logged again.
        assert_eq!(new(&check(Status::True, "")), [""; 0]);
        pass.refused = None;
        assert_eq!(new(&pass), [both]);
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
