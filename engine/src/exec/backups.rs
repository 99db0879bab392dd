//! What can be told of etcd's backups by looking at files: whether a young one is there, and room for the next. How they are
//! made and proven is nodelet's; here a snapshot under a final name with its manifest beside it is a proven one.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::host::{EntryKind, Host};
use crate::resource::{ResourceError, ResourceResult, timer_path};

/// The timer that makes them.
const TIMER: &str = "etcd-backup";

/// Why the newest proven backup is not younger than `limit`. One from further ahead than that says nothing: the clock was wrong
/// when it was taken, and would count as young for as long as it was ahead. Where there is none yet, the age of the timer counts: nobody
/// has missed anything on a host that is younger than that.
pub(super) async fn younger_than(
    host: &dyn Host,
    directory: &Path,
    limit: Duration,
) -> ResourceResult<Option<String>> {
    let names = host.list(directory).await?;
    let mut newest: Option<SystemTime> = None;
    for name in &names {
        let Some(stem) = name.strip_suffix(".db") else {
            continue;
        };
        if !stem.starts_with("etcd-") || !names.contains(&format!("{stem}.json")) {
            continue;
        }
        if let Some(entry) = host.entry(&directory.join(name)).await?
            && matches!(entry.kind, EntryKind::File(1..))
        {
            let ahead = entry.modified.duration_since(host.now());
            if ahead.is_ok_and(|ahead| ahead > limit) {
                continue;
            }
            newest = newest.max(Some(entry.modified));
        }
    }
    let since = |time: SystemTime| host.now().duration_since(time).unwrap_or_default();
    let text = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs()));
    let next = "`nodelet etcd backup` makes one or says what is wrong";
    if let Some(newest) = newest {
        let age = since(newest);
        return Ok((age >= limit).then(|| {
            format!(
                "the newest proven backup in {} is {} old, and {} is the limit; {next}",
                directory.display(),
                text(age),
                text(limit)
            )
        }));
    }
    let timer = host.entry(&timer_path(TIMER)).await?;
    let young = timer.is_some_and(|timer| since(timer.modified) < limit);
    Ok((!young).then(|| {
        format!(
            "there is no proven backup in {}; {next}",
            directory.display()
        )
    }))
}

/// Why there is no room where `directory` is for another file as large as `file`.
pub(super) async fn room_for(
    host: &dyn Host,
    directory: &Path,
    file: &Path,
) -> ResourceResult<Option<String>> {
    let needed = match host.entry(file).await?.map(|entry| entry.kind) {
        Some(EntryKind::File(size)) => size,
        _ => {
            return Err(ResourceError::Missing {
                what: format!("see how large {} is: it is no file", file.display()),
            });
        }
    };
    let free = host.space(directory).await?.free;
    Ok((free < needed).then(|| {
        format!(
            "{} has {} MiB left, and the next needs {}; remove something there, or set ETCD_BACKUP_COUNT or ETCD_BACKUP_DIR",
            directory.display(),
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

    /// What is said a day after these files were written.
    async fn said(files: &[&str], limit: Duration) -> String {
        let mut host = FakeHost::new();
        for name in files {
            host = host.with_file(format!("/b/{name}"), "x");
        }
        crate::host::Clock::pause(&host, DAY).await;
        younger_than(&host, Path::new("/b"), limit)
            .await
            .expect("it can be told")
            .unwrap_or_default()
    }

    #[tokio::test]
    async fn a_proven_backup_has_a_manifest_and_an_age() {
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
            assert!(missing.contains("no proven backup"), "{none:?}: {missing}");
        }
    }

    #[tokio::test]
    async fn a_backup_from_the_future_is_not_young_for_ever() {
        let host = FakeHost::new();
        host.meddle(|world| world.advance(10 * DAY));
        let host = host
            .with_file("/b/etcd-1.db", "x")
            .with_file("/b/etcd-1.json", "x");
        let said = async |back: Duration| {
            let host = host.fork();
            host.meddle(|world| {
                let start = world.now() - world.elapsed() - back;
                world.begin_at(start);
            });
            let said = younger_than(&host, Path::new("/b"), 2 * DAY).await;
            said.expect("it can be told").unwrap_or_default()
        };
        assert_eq!(said(DAY).await, "", "a clock that is a little behind");
        let ahead = said(5 * DAY).await;
        assert!(ahead.contains("no proven backup"), "{ahead}");
    }

    #[tokio::test]
    async fn a_host_that_is_younger_than_the_limit_has_missed_nothing() {
        let host = FakeHost::new().with_file(timer_path(TIMER), "{}");
        let directory = Path::new("/b");
        let look = || younger_than(&host, directory, DAY);
        assert_eq!(look().await.expect("it can be told"), None);
        crate::host::Clock::pause(&host, DAY).await;
        assert!(look().await.expect("it can be told").is_some());
    }

    #[tokio::test]
    async fn room_is_that_for_another_file_as_large() {
        let space = |free| Space {
            free,
            total: 1 << 40,
        };
        let file = Path::new("/data/db");
        for (free, enough) in [(4, true), (3, false)] {
            let host = FakeHost::new()
                .with_file(file, "four")
                .with_space("/b", space(free));
            let said = room_for(&host, Path::new("/b"), file).await;
            assert_eq!(said.expect("it can be told").is_none(), enough, "{free}");
        }
        let nothing = room_for(&FakeHost::new(), Path::new("/b"), file).await;
        assert!(nothing.is_err(), "unknown is unknown");
    }
}
