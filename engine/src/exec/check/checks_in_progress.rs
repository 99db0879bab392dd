//! Which phases are being checked now. nodelet reports the first of them while a status pass runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::PhaseName;

/// The phases whose checks are running, in the plan's order. Clones share the same list.
#[derive(Debug, Clone, Default)]
pub struct ChecksInProgress(Arc<Mutex<Vec<PhaseName>>>);

impl ChecksInProgress {
    /// The first of them.
    #[must_use]
    pub fn first(&self) -> Option<PhaseName> {
        self.lock().first().cloned()
    }

    /// Adds a phase.
    pub(in crate::exec::check) fn begin(&self, phase: &PhaseName) {
        self.lock().push(phase.clone());
    }

    /// Removes a phase.
    pub(in crate::exec::check) fn end(&self, phase: &PhaseName) {
        self.lock().retain(|other| other != phase);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PhaseName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
