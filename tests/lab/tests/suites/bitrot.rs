//! Files of a running master that are deleted, truncated, replaced by another valid file of their kind, or given another mode and
//! owner, one at a time: each is repaired with exactly its readers restarted, or reported by name while the rest runs on.

mod kept;
mod role;
mod state;
