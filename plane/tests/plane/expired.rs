//! A host whose certificate ends while it is in use.

use std::time::{Duration, SystemTime};

use plane::authority::{Authority, RequestedKey};

use crate::client::{ECHO, Host, carries};
use crate::running::{Plane, until};

/// So long the certificate is in use.
const LIFE: Duration = Duration::from_secs(4);

/// Gives the host a certificate of its own key that ends soon.
fn shorten(plane: &Plane, host: &Host) {
    let key = rcgen::KeyPair::from_pem(&host.identity("host.key")).expect("a key");
    let request = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .expect("a request");
    let key = RequestedKey::read(&request).expect("it is right");
    let authority = Authority::read(&plane.place("")).expect("it is there");
    let now = SystemTime::now();
    let short = authority
        .host(&key, "host-1", "host-1", LIFE, now)
        .expect("it is signed");
    std::fs::write(host.place("comms/current/host.crt"), short.certificate).expect("it is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_go_on_and_new_ones_are_refused_by_name() {
    let plane = Plane::start().await;
    let host = Host::enrolled(&plane, "host-1").await;
    shorten(&plane, &host);
    let comms = host.start().await;
    let mut open = host.connect(ECHO).await;
    assert!(carries(&mut open).await);
    // Sessions from before could be resumed, and connections are in reserve.
    until("it has connections in reserve", async || {
        assert!(host.reaches_echo().await);
        comms.status().listeners.iter().any(|its| its.spares > 0)
    })
    .await;
    until("new connections are refused", async || {
        !host.reaches_echo().await
    })
    .await;
    let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(comms.status().certificate_ends);
    assert!(ends <= SystemTime::now(), "it has ended");
    for _ in 0..3 {
        assert!(!host.reaches_echo().await);
    }
    assert!(carries(&mut open).await, "what is open goes on");
    let status = comms.status();
    let echo = status.listeners.iter().find(|its| its.name == "echo");
    let errors = &echo.expect("it is there").errors;
    let named = |its: &wire::comms::ErrorCount| {
        its.last.contains("CertificateExpired") && its.next.contains("enrol the host again")
    };
    assert!(errors.iter().all(named), "{errors:#?}");
    assert!(!errors.is_empty());
}
