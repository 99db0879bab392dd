//! What the tests of this package share: the repository's files, cases, bring-ups on fake hosts, and the program.
//!
//! Every test file in `tests/` is one boundary: `plans` what a role makes of a host, `diagnostics` what an author
//! reads about a mistake, `phases` how phases behave when things go wrong, `cli` how the program answers.

mod bringup;
mod case;
mod corpus;
mod program;
mod repository;

pub use bringup::{Bringup, Run};
pub use case::{CASES, Case};
pub use corpus::{Scripts, folders};
pub use program::{Answer, Program};
pub use repository::{checked_in, fixtures, golden, repository, snapshot_names, text};

/// Runs a future to its end on a runtime of its own.
///
/// # Panics
/// The runtime cannot be made.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime on this thread needs nothing but memory")
        .block_on(future)
}
