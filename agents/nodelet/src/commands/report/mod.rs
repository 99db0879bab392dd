//! Commands that only report: they take no lock and change nothing on the host.
//!
//! One file per command. Their texts are made in the engine (`report`). Not here: `nodelet pass`, which nodeletd runs (`pass`). Start
//! with `status`.

pub(in crate::commands) mod facts;
pub(in crate::commands) mod history;
pub(in crate::commands) mod phases;
pub(in crate::commands) mod plan;
pub(in crate::commands) mod status;
pub(in crate::commands) mod why;
