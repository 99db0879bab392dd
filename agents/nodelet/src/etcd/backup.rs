//! One backup: from the snapshot to the removal of older backups.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use engine::exec::room_for_backup;
use engine::host::live::LiveHost;
use engine::kubernetes::etcd_backup::{BackupManifest, ClusterIdentity, VERSION, Versions};
use tokio_util::sync::CancellationToken;

use super::quorum::{knows_leader, require_quorum};
use super::retention::{Aged, expendable};
use super::settings::Backups;
use super::store;
use crate::etcd::client::api::{AlarmKind, Etcd, EtcdStatus};
use crate::etcd::restore_test::{self, RestoredSnapshot};
use crate::etcd::store::{directory, snapshot};

/// Timeout for taking and verifying the snapshot.
const LIMIT: Duration = Duration::from_secs(1800);
/// Timeout for the directory of backups to answer. A command that wants to change the host waits only 30 s for a backup to end.
const ANSWER: Duration = Duration::from_secs(20);

/// What is done, for messages.
const BACK_UP: &str = "back up etcd";

/// The backup was asked to end, by an operator or by a command that wants to change the host. It leaves nothing behind.
#[derive(Debug, thiserror::Error)]
#[error("finish: it was asked to end, and left nothing")]
pub(crate) struct Interrupted;

/// The result of a backup.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) name: String,
    pub(crate) manifest: BackupManifest,
    /// Older ones that were removed because of it.
    pub(crate) removed: Vec<String>,
}

/// Takes a snapshot, verifies it, gives it its name, and removes older ones that are too many. If anything fails, the older ones are
/// unchanged, and neither a part of a snapshot nor a container stays.
///
/// # Errors
/// What failed, with the next thing to try where it is known; [`Interrupted`] when `cancel` was cancelled first.
pub(crate) async fn backup(backups: &Backups, cancel: &CancellationToken) -> Result<Done> {
    on_disk(backups, "prepare the directory", directory::prepare).await?;
    let verified = tokio::select! {
        () = cancel.cancelled() => Err(Interrupted.into()),
        made = tokio::time::timeout(LIMIT, make(backups)) => {
            made.with_context(|| format!("finish the backup within {} s", LIMIT.as_secs()))
                .and_then(|made| made)
        }
    };
    let (name, manifest) = match verified {
        Ok(made) => made,
        Err(error) => {
            if let Err(left) = clear(backups).await {
                tracing::warn!("the next backup cleans up: could not {left:#}");
            }
            return Err(error);
        }
    };
    if let Err(left) = restore_test::sweep(&backups.image).await {
        tracing::warn!("the next backup cleans up: could not {left:#}");
    }
    // This part is not cancelled: a snapshot with a final name must have its manifest.
    let (its_name, its_manifest) = (name.clone(), manifest.clone());
    let kept = on_disk(backups, "keep the snapshot", move |directory| {
        store::keep(directory, &its_name, &its_manifest).inspect_err(|_| {
            if let Err(left) = store::sweep(directory) {
                tracing::warn!("the next backup cleans up: could not {left:#}");
            }
        })
    });
    kept.await?;
    // The backup is made and verified by now: a failure to remove older ones does not change that.
    let (its, new) = (backups.clone(), manifest.clone());
    let thinned = on_disk(backups, "remove older backups", move |_| {
        prune_backups(&its, &new)
    });
    let removed = thinned.await.unwrap_or_else(|error| {
        tracing::warn!("older backups stay: could not {error:#}");
        Vec::new()
    });
    Ok(Done {
        name,
        manifest,
        removed,
    })
}

/// Does `work` on the directory of backups, with a timeout: the directory may be on a disk that does not answer.
async fn on_disk<T: Send + 'static>(
    backups: &Backups,
    action: &str,
    work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
) -> Result<T> {
    let directory = backups.directory.clone();
    let done = tokio::task::spawn_blocking(move || work(&directory));
    match tokio::time::timeout(ANSWER, done).await {
        Ok(done) => done.context("finish before the program ends")?,
        Err(_) => bail!(
            "{action}: {0} does not answer within {1} s; see what it is on (`findmnt --target {0}`)",
            backups.directory.display(),
            ANSWER.as_secs()
        ),
    }
}

/// Removes an unfinished snapshot and the copy of a restore test: our own after a failure, those of a killed run before the next backup.
async fn clear(backups: &Backups) -> Result<()> {
    on_disk(backups, "remove unfinished snapshots", store::sweep).await?;
    restore_test::sweep(&backups.image).await
}

/// Takes a snapshot and verifies it; it has no name yet.
async fn make(backups: &Backups) -> Result<(String, BackupManifest)> {
    let host = LiveHost::new();
    // At once: without a quorum, the member may not even answer.
    require_quorum(BACK_UP, &host).await?;
    clear(backups).await?;
    let etcd = Etcd::member().await?;
    let status = etcd.status().await?;
    has_quorum(&status)?;
    let alarms = etcd.alarms().await?;
    if let Some(corrupt) = alarms.iter().find(|one| one.kind == AlarmKind::Corrupt) {
        bail!(
            "{BACK_UP}: it says that its own data is damaged ({corrupt}); see `etcdctl alarm list`"
        );
    }
    let cluster = etcd.cluster().await?.context(
        "find the cluster's identity: etcd holds no namespace kube-system yet; wait until the API server has made it",
    )?;
    if let Some(why) = room_for_backup(&host, &backups.directory, status.size).await? {
        bail!("make room for the next backup: {why}");
    }

    // A key that a rotation adds meanwhile encrypts nothing in the snapshot: a new key first only decrypts, beside the present one.
    let encryption_keys = engine::resource::pki::encryption_key_ids(&host)
        .await
        .context("name the encryption keys that a restore needs")?;
    let taken = SystemTime::now();
    let name = store::name(taken);
    let part = store::part(&backups.directory, &name);
    let content = snapshot::take(&etcd, &part).await?;
    // Counted before the restore, which may take longer than etcd keeps a revision.
    let revision = restore_test::revision(&part, &backups.image)
        .await
        .context("verify the snapshot")?;
    let count = async |revision| {
        let keys = etcd.keys(revision).await;
        keys.context("compare the snapshot with etcd")
    };
    let mut keys = count(revision).await?;
    let restored = restore_test::verify(&part, &backups.image)
        .await
        .context("verify the snapshot")?;
    if restored.revision != revision {
        // If the last changes were deletions and were compacted away, no key in the file has the last revision. The restored etcd knows
        // that revision, but `etcdctl snapshot status` reports an older one.
        keys = count(restored.revision).await?;
    }
    compare(&restored, keys, &cluster)?;

    let manifest = BackupManifest {
        version: VERSION,
        taken: time(taken),
        verified: time(SystemTime::now()),
        revision: restored.revision,
        keys: restored.keys,
        content,
        cluster,
        cluster_id: backups.cluster_id.clone(),
        encryption_keys,
        host: nix::unistd::gethostname()
            .context("ask for the host's name")?
            .to_string_lossy()
            .into_owned(),
        versions: Versions {
            etcd: status.version,
            nodelet: env!("CARGO_PKG_VERSION").to_owned(),
            image: backups.image.clone(),
        },
    };
    Ok((name, manifest))
}

/// Fails if the member knows no leader: its data may lack what the other masters have written since then.
fn has_quorum(status: &EtcdStatus) -> Result<()> {
    knows_leader(BACK_UP, status.leader != 0)
}

/// Fails unless the restored copy is what etcd had at that revision.
fn compare(restored: &RestoredSnapshot, keys: u64, cluster: &str) -> Result<()> {
    if restored.keys != keys {
        bail!(
            "verify the snapshot: restored, it has {} keys at revision {}, and etcd has {keys}",
            restored.keys,
            restored.revision
        );
    }
    if restored.cluster.as_deref() != Some(cluster) {
        bail!(
            "verify the snapshot: restored, it is of cluster {}, and this is {cluster}",
            restored.cluster.as_deref().unwrap_or("none")
        );
    }
    Ok(())
}

/// Removes older backups that are too many, and returns their names. Backups of another cluster than that of `new` stay: they may be all
/// that is left of that cluster.
fn prune_backups(backups: &Backups, new: &BackupManifest) -> Result<Vec<String>> {
    let all = store::stored(&backups.directory)?;
    let cluster = ClusterIdentity::Uid(&new.cluster);
    let aged: Vec<Aged> = all
        .iter()
        .map(|stored| Aged {
            taken: stored.taken(),
            ours: stored.is_verified_of(cluster),
        })
        .collect();
    // The clock may have been set back since: the new backup must not count as one from the future.
    let now = SystemTime::now().max(new.taken().unwrap_or(SystemTime::UNIX_EPOCH));
    let expendable = expendable(&aged, backups.count, backups.keep, now);
    let mut removed_names = Vec::new();
    for stored in expendable.into_iter().filter_map(|at| all.get(at)) {
        // If one cannot be removed, the others still are.
        match store::remove(stored) {
            Ok(()) => removed_names.push(stored.name.clone()),
            Err(error) => tracing::warn!(
                "an older backup stays: could not {error:#}; check whether it is protected (`lsattr`)"
            ),
        }
    }
    Ok(removed_names)
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::settings::BackupMasters;
    use crate::etcd::store::tests::manifest;

    #[test]
    fn a_copy_that_differs_from_etcd_proves_nothing() {
        let restored = RestoredSnapshot {
            revision: 7,
            keys: 3,
            cluster: Some("u".to_owned()),
        };
        compare(&restored, 3, "u").expect("it is the same");
        let fewer = compare(&restored, 4, "u").expect_err("a key is missing");
        assert!(
            fewer.to_string().contains("3 keys at revision 7"),
            "{fewer}"
        );
        let other = compare(&restored, 3, "v").expect_err("it is another cluster's");
        assert!(
            other.to_string().contains("of cluster u, and this is v"),
            "{other}"
        );
    }

    #[test]
    fn a_member_without_quorum_is_not_backed_up() {
        let status = |leader| EtcdStatus {
            version: "3.4.23".to_owned(),
            size: 1,
            cluster_id: 1,
            member_id: 7,
            leader,
            raft_term: 2,
            raft_index: 3,
            errors: Vec::new(),
        };
        has_quorum(&status(7)).expect("it has a leader");
        let refused = has_quorum(&status(0)).expect_err("it has none");
        assert!(refused.to_string().contains("no quorum"), "{refused}");
    }

    /// The clock was ahead when the newest was taken, and has been set back since.
    #[test]
    fn a_new_backup_is_not_removed() {
        const HOUR: Duration = Duration::from_secs(3600);
        let directory = tempfile::tempdir().expect("a directory");
        let backups = Backups {
            enabled: true,
            masters: BackupMasters::All,
            schedule: String::new(),
            directory: directory.path().to_owned(),
            count: 2,
            keep: 1000 * HOUR,
            max_age: HOUR,
            image: String::new(),
            cluster_id: String::new(),
        };
        let now = SystemTime::now();
        let names: Vec<String> = [now - 48 * HOUR, now - 24 * HOUR, now + 2 * HOUR]
            .into_iter()
            .map(|taken| {
                let name = store::name(taken);
                std::fs::write(store::part(directory.path(), &name), "four").expect("written");
                store::keep(directory.path(), &name, &manifest(taken)).expect("kept");
                name
            })
            .collect();
        let removed_names =
            prune_backups(&backups, &manifest(now + 2 * HOUR)).expect("it is thinned out");
        assert_eq!(removed_names, names[..1]);
    }
}
