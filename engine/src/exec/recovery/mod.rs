//! A lost ledger: how it is noticed, and how it is made again from what is on the host.
//!
//! Start with `recover`, then `rebuild`; `recovered` has the result. `installed` says whether the ledger knows what the role has made.
//!
//! Not here: how damage of a ledger is noticed (`ledger`), and the removal of what was found (`undo`).

mod before_role;
mod found;
pub(in crate::exec) mod installed;
mod rebuild;
mod recover;
pub(in crate::exec) mod recovered;
mod unpredicted;
