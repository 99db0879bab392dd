//! Hosts are enrolled, reach services, and cannot take the name of another one.

use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use plane::authority::Authority;

use crate::client::{ECHO, Host, REST, Stranger, answer, carries, is_resumed};
use crate::running::Plane;

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_host_reaches_services_and_the_plane_knows_its_name() {
    let plane = Plane::start().await;
    let host = Host::new(&plane, "host-1").await;
    let token = plane.token(&["--host", "host-1"]);
    let told = host
        .enrol(&token, &plane.fingerprint())
        .await
        .expect("it is enrolled");
    let hosts = plane.said(&["host", "list"]);
    let id = hosts
        .lines()
        .nth(1)
        .expect("a host")
        .split_whitespace()
        .next()
        .expect("its id")
        .to_owned();
    assert!(told.contains(&format!("Enrolled host-1 as {id}")), "{told}");
    let key = host
        .place("comms/current/host.key")
        .metadata()
        .expect("a key");
    assert_eq!(key.mode() & 0o777, 0o600);
    for directory in ["comms", "comms/current"] {
        let metadata = host.place(directory).metadata().expect("it is there");
        assert_eq!(metadata.mode() & 0o777, 0o755, "{directory}");
    }
    assert!(!host.place("comms/pending.key").exists());
    let _comms = host.start().await;
    assert!(host.reaches_echo().await);
    let request = "GET / HTTP/1.1\r\nHost: enroll.plane.test\r\nX-PF9-Host-Id: other\r\nx-pf9-host-name: other\r\n\
                   X_PF9_Host_Id: other\r\n\
                   X-Forwarded-For: 1.2.3.4\r\nConnection: close\r\n\r\n";
    let seen = answer(host.connect(REST).await, request)
        .await
        .to_lowercase();
    assert!(seen.contains(&format!("x-pf9-host-id: {id}")), "{seen}");
    for wrong in ["other", "1.2.3.4"] {
        assert!(!seen.contains(wrong), "{seen}");
    }
    // Who has a certificate reaches what its server name says, not what HTTP says.
    assert!(seen.contains("host: enroll.plane.test"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_enrolled_again_keeps_its_id_and_its_connections() {
    let plane = Plane::start().await;
    let host = Host::new(&plane, "host-1").await;
    let fingerprint = plane.fingerprint();
    host.enrol(&plane.token(&["--group", "racks"]), &fingerprint)
        .await
        .expect("it is enrolled");
    let mut comms = host.start().await;
    let mut open = host.connect(ECHO).await;
    assert!(carries(&mut open).await);
    let first = host.identity("host.crt");
    assert!(!comms.has_another_identity());
    host.enrol(&plane.token(&["--host", "host-1"]), &fingerprint)
        .await
        .expect("it is enrolled again");
    assert_ne!(host.identity("host.crt"), first);
    assert!(comms.has_another_identity(), "pf9-comms sees it by itself");
    comms
        .reload(&host.configuration())
        .await
        .expect("it is reloaded");
    assert!(carries(&mut open).await, "an open connection goes on");
    assert!(host.reaches_echo().await);
    let hosts = plane.said(&["host", "list"]);
    assert_eq!(hosts.lines().count(), 2, "{hosts}");
    let identities = std::fs::read_dir(host.place("comms"))
        .expect("a directory")
        .count();
    assert_eq!(identities, 3, "the link, one identity and the lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_reaches_enrolment_only() {
    let plane = Plane::start().await;
    let stranger = Stranger::new(&plane, None);
    let request = "GET /healthz HTTP/1.1\r\nHost: rest.plane.test\r\nConnection: close\r\n\r\n";
    let enroll = stranger
        .connect("enroll.plane.test")
        .await
        .expect("it is let in");
    let said = answer(enroll, request).await;
    assert!(said.ends_with("ok\n"), "{said}");
    // The answers gave it tickets, which it shows under the other names.
    let mut resumed = 0;
    for name in [
        "rest.plane.test",
        "echo.plane.test",
        "other.plane.test",
        "plane.test",
    ] {
        for _ in 0..3 {
            if let Ok(stream) = stranger.connect(name).await {
                resumed += u32::from(is_resumed(&stream));
                assert_eq!(answer(stream, request).await, "", "{name}");
            }
        }
    }
    assert!(
        resumed > 0,
        "a session of enrolment was shown for a service"
    );
    // The other name without a certificate reaches its own service and gives no identity; `Host` changes nothing.
    let console = "GET /page HTTP/1.1\r\nHost: enroll.plane.test\r\nX-PF9-Host-Id: other\r\nConnection: close\r\n\r\n";
    let stream = stranger.connect("console.plane.test").await;
    let said = answer(stream.expect("it is let in"), console).await;
    assert!(said.contains("GET /page"), "{said}");
    assert!(!said.to_lowercase().contains("x-pf9-host"), "{said}");
    for _ in 0..3 {
        if let Ok(stream) = stranger.connect("rest.plane.test").await {
            assert_eq!(answer(stream, request).await, "", "with its session");
        }
    }
    // A host reaches the same name with its certificate.
    let host = Host::enrolled(&plane, "host-1").await;
    let known = Stranger::new(&plane, Some(&host));
    let said = answer(
        known
            .connect("rest.plane.test")
            .await
            .expect("it is let in"),
        request,
    )
    .await;
    assert!(said.contains("/healthz"), "{said}");
    let none = answer(
        known
            .connect("other.plane.test")
            .await
            .expect("TLS is right"),
        request,
    )
    .await;
    assert_eq!(none, "", "there is no such service");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_another_authority_is_refused() {
    let plane = Plane::start().await;
    let other = Plane::start().await;
    let host = Host::enrolled(&other, "host-1").await;
    let stranger = Stranger::new(&plane, Some(&host));
    if let Ok(stream) = stranger.connect("echo.plane.test").await {
        assert_eq!(answer(stream, "ping").await, "");
    }
    // And a host does not take another plane for its own.
    let host = Host::new(&plane, "host-2").await;
    let wrong = host
        .enrol(&plane.token(&["--host", "host-2"]), &other.fingerprint())
        .await;
    let wrong = wrong.expect_err("another plane");
    assert!(wrong.contains("no root with the fingerprint"), "{wrong}");
    assert!(!host.place("comms/current").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_with_a_certificate_of_another_authority_is_refused() {
    let plane = Plane::start().await;
    let host = Host::enrolled(&plane, "host-1").await;
    let (elsewhere, now) = (tempfile::tempdir().expect("a directory"), SystemTime::now());
    std::fs::create_dir(elsewhere.path().join("authority")).expect("it is made");
    let other = Authority::create(elsewhere.path(), "plane.test", now).expect("it is made");
    let certificate = other.server("plane.test", now).expect("it is signed");
    // The plane does not look at it before the next day.
    plane.settled().await;
    let place = plane.place("ingress/server.pem");
    std::fs::write(&place, certificate).expect("it is written");
    plane.reload().await;
    // Started afterwards, it has no session that it could resume: the keys of tickets are those of its plane.
    let comms = host.start().await;
    assert!(!host.reaches_echo().await);
    let status = comms.status();
    let errors = &status.listeners[0].errors;
    // Its root has the same name, and another key.
    let named = |its: &wire::comms::ErrorCount| {
        its.last.contains("invalid peer certificate: BadSignature") && its.next.contains("roots")
    };
    assert!(errors.iter().any(named), "{errors:#?}");
    // Nor is a host enrolled there: it would tell its token.
    let new = Host::new(&plane, "host-2").await;
    let token = plane.token(&["--host", "host-2"]);
    let said = new.enrol(&token, &plane.fingerprint()).await;
    let said = said.expect_err("another root");
    assert!(said.contains("no root with the fingerprint"), "{said}");
    // `planectl init` mends it, and the token was not used.
    plane.said(&["init"]);
    plane.reload().await;
    assert!(host.reaches_echo().await);
    new.enrol(&token, &plane.fingerprint())
        .await
        .expect("it is enrolled");
}
