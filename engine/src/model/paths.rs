//! Directories of the engine on a host.

/// Where the engine keeps what it must remember about a host.
pub const STATE: &str = "/var/opt/pf9/nodelet";
