//! Backups of etcd: taken, proven by a restore, kept, and verified again.
//!
//! ```text
//! place ──▶ snapshot ──▶ proof (throw-away containers) ──▶ compare with etcd ──▶ manifest, final name ──▶ retention
//! ```
//!
//! `backup` takes all of these steps, `verify` proves and compares a stored backup again; both run as `nodelet etcd …`, in a process of
//! their own. Timers decide when (`nodeletd/timers`). Restoring a member is not part of this module.

mod api;
mod backup;
mod manifest;
mod messages;
mod place;
mod proof;
mod retention;
mod settings;
mod snapshot;
mod store;
mod throwaway;
mod verify;

pub(crate) use api::Etcd;
pub(crate) use backup::{Interrupted, backup};
pub(crate) use manifest::Manifest;
pub(crate) use place::room;
pub(crate) use settings::Backups;
pub(crate) use store::{Stored, stored};
pub(crate) use verify::verify;
