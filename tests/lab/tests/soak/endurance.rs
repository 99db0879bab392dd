//! A full disk, a disk that stalls and a reboot do no harm to a healthy node.

use std::time::{Duration, Instant};

use lab_suites::{Image, Master, SCALED, Watch};

const CALM: Duration = Duration::from_secs(120);
/// The directory of nodelet's records.
const RECORDS: &str = "/var/opt/pf9/nodelet";
/// Longer than nodeletd may be silent (`WatchdogSec` of its unit), and longer than a write may take.
const STALLED: Duration = Duration::from_secs(90);
/// After a stall the interrupted attempt is made again.
const REPAIRED: Duration = Duration::from_secs(240);

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

#[test]
#[ignore = "cargo xtask soak runs it"]
fn a_stalled_disk_during_a_change_does_not_end_the_daemon() {
    let master = Master::create("stalled-disk", Image::Bare, false);
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    on_a_disk_of_its_own(&master, &watch);
    let daemon = "systemctl show --property MainPID,NRestarts pf9-nodeletd";
    let before = master.sh(daemon);
    assert!(before.contains("NRestarts=0"), "{before}");
    let frozen = Frozen::in_the_middle_of_a_repair(&master);
    let began = Instant::now();
    // The process of the repair waits for the disk, so it cannot be ended.
    let waits = "for one in $(pgrep -x nodelet); do grep -q ') D ' /proc/$one/task/*/stat && exit 0; done; exit 1";
    master.wait_for("the repair waits for the disk", waits, CALM);
    watch.until("the disk has stalled long enough", STALLED + CALM, || {
        assert!(watch.view().is_some(), "nodeletd does not answer");
        began.elapsed() >= STALLED
    });
    drop(frozen);
    let stalled = began.elapsed();
    let took = watch.until("the host is healthy", REPAIRED, || {
        watch.view().is_some_and(|view| Watch::is_healthy(&view))
    });
    println!(
        "stalled for {:.0} s, healthy {:.1} s after it",
        stalled.as_secs_f64(),
        took.as_secs_f64()
    );
    watch.wait_until_healthy(CALM);
    master.sh("systemctl is-active --quiet pf9-kubelet");
    assert_eq!(master.sh(daemon), before, "{}", watch.journal());
    back_on_the_hosts_disk(&master, &watch);
    master.check(&[]).exits(0);
    let history = master.sh("nodelet history --json --last 1000");
    assert!(!history.contains("\"clean\""), "nothing was ever cleaned");
}

/// Freezes the disk of nodelet's records until this value is dropped, also if a test fails: a process that waits for the disk
/// cannot even be killed.
struct Frozen<'a>(&'a Master);

impl<'a> Frozen<'a> {
    /// Stops kubelet, and freezes the disk once the repair has recorded its first step.
    fn in_the_middle_of_a_repair(master: &'a Master) -> Self {
        let frozen = Self(master);
        // The timer thaws the disk if this program is killed.
        master.sh(&format!(
            r#"begun() {{ grep -c '"r":"intent"' {RECORDS}/ledger.jsonl; }}
            before=$(begun); systemctl stop pf9-kubelet
            for n in $(seq 3000); do [ $(begun) -gt $before ] && break; sleep 0.02; done
            [ $(begun) -gt $before ]
            systemd-run --quiet --on-active=300 --unit=thaw fsfreeze --unfreeze {RECORDS}
            fsfreeze --freeze {RECORDS}"#
        ));
        frozen
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thaw = format!("fsfreeze --unfreeze {RECORDS}; systemctl stop thaw.timer");
        let _ = self.0.try_sh(&thaw);
    }
}

/// A separate file system for nodelet's records, so that only this one is full or stalls. It has room for the restore test of a backup,
/// because a check warns without it.
fn on_a_disk_of_its_own(master: &Master, watch: &Watch<'_>) {
    master.sh(&format!(
        "systemctl stop pf9-nodeletd
         truncate --size 256M /tmp/var.ext4; mkfs.ext4 -q /tmp/var.ext4
         mkdir /tmp/var; mount -o loop /tmp/var.ext4 /tmp/var; cp -a {RECORDS}/. /tmp/var/; umount /tmp/var
         mount -o loop /tmp/var.ext4 {RECORDS}; systemctl start pf9-nodeletd"
    ));
    watch.wait_until_healthy(CALM);
}

fn back_on_the_hosts_disk(master: &Master, watch: &Watch<'_>) {
    master.sh(&format!(
        "systemctl stop pf9-nodeletd; cp -a {RECORDS}/. /tmp/var/; umount {RECORDS}
         cp -a /tmp/var/. {RECORDS}/; rm -r {RECORDS}/lost+found /tmp/var /tmp/var.ext4; systemctl start pf9-nodeletd"
    ));
    watch.wait_until_healthy(CALM);
}

fn a_full_disk(master: &Master, watch: &Watch<'_>) {
    on_a_disk_of_its_own(master, watch);
    master.sh(&format!(
        "cat /dev/zero > {RECORDS}/filler 2> /dev/null || true; systemctl stop pf9-kubelet"
    ));
    let passes = || {
        let view = watch.view();
        view.and_then(|view| view["counters"]["passes"].as_u64())
            .unwrap_or(0)
    };
    // A repair may still find room for its records; only the loss of data would be a failure.
    let before = passes();
    watch.until("three passes on a full disk", CALM, || {
        passes() > before + 2
    });
    let status = master.sh("cat /var/opt/pf9/kube_status");
    let status: serde_json::Value = serde_json::from_str(&status).expect("it is always complete");
    assert!(status["pf9_kube_node_state"].is_string());
    master.sh(&format!("rm {RECORDS}/filler"));
    watch.wait_until_healthy(CALM);
    master.sh("systemctl is-active --quiet pf9-kubelet");
    back_on_the_hosts_disk(master, watch);
}

fn a_reboot(master: &Master, watch: &Watch<'_>) {
    master.host().reboot().expect("the host comes back");
    watch.wait_until_healthy(CALM);
    assert_eq!(
        master.kubectl("get configmap remembered --output jsonpath='{.data.word}'"),
        "swordfish",
        "etcd's data are there"
    );
    master.check(&[]).exits(0);
}
