//! What other components must not see: Secrets in etcd, and the keys of other containers.

use std::time::Duration;

use lab_suites::{Image, Master, poll, shared};

/// Prints a value as it is stored in etcd.
const STORED: &str = "docker exec -e ETCDCTL_API=3 etcd etcdctl --endpoints https://127.0.0.1:4001 --cacert /certs/client/ca.crt --cert /certs/client/request.crt --key /certs/client/request.key get --print-value-only";

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn secrets_are_encrypted_and_reads_are_audited() {
    let master = shared();
    master.kubectl("create secret generic sesame --from-literal=word=swordfish");
    let stored = master.sh(&format!(
        "{STORED} /registry/secrets/default/sesame | tr -cd '[:print:]'"
    ));
    master.kubectl("get secret sesame");
    let log = "/var/log/pf9/kube-audit/audit.log";
    let logged = master.sh(&format!("grep -c '\"name\":\"sesame\"' {log}"));
    let shown = master
        .try_sh(&format!("grep -q swordfish {log}"))
        .status
        .success();
    // A kubelet's certificate may not do this, and its attempt is logged as well: a websocket begins with a GET.
    master.sh(
        "curl --silent --max-time 10 --output /dev/null --cacert /etc/pf9/kube.d/certs/apiserver/ca.crt \
         --cert /etc/pf9/kube.d/certs/kubelet/apiserver/request.crt --key /etc/pf9/kube.d/certs/kubelet/apiserver/request.key \
         'https://127.0.0.1/api/v1/namespaces/default/pods/sesame/exec?command=true'",
    );
    let entered = master.sh(&format!(
        "grep '\"subresource\":\"exec\"' {log} | grep -c sesame"
    ));
    let modes = master.sh("stat -c %a /var/log/pf9/kube-audit /etc/pf9/kube.d/encryption /etc/pf9/kube.d/encryption/config.yaml");
    master.kubectl("delete secret sesame");
    let key = master.sh("sed -n 's/.*name: //p' /etc/pf9/kube.d/encryption/config.yaml");
    assert!(
        stored.starts_with(&format!("k8s:enc:secretbox:v1:{key}:"))
            && !stored.contains("swordfish"),
        "{stored}"
    );
    assert!(
        logged.parse::<u32>().is_ok_and(|lines| lines >= 2),
        "{logged}"
    );
    assert_ne!(entered, "0", "an exec into a pod is logged");
    assert!(!shown, "the log holds no bodies of requests");
    assert_eq!(modes, "700\n700\n600");
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn control_plane_containers_mount_only_their_own_directories() {
    let master = shared();
    let mounts = |container: &str| {
        let of = format!("docker ps -q --filter label=io.kubernetes.container.name={container}");
        master.sh(&format!(
            "docker inspect $({of}) --format '{{{{range .Mounts}}}}{{{{println .Source}}}}{{{{end}}}}' | grep -v ^/var/lib/kubelet/ | sort | grep ."
        ))
    };
    assert_eq!(
        mounts("kube-controller-manager"),
        "/etc/pf9/kube.d/certs/kube-controller-manager\n/etc/pf9/kube.d/kubeconfigs/kube-controller-manager"
    );
    assert_eq!(
        mounts("kube-scheduler"),
        "/etc/pf9/kube.d/certs/kube-scheduler\n/etc/pf9/kube.d/kubeconfigs/kube-scheduler"
    );
    assert_eq!(
        mounts("kube-apiserver"),
        "/etc/pf9/kube.d/apiserver\n/etc/pf9/kube.d/certs/aggregator\n/etc/pf9/kube.d/certs/apiserver\n/etc/pf9/kube.d/encryption\n/var/log/pf9/kube-audit"
    );
}

/// Every server of the control plane is asked itself; the plan is no proof.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn servers_refuse_old_ciphers_and_show_no_profiles() {
    let master = shared();
    // etcd's peer port is on the host's address, and asks for a certificate as the client port does.
    let address = master.host().address();
    for server in [
        "127.0.0.1:443".to_owned(),
        "127.0.0.1:4001".to_owned(),
        format!("{address}:2380"),
        "127.0.0.1:10250".to_owned(),
        "127.0.0.1:10257".to_owned(),
        "127.0.0.1:10259".to_owned(),
    ] {
        let offers = |options: &str| {
            let shown = master.sh(&format!(
                "timeout 10 openssl s_client -connect {server} {options} < /dev/null 2> /dev/null | grep '^ *Cipher' || true"
            ));
            shown.contains("AES") || shown.contains("CHACHA")
        };
        assert!(
            offers("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"),
            "{server} offers nothing with TLS 1.2"
        );
        for old in [
            "-tls1_2 -cipher AES128-SHA:AES256-SHA:AES128-GCM-SHA256",
            "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA",
            "-tls1_1 -cipher ALL:@SECLEVEL=0",
        ] {
            assert!(!offers(old), "{server} offers {old}");
        }
    }
    let profile = |port: u16| {
        master.sh(&format!(
            "curl --silent --insecure --max-time 10 --output /dev/null --write-out '%{{http_code}}' --cert /etc/pf9/kube.d/certs/admin/request.crt \
             --key /etc/pf9/kube.d/certs/admin/request.key https://127.0.0.1:{port}/debug/pprof/"
        ))
    };
    for port in [443, 10257, 10259] {
        // Another answer, such as 403, would say nothing: an administrator asks.
        assert_eq!(profile(port), "404", "port {port} shows profiles");
    }
}

/// An audit policy from an operator's directory; the log shows which policy the API server has.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn an_operators_directory_reaches_the_api_server() {
    let master = shared();
    let directory = "/etc/pf9/apiserver-extra";
    master.sh(&format!(
        "install -d -m 0700 {directory}; printf '%s\\n' 'apiVersion: audit.k8s.io/v1' 'kind: Policy' 'rules: [{{level: Request}}]' > {directory}/audit.yaml"
    ));
    master.configure(&[
        ("API_SERVER_EXTRA_DIR", directory),
        (
            "API_SERVER_FLAGS",
            "--audit-policy-file=/etc/pf9/apiserver-extra/audit.yaml",
        ),
    ]);
    master.apply(&[]).exits(0);
    let logged = |level: &str| {
        master.kubectl("get --raw /api/v1/namespaces/default/pods?limit=1");
        master
            .sh(&format!(
                "grep -c '\"level\":\"{level}\"' /var/log/pf9/kube-audit/audit.log || true"
            ))
            .parse::<u64>()
            .expect("a number")
    };
    let requests = logged("Request");
    let mount = master.sh(
        "docker inspect $(docker ps -q --filter label=io.kubernetes.container.name=kube-apiserver) \
         --format '{{range .Mounts}}{{println .Source .RW}}{{end}}' | grep extra",
    );
    master.configure(&[]);
    master.apply(&[]).exits(0);
    let before = logged("Request");
    let after = logged("Request");
    master.check(&[]).exits(0);
    master.sh(&format!("rm -r {directory}"));
    assert!(requests > 0, "the operator's policy logs with `Request`");
    assert_eq!(mount, format!("{directory} false"));
    assert_eq!(before, after, "the role's policy is back");
}

/// Each step of a key rotation, as seen in etcd. Values that the old key has encrypted are encrypted again, and can be read all the
/// time.
///
/// The master is not shared: each restart of the API server makes kubelet's pause before the next one longer.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn the_key_of_secrets_is_replaced() {
    let master = Master::create("encryption", Image::Bare, false);
    master.apply(&[]).exits(0);
    master.kubectl("create secret generic rotated --from-literal=word=swordfish");
    let stored = || {
        let value = master.sh(&format!(
            "{STORED} /registry/secrets/default/rotated | head -c 200 | tr -cd '[:print:]'"
        ));
        let key = value.strip_prefix("k8s:enc:secretbox:v1:");
        let key = key.and_then(|rest| rest.split_once(':'));
        key.unwrap_or_else(|| panic!("{value}")).0.to_owned()
    };
    let old = stored();
    let key = |step: &str| {
        master
            .nodelet(&["certs", "rotate", "encryption", step])
            .exits(0);
        assert_eq!(
            master.kubectl("get secret rotated --output jsonpath='{.data.word}'"),
            "c3dvcmRmaXNo",
            "after {step}"
        );
        // The controller-manager and the scheduler may end while the API server is away.
        let healthy = poll(Duration::from_secs(330), || {
            master.check(&[]).exited(0).then_some(())
        });
        assert!(healthy.is_some(), "healthy after {step}");
        stored()
    };
    assert_eq!(key("begin"), old, "the new key does not encrypt yet");
    let new = key("switch");
    assert_ne!(new, old, "every Secret is written again");
    assert_eq!(key("finish"), new);
    let retired =
        master.sh("ls /etc/pf9/kube.d/ca/encryption/retired; stat -c %a /etc/pf9/kube.d/ca/encryption/retired/*");
    master.kubectl("delete secret rotated");
    assert!(
        retired.contains(&old) && retired.ends_with("600"),
        "{retired}"
    );
}
