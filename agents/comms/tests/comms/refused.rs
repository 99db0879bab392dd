//! Planes that a host does not talk to, and hosts that a plane does not know. Each is reported with its cause.

use comms::supervisor::Comms;

use crate::ingress::until;
use crate::plane::{Authority, Plane};
use crate::tunnels::{Host, NO_PROXY};

/// What is reported of the only error, and what is to be done. A program may see its end before the tunnel has written the error down.
async fn reported(comms: &Comms) -> String {
    until(async || !comms.status().listeners[0].errors.is_empty()).await;
    let errors = comms.status().listeners[0].errors.clone();
    let all: Vec<String> = errors
        .iter()
        .map(|its| format!("{}: {}; {}", its.cause, its.last, its.next))
        .collect();
    all.join("\n")
}

/// Starts pf9-comms, which reaches a plane in vain.
async fn refused(host: &Host, plane: &Plane) -> String {
    let comms = host.start(plane).await;
    host.echoed(b"x").await.expect_err("it is refused");
    reported(&comms).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let plane = Plane::start(&authority).await;
    let host = Host::new(&authority, &other).await;
    let said = refused(&host, &plane).await;
    assert!(said.contains("invalid peer certificate"), "{said}");
    assert_eq!(plane.clients(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_with_an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let plane = Plane::start_expired(&authority).await;
    let host = Host::new(&authority, &authority).await;
    let said = refused(&host, &plane).await;
    assert!(said.contains("certificate expired"), "{said}");
    assert_eq!(plane.clients(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_with_a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let plane = Plane::start(&authority).await;
    let host = Host::new(&authority, &authority).await;
    let path = host.configure(plane.address, "all", NO_PROXY);
    let text = std::fs::read_to_string(&path).expect("a file");
    let text = text.replace("echo.plane.test", "echo.other.test");
    host.write("comms.yaml", &text, 0o644);
    let comms = Comms::start(&path).await.expect("it starts");
    host.echoed(b"x").await.expect_err("it is refused");
    let said = reported(&comms).await;
    assert!(said.contains("echo.other.test"), "{said}");
    assert!(said.contains("not valid for name"), "{said}");
    assert_eq!(plane.clients(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let plane = Plane::start(&authority).await;
    let host = Host::new(&other, &authority).await;
    let said = refused(&host, &plane).await;
    assert!(said.contains("refused"), "{said}");
    assert_eq!(plane.clients(), [""; 0]);
}
