//! What a master gives away to nobody: Secrets in etcd, and keys in the containers of other components.

use lab_suites::shared;

/// How a value stands in etcd.
const STORED: &str = "docker exec -e ETCDCTL_API=3 etcd etcdctl --endpoints https://127.0.0.1:4001 --cacert /certs/client/ca.crt --cert /certs/client/request.crt --key /certs/client/request.key get --print-value-only";

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_secret_is_encrypted_and_who_asked_for_it_is_logged() {
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
    assert!(!shown, "the log holds no bodies of requests");
    assert_eq!(modes, "700\n700\n600");
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_container_of_the_control_plane_sees_its_own_directories_alone() {
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
