//! Conditions: the results of checks, as data.
//!
//! Not here: how a check is evaluated (`status`).

use serde::{Deserialize, Serialize};

use crate::model::{PhaseName, Span};

/// Typed result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    /// It holds.
    True,
    /// It could not be determined.
    Unknown,
    /// It does not hold.
    False,
}

/// What a condition is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionKind {
    /// A check of the phase.
    #[default]
    Check,
    /// What is on the host but not in the plan. A phase without such resources does not have this condition.
    Orphans,
}

impl ConditionKind {
    fn is_check(&self) -> bool {
        *self == Self::Check
    }
}

/// One check's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What it is about.
    #[serde(default, skip_serializing_if = "ConditionKind::is_check")]
    pub kind: ConditionKind,
    /// What is asserted.
    pub check: String,
    /// Where the script says it.
    pub span: Span,
    /// Whether it holds.
    pub status: Status,
    /// Why it does not hold, or why that is not known. If it holds: a note for operators, usually empty.
    pub reason: String,
    /// Only a warning: nothing is restarted because of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub advisory: bool,
    /// How often in a row the check has failed, if it may fail more than once before its phase counts as failed;
    /// otherwise 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_in_a_row: u32,
    /// The check failed, but counts as unknown: it may still pass by itself, for example soon after a boot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deferred: bool,
}

impl Condition {
    /// Whether it is known to hold.
    pub(in crate::exec) fn holds(&self) -> bool {
        self.status == Status::True
    }

    /// Whether its failure causes a restart.
    pub(in crate::exec) fn causes_restart(&self) -> bool {
        self.kind.is_check() && !self.advisory
    }

    /// Whether its phase counts as failed because of it.
    pub(in crate::exec) fn fails_phase(&self) -> bool {
        self.status == Status::False && self.causes_restart()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// All conditions of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseHealth {
    /// The phase.
    pub phase: PhaseName,
    /// Why the phase has no conditions, if it does nothing on this host.
    pub skipped: Option<String>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

impl PhaseHealth {
    /// Whether a condition that would cause a repair failed, and the decision was left to the next check.
    #[must_use]
    pub fn was_deferred(&self) -> bool {
        let mut its = self.conditions.iter();
        its.any(|its| its.deferred && !its.advisory)
    }

    /// Whether a check of the phase fails, so that a repair restarts the phase. Checks that only warn do not count. Resources that are not
    /// in the plan do not count either: they are removed while the phase goes on running.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.conditions.iter().any(Condition::fails_phase)
    }

    /// Whether the phase has something on the host that is not in the plan.
    #[must_use]
    pub fn has_orphans(&self) -> bool {
        let mut its = self.conditions.iter();
        its.any(|its| its.kind == ConditionKind::Orphans && its.status == Status::False)
    }

    /// The conditions that do not hold and lead to no repair and no removal: they only warn, and their reasons say what to do.
    pub fn warnings(&self) -> impl Iterator<Item = &Condition> {
        let warns = |its: &&Condition| its.status == Status::False && its.advisory;
        self.conditions.iter().filter(warns)
    }

    /// The worst of its conditions, without those that only warn. True if there are none.
    #[must_use]
    pub fn status(&self) -> Status {
        let counting = self.conditions.iter().filter(|c| !c.advisory);
        counting.map(|c| c.status).max().unwrap_or(Status::True)
    }

    /// Whether every condition whose failure would cause a restart is known to hold.
    #[must_use]
    pub fn needs_no_repair(&self) -> bool {
        let mut counting = self.conditions.iter().filter(|its| its.causes_restart());
        counting.all(|its| its.status == Status::True)
    }

    /// Whether every condition holds, warnings included.
    #[must_use]
    pub fn all_conditions_hold(&self) -> bool {
        self.conditions.iter().all(|c| c.status == Status::True)
    }
}
