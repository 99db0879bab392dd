//! `LiveHost` on real files in a temporary directory.

#![expect(
    clippy::disallowed_methods,
    reason = "a test looks at the machine itself"
)]

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use engine::host::live::LiveHost;
use engine::host::{Attributes, EntryKind, Files, HostError};

/// Owned by the user who runs the test.
fn own(mode: u32) -> Attributes {
    let here = fs::metadata("/proc/self").expect("procfs");
    Attributes {
        mode,
        uid: here.uid(),
        gid: here.gid(),
    }
}

/// Owned by another user, if root runs the test: only root can give a file to another user.
fn of_another(mode: u32) -> Attributes {
    match own(mode) {
        Attributes { uid: 0, .. } => Attributes {
            mode,
            uid: 1000,
            gid: 1001,
        },
        only => only,
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| {
            entry
                .expect("a name")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// A dry run of a user with fewer rights must not refuse what an apply, as root, can write. Root has all rights, so the test says more if
/// another user runs it.
#[tokio::test]
async fn a_prediction_ignores_rights_that_an_apply_has() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("kubelet.conf");
    fs::write(&path, "one").expect("write");
    let allow = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("own file");
    };
    allow(&path, 0o400);
    allow(directory.path(), 0o500);
    let host = LiveHost::new();
    for name in ["kubelet.conf", "new"] {
        let predicted = host.predict_write(&directory.path().join(name), 1).await;
        predicted.expect("root can write it");
    }
    // Otherwise the directory could not be removed.
    allow(directory.path(), 0o700);
}

#[tokio::test]
async fn a_write_is_atomic_and_leaves_no_temporary_file() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("kubelet.conf");
    let host = LiveHost::new();
    for (content, mode) in [("one", 0o640), ("two, longer", 0o4750), ("", 0o600)] {
        host.write(&path, content.as_bytes(), own(mode))
            .await
            .expect("write");
        assert_eq!(
            host.read(&path, 100).await.expect("read").expect("there"),
            content.as_bytes()
        );
        let entry = host.entry(&path).await.expect("entry").expect("there");
        assert_eq!(entry.attributes, own(mode));
        assert_eq!(entry.kind, EntryKind::File(content.len() as u64));
        assert_eq!(names(directory.path()), ["kubelet.conf"]);
    }
}

#[tokio::test]
async fn a_link_is_replaced_by_a_written_file_and_its_target_stays() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (target, link) = (
        directory.path().join("target"),
        directory.path().join("link"),
    );
    fs::write(&target, "old").expect("write");
    symlink(&target, &link).expect("symlink");
    LiveHost::new()
        .write(&link, b"new", own(0o600))
        .await
        .expect("write");
    assert_eq!(fs::read(&target).expect("read"), b"old");
    assert_eq!(fs::read(&link).expect("read"), b"new");
}

#[tokio::test]
async fn a_failed_write_leaves_no_sibling() {
    let directory = tempfile::tempdir().expect("tempdir");
    let taken = directory.path().join("taken");
    fs::create_dir(&taken).expect("mkdir");
    let error = LiveHost::new()
        .write(&taken, b"x", own(0o600))
        .await
        .expect_err("a directory");
    assert_eq!(error.to_string(), format!("write {}", taken.display()));
    assert_eq!(names(directory.path()), ["taken"]);
}

#[tokio::test]
async fn reading_is_bounded_and_absence_is_no_error() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("file");
    fs::write(&path, "12345").expect("write");
    let host = LiveHost::new();
    assert!(host.read(&path, 5).await.expect("read").is_some());
    assert!(matches!(
        host.read(&path, 4).await,
        Err(HostError::TooLarge { limit: 4, .. })
    ));
    for missing in [directory.path().join("no"), path.join("below-a-file")] {
        assert_eq!(host.read(&missing, 1).await.expect("read"), None);
        assert_eq!(host.entry(&missing).await.expect("entry"), None);
        assert!(
            host.list(&missing.join("x"))
                .await
                .expect("list")
                .is_empty()
        );
        host.remove(&missing).await.expect("remove");
        host.remove_tree(&missing).await.expect("remove");
    }
    let error = host
        .read(directory.path(), 1)
        .await
        .expect_err("a directory");
    assert!(matches!(error, HostError::File { .. }), "{error}");
}

#[tokio::test]
async fn reading_a_pipe_does_not_wait_for_a_writer() {
    let directory = tempfile::tempdir().expect("tempdir");
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
    assert!(LiveHost::new().read(&pipe, 10).await.is_err());
}

#[tokio::test]
async fn a_directory_is_created_once_and_its_attributes_are_kept_right() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("pki");
    let host = LiveHost::new();
    for mode in [0o750, 0o750, 0o700] {
        host.create_directory(&path, own(mode))
            .await
            .expect("create");
        assert_eq!(
            fs::metadata(&path).expect("there").permissions().mode() & 0o7777,
            mode
        );
    }
    assert!(
        host.create_directory(&path.join("a/b"), own(0o700))
            .await
            .is_err()
    );
    fs::write(path.join("file"), "").expect("write");
    assert!(
        host.create_directory(&path.join("file"), own(0o700))
            .await
            .is_err()
    );
}

/// The kernel drops setuid bits when the owner changes, and the umask takes bits away when a file is created.
#[tokio::test]
async fn mode_and_owner_are_those_that_were_asked_for() {
    let directory = tempfile::tempdir().expect("tempdir");
    let host = LiveHost::new();
    let written = directory.path().join("written");
    host.write(&written, b"x", of_another(0o4777))
        .await
        .expect("write");
    let appended = directory.path().join("appended");
    host.append(&appended, b"x", of_another(0o666))
        .await
        .expect("append");
    let made = directory.path().join("made");
    host.create_directory(&made, of_another(0o777))
        .await
        .expect("create");
    let changed = directory.path().join("changed");
    fs::write(&changed, "x").expect("write");
    host.set_attributes(&changed, of_another(0o4755))
        .await
        .expect("set");
    for (path, mode) in [
        (&written, 0o4777),
        (&appended, 0o666),
        (&made, 0o777),
        (&changed, 0o4755),
    ] {
        let entry = host.entry(path).await.expect("entry").expect("there");
        assert_eq!(entry.attributes, of_another(mode), "{}", path.display());
    }
}

/// A user who owns the parent directory can put such a link there at any time.
#[tokio::test]
async fn mode_and_owner_are_not_set_through_a_link() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (target, link) = (directory.path().join("etc"), directory.path().join("link"));
    let host = LiveHost::new();
    host.create_directory(&target, own(0o700))
        .await
        .expect("create");
    symlink("etc", &link).expect("symlink");
    let of = |path: &Path| {
        let metadata = fs::symlink_metadata(path).expect("it is there");
        (metadata.mode() & 0o7777, metadata.uid())
    };
    let before = of(&target);
    let mut asked = own(0o755);
    if asked.uid == 0 {
        // Others cannot give their files away.
        asked.uid = 1000;
    }
    host.set_attributes(&link, asked).await.expect("set");
    assert_eq!(of(&target), before);
    assert_eq!(of(&link).1, asked.uid);
    host.create_directory(&link, asked).await.expect("there");
    assert_eq!(of(&target), before);
    host.set_attributes(&target, asked).await.expect("set");
    assert_eq!(of(&target), (0o755, asked.uid));
    let nothing = directory.path().join("nothing");
    assert!(host.set_attributes(&nothing, asked).await.is_err());
}

#[tokio::test]
async fn a_link_takes_the_place_of_a_link_only() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("current");
    let host = LiveHost::new();
    for target in ["v1", "v2"] {
        host.symlink(&path, target).await.expect("symlink");
        let entry = host.entry(&path).await.expect("entry").expect("there");
        assert_eq!(entry.kind, EntryKind::Symlink(target.to_owned()));
    }
    assert_eq!(names(directory.path()), ["current"]);
    let file = directory.path().join("file");
    fs::write(&file, "kept").expect("write");
    assert!(host.symlink(&file, "v1").await.is_err());
    assert_eq!(fs::read(&file).expect("read"), b"kept");
}

#[tokio::test]
async fn removal_of_a_tree_does_not_follow_links() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (kept, tree) = (directory.path().join("kept"), directory.path().join("tree"));
    fs::create_dir_all(tree.join("a/b")).expect("mkdir");
    fs::create_dir(&kept).expect("mkdir");
    fs::write(kept.join("data"), "x").expect("write");
    symlink(&kept, tree.join("a/link")).expect("symlink");
    let host = LiveHost::new();
    let full = host.remove(&tree).await.expect_err("not empty");
    let HostError::File { source, .. } = full else {
        panic!("{full}")
    };
    assert_eq!(source.kind(), io::ErrorKind::DirectoryNotEmpty);
    host.remove_tree(&tree).await.expect("remove");
    assert_eq!(names(directory.path()), ["kept"]);
    assert_eq!(names(&kept), ["data"]);
    // A link at the end of the path goes itself.
    symlink(&kept, &tree).expect("symlink");
    host.remove_tree(&tree).await.expect("remove");
    assert_eq!(names(&kept), ["data"]);
}

#[tokio::test]
async fn a_mount_point_is_never_removed() {
    let host = LiveHost::new();
    let error = host
        .remove_tree(Path::new("/proc"))
        .await
        .expect_err("mounted");
    let HostError::File { source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(
        source.to_string(),
        "/proc is mounted there; unmount it first"
    );
}

#[tokio::test]
async fn room_is_measured_where_the_path_would_be() {
    let directory = tempfile::tempdir().expect("tempdir");
    let space = LiveHost::new()
        .space(&directory.path().join("not/yet"))
        .await
        .expect("space");
    assert!(space.total > 0 && space.free <= space.total);
}
