//! Certificates come to their end while the cluster is used: nodeletd renews them one component after the other, and no request to
//! the API server fails. A certificate that was replaced is repaired without an operator. Authorities are replaced with overlap.

use std::time::Duration;

use lab_suites::{Image, LeafCertificates, Load, Master, Watch, shared};

/// Life of the certificates here.
const LIFE: Duration = Duration::from_secs(40 * 60);
/// At this age a certificate of that life is due: less than two fifths of its life are left.
const AGE: Duration = Duration::from_secs(30 * 60);
/// Three servers look at their files once a minute, one after the other; the rest takes seconds.
const RENEWED: Duration = Duration::from_secs(400);
/// Time limit until a replaced certificate is noticed, issued again and shown. One that is replaced during a repair waits for the
/// end of that repair.
const REPAIRED: Duration = Duration::from_secs(240);

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn certificates_are_renewed_and_repaired_under_load() {
    let master = Master::create("certificates", Image::Bare, false);
    master.configure(&[("CERTIFICATE_LIFE", "40m"), ("KUBE_SERVICE_STATE", "true")]);
    let leaf_certificates = LeafCertificates::plant(&master);
    master.apply(&[]).exits(0);
    let list_running = "docker ps --no-trunc --quiet --filter 'name=^/etcd$' --filter name=k8s_kube-apiserver | sort";
    let before = master.sh(list_running);

    // All are due at once, as on a host that was brought up in one go.
    for path in leaf_certificates.paths() {
        leaf_certificates.replace(path, AGE, LIFE);
    }
    let old = leaf_certificates.serials();
    master
        .nodelet(&["diff"])
        .exits(2)
        .says(&["past three fifths of its life"]);
    let load = Load::start(&leaf_certificates.asker());
    master.sh("systemctl start pf9-nodeletd");
    let renewed = lab_suites::poll(RENEWED, || {
        let new = leaf_certificates.serials();
        let left = old.iter().filter(|one| new.contains(one)).count();
        (left == 0).then_some(())
    });
    assert!(
        renewed.is_some(),
        "{}",
        master.sh("nodelet certs; nodelet history")
    );
    // Servers read their files once a minute. Until then the renewal goes on, though all conditions hold; a certificate that is
    // replaced before its end is repaired after it.
    let watch = Watch::of(&master);
    watch.wait_until_healthy(RENEWED);
    let seen = load.so_far();
    println!("renewal: {seen}");
    seen.is_steady();
    assert_eq!(
        master.sh(list_running),
        before,
        "etcd and the API server went on"
    );

    // The certificates of a server and of a client, which are read at each connection: replaced by expired ones.
    for path in ["apiserver", "apiserver/etcd", "kubelet/server"] {
        leaf_certificates.replace(path, AGE * 2, LIFE);
    }
    master.wait_for("none has expired", "nodelet certs", REPAIRED);
    watch.wait_until_healthy(REPAIRED);
    assert_eq!(
        master.sh(list_running),
        before,
        "etcd and the API server went on"
    );
    println!("repair: {}", load.end());
    master.sh("systemctl stop pf9-nodeletd");
}

/// Whether the API server accepts a kubeconfig.
fn serves(master: &Master, kubeconfig: &str) -> bool {
    let ask = "kubectl --request-timeout=5s get --raw /readyz --kubeconfig";
    master
        .try_sh(&format!("{ask} {kubeconfig}"))
        .status
        .success()
}

/// Copies of the admin's kubeconfig from before the rotation, and from between its steps, show which authority is trusted and which
/// one signs.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn authorities_are_replaced() {
    let master = shared();
    let master = &master;
    const ADMIN: &str = "/etc/pf9/kube.d/kubeconfigs/admin.yaml";
    let rotate = |authority: &str, words: &[&str]| {
        master.nodelet(&[&["certs", "rotate", authority], words].concat())
    };
    let settled = || {
        master.wait_until_well();
        master.nodelet(&["diff"]).exits(0);
    };
    let copied = |name: &str| {
        let copy = format!("/root/{name}.yaml");
        master.sh(&format!("cp {ADMIN} {copy}"));
        copy
    };
    // A request of the API server to kubelet: each has to trust the other's authority.
    let asks_kubelet = || {
        master.sh("kubectl get --raw /api/v1/nodes/$(hostname)/proxy/healthz --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml")
    };

    rotate("cluster", &["switch"])
        .exits(1)
        .says(&["rotate cluster begin"]);
    let before = copied("before");
    rotate("cluster", &["begin", "--dry-run"])
        .exits(2)
        .says(&["successor", "k8s-master/kube-apiserver"]);
    rotate("cluster", &["begin"]).exits(0);
    settled();
    assert!(serves(master, &before), "its authority still signs");
    let between = copied("between");
    assert_eq!(asks_kubelet(), "ok");

    rotate("cluster", &["switch"]).exits(0);
    settled();
    assert!(!serves(master, &before), "it does not know the successor");
    assert!(serves(master, &between), "its signer is still trusted");
    assert_eq!(asks_kubelet(), "ok");

    rotate("cluster", &["finish"]).exits(0);
    settled();
    assert!(!serves(master, &between), "its signer is no longer trusted");
    assert!(serves(master, &copied("after")));
    assert_eq!(asks_kubelet(), "ok");

    // The authority of etcd: all its clients are on this host.
    let asks_etcd = |folder: &str| {
        let ask = "curl --silent --fail --max-time 5 https://127.0.0.1:4001/health";
        let its = format!(
            "--cacert {folder}/ca.crt --cert {folder}/request.crt --key {folder}/request.key"
        );
        master.try_sh(&format!("{ask} {its}")).status.success()
    };
    master.sh("cp -r /etc/pf9/kube.d/certs/etcdctl/etcd /root/etcdctl");
    for step in ["begin", "switch", "finish"] {
        rotate("etcd", &[step]).exits(0);
        settled();
        assert_eq!(asks_etcd("/root/etcdctl"), step == "begin", "{step}");
        assert!(asks_etcd("/etc/pf9/kube.d/certs/etcdctl/etcd"), "{step}");
    }
    // Roots that are read for each request: nothing restarts.
    let list_running = "docker ps --no-trunc --quiet | sort";
    let containers = master.sh(list_running);
    for step in ["begin", "switch", "finish"] {
        rotate("front-proxy", &[step]).exits(0);
        settled();
    }
    assert_eq!(master.sh(list_running), containers);
    master.nodelet(&["history"]).says(&["rotate"]);
}
