//! systemd on this machine, over the system bus: units and jobs.
//!
//! Start with `services`.
//!
//! `bus` is the connection, and `jobs` waits for the end of a job. Not here: the text of unit files, which are files.

pub(in crate::host::live) mod bus;
pub(in crate::host::live) mod jobs;
pub(in crate::host::live) mod services;
