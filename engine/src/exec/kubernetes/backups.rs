//! Checks etcd's backups by their files: whether a recent one exists, and whether there is room for the next. nodelet
//! makes and verifies them (`agents/nodelet/src/etcd`).

use std::path::Path;
use std::time::Duration;

use crate::host::{EntryKind, Host};
use crate::kubernetes::etcd_backup::{
    BACKUP_LEFT, BACKUP_LEFT_LIMIT, BackupManifest, ClusterIdentity, LeftBackup, MANIFEST,
    MANIFEST_LIMIT, TIMER, name_of, too_old,
};
use crate::model::STATE;
use crate::resource::{ResourceError, ResourceResult, timer_path};

/// What a restored member needs besides its store: it allocates its log with 64 MiB at once.
const LOG: u64 = 128 * 1024 * 1024;

/// Why the newest verified backup of `cluster` is not younger than `limit`; `None` if it is. [`BackupManifest::age`] says
/// which backups count. If there is no backup yet, the age of the timer counts: a host younger than `limit` has not
/// missed a backup. Neither has a host that has left the last one to another master: [`LeftBackup`].
pub(in crate::exec) async fn younger_than(
    host: &dyn Host,
    directory: &Path,
    limit: Duration,
    cluster: &str,
) -> ResourceResult<Option<String>> {
    let left = backup_left(host, cluster, limit).await;
    let cluster = ClusterIdentity::Id(cluster);
    let mut newest: Option<Duration> = None;
    for file in host.list(directory).await? {
        if name_of(&file).is_none() {
            continue;
        }
        let manifest = verified(host, &directory.join(file)).await?;
        let age = manifest.and_then(|manifest| manifest.age(cluster, host.now(), limit));
        newest = newest.into_iter().chain(age).min();
    }
    if newest.is_none() {
        let timer = host.entry(&timer_path(TIMER)).await?;
        let young = timer.is_some_and(|timer| {
            let age = host.now().duration_since(timer.modified);
            age.unwrap_or_default() < limit
        });
        if young {
            return Ok(None);
        }
    }
    let problem = too_old(newest, limit, directory);
    Ok(problem.filter(|_| left.is_none()))
}

/// The note that the last backup was left to another master, if it is younger than `limit` and of this cluster (`CLUSTER_ID`). A file that
/// cannot be read is none. nodelet removes it when this host takes a backup. Cancel safe.
pub async fn backup_left(host: &dyn Host, cluster_id: &str, limit: Duration) -> Option<LeftBackup> {
    let read = host.read(Path::new(BACKUP_LEFT), BACKUP_LEFT_LIMIT).await;
    let content = read.ok().flatten()?;
    LeftBackup::recent(&content, cluster_id, host.now(), limit)
}

/// The manifest of the snapshot at `path`. `None` if the snapshot was not verified, or differs from what was verified.
async fn verified(host: &dyn Host, path: &Path) -> ResourceResult<Option<BackupManifest>> {
    let entry = host.entry(path).await?;
    let Some(EntryKind::File(size)) = entry.map(|entry| entry.kind) else {
        return Ok(None);
    };
    let beside = path.with_extension(MANIFEST);
    if !matches!(
        host.entry(&beside).await?.map(|entry| entry.kind),
        Some(EntryKind::File(..=MANIFEST_LIMIT))
    ) {
        return Ok(None);
    }
    let content = host.read(&beside, MANIFEST_LIMIT).await?;
    Ok(BackupManifest::verified(&beside, content.as_deref(), size).ok())
}

/// Why there is no room for a backup of the store in `file`.
pub(in crate::exec) async fn room_beside(
    host: &dyn Host,
    directory: &Path,
    file: &Path,
) -> ResourceResult<Option<String>> {
    let store = match host.entry(file).await?.map(|entry| entry.kind) {
        Some(EntryKind::File(size)) => size,
        _ => {
            return Err(ResourceError::Missing {
                what: format!("see how large {} is: it is not a file", file.display()),
            });
        }
    };
    room_for_backup(host, directory, store).await
}

/// Why there is no room for a backup of a store with `store` bytes. The snapshot needs room in `directory`, the copy
/// with which it is verified in nodelet's own directory. If both are on one disk, it needs room for both.
///
/// # Errors
/// The host does not say how much room there is.
pub async fn room_for_backup(
    host: &dyn Host,
    directory: &Path,
    store: u64,
) -> ResourceResult<Option<String>> {
    let kept = host.space(directory).await?;
    let work = host.space(Path::new(STATE)).await?;
    let copy = store + LOG;
    let wanted = if kept.device == work.device {
        vec![(
            directory,
            kept.free,
            store + copy,
            "the next backup and its restore test",
        )]
    } else {
        vec![
            (directory, kept.free, store, "the next backup"),
            (
                Path::new(STATE),
                work.free,
                copy,
                "the restore test of the next backup",
            ),
        ]
    };
    let short = wanted
        .into_iter()
        .find(|(_, free, needed, _)| free < needed);
    Ok(short.map(|(place, free, needed, what)| {
        format!(
            "{} has {} MiB left, and {what} needs {}; remove something there, give it a larger disk, or keep fewer (ETCD_BACKUP_COUNT) or elsewhere (ETCD_BACKUP_DIR)",
            place.display(),
            free >> 20,
            needed.div_ceil(1 << 20)
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Space;
    use crate::host::fake::FakeHost;

    const DAY: Duration = Duration::from_secs(86_400);

    const CLUSTER: &str = "c-1";

    /// The manifest of a snapshot with `size` bytes that is taken now.
    fn manifest(host: &FakeHost, size: u64) -> String {
        let taken = humantime::format_rfc3339_seconds(crate::host::Clock::now(host));
        format!(
            r#"{{"version":1,"taken":"{taken}","verified":"{taken}","revision":5,"keys":3,"content":{{"size":{size},"sha256":""}},"cluster":"u","cluster_id":"{CLUSTER}","host":"h","versions":{{"etcd":"3.4.23","nodelet":"0","image":"etcd:3"}}}}"#
        )
    }

    /// What [`younger_than`] says a day after these files were written.
    async fn said(files: &[&str], limit: Duration) -> String {
        let mut host = FakeHost::new();
        let manifest = manifest(&host, 1);
        for name in files {
            let content = if name.ends_with("json") {
                &manifest
            } else {
                "x"
            };
            host = host.with_file(format!("/b/{name}"), content);
        }
        crate::host::Clock::pause(&host, DAY).await;
        younger_than(&host, Path::new("/b"), limit, CLUSTER)
            .await
            .expect("it can be told")
            .unwrap_or_default()
    }

    #[tokio::test]
    async fn a_verified_backup_has_a_manifest_and_an_age() {
        let good = ["etcd-1.db", "etcd-1.json"];
        assert_eq!(said(&good, 2 * DAY).await, "");
        let old = said(&good, DAY).await;
        assert!(old.contains("is 1day old"), "{old}");
        for none in [
            &["etcd-1.db"][..],
            &["etcd-1.json"],
            &[".etcd-1.db.part", ".etcd-1.json"],
            &[],
        ] {
            let missing = said(none, 2 * DAY).await;
            assert!(
                missing.contains("no verified backup"),
                "{none:?}: {missing}"
            );
        }
    }

    #[tokio::test]
    async fn a_backup_from_the_future_expires() {
        let host = FakeHost::new();
        host.with_world_mut(|world| world.advance(10 * DAY));
        let manifest = manifest(&host, 1);
        let host = host
            .with_file("/b/etcd-1.db", "x")
            .with_file("/b/etcd-1.json", manifest);
        let said = async |back: Duration| {
            let host = host.fork();
            host.with_world_mut(|world| {
                let start = world.now() - world.elapsed() - back;
                world.begin_at(start);
            });
            let said = younger_than(&host, Path::new("/b"), 2 * DAY, CLUSTER).await;
            said.expect("it can be told").unwrap_or_default()
        };
        assert_eq!(said(DAY).await, "", "a clock that is a little behind");
        let ahead = said(5 * DAY).await;
        assert!(ahead.contains("no verified backup"), "{ahead}");
    }

    #[tokio::test]
    async fn a_new_host_has_no_overdue_backup() {
        let host = FakeHost::new().with_file(timer_path(TIMER), "{}");
        let directory = Path::new("/b");
        let answer = || younger_than(&host, directory, DAY, CLUSTER);
        assert_eq!(answer().await.expect("it can be told"), None);
        crate::host::Clock::pause(&host, DAY).await;
        assert!(answer().await.expect("it can be told").is_some());
    }

    /// With `ETCD_BACKUP_MASTERS` `one`.
    #[tokio::test]
    async fn a_host_that_leaves_backups_to_another_master_lacks_none() {
        let host = FakeHost::new();
        let now = crate::host::Clock::now(&host);
        let note = LeftBackup::new(now, "m-1", CLUSTER);
        let note = serde_json::to_vec(&note).expect("JSON");
        let host = host.with_file(BACKUP_LEFT, note);
        let directory = Path::new("/b");
        let said = async |cluster| {
            let said = younger_than(&host, directory, DAY, cluster).await;
            said.expect("it can be told").unwrap_or_default()
        };
        assert_eq!(said(CLUSTER).await, "");
        assert_ne!(said("c-2").await, "", "another cluster");
        crate::host::Clock::pause(&host, DAY).await;
        let old = said(CLUSTER).await;
        assert!(old.contains("no verified backup"), "{old}");
    }

    #[tokio::test]
    async fn a_changed_backup_does_not_count() {
        let written = manifest(&FakeHost::new(), 1);
        let newer = written.replace("\"version\":1", "\"version\":2");
        let others = written.replace(CLUSTER, "c-2");
        for (size, beside) in [
            (1, None),
            (2, None),
            (1, Some("{}")),
            (1, Some("garbage")),
            (1, Some(newer.as_str())),
            (1, Some(others.as_str())),
        ] {
            let host = FakeHost::new();
            let written = manifest(&host, size);
            let host = host
                .with_file("/b/etcd-1.db", "x")
                .with_file("/b/etcd-1.json", beside.unwrap_or(&written));
            let said = younger_than(&host, Path::new("/b"), DAY, CLUSTER).await;
            let good = said.expect("it can be told").is_none();
            assert_eq!(good, size == 1 && beside.is_none(), "{size} {beside:?}");
        }
    }

    #[tokio::test]
    async fn room_is_that_for_a_backup_and_its_restore_test() {
        let space = |device, free| Space {
            free,
            total: 1 << 40,
            device,
        };
        let store = Path::new("/data/db");
        let host = || FakeHost::new().with_file(store, "four");
        let answer = async |kept: Space, work: Space| {
            let host = host().with_space("/b", kept).with_space(STATE, work);
            let said = room_beside(&host, Path::new("/b"), store).await;
            said.expect("it can be told").unwrap_or_default()
        };
        assert_eq!(answer(space(1, 8 + LOG), space(1, 8 + LOG)).await, "");
        let both = answer(space(1, 7 + LOG), space(1, 7 + LOG)).await;
        assert!(both.contains("/b has"), "{both}");
        assert_eq!(answer(space(1, 4), space(2, 4 + LOG)).await, "");
        let work = answer(space(1, 4), space(2, 3 + LOG)).await;
        assert!(work.starts_with(STATE), "{work}");
        let kept = answer(space(1, 3), space(2, 4 + LOG)).await;
        assert!(kept.contains("/b has"), "{kept}");
        let nothing = room_beside(&FakeHost::new(), Path::new("/b"), store).await;
        assert!(nothing.is_err(), "unknown is unknown");
    }
}
