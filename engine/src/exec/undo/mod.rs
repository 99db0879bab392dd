//! Takes back what was done: rollback of a failed phase, clean of the host, removal of what the plan no longer has.
//!
//! The ledger says what has to be undone, `resource::undo` says how. Plan and scripts are not needed.
//!
//! Start with `clean`, then `executor`; `orphans` finds what the plan no longer has, and `prune` removes it.
//! `another_role` says whether a whole other role would be removed.

pub(in crate::exec) mod another_role;
pub(in crate::exec) mod clean;
pub(in crate::exec) mod executor;
pub(in crate::exec) mod orphans;
pub(in crate::exec) mod prune;
pub(in crate::exec) mod rollback;
