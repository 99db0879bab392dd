//! What every daemon of ours needs and no domain knows: talking to systemd, shutting down, the log, children with
//! bounds, durable files, and what the daemon itself uses of the machine.

pub mod child;
pub mod files;
pub mod log;
pub mod shutdown;
pub mod systemd;
pub mod usage;
