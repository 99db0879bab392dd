//! What takes resources back: rollback, clean, the removal of orphans, and recovery of a ledger.

mod clean;
mod failures;
mod orphans;
mod recover;
mod rollback;
