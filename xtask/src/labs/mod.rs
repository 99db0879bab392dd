//! The commands for labs: `up`, `down`, `status`, `shell`, `kubectl` and `lab fault`.
//!
//! The labs themselves are in the crate `lab`. Start with `up`, which brings a Kubernetes master up.

pub(crate) mod down;
pub(crate) mod fault;
pub(crate) mod shell;
pub(crate) mod status;
pub(crate) mod up;
