//! The directory of backups: its names, its content, and how a snapshot gets its final name.
//!
//! `etcd-TIME.db` is a verified snapshot and `etcd-TIME.json` its manifest. The manifest is written first and the snapshot is renamed last,
//! so each snapshot with a final name has been verified and has its manifest. `.etcd-TIME.db.part` is an unfinished snapshot; one that a
//! killed run left is removed by the next run.
//!
//! Not here: how a snapshot is taken and verified (`backup`, `restore_test`), and which backups are removed (`retention`). Start with
//! [`Stored`].

pub(in crate::etcd) mod directory;
pub(in crate::etcd) mod snapshot;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use engine::kubernetes::etcd_backup::{
    BackupManifest, ClusterIdentity, MANIFEST, MANIFEST_LIMIT, SNAPSHOT, name_of,
};

/// Maximum number of files in the directory.
const MOST: usize = 10_000;

/// A snapshot under a final name.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// `etcd-TIME`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// In bytes, as it lies there.
    pub(crate) size: u64,
    /// The manifest, or why there is none that can be used.
    pub(crate) manifest: std::result::Result<BackupManifest, String>,
}

impl Stored {
    /// When it was taken; the Unix epoch if that is not known.
    pub(crate) fn taken(&self) -> SystemTime {
        self.manifest
            .as_ref()
            .ok()
            .and_then(BackupManifest::taken)
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Whether it was verified, and is of this cluster.
    pub(crate) fn is_verified_of(&self, cluster: ClusterIdentity<'_>) -> bool {
        let manifest = self.manifest.as_ref();
        manifest.is_ok_and(|manifest| manifest.is_of(cluster))
    }
}

/// The name of a snapshot that is taken now.
pub(super) fn name(now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now).to_string();
    format!("etcd-{}", time.replace(['-', ':'], ""))
}

/// The path of a snapshot that is not finished.
pub(super) fn part(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!(".{name}.{SNAPSHOT}.part"))
}

/// All snapshots in a directory, the oldest first; none where there is no directory.
pub(crate) fn stored(directory: &Path) -> Result<Vec<Stored>> {
    let mut all = Vec::new();
    for path in files(directory)? {
        let file = path.file_name().and_then(|file| file.to_str());
        let Some(name) = file.and_then(name_of) else {
            continue;
        };
        let size = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
        let beside = path.with_extension(MANIFEST);
        let manifest = daemon::files::read(&beside, MANIFEST_LIMIT)
            .map_err(|error| format!("could not {error:#}"))
            .and_then(|content| BackupManifest::verified(&beside, content.as_deref(), size));
        all.push(Stored {
            name: name.to_owned(),
            size,
            manifest,
            path,
        });
    }
    all.sort_by(|a, b| (a.taken(), &a.name).cmp(&(b.taken(), &b.name)));
    Ok(all)
}

/// Gives a verified snapshot its final name, after its manifest.
///
/// # Errors
/// The name is taken, or the directory cannot be written; older backups are as they were.
pub(super) fn keep(directory: &Path, name: &str, manifest: &BackupManifest) -> Result<PathBuf> {
    let path = directory.join(format!("{name}.{SNAPSHOT}"));
    if path.exists() {
        bail!("keep the snapshot: {} is there already", path.display());
    }
    let beside = path.with_extension(MANIFEST);
    daemon::files::replace(&beside, &serde_json::to_vec_pretty(manifest)?, 0o600)?;
    let keep = || format!("keep the snapshot as {}", path.display());
    if let Err(error) = fs::rename(part(directory, name), &path) {
        let _ = fs::remove_file(&beside);
        return Err(error).with_context(keep);
    }
    // From here on it has its name, and its manifest stays with it.
    daemon::files::sync_directory(directory).with_context(keep)?;
    Ok(path)
}

/// Removes a snapshot and then its manifest.
pub(super) fn remove(stored: &Stored) -> Result<()> {
    for path in [stored.path.clone(), stored.path.with_extension(MANIFEST)] {
        daemon::files::removed(fs::remove_file(&path))
            .with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Removes what killed runs left: snapshots that never got a final name, manifests without a snapshot, and temporary files of manifests.
/// All other files in the directory stay: they are not ours.
pub(super) fn sweep(directory: &Path) -> Result<()> {
    // The caller holds the lock, so no other `nodelet` writes here.
    daemon::files::sweep(directory, Duration::ZERO)?;
    for path in files(directory)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let partial_file = name
            .strip_prefix('.')
            .and_then(|name| name_of(name.strip_suffix(".part")?))
            .is_some_and(is_named_by_us);
        let alone = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .is_some_and(is_named_by_us)
            && path
                .extension()
                .is_some_and(|extension| extension == MANIFEST)
            && !path.with_extension(SNAPSHOT).exists();
        if partial_file || alone {
            tracing::info!("removing {}, which an earlier run left", path.display());
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Whether a name, without its extension, is one that our backups get: `etcd-` and a time.
fn is_named_by_us(stem: &str) -> bool {
    let shape: String = stem
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape == "etcd-00000000T000000Z"
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let list = || format!("list {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(list),
    };
    let mut paths = Vec::new();
    for entry in entries {
        if paths.len() == MOST {
            bail!("{}: it holds more than {MOST} files", list());
        }
        paths.push(entry.with_context(list)?.path());
    }
    Ok(paths)
}

#[cfg(test)]
pub(super) mod tests {
    use engine::kubernetes::etcd_backup::{Content, VERSION, Versions};
    use traced::{RENAMES, is, position};

    use super::*;

    pub(in super::super) fn manifest(taken: SystemTime) -> BackupManifest {
        let time = humantime::format_rfc3339_seconds(taken).to_string();
        BackupManifest {
            version: VERSION,
            taken: time.clone(),
            verified: time,
            revision: 5,
            keys: 3,
            content: Content {
                size: 4,
                sha256: String::new(),
            },
            cluster: "u".to_owned(),
            cluster_id: String::new(),
            encryption_keys: Vec::new(),
            host: "h".to_owned(),
            versions: Versions {
                etcd: "3.4.23".to_owned(),
                nodelet: "0".to_owned(),
                image: "etcd:3".to_owned(),
            },
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn backups_with_manifests_are_listed_from_the_oldest() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        for time in [2_000_000_000, 1_000_000_000] {
            let name = name(at(time));
            fs::write(part(directory, &name), "four").expect("it is written");
            keep(directory, &name, &manifest(at(time))).expect("it is kept");
        }
        let names: Vec<String> = stored(directory)
            .expect("a listing")
            .into_iter()
            .map(|stored| {
                assert!(stored.manifest.is_ok(), "{stored:?}");
                assert_eq!(stored.size, 4);
                stored.name
            })
            .collect();
        assert_eq!(names, ["etcd-20010909T014640Z", "etcd-20330518T033320Z"]);
        let twice = keep(directory, &names[0], &manifest(at(0))).expect_err("it is there");
        assert!(twice.to_string().contains("there already"), "{twice}");
    }

    #[test]
    fn a_kept_snapshot_has_its_name_on_the_disk_after_its_manifest() {
        let test =
            "etcd::store::tests::a_kept_snapshot_has_its_name_on_the_disk_after_its_manifest";
        let Some(calls) = traced::calls(test) else {
            let directory = traced::directory();
            fs::write(part(&directory, "etcd-1"), "four").expect("it is written");
            keep(&directory, "etcd-1", &manifest(at(0))).expect("it is kept");
            return;
        };
        let named = |name: &str| position(&calls, |call| is(call, RENAMES, name), "rename");
        let snapshot = named("etcd-1.db");
        assert!(named("etcd-1.json") < snapshot, "{calls:#?}");
        let rest = &calls[snapshot..];
        position(
            rest,
            |call| is(call, &["fsync"], "."),
            "fsync of the directory",
        );
    }

    #[test]
    fn only_leftovers_of_killed_runs_are_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        let write = |name: &str| fs::write(directory.join(name), "x").expect("it is written");
        for left in [
            ".etcd-20010909T014640Z.db.part",
            "etcd-20020909T014640Z.json",
            ".new-Ab12cd",
        ] {
            write(left);
        }
        for others in [
            "etcd-3.db",
            "etcd-3.json",
            "etcd-notes.json",
            "notes.json",
            ".hidden",
            ".new-foreign",
            "a.db",
        ] {
            write(others);
        }
        sweep(directory).expect("it is swept");
        let mut names: Vec<_> = files(directory)
            .expect("a listing")
            .iter()
            .map(|path| {
                path.file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                ".hidden",
                ".new-foreign",
                "a.db",
                "etcd-3.db",
                "etcd-3.json",
                "etcd-notes.json",
                "notes.json"
            ]
        );
    }

    #[test]
    fn a_snapshot_without_a_usable_manifest_says_why() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            fs::write(directory.path().join(name), text).expect("it is written");
        };
        write("etcd-1.db", "x");
        write("etcd-2.db", "x");
        write("etcd-2.json", "{}");
        let mut newer = manifest(at(0));
        newer.version = VERSION + 1;
        write("etcd-3.db", "x");
        write("etcd-3.json", &serde_json::to_string(&newer).expect("JSON"));
        // One byte, where the manifest says four.
        write("etcd-4.db", "x");
        let cut = serde_json::to_string(&manifest(at(0))).expect("JSON");
        write("etcd-4.json", &cut);
        let said: Vec<String> = stored(directory.path())
            .expect("a listing")
            .into_iter()
            .map(|stored| stored.manifest.expect_err("none is good"))
            .collect();
        assert!(said[0].contains("no manifest"), "{said:?}");
        assert!(said[1].contains("understand"), "{said:?}");
        assert!(said[2].contains("version is 2"), "{said:?}");
        assert!(said[3].contains("it has 1 bytes"), "{said:?}");
    }
}
