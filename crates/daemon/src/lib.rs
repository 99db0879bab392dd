//! What each of our daemons needs, independent of its task.
//!
//! `config` reads the daemon's own configuration, `log` writes its log, `shutdown` turns signals into requests to end, `health` watches
//! that its parts make progress, `systemd` reports its state, `child` runs programs, `files` replaces and reads small files, `usage`
//! measures what the daemon uses, and `command` ends the commands that a program has beside the daemon.
//!
//! Not here: anything about Kubernetes, roles or the engine, and the decisions of a daemon. The engine and the lab use
//! `crates/child-process` and `crates/atomic-files` directly; `child` and `files` add what only a daemon needs. Start with the example
//! `crates/daemon/examples/exampled.rs`: it uses most of this crate. CONTRIBUTING.md explains how an agent is added.

pub mod child;
pub mod command;
pub mod config;
pub mod files;
pub mod health;
pub mod log;
pub mod shutdown;
pub mod systemd;
pub mod usage;
