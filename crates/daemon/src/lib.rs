//! What every daemon of ours needs and no domain knows: its configuration, talking to systemd, shutting down, the log,
//! whether it does its work, children with bounds, durable files, and what the daemon itself uses of the machine.

pub mod child;
pub mod config;
pub mod files;
pub mod health;
pub mod log;
pub mod shutdown;
pub mod systemd;
pub mod usage;
