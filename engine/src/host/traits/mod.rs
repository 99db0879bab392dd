//! The capabilities of a host, one trait per file, with the plain data that their calls take and return.
//!
//! No implementation is here: `live` has the machine, `fake` the simulated host, `overlay` the host of a dry run.
//!
//! Start with `files`.

pub(in crate::host) mod containers;
pub(in crate::host) mod etcd;
pub(in crate::host) mod files;
pub(in crate::host) mod kernel;
pub(in crate::host) mod kubernetes;
pub(in crate::host) mod network;
pub(in crate::host) mod packages;
pub(in crate::host) mod processes;
pub(in crate::host) mod services;
pub(in crate::host) mod virtual_service;
