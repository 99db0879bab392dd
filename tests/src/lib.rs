//! What the tests of this package share: the repository's files, cases, bring-ups on fake hosts, the program,
//! and the comparison of a prediction with what was done.
//!
//! The tests are in `tests/tests/`, by topic: `scripts` has the plans that a role makes, and the messages about an author's mistakes; `apply`
//! how phases behave, also when things go wrong; `undo` what a rollback, a clean and a recovery touch; `repair` restarts, renewals and
//! rotations; `crashes` the run after an interrupted one; `properties` what holds of any plan; `cli` how the program answers; `pages` and
//! `modules` the pages and the structure of the sources. Not here: tests on lab hosts (`tests/lab`). Start with `Bringup`.

mod bringup;
mod case;
mod corpus;
mod crash_point;
mod fidelity;
mod generated;
mod masters;
pub mod modules;
mod program;
mod repository;

use std::time::Duration;

pub use bringup::{Bringup, Run};
pub use case::{CASES, Case};
pub use corpus::{Scripts, folders};
pub use crash_point::{CrashPoint, differences, sample, soaks, try_each};
pub use fidelity::{Fidelity, Mismatch, StepResult};
pub use generated::{Generated, foreign_container, generated};
pub use program::{Answer, Program};
pub use repository::{
    checked_in, checked_in_part, fixtures, golden, repository, snapshot_names, text,
};

/// Longer than any wait.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs a future to its end on a runtime of its own. Its time is paused and jumps to the next deadline when there is nothing else
/// to wait for, so a test of a deadline takes no longer than one without.
///
/// # Panics
/// The runtime cannot be made, or the future would wait for ever.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime on this thread needs nothing but memory")
        .block_on(async { tokio::time::timeout(FOR_EVER, future).await })
        .expect("nothing waits for a day")
}
