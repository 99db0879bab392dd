//! systemd on this machine, over the system bus: units and jobs.
//!
//! Start with `services`.

pub(in crate::host::live) mod bus;
pub(in crate::host::live) mod jobs;
pub(in crate::host::live) mod services;
