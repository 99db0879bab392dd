//! Backups of etcd: taken, proven by a restore, kept, and looked at again.
//!
//! ```text
//! place ──▶ snapshot ──▶ proof (throw-away containers) ──▶ compare with etcd ──▶ manifest, final name ──▶ retention
//! ```
//!
//! `backup` is the whole way and `verify` its second half; both run in a process of their own, `nodelet etcd …`. When they
//! run is said by timers (`nodeletd/timers`). A restore of a member is not done here.

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
