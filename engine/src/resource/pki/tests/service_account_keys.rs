//! The key of service-account tokens.

use super::*;
use crate::resource::pki::ServiceAccountKeySpec;

const KEY: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.key";
const PUBLIC: &str = "/etc/pf9/kube.d/certs/apiserver/svcacct.pub";

#[tokio::test]
async fn it_is_made_once_in_the_forms_that_kubernetes_reads() {
    let host = FakeHost::new();
    let spec = ServiceAccountKeySpec {};
    apply(&host, &spec).await;
    assert!(text(&host, KEY).starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert!(text(&host, PUBLIC).starts_with("-----BEGIN PUBLIC KEY-----\n"));
    let key = text(&host, KEY);
    assert_eq!(apply(&host, &spec).await, None);

    put(&host, PUBLIC, "garbage", 0o644);
    assert_eq!(
        reissue_reasons(&host, &spec).await,
        ["public half: of another key → derived from the key"]
    );
    apply(&host, &spec).await;
    host.with_world_mut(|world| world.remove(PUBLIC));
    assert_eq!(
        reissue_reasons(&host, &spec).await,
        ["public half: missing → derived from the key"]
    );
    apply(&host, &spec).await;
    assert_eq!(apply(&host, &spec).await, None);
    assert_eq!(text(&host, KEY), key);
}

#[tokio::test]
async fn an_unreadable_key_is_an_error_that_says_what_to_do() {
    let host = FakeHost::new();
    put(&host, KEY, "garbage", 0o600);
    let error = failure(&host, &ServiceAccountKeySpec {}).await;
    assert!(
        error.contains("svcacct.key: it holds no private key in PEM; nothing was changed."),
        "{error}"
    );
    assert_eq!(text(&host, KEY), "garbage");
}
