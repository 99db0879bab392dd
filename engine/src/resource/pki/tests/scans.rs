//! Surveys of certificates.

use std::path::Path;

use super::*;
use crate::resource::pki::{BASE, certificates_in};

#[tokio::test]
async fn all_certificates_are_found_and_none_that_cannot_be_read_is_passed_over() {
    let host = with_certificate().await;
    apply(&host, &admin()).await;
    put(
        &host,
        "/etc/pf9/kube.d/certs/broken/request.crt",
        "garbage",
        0o644,
    );
    put(
        &host,
        "/etc/pf9/kube.d/certs/pair.pem",
        &format!("{}{}", text(&host, KEY), text(&host, CRT)),
        0o600,
    );
    let scan = certificates_in(&host, Path::new(BASE))
        .await
        .expect("it can be listed");
    let found: Vec<String> = scan
        .certificates
        .iter()
        .map(|facts| {
            format!(
                "{} {}",
                facts
                    .path
                    .strip_prefix(BASE)
                    .unwrap_or(&facts.path)
                    .display(),
                facts.subject
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            "ca/cluster/ca.crt CN=kubernetes",
            "certs/admin/ca.crt CN=kubernetes",
            "certs/admin/request.crt O=system:masters, CN=admin",
            "certs/apiserver/ca.crt CN=kubernetes",
            "certs/apiserver/request.crt CN=kube-apiserver",
            "certs/pair.pem CN=kube-apiserver",
        ]
    );
    let broken = Path::new("/etc/pf9/kube.d/certs/broken/request.crt").to_path_buf();
    assert_eq!(
        scan.unreadable,
        [(broken, "it holds no certificate in PEM".to_owned())]
    );
    assert!(!scan.cut_short);
    let json = serde_json::to_value(&scan.certificates[4]).expect("it serializes");
    assert_eq!(json["not_after"], "2026-04-01T00:00:00Z");
}

#[tokio::test]
async fn the_scan_reports_its_limits() {
    let host = with_authority().await;
    let authority = text(&host, CA);
    put(&host, "/srv/1/2/3/4/5/deep.crt", &authority, 0o644);
    let scan = certificates_in(&host, Path::new("/srv"))
        .await
        .expect("it can be listed");
    assert!(scan.cut_short && scan.certificates.is_empty());
    for n in 0..201 {
        put(&host, &format!("/many/{n}.crt"), &authority, 0o644);
    }
    let scan = certificates_in(&host, Path::new("/many"))
        .await
        .expect("it can be listed");
    assert!(scan.cut_short && scan.certificates.len() == 200);
    let scan = certificates_in(&host, Path::new("/nowhere"))
        .await
        .expect("it can be listed");
    assert!(scan.certificates.is_empty() && !scan.cut_short);
}
