//! The newest backup of etcd on this host, and those that the other masters have published.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use engine::host::Host;
use engine::kubernetes::etcd_backup::{
    LeftBackup, age_of, is_younger_than, published_too_old, too_old,
};

use super::observed::{BackupRow, BackupState, MasterBackup, NodeRow, Part, utc, within};
use crate::etcd::{BackupMasters, Backups, Stored, left, stored};

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

/// The newest backups of the other masters. If each master takes its own, each must have a young one once its node is old enough. If one master
/// takes them, one young one is enough. Pure.
pub(super) fn of_masters(
    backups: &Backups,
    own: &Part<BackupState>,
    rows: &[NodeRow],
    now: SystemTime,
) -> Vec<MasterBackup> {
    let limit = backups.max_age;
    // One from a clock that was far ahead counts as little here as for the turn of a backup.
    let is_young = |row: &NodeRow| {
        row.backup_taken
            .is_some_and(|taken| is_younger_than(taken, now, limit))
    };
    let age = |row: &NodeRow| {
        let age = age_of(row.backup_taken?, now, limit)?;
        (is_young(row) || age >= limit).then_some(age)
    };
    let others: Vec<&NodeRow> = rows.iter().filter(|row| row.is_other_master()).collect();
    let has_young = others.iter().any(|row| is_young(row));
    let has_none = !has_young && own.known().is_some_and(|own| !has_young_here(own, backups));
    let each = backups.masters == BackupMasters::All;
    let row = |row: &&NodeRow| {
        let name = &row.name;
        let age = age(row);
        let is_due = match row.backup_taken {
            Some(_) => each || has_none,
            None => has_none || (each && row.age.is_some_and(|age| age >= limit)),
        };
        let too_old = match (row.backup_taken, age) {
            _ if !backups.enabled || !is_due => None,
            (_, Some(age)) => published_too_old(name, age, limit),
            (Some(taken), None) => Some(format!(
                "master {name} has published a backup of the future ({}); compare its clock with the one of this host (`timedatectl`)",
                utc(taken)
            )),
            (None, None) => Some(format!(
                "master {name} has published no verified backup{}; `nodelet etcd backup` there makes one or says what is wrong",
                if has_none {
                    ", and no master has a young one"
                } else {
                    ", although its node is older than the limit"
                }
            )),
        };
        MasterBackup {
            node: name.clone(),
            taken: row.backup_taken.map(utc),
            age: age.map(|age| age.as_secs()),
            young: is_young(row),
            too_old,
        }
    };
    others.iter().map(row).collect()
}

/// Whether this host has a young backup, or has left its last one to a master that had one.
fn has_young_here(own: &BackupState, backups: &Backups) -> bool {
    let newest = own.newest.as_ref().filter(|backup| backup.verified);
    let age = newest.and_then(|backup| backup.age);
    let age = age.map(Duration::from_secs);
    own.left_to.is_some() || too_old(age, backups.max_age, &backups.directory).is_none()
}
