//! The settings of backups, typed.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use engine::env::{KubeEnv, SettingValue};
use engine::kubernetes::etcd_backup::ClusterIdentity;

use super::store::Stored;

/// Which of several masters take backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackupMasters {
    /// Each of them.
    All,
    /// One of those that work.
    One,
}

/// The settings of backups on this host.
#[derive(Debug, Clone)]
pub(crate) struct Backups {
    pub(crate) enabled: bool,
    pub(crate) masters: BackupMasters,
    /// When they are taken, in cron syntax.
    pub(crate) schedule: String,
    pub(crate) directory: PathBuf,
    /// How many are kept at most.
    pub(crate) count: usize,
    /// How old one may become, unless it is the newest.
    pub(crate) keep: Duration,
    /// Maximum age of the newest verified one; if it is older, something is wrong.
    pub(crate) max_age: Duration,
    /// The image of etcd; its programs verify the backups.
    pub(crate) image: String,
    /// `CLUSTER_ID`.
    pub(crate) cluster_id: String,
}

impl Backups {
    /// The newest verified backup in `all`, which has the newest last, and its age. It is one of the cluster with this identity; without an
    /// identity, `CLUSTER_ID` decides which backups are of this cluster.
    pub(crate) fn newest<'s>(
        &self,
        all: &'s [Stored],
        uid: Option<&str>,
        now: SystemTime,
    ) -> Option<(&'s Stored, Duration)> {
        let cluster = uid.map_or(ClusterIdentity::Id(&self.cluster_id), ClusterIdentity::Uid);
        all.iter().rev().find_map(|one| {
            let manifest = one.manifest.as_ref().ok()?;
            Some((one, manifest.age(cluster, now, self.max_age)?))
        })
    }

    /// # Errors
    /// This host is no master: it has no etcd.
    pub(crate) fn of(settings: &KubeEnv) -> Result<Self> {
        let value = |name: &str| {
            settings
                .get(name)
                .with_context(|| format!("find the setting {name}"))
        };
        let text = |name: &str| anyhow::Ok(value(name)?.to_string());
        let span = |name: &str| match value(name)? {
            SettingValue::Duration(span) => Ok(*span),
            other => anyhow::bail!("understand the setting {name}: {other} is not a duration"),
        };
        let count = match value("ETCD_BACKUP_COUNT")? {
            SettingValue::Integer(count) => usize::try_from(*count).unwrap_or(1).max(1),
            other => anyhow::bail!("understand ETCD_BACKUP_COUNT: {other} is not a number"),
        };
        let masters = match text("ETCD_BACKUP_MASTERS")?.as_str() {
            "all" => BackupMasters::All,
            "one" => BackupMasters::One,
            other => anyhow::bail!("understand ETCD_BACKUP_MASTERS: {other} is not a choice"),
        };
        let role = text("ROLE")?;
        if role != "master" {
            anyhow::bail!(
                "back up etcd here: this host is a {role} and has no etcd; run it on a master"
            );
        }
        Ok(Self {
            enabled: matches!(value("ETCD_BACKUP_ENABLED")?, SettingValue::Bool(true)),
            masters,
            schedule: text("ETCD_BACKUP_SCHEDULE")?,
            directory: text("ETCD_BACKUP_DIR")?.into(),
            count,
            keep: span("ETCD_BACKUP_KEEP")?,
            max_age: span("ETCD_BACKUP_MAX_AGE")?,
            image: text("ETCD_IMAGE")?,
            cluster_id: text("CLUSTER_ID")?,
        })
    }
}
