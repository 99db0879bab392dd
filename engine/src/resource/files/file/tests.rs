//! Copies and sockets.

use std::path::Path;

use super::*;
use crate::host::Files as _;
use crate::host::fake::FakeHost;
use crate::resource::tests::{apply_in, context};

/// Converges a copy of `/etc/a`; returns the change.
async fn copy(host: &FakeHost) -> ResourceResult<Option<Change>> {
    let file = FileSpec {
        path: "/etc/b".into(),
        source: FileSource::Copy("/etc/a".into()),
        attributes: PRIVATE,
        owner: Owner::default(),
        create_only: false,
        secret: true,
        unit: false,
    };
    apply_in(&context(host), &file, &mut Receipt::default()).await
}

/// A service that stops leaves its socket file.
#[tokio::test]
async fn a_socket_goes_and_a_pipe_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("it is made"));
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("it is made");
    let host = crate::host::live::LiveHost::new();
    let cx = Context {
        absent: true,
        ..context(&host)
    };
    for (path, stays) in [(socket, false), (pipe, true)] {
        let file = FileSpec {
            path,
            source: FileSource::Text(Text::Known(String::new())),
            attributes: PRIVATE,
            owner: Owner::default(),
            create_only: false,
            secret: false,
            unit: false,
        };
        let mut receipt = Receipt::default();
        let converged = apply_in(&cx, &file, &mut receipt).await;
        assert_ne!(converged.as_ref().ok(), Some(&None), "it is to go");
        assert_eq!(converged.is_err(), stays, "{converged:?}");
        assert_eq!(file.path.exists(), stays);
        assert!(receipt.undos.is_empty());
    }
}

#[tokio::test]
async fn a_copy_follows_its_source_and_shows_no_secret() {
    let host = FakeHost::new().with_file("/etc/a", "one");
    let text = |host: &FakeHost| host.with_world(|world| world.text("/etc/b"));
    copy(&host).await.expect("it is copied");
    assert_eq!(text(&host).as_deref(), Some("one"));
    assert_eq!(copy(&host).await.expect("it is the same"), None);
    host.with_world_mut(|world| world.file("/etc/a", "two"));
    let change = copy(&host).await.expect("it is copied").expect("a change");
    assert_eq!(text(&host).as_deref(), Some("two"));
    assert!(
        change.text.is_none() && change.digest.is_none(),
        "{change:?}"
    );
}

#[tokio::test]
async fn a_source_that_is_not_there_or_not_known_is_waited_for() {
    let host = FakeHost::new();
    let error = copy(&host).await.expect_err("there is none").to_string();
    assert!(error.contains("/etc/a is not there yet"), "{error}");
    let marked = host
        .mark_unknown(Path::new("/etc/a"), "a key is random")
        .await;
    marked.expect("it is simulated");
    let error = copy(&host).await.expect_err("not known").to_string();
    assert!(error.contains("/etc/a is known after apply"), "{error}");
}

#[tokio::test]
async fn a_kept_private_file_has_no_digest_in_a_change() {
    let host = FakeHost::new();
    host.with_world_mut(|world| world.file_with_mode("/etc/a", "hunter2", 0o600));
    let file = FileSpec {
        path: "/etc/a".into(),
        source: FileSource::Text(Text::Known(String::new())),
        attributes: Attributes::root(0o640),
        owner: Owner::default(),
        create_only: true,
        secret: false,
        unit: false,
    };
    let observed = file.observe(&context(&host)).await.expect("it is there");
    let change = file.diff(&observed, false).expect("another mode");
    assert!(
        change.text.is_none() && change.digest.is_none(),
        "{change:?}"
    );
}
