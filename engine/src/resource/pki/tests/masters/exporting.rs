//! What a master exports, and when it refuses.

use super::*;
use crate::resource::pki::Rotation;

async fn refusal(host: &FakeHost) -> ResourceError {
    let mut file = MasterJoinFile::new(NODE, API, 1);
    let error = export_keys(host, &mut file).await.expect_err("it refuses");
    assert!(file.authorities.is_empty(), "nothing is exported");
    error
}

#[tokio::test]
async fn only_a_master_with_all_keys_exports_them() {
    let master = first_master().await;
    let before = master.snapshot();
    let (_, public) = host_with_identity();
    exported(&master)
        .await
        .seal(&public)
        .expect("it is complete");
    assert!(master.snapshot() == before, "it changes nothing");
    let error = refusal(&FakeHost::new()).await;
    assert!(error.to_string().contains("authority `cluster`"), "{error}");
    let without_keys = with_authority().await;
    for name in ["etcd", "front-proxy"] {
        let spec = AuthoritySpec {
            name: name.to_owned(),
            ..cluster()
        };
        apply(&without_keys, &spec).await.expect("it is made");
    }
    let error = refusal(&without_keys).await;
    assert!(error.to_string().contains("service-account key"), "{error}");
    apply(&without_keys, &ServiceAccountKeySpec {}).await;
    let error = refusal(&without_keys).await;
    assert!(error.to_string().contains("encryption keys"), "{error}");
}

#[tokio::test]
async fn nothing_is_exported_during_a_replacement() {
    let master = first_master().await;
    let begun = master.fork();
    let authority = AuthoritySpec {
        name: "etcd".to_owned(),
        common_name: "etcd".to_owned(),
        rotation: Some(Rotation::Begin),
        ..cluster()
    };
    apply(&begun, &authority).await.expect("it begins");
    let error = refusal(&begun).await;
    assert!(
        error.to_string().contains("it is being replaced"),
        "{error}"
    );
    let begun = master.fork();
    let keys = EncryptionKeysSpec {
        rotation: Some(Rotation::Begin),
        successor: None,
    };
    apply(&begun, &keys).await.expect("it begins");
    let error = refusal(&begun).await;
    assert!(
        error.to_string().contains("it is being replaced"),
        "{error}"
    );
}

#[tokio::test]
async fn an_authority_that_has_ended_is_not_exported() {
    let master = first_master().await;
    advance(&master, DAY * 365 * 20);
    let error = refusal(&master).await;
    assert!(error.to_string().contains("it is valid from"), "{error}");
}
