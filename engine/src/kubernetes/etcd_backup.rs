//! A backup of etcd as it lies on disk: its names, the manifest beside the snapshot, and whether it counts. Pure: the check of backups and
//! nodelet read the files. Which master takes a backup is in `turn`, and how the others know that it has taken one in `published`.

mod published;
mod turn;

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::model::old_records::{self, OldRecord};

pub use published::{
    BACKUP_TAKEN, is_younger_than, last_published, left_while_younger_than, publish, published_by,
    withdraw,
};
pub use turn::{BACKUP_LEFT, BACKUP_LEFT_LIMIT, LeftBackup, left_to};

/// The timer that makes backups.
pub const TIMER: &str = "etcd-backup";
/// The extension of a snapshot.
pub const SNAPSHOT: &str = "db";
/// The extension of the manifest beside a snapshot.
pub const MANIFEST: &str = "json";
/// Maximum size of a manifest in bytes.
pub const MANIFEST_LIMIT: u64 = 64 * 1024;
/// The version of the format that is written. A newer one is refused, because this release does not know what its manifest says.
pub const VERSION: u32 = 1;

/// The manifest: what the snapshot is, and what was verified of it. Times are RFC 3339, in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupManifest {
    /// The version of the format.
    pub version: u32,
    /// When the snapshot was begun.
    pub taken: String,
    /// When a restore of it had succeeded.
    pub verified: String,
    /// etcd's revision in the snapshot.
    pub revision: i64,
    /// Keys at that revision: as many in etcd as in the restored copy.
    pub keys: u64,
    /// The snapshot that was verified.
    pub content: Content,
    /// The cluster that it is of: the UID of the namespace kube-system.
    pub cluster: String,
    /// `CLUSTER_ID` of the host; empty if it has none.
    pub cluster_id: String,
    /// Names of the keys with which Secrets in the snapshot may be encrypted. The values of these keys are on the host that took it, and
    /// in no backup.
    #[serde(default)]
    pub encryption_keys: Vec<String>,
    /// The host that took it.
    pub host: String,
    /// The programs that made it.
    pub versions: Versions,
}

/// Size and hash of a whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// In bytes.
    pub size: u64,
    /// Of the whole file, as `sha256sum` prints it.
    pub sha256: String,
}

/// The versions of the programs that made a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of etcd.
    pub etcd: String,
    /// Of nodelet.
    pub nodelet: String,
    /// The image of etcd whose programs verified it and can restore it.
    pub image: String,
}

/// What is known of a cluster.
#[derive(Debug, Clone, Copy)]
pub enum ClusterIdentity<'a> {
    /// The UID of its namespace kube-system, which etcd holds.
    Uid(&'a str),
    /// Only its `CLUSTER_ID`, because etcd was not asked or does not answer. A backup is needed most when etcd does not answer.
    Id(&'a str),
}

/// The name of the backup whose snapshot is this file: without its extension. `None` for other files, for hidden files, and for names with
/// control characters, which would reach an operator's terminal.
#[must_use]
pub fn name_of(file: &str) -> Option<&str> {
    let name = file.strip_suffix(SNAPSHOT)?.strip_suffix('.')?;
    let shown = !name.is_empty() && !name.starts_with('.') && !name.chars().any(char::is_control);
    shown.then_some(name)
}

/// Why the newest verified backup in `directory` is too old, and what to do: its age has reached `limit`, or there is none. `None` if it is
/// younger.
#[must_use]
pub fn too_old(newest: Option<Duration>, limit: Duration, directory: &Path) -> Option<String> {
    let directory = directory.display();
    let next = "`nodelet etcd backup` makes one or says what is wrong";
    let Some(age) = newest else {
        return Some(format!(
            "there is no verified backup in {directory}; {next}"
        ));
    };
    reached(age, limit, &format!("in {directory}")).map(|what| format!("{what}; {next}"))
}

/// Why the newest verified backup that another master has published is too old, and what to do. `None` if it is younger than `limit`.
#[must_use]
pub fn published_too_old(master: &str, age: Duration, limit: Duration) -> Option<String> {
    let what = reached(age, limit, &format!("that master {master} has published"))?;
    let next = "`nodelet etcd status` there shows its backups, and `nodelet etcd backup` makes one";
    Some(format!("{what}; {next}"))
}

/// Says that the newest verified backup has reached `limit`. `which` says which one it is. `None` if it is younger.
fn reached(age: Duration, limit: Duration, which: &str) -> Option<String> {
    let text = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs()));
    (age >= limit).then(|| {
        format!(
            "the newest verified backup {which} is {} old, but the limit is {}",
            text(age),
            text(limit)
        )
    })
}

/// The age of a backup that was taken then, for the question whether it is younger than `limit`. `None` if it is dated further in the future
/// than `limit`. The clock was wrong when such a backup was taken, and the backup would count as young for as long as the clock was ahead.
#[must_use]
pub fn age_of(taken: SystemTime, now: SystemTime, limit: Duration) -> Option<Duration> {
    match now.duration_since(taken) {
        Ok(age) => Some(age),
        Err(ahead) => (ahead.duration() <= limit).then_some(Duration::ZERO),
    }
}

impl BackupManifest {
    /// The manifest at `path` with this content, if it says that a snapshot of `size` bytes was verified.
    ///
    /// # Errors
    /// Why it does not: there is none, it is no manifest or one of a newer format, or it is for another snapshot.
    pub fn verified(path: &Path, content: Option<&[u8]>, size: u64) -> Result<Self, String> {
        let content = content.ok_or("it has no manifest: it was not verified here")?;
        let not_understood =
            |why: String| format!("could not understand {}: {why}", path.display());
        let manifest: Self = old_records::read(OldRecord::BackupManifest, content)
            .map_err(|error| not_understood(error.to_string()))?;
        if manifest.version > VERSION {
            return Err(not_understood(format!(
                "its format version is {}, this nodelet supports {VERSION}",
                manifest.version
            )));
        }
        if manifest.content.size != size {
            return Err(format!(
                "it has {size} bytes, and its manifest was written for {}",
                manifest.content.size
            ));
        }
        Ok(manifest)
    }

    /// When the snapshot was begun, if it says so.
    #[must_use]
    pub fn taken(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(&self.taken).ok()
    }

    /// Whether it is of this cluster.
    #[must_use]
    pub fn is_of(&self, cluster: ClusterIdentity<'_>) -> bool {
        match cluster {
            ClusterIdentity::Uid(uid) => self.cluster == uid,
            ClusterIdentity::Id(id) => self.cluster_id.eq_ignore_ascii_case(id),
        }
    }

    /// The age of a backup of `cluster`, for the question whether the newest is younger than `limit`. `None` if the backup does not count:
    /// it is of another cluster, such as an earlier cluster of this host, or it is from the future ([`age_of`]).
    #[must_use]
    pub fn age(
        &self,
        cluster: ClusterIdentity<'_>,
        now: SystemTime,
        limit: Duration,
    ) -> Option<Duration> {
        let taken = self.taken().filter(|_| self.is_of(cluster))?;
        age_of(taken, now, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_known_by_its_file() {
        assert_eq!(name_of("etcd-1.db"), Some("etcd-1"));
        assert_eq!(name_of("a.b.db"), Some("a.b"));
        for other in [
            "etcd-1.json",
            "etcd-1",
            "db",
            ".db",
            "..db",
            ".etcd-1.db",
            ".etcd-1.db.part",
            "etcd-\u{1b}.db",
        ] {
            assert_eq!(name_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_backup_is_too_old_from_its_limit_on() {
        const HOUR: Duration = Duration::from_secs(3600);
        let directory = Path::new("/b");
        let why = too_old(Some(HOUR), HOUR, directory).expect("it is too old");
        let says = "the newest verified backup in /b is 1h old, but the limit is 1h; `nodelet etcd backup`";
        assert!(why.starts_with(says), "{why}");
        let why = published_too_old("cp-2", HOUR, HOUR).expect("it is too old");
        let says = "the newest verified backup that master cp-2 has published is 1h old, but the limit is 1h; ";
        assert!(why.starts_with(says), "{why}");
        let younger = HOUR - Duration::from_millis(1);
        assert_eq!(too_old(Some(younger), HOUR, directory), None);
        assert_eq!(published_too_old("cp-2", younger, HOUR), None);
        assert!(too_old(None, HOUR, directory).is_some());
    }

    #[test]
    fn backups_of_other_clusters_or_from_the_future_do_not_count() {
        const HOUR: Duration = Duration::from_secs(3600);
        let written = r#"{"version":1,"taken":"2026-03-04T03:00:00Z","verified":"2026-03-04T03:00:09Z","revision":5,"keys":3,
            "content":{"size":4,"sha256":""},"cluster":"u","cluster_id":"Lab","host":"h",
            "versions":{"etcd":"3.4.23","nodelet":"0","image":"etcd:3"}}"#;
        let manifest =
            BackupManifest::verified(Path::new("/b/a.json"), Some(written.as_bytes()), 4)
                .expect("it is a manifest");
        let taken = manifest.taken().expect("a time");
        let (uid, id) = (ClusterIdentity::Uid("u"), ClusterIdentity::Id("lab"));
        for own in [uid, id] {
            assert_eq!(manifest.age(own, taken + 5 * HOUR, HOUR), Some(5 * HOUR));
        }
        for other in [ClusterIdentity::Uid("Lab"), ClusterIdentity::Id("u")] {
            assert_eq!(manifest.age(other, taken, HOUR), None, "{other:?}");
        }
        assert_eq!(manifest.age(uid, taken - HOUR, HOUR), Some(Duration::ZERO));
        assert_eq!(manifest.age(uid, taken - 2 * HOUR, HOUR), None);
    }
}
