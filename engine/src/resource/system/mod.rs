//! The system: packages, units, groups, timers and commands.
//!
//! Start with `service`.

pub(in crate::resource) mod command;
pub(in crate::resource) mod group;
pub(in crate::resource) mod packages;
pub(in crate::resource) mod service;
pub(in crate::resource) mod timer;
