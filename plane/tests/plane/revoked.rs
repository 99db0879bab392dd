//! A revoked host loses what it has open, and gets nothing new.

use crate::client::{ECHO, Host, Stranger, answer, carries, is_resumed};
use crate::running::{Plane, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_loses_its_connections_and_no_other_does() {
    let plane = Plane::start().await;
    let fingerprint = plane.fingerprint();
    let revoked = Host::new(&plane, "host-1").await;
    let other = Host::new(&plane, "host-2").await;
    for (host, name) in [(&revoked, "host-1"), (&other, "host-2")] {
        host.enrol(&plane.token(&["--host", name]), &fingerprint)
            .await
            .expect("it is enrolled");
    }
    let (mut first, _second) = (revoked.start().await, other.start().await);
    let mut lost = [revoked.connect(ECHO).await, revoked.connect(ECHO).await];
    let mut kept = other.connect(ECHO).await;
    let stranger = Stranger::new(&plane, Some(&revoked));
    for open in &mut lost {
        assert!(carries(open).await);
    }
    assert!(carries(&mut kept).await);
    // A reload of HAProxy leaves these connections with the worker of before.
    plane.reload().await;
    let mut newer = revoked.connect(ECHO).await;
    assert!(carries(&mut newer).await);
    let mut with_session = stranger
        .connect("echo.plane.test")
        .await
        .expect("it is let in");
    assert!(carries(&mut with_session).await);
    let mut again = stranger
        .connect("echo.plane.test")
        .await
        .expect("it is let in");
    assert!(
        carries(&mut again).await && is_resumed(&again),
        "before, it resumes sessions"
    );
    let said = plane.said(&["host", "revoke", "host-1"]);
    assert!(said.contains("Every ingress refuses them"), "{said}");
    for open in lost.iter_mut().chain([&mut newer]) {
        assert!(!carries(open).await, "its connections have ended");
    }
    assert!(!carries(&mut with_session).await);
    assert!(carries(&mut kept).await, "another host's go on");
    assert!(!revoked.reaches_echo().await);
    // Also not with a session from before.
    for _ in 0..4 {
        if let Ok(stream) = stranger.connect("echo.plane.test").await {
            assert_eq!(answer(stream, "ping").await, "");
        }
    }
    assert!(other.reaches_echo().await);
    // Enrolled anew, it is let in again.
    revoked
        .enrol(&plane.token(&["--host", "host-1"]), &fingerprint)
        .await
        .expect("it is enrolled");
    first
        .reload(&revoked.configuration())
        .await
        .expect("it is reloaded");
    assert!(revoked.reaches_echo().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_while_haproxy_was_down_is_refused_when_it_is_up() {
    let mut plane = Plane::start().await;
    let host = Host::new(&plane, "host-1").await;
    host.enrol(&plane.token(&["--host", "host-1"]), &plane.fingerprint())
        .await
        .expect("it is enrolled");
    let _comms = host.start().await;
    assert!(host.reaches_echo().await);
    plane.stop_haproxy().await;
    let revoking = plane.ctl(&["host", "revoke", "no-such-host"]);
    let said = String::from_utf8_lossy(&revoking.stderr).into_owned();
    assert!(
        said.contains("there is no host with this name or id"),
        "{said}"
    );
    let mut revoking = plane.start_ctl(&["host", "revoke", "host-1"]);
    until("the file has it", async || {
        std::fs::read_to_string(plane.place("ingress/revoked.serials"))
            .is_ok_and(|text| !text.is_empty())
    })
    .await;
    plane.start_haproxy().await;
    assert!(!host.reaches_echo().await);
    until("the command ends", async || {
        revoking.try_wait().expect("it runs").is_some()
    })
    .await;
    assert!(revoking.wait().expect("it ended").success());
}
