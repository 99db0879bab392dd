//! A full disk and a reboot take nothing from a node that is well.

use std::time::Duration;

use lab_suites::{Image, Master, SCALED, Watch};

const CALM: Duration = Duration::from_secs(120);

#[test]
#[ignore = "cargo xtask soak runs it"]
fn a_healthy_node_outlives_a_full_disk_and_a_reboot() {
    let master = Master::create("endurance", Image::Bare, false);
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    master.kubectl("create configmap remembered --from-literal=word=swordfish");
    master.sh("systemctl enable pf9-nodeletd");
    let watch = Watch::start(&master);
    a_full_disk(&master, &watch);
    a_reboot(&master, &watch);
    let history = master.sh("nodelet history --json --last 1000");
    assert!(!history.contains("\"clean\""), "nothing was ever cleaned");
}

fn a_full_disk(master: &Master, watch: &Watch<'_>) {
    // A file system of its own for nodelet's records, so that only this host is full; with room for the proof of a backup, or it warns.
    master.sh(
        "systemctl stop pf9-nodeletd
         truncate --size 256M /tmp/var.ext4; mkfs.ext4 -q /tmp/var.ext4
         mkdir /tmp/var; mount -o loop /tmp/var.ext4 /tmp/var; cp -a /var/opt/pf9/nodelet/. /tmp/var/; umount /tmp/var
         mount -o loop /tmp/var.ext4 /var/opt/pf9/nodelet; systemctl start pf9-nodeletd",
    );
    watch.calm(CALM);
    master
        .sh("cat /dev/zero > /var/opt/pf9/nodelet/filler 2> /dev/null || true; systemctl stop pf9-kubelet");
    let passes = || {
        let view = watch.view();
        view.and_then(|view| view["counters"]["passes"].as_u64())
            .unwrap_or(0)
    };
    // What still fits may be repaired at once; what matters is that nothing is lost meanwhile.
    let before = passes();
    watch.until("three passes on a full disk", CALM, || {
        passes() > before + 2
    });
    let status = master.sh("cat /var/opt/pf9/kube_status");
    let status: serde_json::Value = serde_json::from_str(&status).expect("it is never half");
    assert!(status["pf9_kube_node_state"].is_string());
    master.sh("rm /var/opt/pf9/nodelet/filler");
    watch.calm(CALM);
    master.sh("systemctl is-active --quiet pf9-kubelet");
    master.sh(
        "systemctl stop pf9-nodeletd; cp -a /var/opt/pf9/nodelet/. /tmp/var/; umount /var/opt/pf9/nodelet
         cp -a /tmp/var/. /var/opt/pf9/nodelet/; rm -r /var/opt/pf9/nodelet/lost+found /tmp/var /tmp/var.ext4; systemctl start pf9-nodeletd",
    );
    watch.calm(CALM);
}

fn a_reboot(master: &Master, watch: &Watch<'_>) {
    master.host().reboot().expect("the host comes back");
    watch.calm(CALM);
    assert_eq!(
        master.kubectl("get configmap remembered --output jsonpath='{.data.word}'"),
        "swordfish",
        "etcd's data are there"
    );
    master.check(&[]).exits(0);
}
