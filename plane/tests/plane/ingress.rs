//! What the ingress passes on to a service, and what it refuses.

use crate::client::{Host, Stranger, answer};
use crate::running::Plane;

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
