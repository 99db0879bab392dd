//! What the ingress passes on to a service, and what it refuses.

use std::os::unix::fs::MetadataExt as _;

use crate::client::{Host, Stranger, answer, carries};
use crate::running::{MOST_OF_HOST, Plane, until};

/// An enrolled host.
async fn enrolled(plane: &Plane, name: &str) -> Host {
    let host = Host::new(plane, name).await;
    host.enrol(&plane.token(&["--host", name]), &plane.fingerprint())
        .await
        .expect("it is enrolled");
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_change_nothing_behind_a_service_that_is_read_only() {
    let plane = Plane::start().await;
    let host = enrolled(&plane, "host-1").await;
    let client = Stranger::new(&plane, Some(&host));
    for (name, method, wanted) in [
        ("images", "GET", " 200 "),
        ("images", "HEAD", " 200 "),
        ("images", "POST", " 403 "),
        ("images", "PUT", " 403 "),
        ("images", "PATCH", " 403 "),
        ("images", "DELETE", " 403 "),
        ("images", "get", " 403 "),
        ("rest", "PUT", " 200 "),
    ] {
        let request = format!(
            "{method} /v2/ HTTP/1.1\r\nHost: localhost:5001\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let stream = client.connect(&format!("{name}.plane.test")).await;
        let said = answer(stream.expect("it is let in"), &request).await;
        let status = said.lines().next().unwrap_or_default();
        assert!(status.contains(wanted), "{name}, {method}: {said}");
        // The URLs in the answers of a registry are made of it and of the header `Host`.
        let is_told = said.to_lowercase().contains("x-forwarded-proto");
        assert_eq!(is_told, name == "rest", "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ingress_reads_is_for_its_group_and_nothing_else_is() {
    let plane = Plane::start().await;
    for (place, wanted) in [
        ("ingress", 0o750),
        ("ingress/server.pem", 0o640),
        ("ingress/ticket.keys", 0o640),
        ("authority", 0o700),
        ("authority/root.key", 0o600),
        ("plane.db", 0o600),
    ] {
        let metadata = plane.place(place).metadata().expect("it is there");
        assert_eq!(metadata.mode() & 0o777, wanted, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_takes_no_place_of_other_hosts() {
    let plane = Plane::start().await;
    let (greedy, other) = (
        enrolled(&plane, "host-1").await,
        enrolled(&plane, "host-2").await,
    );
    let client = Stranger::new(&plane, Some(&greedy));
    let mut open = Vec::new();
    for _ in 0..MOST_OF_HOST {
        let mut stream = client
            .connect("echo.plane.test")
            .await
            .expect("it is let in");
        assert!(carries(&mut stream).await);
        open.push(stream);
    }
    let one_more = async || match client.connect("echo.plane.test").await {
        Ok(mut stream) => carries(&mut stream).await,
        Err(_) => false,
    };
    assert!(!one_more().await);
    let of_other = Stranger::new(&plane, Some(&other));
    let stream = of_other.connect("echo.plane.test").await;
    assert!(carries(&mut stream.expect("it is let in")).await);
    assert!(carries(&mut open[0]).await, "what is open goes on");
    drop(open);
    until("its connections have ended", one_more).await;
}
