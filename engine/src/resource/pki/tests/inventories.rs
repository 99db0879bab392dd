//! What `nodelet certs` lists.

use super::*;
use crate::resource::pki::{Kind, inventory};

#[tokio::test]
async fn all_are_listed_with_their_users_and_no_key() {
    let host = with_certificate().await;
    apply(&host, &admin()).await;
    apply(&host, &admin_kubeconfig()).await;
    put(
        &host,
        "/etc/pf9/kube.d/certs/odd/request.crt",
        "none",
        0o644,
    );
    let inventory = inventory(&host).await.expect("it can be read");
    let lines: Vec<String> = inventory
        .certificates
        .iter()
        .map(|one| {
            let days = one.seconds_left / DAY.as_secs();
            format!("{:?} {} {days} {:?}", one.kind, one.name, one.component)
        })
        .collect();
    assert_eq!(
        lines,
        [
            "Authority cluster 3651 None",
            "Certificate admin 89 Some(\"admin\")",
            "Certificate apiserver 89 Some(\"kube-apiserver\")",
            "Kubeconfig admin 89 None",
            "Trust admin 3651 None",
            "Trust apiserver 3651 None",
        ]
    );
    assert!(inventory.certificates[0].due.is_none());
    assert_eq!(inventory.certificates[1].kind, Kind::Certificate);
    assert!(inventory.certificates[1].due.is_some());
    assert_eq!(inventory.unreadable.len(), 1);
    let json = serde_json::to_string(&inventory).expect("it is data");
    assert!(!json.contains("PRIVATE"), "{json}");
}
