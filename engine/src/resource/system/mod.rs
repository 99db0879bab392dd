//! The system: packages, units, groups, timers and commands.
//!
//! Start with `service`.
//!
//! Not here: files (`files`), docker itself (`docker`), and the running of timers, which nodeletd does.

pub(in crate::resource) mod command;
pub(in crate::resource) mod group;
pub(in crate::resource) mod packages;
pub(in crate::resource) mod service;
pub(in crate::resource) mod timer;
