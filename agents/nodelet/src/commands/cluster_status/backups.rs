//! The newest backup of etcd on this host.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use engine::host::Host;
use engine::kubernetes::etcd_backup::{LeftBackup, too_old};

use super::observed::{BackupRow, BackupState, Part, within};
use crate::etcd::{Backups, Stored, left, stored};

/// The directory may be on another host's disk.
const READ: Duration = Duration::from_secs(2);

/// The newest backup of the cluster with this identity ([`Backups::newest`]).
pub(super) async fn state(
    host: &dyn Host,
    backups: &Backups,
    uid: Option<&str>,
    now: SystemTime,
) -> Part<BackupState> {
    let left = left(host, backups).await;
    let directory = backups.directory.clone();
    let read = async {
        let all = tokio::task::spawn_blocking(move || stored(&directory)).await;
        all.context("read the backups").flatten()
    };
    let all: Part<Vec<Stored>> = within(READ, read).await;
    all.map(|all| newest(backups, &all, left, uid, now))
}

/// The newest backup, and the one that was left to another master. A backup that was not verified counts only if no other is there.
pub(super) fn newest(
    backups: &Backups,
    all: &[Stored],
    left: Option<LeftBackup>,
    uid: Option<&str>,
    now: SystemTime,
) -> BackupState {
    let verified = backups.newest(all, uid, now);
    let age = verified.map(|(_, age)| age);
    let row = match verified {
        Some((one, age)) => Some((one, Some(age.as_secs()))),
        None => all.last().map(|one| (one, None)),
    };
    BackupState {
        enabled: backups.enabled,
        directory: backups.directory.display().to_string(),
        newest: row.map(|(one, seconds)| BackupRow {
            name: one.name.clone(),
            age: seconds,
            size: one.size,
            verified: seconds.is_some(),
        }),
        too_old: match backups.enabled && left.is_none() {
            true => too_old(age, backups.max_age, &backups.directory),
            false => None,
        },
        left_to: left.map(|left| left.master),
    }
}
