//! `/var/opt/pf9/kube_status`: what hostagent and people read, with the fields of the original nodelet.
//!
//! Written whole or not at all, 0640. If there is no room for a new file beside the old one, the old one is removed first: a reader finds no
//! file, but never an old `ok`. A file that is lost or cannot be read is written again from what passes see; nothing else is changed for
//! it. An empty directory in its place is removed; a directory with entries stays, because they are not ours, and is reported.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Path of the file.
pub(in crate::nodeletd) const PATH: &str = "/var/opt/pf9/kube_status";
/// Bound on the file.
const LIMIT: u64 = 256 * 1024;
/// The file system, or the quota, has no blocks or no inodes left.
const LACKS_ROOM: [ErrorKind; 2] = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
/// Time after which a failure that did not come again is forgotten, in seconds.
const FORGET: i64 = 600;

/// The state of the node as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NodeState {
    /// As desired.
    Ok,
    /// Attempt 1, or not as desired without an attempt.
    #[default]
    Converging,
    /// Attempts 2 to 10.
    Retrying,
    /// From attempt 11.
    Failed,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::nodeletd) struct KubeStatus {
    /// `"true"` while the role is up, `"false"` otherwise.
    pub(in crate::nodeletd) pf9_kube_service_state: String,
    pub(in crate::nodeletd) pf9_kube_node_state: NodeState,
    /// Attempts since the host was last healthy.
    pub(in crate::nodeletd) pf9_kube_start_attempt: u32,
    pub(in crate::nodeletd) pf9_cluster_id: String,
    pub(in crate::nodeletd) pf9_cluster_role: String,
    /// Phases with checks.
    pub(in crate::nodeletd) all_status_checks: Vec<String>,
    /// All phases.
    pub(in crate::nodeletd) all_tasks: Vec<String>,
    /// Phases whose checks all hold.
    pub(in crate::nodeletd) completed_tasks: Vec<String>,
    pub(in crate::nodeletd) current_status_check: String,
    pub(in crate::nodeletd) current_task: String,
    pub(in crate::nodeletd) last_failed_status_check: String,
    /// Seconds since 1970.
    pub(in crate::nodeletd) last_failed_status_time: i64,
    pub(in crate::nodeletd) last_failed_task: String,
    /// When the last status pass ended, seconds since 1970.
    pub(in crate::nodeletd) status_check_timestamp: i64,
}

impl Default for KubeStatus {
    fn default() -> Self {
        Self {
            pf9_kube_service_state: "false".to_owned(),
            pf9_kube_node_state: NodeState::Converging,
            pf9_kube_start_attempt: 0,
            pf9_cluster_id: String::new(),
            pf9_cluster_role: "none".to_owned(),
            all_status_checks: Vec::new(),
            all_tasks: Vec::new(),
            completed_tasks: Vec::new(),
            current_status_check: String::new(),
            current_task: String::new(),
            last_failed_status_check: String::new(),
            last_failed_status_time: 0,
            last_failed_task: String::new(),
            status_check_timestamp: 0,
        }
    }
}

/// The file on disk, and the content that we wrote last. Clones are for the same file.
#[derive(Debug, Clone)]
pub(in crate::nodeletd) struct StatusFile {
    path: PathBuf,
    written: Arc<Mutex<Vec<u8>>>,
    /// Whether we have removed the file, and have not written it again.
    is_removed: Arc<AtomicBool>,
}

impl StatusFile {
    pub(in crate::nodeletd) fn at(path: PathBuf) -> Self {
        Self {
            path,
            written: Arc::default(),
            is_removed: Arc::default(),
        }
    }

    pub(in crate::nodeletd) fn path(&self) -> &Path {
        &self.path
    }

    /// The last status, as [`KubeStatus::read`] gives it.
    pub(in crate::nodeletd) fn read(&self) -> KubeStatus {
        KubeStatus::read(&self.path)
    }

    /// Writes it whole or not at all. If the file system has no room, the old file is gone afterwards.
    ///
    /// # Errors
    /// The directory cannot be made or written to, or has no room.
    pub(in crate::nodeletd) fn write(&self, status: &KubeStatus) -> Result<()> {
        self.write_by(status, daemon::files::replace)
    }

    /// The same with a function that replaces a file.
    fn write_by(
        &self,
        status: &KubeStatus,
        replace: impl Fn(&Path, &[u8], u32) -> Result<()>,
    ) -> Result<()> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut text = serde_json::to_vec_pretty(status)?;
        text.push(b'\n');
        // Noted first, so that the watch of the file finds that the new content is ours.
        self.written().clone_from(&text);
        let mut written = replace(&self.path, &text, 0o640);
        if let Err(error) = &written
            && has_kind(error, &LACKS_ROOM)
        {
            // The old file has the inode and the room that the new one needs. Noted first, so that the watch does not take its absence for
            // a change by others.
            self.is_removed.store(true, Ordering::Release);
            if std::fs::remove_file(&self.path).is_ok() {
                written = replace(&self.path, &text, 0o640);
            }
        }
        // The kernel removes no directory that has entries.
        if let Err(error) = &written
            && has_kind(error, &[ErrorKind::IsADirectory])
            && std::fs::remove_dir(&self.path).is_ok()
        {
            let path = self.path.display();
            tracing::warn!("an empty directory was in the place of {path}; it is removed");
            written = replace(&self.path, &text, 0o640);
        }
        if written.is_ok() {
            self.is_removed.store(false, Ordering::Release);
        }
        written
    }

    /// Whether the file has the content that we wrote last, or is not there because we removed it.
    pub(in crate::nodeletd) fn is_as_written(&self) -> bool {
        match daemon::files::read(&self.path, LIMIT) {
            Ok(Some(on_disk)) => on_disk == *self.written(),
            Ok(None) => self.is_removed.load(Ordering::Acquire),
            Err(_) => false,
        }
    }

    fn written(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a write has failed for one of these reasons.
fn has_kind(error: &anyhow::Error, kinds: &[ErrorKind]) -> bool {
    let kind = error.downcast_ref::<Error>().map(Error::kind);
    kind.is_some_and(|kind| kinds.contains(&kind))
}

impl KubeStatus {
    /// Reads the file in its present form or the old one of `key value` lines; the defaults if it is not there or is
    /// garbage.
    pub(in crate::nodeletd) fn read(path: &Path) -> Self {
        match daemon::files::read(path, LIMIT) {
            Ok(Some(content)) => Self::parse(&content),
            Ok(None) => Self::default(),
            Err(error) => {
                tracing::warn!("starting without the last status: {error:#}");
                Self::default()
            }
        }
    }

    fn parse(content: &[u8]) -> Self {
        match serde_json::from_slice(content) {
            Ok(Value::Object(fields)) => Self::from_fields(fields),
            _ => Self::from_lines(content),
        }
    }

    /// Reads field by field: a field of another type gets its default, and does not affect the others.
    fn from_fields(mut fields: Map<String, Value>) -> Self {
        let mut status = Self::default();
        let Ok(Value::Object(mut taken)) = serde_json::to_value(&status) else {
            return status;
        };
        let names: Vec<String> = taken.keys().cloned().collect();
        for name in names {
            let Some(field) = fields.remove(&name) else {
                continue;
            };
            let usual = taken.insert(name.clone(), field);
            match serde_json::from_value(Value::Object(taken.clone())) {
                Ok(understood) => status = understood,
                Err(_) => {
                    taken.extend(usual.map(|usual| (name, usual)));
                }
            }
        }
        status
    }

    /// The form before JSON: a key, a blank, a value.
    fn from_lines(content: &[u8]) -> Self {
        let mut status = Self::default();
        for line in String::from_utf8_lossy(content).lines() {
            let Some((key, value)) = line.trim().split_once(' ') else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            match key {
                "pf9_kube_service_state" if matches!(value, "true" | "false") => {
                    value.clone_into(&mut status.pf9_kube_service_state);
                }
                "pf9_kube_start_attempt" => {
                    status.pf9_kube_start_attempt = value.parse().unwrap_or(0);
                }
                "pf9_cluster_id" => value.clone_into(&mut status.pf9_cluster_id),
                "pf9_cluster_role" => value.clone_into(&mut status.pf9_cluster_role),
                _ => {}
            }
        }
        status
    }

    /// The state after so many attempts; 0 means that the host is as desired.
    pub(in crate::nodeletd) fn state_after(attempts: u32) -> NodeState {
        match attempts {
            0 => NodeState::Ok,
            1 => NodeState::Converging,
            2..=10 => NodeState::Retrying,
            _ => NodeState::Failed,
        }
    }

    /// Forgets a failed check that has not come again for ten minutes.
    pub(in crate::nodeletd) fn forget_old_failure(&mut self) {
        let since = self
            .status_check_timestamp
            .saturating_sub(self.last_failed_status_time);
        if since >= FORGET {
            self.last_failed_status_check.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_original_are_kept() {
        let json = serde_json::to_value(KubeStatus::default()).expect("JSON");
        let mut names: Vec<&String> = json.as_object().expect("an object").keys().collect();
        names.sort();
        assert_eq!(
            names,
            [
                "all_status_checks",
                "all_tasks",
                "completed_tasks",
                "current_status_check",
                "current_task",
                "last_failed_status_check",
                "last_failed_status_time",
                "last_failed_task",
                "pf9_cluster_id",
                "pf9_cluster_role",
                "pf9_kube_node_state",
                "pf9_kube_service_state",
                "pf9_kube_start_attempt",
                "status_check_timestamp",
            ]
        );
        assert_eq!(json["pf9_kube_node_state"], "converging");
    }

    #[test]
    fn states_go_with_attempts() {
        let states: Vec<NodeState> = [0, 1, 2, 10, 11, 500].map(KubeStatus::state_after).to_vec();
        use NodeState::{Converging, Failed, Ok, Retrying};
        assert_eq!(states, [Ok, Converging, Retrying, Retrying, Failed, Failed]);
    }

    #[test]
    fn the_old_form_is_read() {
        let old = b"pf9_kube_service_state true\npf9_cluster_id \"\"\npf9_kube_start_attempt many\npf9_cluster_role master\nall_tasks a,b\n";
        let status = KubeStatus::parse(old);
        assert_eq!(status.pf9_kube_service_state, "true");
        assert_eq!(status.pf9_cluster_id, "");
        assert_eq!(status.pf9_cluster_role, "master");
        assert_eq!(status.pf9_kube_start_attempt, 0);
    }

    #[test]
    fn a_field_of_a_wrong_type_does_not_invalidate_other_fields() {
        let odd = br#"{"pf9_kube_start_attempt": "many", "pf9_cluster_id": "c", "all_tasks": {"a": 1},
            "pf9_kube_node_state": "ok", "last_failed_status_time": 7, "unknown": [], "pf9_cluster_role": null}"#;
        let read = KubeStatus {
            pf9_cluster_id: "c".to_owned(),
            pf9_kube_node_state: NodeState::Ok,
            last_failed_status_time: 7,
            ..KubeStatus::default()
        };
        assert_eq!(KubeStatus::parse(odd), read);
    }

    #[test]
    fn damaged_and_truncated_state_files_count_as_missing() {
        let whole = serde_json::to_vec(&KubeStatus::default()).expect("JSON");
        for content in [
            &b"\xff\xfe\0garbage"[..],
            b"",
            b"{",
            &whole[..whole.len() / 2],
            b"[1,2]",
        ] {
            assert_eq!(KubeStatus::parse(content), KubeStatus::default());
        }
    }

    #[test]
    fn it_is_written_atomically_and_privately() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pf9/kube_status");
        let status = KubeStatus {
            pf9_kube_start_attempt: 7,
            ..KubeStatus::default()
        };
        let file = StatusFile::at(path.clone());
        file.write(&status).expect("it is written");
        assert_eq!(file.read(), status);
        assert!(file.is_as_written());
        let mode = path.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        std::fs::remove_file(&path).expect("another program removes it");
        assert!(!file.is_as_written());
    }

    /// Without inodes, other agents would read `ok` for as long as there are none.
    #[test]
    fn an_old_ok_does_not_stay_on_a_file_system_without_room() {
        use anyhow::Context as _;
        let directory = tempfile::tempdir().expect("a directory");
        let file = StatusFile::at(directory.path().join("kube_status"));
        let ok = KubeStatus {
            pf9_kube_node_state: NodeState::Ok,
            ..KubeStatus::default()
        };
        let lacks = |kind: ErrorKind| Err::<(), _>(Error::from(kind)).context("write it");
        // Another cause, a read-only disk for example: the file stays, and the daemon reports that it is old.
        file.write(&ok).expect("it is written");
        let read_only = |_: &Path, _: &[u8], _: u32| lacks(ErrorKind::ReadOnlyFilesystem);
        assert!(file.write_by(&KubeStatus::default(), read_only).is_err());
        assert_eq!(file.read(), ok);
        // The old file has the only inode.
        let only_one = |path: &Path, content: &[u8], mode: u32| match path.exists() {
            true => lacks(ErrorKind::StorageFull),
            false => daemon::files::replace(path, content, mode),
        };
        let written = file.write_by(&KubeStatus::default(), only_one);
        written.expect("the inode of the old file is used again");
        assert_eq!(file.read(), KubeStatus::default());
        assert!(file.is_as_written());
        // Another process took the room.
        file.write(&ok).expect("it is written");
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            let none = |_: &Path, _: &[u8], _: u32| lacks(kind);
            assert!(file.write_by(&KubeStatus::default(), none).is_err());
            assert!(!file.path().exists(), "{kind}");
            assert!(file.is_as_written(), "its absence is no change by others");
        }
        // Once it is written again, its absence is a change by others.
        file.write(&ok).expect("it is written");
        std::fs::remove_file(file.path()).expect("another program removes it");
        assert!(!file.is_as_written());
    }

    #[test]
    fn an_empty_directory_makes_way_for_the_file_and_one_with_entries_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = StatusFile::at(directory.path().join("kube_status"));
        std::fs::create_dir_all(file.path().join("theirs")).expect("they are made");
        let error = file.write(&KubeStatus::default());
        let error = format!("{:#}", error.expect_err("the place is taken"));
        assert!(error.contains("Is a directory"), "{error}");
        assert!(file.path().join("theirs").is_dir());
        assert!(!file.is_as_written());
        std::fs::remove_dir(file.path().join("theirs")).expect("it is removed");
        file.write(&KubeStatus::default()).expect("it is written");
        assert!(file.path().is_file());
        assert!(file.is_as_written());
        let left = directory.path().read_dir().expect("a listing");
        assert_eq!(left.count(), 1, "no temporary file is left");
    }

    #[test]
    fn changes_by_others_are_distinguished_from_ours() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = StatusFile::at(directory.path().join("kube_status"));
        file.write(&KubeStatus::default()).expect("it is written");
        std::fs::write(file.path(), "rubbish").expect("it is written");
        assert!(!file.is_as_written());
        file.write(&KubeStatus::default()).expect("it is written");
        assert!(file.is_as_written());
        std::fs::remove_file(file.path()).expect("it is removed");
        assert!(!file.is_as_written());
    }

    #[test]
    fn an_old_failure_is_forgotten() {
        let mut status = KubeStatus {
            last_failed_status_check: "etcd".to_owned(),
            last_failed_status_time: 1000,
            status_check_timestamp: 1599,
            ..KubeStatus::default()
        };
        status.forget_old_failure();
        assert_eq!(status.last_failed_status_check, "etcd");
        status.status_check_timestamp = 1600;
        status.forget_old_failure();
        assert_eq!(status.last_failed_status_check, "");
    }
}
