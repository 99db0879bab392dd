//! The ledger: what the engine did to a host, durable and append-only.
//!
//! A file of JSON lines in the engine's state directory. An intent is written before a step converges, each undo before
//! its effect, a receipt after the step; every line is on disk before the run goes on. With the ledger alone a role can
//! be taken off a host, years after its scripts are gone, and an operator can ask what was done and why.
//!
//! Previous content of files is stored beside it, under its hash, readable by root alone. The runner is the only
//! writer; it holds the host's lock. Reading needs no lock: a last line that is half written counts as not written. Any
//! other problem with the file is an error that names the line (`seal`): half a ledger would take half a role off the
//! host.

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

/// Version of the file's form. A newer one is refused; an older one is read, and the first run that writes converts the
/// file to this form. Since version 2 lines are chained, and there are records of what was withdrawn. Since version 4
/// clean lanes may have virtual services.
pub const VERSION: u32 = 4;
