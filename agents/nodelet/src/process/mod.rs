//! The process that a command runs in: its lock, its control groups, its priority, and the signals that end it.
//!
//! Commands that change the host take the lock (`lock`), so that only one of them runs at a time. Checks and backups join a control
//! group with limits (`cgroup`, `limits`), or lower their priority where there is none (`priority`). `signals` turns SIGINT, SIGTERM
//! and SIGHUP into a request to end at the next safe point.
//!
//! Child processes of the daemon are in `daemon::child`. What a command does is in `commands`. Start with `lock`.

pub(crate) mod cgroup;
pub(crate) mod limits;
pub(crate) mod lock;
pub(crate) mod priority;
pub(crate) mod signals;
