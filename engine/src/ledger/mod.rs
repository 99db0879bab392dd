//! The ledger: what the engine did to a host, durable and append-only.
//!
//! A file of JSON lines in the engine's state directory. An intent is written before a step converges, each undo before
//! its effect, a receipt after the step; every line is on disk before the run goes on. Only the ledger is needed to remove a
//! role from a host, even years after its scripts are gone, and an operator can ask what was done and why.
//!
//! Previous content of files is stored beside it, under its hash, readable only by root. The runner is the only
//! writer; it holds the host's lock. Reading needs no lock: a last line that is half written counts as not written. Any
//! other problem with the file is an error that names the line (`hash_chain`): half a ledger would take half a role off the
//! host.
//!
//! Not here: how an undo is carried out (`resource::undo`), and when (`exec::undo`). Start with `record` (one line of the file), then
//! `store` (reading and writing); `live_resource` says which records still count.

mod contents;
mod error;
mod hash_chain;
mod history;
mod last_run;
mod live_resource;
mod record;
mod recorded;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use contents::Recoverable;
pub use error::{LedgerError, RECOVER};
pub use history::{Attempt, Cause, History, Run, RunPhase, Why};
pub(crate) use history::{is_about, is_step};
pub use live_resource::{LiveResource, LiveUndo};
pub use record::{Record, RunId};
pub(crate) use recorded::{Digests, Reading, Recorded};
pub(crate) use store::disk::in_time;
pub use store::{Ledger, StepLog};

/// Version of the file's form. A file of another version is refused.
pub const VERSION: u32 = 4;
