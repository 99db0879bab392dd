//! Undos: small inverse operations that revert what converge did.
//!
//! An undo needs only a host: no script, no plan. So a failed phase can be reverted at once, and a role can be removed
//! years after its scripts were deleted. `data` has an undo as it is in the ledger, and `carry_out` reverts one effect;
//! `exec::undo` carries out all undos of a rollback, a clean or a removal of orphans.
//! Start with `data`, then `receipt`.

mod carry_out;
mod data;
mod order;
mod receipt;
#[cfg(test)]
mod testing;

pub use data::{EntryType, SavedContent, Undo};
pub(crate) use order::{in_order, last_order, within};
pub use receipt::{Receipt, UndoLog};
#[cfg(test)]
pub(crate) use testing::{revert, revert_each};
