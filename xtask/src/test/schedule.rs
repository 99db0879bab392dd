//! Which job runs next: pure decisions from the jobs that wait and the jobs that run.

use std::thread;

use super::job::Kind;

/// The default number of suites on lab hosts that run at a time: one more than there are processors, because suites wait most of
/// the time.
pub(super) fn lab_workers() -> usize {
    processors() + 1
}

pub(super) fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// How many jobs of each kind run at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Suites on lab hosts.
    pub(super) lab: usize,
    /// Test programs that compute.
    pub(super) compute: usize,
}

impl Limits {
    /// Whether a job of this kind may begin beside those that run.
    pub(super) fn allow(self, kind: Kind, running: &[Kind]) -> bool {
        let count = |kind: Kind| running.iter().filter(|one| **one == kind).count();
        match kind {
            // An emulated machine measures processor time, so no host competes with it.
            Kind::Lab => count(Kind::Lab) < self.lab && count(Kind::Micro) == 0,
            Kind::Micro => count(Kind::Lab) + count(Kind::Micro) == 0,
            Kind::Compute => count(Kind::Compute) < self.compute,
            Kind::Cargo => count(Kind::Cargo) == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { lab: 3, compute: 1 };

    #[test]
    fn jobs_of_different_kinds_run_in_parallel_except_beside_a_machine() {
        use Kind::{Cargo, Compute, Lab, Micro};
        assert!(LIMITS.allow(Lab, &[Lab, Lab, Compute, Cargo]));
        assert!(!LIMITS.allow(Lab, &[Lab, Lab, Lab]));
        assert!(!LIMITS.allow(Lab, &[Micro]));
        assert!(!LIMITS.allow(Micro, &[Lab]));
        assert!(LIMITS.allow(Micro, &[Compute, Cargo]));
        assert!(!LIMITS.allow(Compute, &[Compute]));
        assert!(!LIMITS.allow(Cargo, &[Cargo]));
    }
}
