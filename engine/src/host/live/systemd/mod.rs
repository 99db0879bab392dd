//! systemd on this machine, over the system bus: units and jobs.
//!
//! `services` reads and changes units, and `bus` is the connection. `jobs` queues a job, waits for its end, and says why it failed.
//!
//! Not here: the text of unit files, which are files (`files`), when a unit is restarted (`resource::system::service`), and what nodeletd
//! itself tells systemd (`daemon::systemd`). Start with `services`.

pub(in crate::host::live) mod bus;
pub(in crate::host::live) mod jobs;
pub(in crate::host::live) mod services;
