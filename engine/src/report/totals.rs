//! How many steps a prediction would change.

use serde::Serialize;

use crate::model::count;
use crate::resource::{Action, Change};

/// How many steps would change, by kind of change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Not there, and will be.
    pub created: usize,
    /// There, and will differ.
    pub changed: usize,
    /// They run, and will be restarted or reloaded.
    pub restarted: usize,
    /// There, and will go.
    pub removed: usize,
    /// Commands that will run.
    pub run: usize,
    /// As they should be.
    pub unchanged: usize,
    /// Cannot be known beforehand.
    pub known_after_apply: usize,
}

impl Totals {
    /// Steps that would change something, or may.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.created
            + self.changed
            + self.restarted
            + self.removed
            + self.run
            + self.known_after_apply
    }

    /// Counts one more change.
    pub(super) fn count(&mut self, change: &Change) {
        *match change.action {
            _ if change.unknown => &mut self.known_after_apply,
            Action::Create => &mut self.created,
            Action::Change | Action::Renew => &mut self.changed,
            Action::Restart | Action::Reload => &mut self.restarted,
            Action::Remove => &mut self.removed,
            Action::Run => &mut self.run,
        } += 1;
    }

    /// All numbers, as they stand in a sum.
    pub(super) fn sum(&self) -> String {
        let mut text = format!(
            "{} created, {} changed, {} restarted, {} removed",
            self.created, self.changed, self.restarted, self.removed
        );
        if self.run > 0 {
            text.push_str(&format!(", {} run", count(self.run, "command")));
        }
        text.push_str(&format!("; {} unchanged", self.unchanged));
        if self.known_after_apply > 0 {
            text.push_str(&format!("; {} known after apply", self.known_after_apply));
        }
        text
    }

    /// The numbers that are not 0, for the line of a phase.
    pub(super) fn short(&self) -> Vec<String> {
        let mut parts: Vec<String> = [
            (self.created, "created"),
            (self.changed, "changed"),
            (self.restarted, "restarted"),
            (self.removed, "removed"),
            (self.known_after_apply, "known after apply"),
        ]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
        if self.run > 0 {
            parts.push(format!("{} run", count(self.run, "command")));
        }
        if self.unchanged > 0 || parts.is_empty() {
            parts.push(format!("{} unchanged", self.unchanged));
        }
        parts
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pending() == 0 {
            return write!(f, "nothing would change: {} unchanged", self.unchanged);
        }
        write!(f, "would change: {}", self.sum())
    }
}
