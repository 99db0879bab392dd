//! Kubeconfigs.

use base64::Engine as _;

use super::*;
use crate::resource::Action;

const FILE: &str = "/etc/pf9/kube.d/kubeconfigs/admin.yaml";

async fn with_kubeconfig() -> FakeHost {
    let host = with_authority().await;
    apply(&host, &admin()).await;
    apply(&host, &admin_kubeconfig()).await;
    host
}

#[tokio::test]
async fn the_admins_has_its_contexts_and_all_it_needs_inside() {
    let host = with_kubeconfig().await;
    let yaml: serde_yaml::Value = serde_yaml::from_str(&text(&host, FILE)).expect("it is YAML");
    assert_eq!(yaml["current-context"], "default-context");
    assert_eq!(yaml["contexts"][0]["context"]["namespace"], "default");
    assert_eq!(yaml["contexts"][1]["name"], "system-context");
    assert_eq!(yaml["contexts"][1]["context"]["namespace"], "kube-system");
    let cluster = &yaml["clusters"][0]["cluster"];
    assert_eq!(cluster["server"], "https://10.0.0.10:443");
    let data = cluster["certificate-authority-data"]
        .as_str()
        .expect("it is text");
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(data)
        .expect("it is base64");
    assert_eq!(decoded, text(&host, CA).into_bytes());
    assert_eq!(apply(&host, &admin_kubeconfig()).await, None);
}

#[tokio::test]
async fn a_component_kubeconfig_has_one_context() {
    let host = with_kubeconfig().await;
    let spec = KubeconfigSpec {
        name: "kubelet".to_owned(),
        user: "kubelet".to_owned(),
        ..admin_kubeconfig()
    };
    apply(&host, &spec).await;
    let yaml: serde_yaml::Value =
        serde_yaml::from_str(&text(&host, "/etc/pf9/kube.d/kubeconfigs/kubelet.yaml"))
            .expect("it is YAML");
    assert_eq!(yaml["current-context"], "service-account-context");
    assert_eq!(yaml["contexts"].as_sequence().map(Vec::len), Some(1));
    assert!(yaml["contexts"][0]["context"].get("namespace").is_none());
}

#[tokio::test]
async fn every_difference_is_named_and_no_key_is_shown() {
    let host = with_kubeconfig().await;
    let moved = KubeconfigSpec {
        server: "https://10.0.0.11".to_owned(),
        user: "root".to_owned(),
        ..admin_kubeconfig()
    };
    assert_eq!(
        reissue_reasons(&host, &moved).await,
        [
            "server: https://10.0.0.10:443 → https://10.0.0.11",
            "user: admin → root"
        ]
    );
    let renewed = host.fork();
    renewed.with_world_mut(|world| world.remove("/etc/pf9/kube.d/certs/admin"));
    apply(&renewed, &admin()).await;
    let other = "other data → the data of its source file";
    assert_eq!(
        reissue_reasons(&renewed, &admin_kubeconfig()).await,
        [
            format!("client certificate: {other}"),
            format!("client key: {other}")
        ]
    );
    put(&host, FILE, "garbage: [", 0o600);
    assert_eq!(
        reissue_reasons(&host, &admin_kubeconfig()).await,
        ["content: unreadable: it is not a kubeconfig → written again"]
    );
    apply(&host, &admin_kubeconfig()).await;
    let reordered = format!("# mine\n{}", text(&host, FILE));
    put(&host, FILE, &reordered, 0o644);
    assert_eq!(
        reissue_reasons(&host, &admin_kubeconfig()).await,
        [
            "content: written in another form → written again",
            "mode: admin.yaml 0644 → admin.yaml 0600"
        ]
    );
}

#[tokio::test]
async fn before_its_certificate_is_there_it_waits() {
    let host = with_authority().await;
    let missing = "/etc/pf9/kube.d/certs/admin/request.crt is not there yet";
    assert_eq!(
        reissue_reasons(&host, &admin_kubeconfig()).await,
        [
            "server:  → https://10.0.0.10:443".to_owned(),
            "user:  → admin".to_owned(),
            format!("content:  → known after apply ({missing})"),
        ]
    );
    assert_eq!(
        failure(&host, &admin_kubeconfig()).await,
        format!("write kubeconfig `admin`: {missing}")
    );
}

#[tokio::test]
async fn it_is_removed_when_it_should_be_absent() {
    let host = with_kubeconfig().await;
    let change = run(&host, &admin_kubeconfig(), true, &mut Receipt::default())
        .await
        .expect("it goes");
    assert_eq!(change.expect("it was there").action, Action::Remove);
    assert!(host.with_world(|world| world.text(FILE)).is_none());
}

#[tokio::test]
async fn invalid_specifications_are_refused() {
    for (spec, field) in [
        (
            KubeconfigSpec {
                name: "../x".to_owned(),
                ..admin_kubeconfig()
            },
            "name",
        ),
        (
            KubeconfigSpec {
                server: "http://x".to_owned(),
                ..admin_kubeconfig()
            },
            "server",
        ),
        (
            KubeconfigSpec {
                server: "https://x\ny".to_owned(),
                ..admin_kubeconfig()
            },
            "server",
        ),
        (
            KubeconfigSpec {
                certificate: "..".to_owned(),
                ..admin_kubeconfig()
            },
            "certificate",
        ),
        (
            KubeconfigSpec {
                user: String::new(),
                ..admin_kubeconfig()
            },
            "user",
        ),
    ] {
        let error = failure(&FakeHost::new(), &spec).await;
        assert!(
            error.starts_with("plan kubeconfig `") && error.contains(field),
            "{error}"
        );
    }
}

#[test]
fn a_record_of_an_earlier_version_is_read() {
    let mut record = serde_json::to_value(admin_kubeconfig()).expect("it is JSON");
    record["namespace"] = serde_json::Value::Null;
    let read: KubeconfigSpec = serde_json::from_value(record).expect("it is understood");
    assert_eq!(read, admin_kubeconfig());
}

/// A client that reads the files again finds the renewed ones; the kubeconfig itself does not change.
#[tokio::test]
async fn a_kubeconfig_with_paths_survives_a_renewal() {
    let host = with_kubeconfig().await;
    let spec = KubeconfigSpec {
        by_path: true,
        ..admin_kubeconfig()
    };
    assert_eq!(
        reissue_reasons(&host, &spec).await,
        [
            "client certificate: other data → the data of its source file",
            "client key: other data → the data of its source file",
        ]
    );
    apply(&host, &spec).await;
    let yaml: serde_yaml::Value = serde_yaml::from_str(&text(&host, FILE)).expect("it is YAML");
    let user = &yaml["users"][0]["user"];
    assert_eq!(
        user["client-certificate"],
        "/etc/pf9/kube.d/certs/admin/request.crt"
    );
    assert_eq!(
        user["client-key"],
        "/etc/pf9/kube.d/certs/admin/request.key"
    );
    assert!(user.get("client-key-data").is_none());
    advance(&host, DAY * 61);
    apply(&host, &admin()).await;
    assert_eq!(apply(&host, &spec).await, None);
}
