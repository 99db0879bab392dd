//! Tests of what reaches the disk, in which order, and of writes on a disk that hangs. They look at the system calls of this very program,
//! with `strace`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use traced::{RENAMES, SYNCS, is, position};

use super::atomic;
use super::effects::{Effects, Fence};
use crate::host::live::LiveHost;
use crate::host::live::docker::pending_loads;
use crate::host::{Attributes, Files as _, HostError};
use crate::resource::{Undo, revert_each};

fn own(mode: u32) -> Attributes {
    let here = fs::metadata("/proc/self").expect("procfs");
    Attributes {
        mode,
        uid: here.uid(),
        gid: here.gid(),
    }
}

#[test]
fn a_written_file_is_synced_before_the_rename_and_the_rename_before_success() {
    let test = "host::live::files::durable::a_written_file_is_synced_before_the_rename_and_the_rename_before_success";
    let Some(calls) = traced::calls(test) else {
        let path = traced::directory().join("a");
        atomic::write(&path, b"content", own(0o600)).expect("it is written");
        return;
    };
    let made = ".nodelet-a.part";
    let written = position(&calls, |call| is(call, &["write"], made), "write");
    let synced = position(&calls, |call| is(call, SYNCS, made), "fsync of the file");
    let renamed = position(&calls, |call| is(call, RENAMES, "a"), "rename");
    let named = position(
        &calls,
        |call| is(call, &["fsync"], "."),
        "fsync of the directory",
    );
    assert!(
        written < synced && synced < renamed && renamed < named,
        "{calls:#?}"
    );
}

#[test]
fn an_appended_line_is_synced_before_success() {
    let test = "host::live::files::durable::an_appended_line_is_synced_before_success";
    let Some(calls) = traced::calls(test) else {
        let path = traced::directory().join("a");
        atomic::append(&path, b"line", own(0o600)).expect("it is written");
        return;
    };
    let named = position(
        &calls,
        |call| is(call, &["fsync"], "."),
        "fsync of the directory",
    );
    let written = position(&calls, |call| is(call, &["write"], "a"), "write");
    let synced = position(&calls, |call| is(call, SYNCS, "a"), "fsync of the file");
    assert!(named < written && written < synced, "{calls:#?}");
}

#[test]
fn a_link_is_synced_before_success() {
    let test = "host::live::files::durable::a_link_is_synced_before_success";
    let Some(calls) = traced::calls(test) else {
        let path = traced::directory().join("a");
        atomic::link(&path, "target", &Fence::open()).expect("it is made");
        return;
    };
    let renamed = position(&calls, |call| is(call, RENAMES, "a"), "rename");
    let named = position(
        &calls,
        |call| is(call, &["fsync"], "."),
        "fsync of the directory",
    );
    assert!(renamed < named, "{calls:#?}");
}

#[test]
fn a_name_that_is_new_or_gone_is_synced_before_success() {
    let test = "host::live::files::durable::a_name_that_is_new_or_gone_is_synced_before_success";
    let Some(calls) = traced::calls(test) else {
        let path = |name: &str| traced::directory().join(name);
        super::create_directory(&path("made"), own(0o700)).expect("it is made");
        super::remove(&path("made")).expect("it is removed");
        fs::write(path("file"), "x").expect("it is written");
        super::remove(&path("file")).expect("it is removed");
        fs::create_dir(path("tree")).expect("it is made");
        super::tree::remove(&path("tree")).expect("it is removed");
        return;
    };
    for (changes, name) in [
        (&["mkdir"][..], "made"),
        (&["rmdir"], "made"),
        (&["unlink"], "file"),
        (&["rmdir", "unlinkat"], "tree"),
    ] {
        let at = position(&calls, |call| is(call, changes, name), name);
        let next = calls.get(at + 1).map(String::as_str);
        assert_eq!(next, Some("fsync ."), "{changes:?} {name}: {calls:#?}");
    }
}

#[test]
fn an_image_is_synced_before_its_load_is_complete() {
    let test = "host::live::files::durable::an_image_is_synced_before_its_load_is_complete";
    let Some(calls) = traced::calls(test) else {
        let state = traced::directory();
        let archive = Path::new("/payload/etcd.tar");
        pending_loads::begin_in(&state, archive, &["etcd:1".to_owned()]).expect("it is noted");
        pending_loads::end_in(&state, archive, &state).expect("it is noted");
        return;
    };
    let synced = position(&calls, |call| is(call, &["syncfs"], "."), "syncfs");
    let mark = |call: &str| call.starts_with("unlink") && call.contains("loading-");
    let gone = calls.iter().rposition(|call| mark(call));
    let gone = gone.unwrap_or_else(|| panic!("the mark stays: {calls:#?}"));
    assert!(synced < gone, "{calls:#?}");
    let rest = &calls[gone..];
    position(
        rest,
        |call| is(call, &["fsync"], "."),
        "fsync of the directory",
    );
}

/// Paths at which a write stops right before its rename, and what it waits for there.
static HANGS: Mutex<BTreeMap<PathBuf, mpsc::Receiver<()>>> = Mutex::new(BTreeMap::new());

/// Hangs like a disk, at the paths that a test has registered.
pub(in crate::host::live) fn before_rename(path: &Path) {
    let hangs = HANGS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(path);
    if let Some(hangs) = hangs {
        // An error means that the test is over.
        let _ = hangs.recv();
    }
}

fn hang(path: &Path) -> mpsc::Sender<()> {
    let (go, gone) = mpsc::channel();
    let mut all = HANGS.lock().unwrap_or_else(PoisonError::into_inner);
    all.insert(path.to_owned(), gone);
    go
}

fn host(timeout: Duration) -> LiveHost {
    LiveHost {
        effects: Effects::default().with_timeout(timeout),
        ..LiveHost::new()
    }
}

/// Short, because a test waits for all of it while the disk hangs.
const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);
/// On a busy machine a change begins only after a while. What has not begun takes no effect.
const BEGUN: Duration = Duration::from_secs(2);

/// A write on a disk that hangs is given up and rolled back; then the disk works again.
#[tokio::test]
async fn a_write_that_timed_out_takes_no_effect_after_its_rollback() {
    let directory = tempfile::tempdir().expect("a directory");
    let (new, old) = (directory.path().join("new"), directory.path().join("old"));
    fs::write(&old, "before").expect("written");
    let before = host(LONG)
        .entry(&old)
        .await
        .expect("a look")
        .expect("there");
    let host = Arc::new(host(LONG));
    for path in [&new, &old] {
        let go = hang(path);
        let write = host.write(path, b"after", own(0o600));
        assert!(
            tokio::time::timeout(SHORT, write).await.is_err(),
            "it hangs"
        );
        let undo = match path == &new {
            true => Undo::RemoveFile { path: path.clone() },
            false => Undo::RestoreFile {
                path: path.clone(),
                content: crate::resource::SavedContent::new(b"before".to_vec()),
                attributes: before.attributes,
            },
        };
        for (undo, result) in revert_each(&[undo], &*host).await {
            result.unwrap_or_else(|error| panic!("{undo:?}: {error}"));
        }
        go.send(()).expect("the write waits");
        // A second write of the same path waits for the end of the first.
        let other = path.with_file_name("other");
        host.write(&other, b"x", own(0o600))
            .await
            .expect("it is free");
        host.effects
            .wait("write", path, super::effects::PathPurpose::Replace)
            .await
            .expect("it ends");
    }
    assert!(!new.exists(), "it was taken back");
    assert_eq!(fs::read_to_string(&old).expect("text"), "before");
    let mut names: Vec<_> = (directory.path().read_dir().expect("a listing"))
        .map(|entry| entry.expect("a name").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["old", "other"], "nothing half written is left");
}

/// If the change itself hangs (here it opens a pipe without a reader), it is unknown whether the change takes effect.
#[tokio::test]
async fn a_hanging_change_is_not_reported_as_reverted() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let host = host(SHORT);
    let append = host.append(&path, b"line", own(0o600));
    assert!(
        tokio::time::timeout(BEGUN, append).await.is_err(),
        "it hangs"
    );
    let undos = [Undo::RemoveFile { path: path.clone() }];
    let undone = revert_each(&undos, &host).await;
    let [(_, Err(error))] = undone.as_slice() else {
        panic!("it was reported as taken back: {undone:?}");
    };
    let message = error.to_string();
    assert!(message.contains("is still in progress after"), "{message}");
    let looked = host.entry(&path).await;
    assert!(
        matches!(looked, Err(HostError::InProgress { .. })),
        "{looked:?}"
    );
    // The disk works again: the pipe gets a reader.
    let reader = path.clone();
    let read = tokio::task::spawn_blocking(move || fs::read_to_string(reader));
    let host = LiveHost {
        effects: host.effects.with_timeout(LONG),
        ..LiveHost::new()
    };
    let undone = revert_each(&undos, &host).await;
    assert!(
        undone.iter().all(|(_, result)| result.is_ok()),
        "{undone:?}"
    );
    assert!(!path.exists());
    assert_eq!(read.await.expect("it ends").expect("it is text"), "line");
}
