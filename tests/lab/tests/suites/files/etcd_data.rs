//! etcd's data on a running master: if it is lost or exchanged, no empty cluster begins, and the status says what is wrong.

use std::time::Duration;

use lab_suites::{SCALED, Watch, shared};

/// Time limit until a status pass reports it, and until nodeletd has brought everything back.
const LIMIT: Duration = Duration::from_secs(180);
const DATA: &str = "/var/opt/pf9/kube/etcd/data";

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn etcd_starts_on_no_other_data_than_its_own() {
    let master = shared();
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    master.kubectl("delete configmap kept --ignore-not-found");
    master.kubectl("create configmap kept --from-literal=word=swordfish");
    let watch = Watch::start(&master);
    for (how, exchange) in [
        ("emptied", format!("install -d -m 0700 {DATA}")),
        (
            "exchanged",
            format!(
                "install -d -m 0700 {DATA} {DATA}/member
                 install -m 0600 /dev/stdin {DATA}/member/nodelet-data-id <<< 00112233445566778899aabbccddeeff"
            ),
        ),
    ] {
        watch.wait_until_healthy(LIMIT);
        master.sh(&format!(
            "docker stop --time 5 etcd; mv {DATA} {DATA}.before; {exchange}"
        ));
        let is_reported = |view: &serde_json::Value| {
            let phases = view["phases"].as_array().cloned().unwrap_or_default();
            let conditions = phases
                .iter()
                .filter_map(|phase| phase["conditions"].as_array());
            conditions.flatten().any(|one| {
                let reason = one["reason"].as_str().unwrap_or_default();
                one["status"] == "False" && reason.contains("member/nodelet-data-id is")
            })
        };
        watch.until(&format!("{how}: it is reported"), LIMIT, || {
            watch.view().is_some_and(|view| is_reported(&view))
        });
        watch.passes(3, LIMIT);
        if how == "emptied" {
            let started = master.try_sh("docker start etcd");
            assert!(!started.status.success(), "docker has no source for its mount");
        }
        master.sh(&format!("test ! -e {DATA}/member/wal"));
        let check = master.check(&["--only", "etcd"]).exits(2);
        let _ = check.says(&["nodelet-data-id", "lost or exchanged"]);
        master.sh(&format!("rm -r {DATA}; mv {DATA}.before {DATA}"));
        watch.until(&format!("{how}: etcd serves its data again"), LIMIT, || {
            let word = master.try_sh(
                "kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/admin.yaml get configmap kept --output jsonpath='{.data.word}'",
            );
            word.stdout == b"swordfish"
        });
    }
    watch.wait_until_healthy(LIMIT);
    drop(watch);
    master.configure(&[]);
    master.apply(&[]).exits(0);
    master.check(&[]).exits(0);
}
