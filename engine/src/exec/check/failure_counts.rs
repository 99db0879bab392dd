//! How often in a row checks have failed. A caller that checks again and again passes in the result of its last checks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::exec::check::condition::{Condition, PhaseHealth, Status};
use crate::model::PhaseName;
use crate::plan::PlannedCheck;

/// Failures in a row, by phase and check, of those checks that may fail more than once before their phase does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FailureCounts(BTreeMap<PhaseName, BTreeMap<String, u32>>);

impl FailureCounts {
    /// The failures in a row that these results have.
    #[must_use]
    pub fn of(health: &[PhaseHealth]) -> Self {
        let mut counts = Self::default();
        for phase in health {
            for its in phase
                .conditions
                .iter()
                .filter(|its| its.failed_in_a_row > 0)
            {
                let of_phase = counts.0.entry(phase.phase.clone()).or_default();
                of_phase.insert(its.check.clone(), its.failed_in_a_row);
            }
        }
        counts
    }

    /// Whether no such check has failed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The condition with its number of failures in a row. A check that has not failed often enough is unknown. An
    /// unknown result does not change the number.
    pub(in crate::exec) fn next(
        &self,
        phase: &PhaseName,
        check: &PlannedCheck,
        mut condition: Condition,
    ) -> Condition {
        if check.failures <= 1 {
            return condition;
        }
        let of_phase = self.0.get(phase);
        let before = of_phase.and_then(|checks| checks.get(&check.name));
        let before = before.copied().unwrap_or_default();
        condition.failed_in_a_row = match condition.status {
            Status::True => 0,
            Status::Unknown => before,
            Status::False => before.saturating_add(1),
        };
        if condition.status == Status::False && condition.failed_in_a_row < check.failures {
            condition.status = Status::Unknown;
            condition.reason = format!(
                "{} ({} of {} times in a row)",
                condition.reason, condition.failed_in_a_row, check.failures
            );
        }
        condition
    }
}
