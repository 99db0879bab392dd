//! Backups of etcd: taken, verified by a restore, kept, and verified again.
//!
//! ```text
//! place ──▶ snapshot ──▶ restore test (temporary containers) ──▶ compare with etcd ──▶ manifest, final name ──▶ retention
//! ```
//!
//! `backup` takes all of these steps, `verify` restores and compares a stored backup again; both run as `nodelet etcd …`, in a process of
//! their own. Timers decide when (`nodeletd/timers`), and `turn` whether this master or another one takes the backup. `quorum` refuses one without quorum.
//! Restoring a member is not part of this module.
//!
//! Whether a backup is too old is decided in the engine (`kubernetes::etcd_backup`). Start with `backup`, then `restore_test` and `store`.

mod backup;
mod client;
mod quorum;
mod restore_test;
mod retention;
mod settings;
mod store;
mod turn;
mod verify;

pub(crate) use backup::{Interrupted, backup};
pub(crate) use client::api::{AlarmKind, Etcd, EtcdMember, EtcdStatus, MEMBER};
pub(crate) use quorum::missing_quorum;
pub(crate) use settings::{BackupMasters, Backups};
pub(crate) use store::{Stored, stored};
pub(crate) use turn::{
    forget_left, give_up, left, must_ask_again, note_left, other_master, publish_taken,
};
pub(crate) use verify::verify;
