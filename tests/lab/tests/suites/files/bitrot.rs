//! Files of nodeletd and of the installed role on a running master that are deleted, truncated, replaced by another valid file of their
//! kind, or given another mode and owner: each is repaired, or reported by name while the rest runs on. Two keys are damaged here; all
//! kept and secret files are a soak.

pub(crate) mod kept;
pub(crate) mod role;
pub(crate) mod state;
