//! The ledger: what the engine did to a host, durable and append-only.
//!
//! A file of JSON lines in the engine's state directory. An intent is written before a step converges, each undo
//! before its effect, a receipt after the step; every line is on disk before the run goes on. From it alone a role
//! can be taken off a host, years after its scripts are gone, and people can ask what was done and why.
//!
//! Previous content of files lies beside it, under its hash, readable by root alone. The runner is the only writer;
//! it holds the host's lock. Reading needs no lock: a last line that is half written counts as not written. Whatever else is
//! wrong with the file is refused with its line (`seal`): half a ledger would take half a role off the host.

mod book;
mod error;
mod history;
mod record;
mod seal;
mod standing;
mod store;
#[cfg(test)]
mod tests;
mod tip;
mod told;

pub(crate) use book::Recoverable;
pub use error::{LedgerError, RECOVER};
pub use history::{Attempt, Cause, History, Run, RunPhase, Why};
pub(crate) use history::{is_about, is_step};
pub use record::{Record, RunId};
pub use standing::{LiveUndo, StandingThing};
pub(crate) use store::in_time;
pub use store::{Ledger, StepLog};
pub(crate) use told::{Reading, Told};

/// Version of the form. A newer one is refused; an older one is read, and written anew in this form by the first run that
/// writes. Since version 2 lines are chained, and there are records of what was withdrawn; since
/// version 4 what runs may leave virtual services.
pub const VERSION: u32 = 4;
