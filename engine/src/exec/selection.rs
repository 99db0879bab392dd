//! Which phases of a plan a run is about, and which due certificates it renews.

use std::collections::BTreeSet;

use crate::model::{PhaseName, StepId};
use crate::plan::{Plan, PlannedPhase, PlannedStep};

/// A range of phases, or one; all by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The first.
    pub from: Option<String>,
    /// The last.
    pub to: Option<String>,
    /// Only these.
    pub only: Vec<String>,
}

/// A name that is no phase of the plan, or an empty range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// No such phase.
    #[error("choose phases: there is no phase `{name}`{}; see `nodelet phases`", closest.as_ref().map(|c| format!(" (did you mean `{c}`?)")).unwrap_or_default())]
    Unknown {
        /// The name.
        name: String,
        /// The closest one.
        closest: Option<String>,
    },
    /// The range is empty.
    #[error("choose phases: `{from}` comes after `{to}`, so none is between them")]
    Empty {
        /// First of the range.
        from: String,
        /// Last of the range.
        to: String,
    },
}

impl Selection {
    /// Whether every name is a phase of the plan.
    ///
    /// # Errors
    /// The first name that is no phase, or an empty range.
    pub fn validate(&self, plan: &Plan) -> Result<(), SelectionError> {
        let names = || plan.phases.iter().map(|phase| phase.name.as_str());
        for name in self.from.iter().chain(&self.to).chain(&self.only) {
            if !names().any(|known| known == name) {
                return Err(SelectionError::Unknown {
                    name: name.clone(),
                    closest: crate::model::closest(name, names()).map(str::to_owned),
                });
            }
        }
        if let (Some(from), Some(to)) = (&self.from, &self.to)
            && names().position(|n| n == from) > names().position(|n| n == to)
        {
            return Err(SelectionError::Empty {
                from: from.clone(),
                to: to.clone(),
            });
        }
        Ok(())
    }

    /// The phases it names, in the plan's order.
    #[must_use]
    pub fn phases<'a>(&self, plan: &'a Plan) -> Vec<&'a PlannedPhase> {
        let place = |name: &Option<String>| {
            name.as_ref()
                .and_then(|n| plan.phases.iter().position(|p| p.name.as_str() == n))
        };
        let (from, to) = (
            place(&self.from).unwrap_or(0),
            place(&self.to).unwrap_or(usize::MAX),
        );
        plan.phases
            .iter()
            .enumerate()
            .filter(|(i, _)| *i >= from && *i <= to)
            .map(|(_, phase)| phase)
            .filter(|phase| {
                self.only.is_empty() || self.only.iter().any(|n| n == phase.name.as_str())
            })
            .collect()
    }

    /// Whether it names this phase, which need not be one of the plan.
    #[must_use]
    pub fn names(&self, plan: &Plan, phase: &PhaseName) -> bool {
        *self == Self::default()
            || self.only.iter().any(|name| name == phase.as_str())
            || self.phases(plan).iter().any(|its| its.name == *phase)
    }
}

/// Which due certificates a run renews.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewals {
    /// All that are signed on this host. Those that the masters sign are left to the renewal: while the masters are away, an apply must not
    /// fail because of a certificate that is still valid.
    All,
    /// Those of these steps.
    Only(BTreeSet<StepId>),
}

impl Renewals {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self::Only(BTreeSet::new())
    }

    /// Whether a step's certificate is among them.
    pub(in crate::exec) fn include(&self, step: &PlannedStep) -> bool {
        match self {
            Self::All => step.spec.is_signed_here(),
            Self::Only(steps) => steps.contains(&step.id),
        }
    }
}
