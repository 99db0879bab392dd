//! What each of our daemons needs, independent of its task: configuration, systemd notifications, shutdown, log, health, bounded child
//! processes, durable files, and the daemon's own use of resources.

pub mod child;
pub mod config;
pub mod files;
pub mod health;
pub mod log;
pub mod shutdown;
pub mod systemd;
pub mod usage;
