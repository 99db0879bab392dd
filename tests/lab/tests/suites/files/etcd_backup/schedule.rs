//! nodeletd takes backups when they are due, and takes missed ones later.

use std::time::Duration;

use lab_suites::{Master, shared};

use super::{DIRECTORY, SERVES, nothing_left, pause_proof_when, verified_backups, without_backups};

/// Waits until there are so many backups.
fn wait_for(master: &Master, number: usize, limit: Duration) {
    let script = format!("[ $(ls {DIRECTORY} | grep -c 'json$') -ge {number} ]");
    master.wait_for(&format!("backup {number}"), &script, limit);
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn backups_come_on_schedule_and_a_killed_daemon_makes_up_for_its_own() {
    let master = shared();
    without_backups(&master);
    master.configure(&[
        ("ETCD_BACKUP_SCHEDULE", "* * * * *"),
        ("LOOP_INTERVAL", "5s"),
    ]);
    master.apply(&[]).exits(0);
    let record = "/var/opt/pf9/nodelet/timer-etcd-backup.json";
    master.sh(&format!(
        "printf '{{\"last_good\": %s}}' $(date +%s) > {record}; systemctl start pf9-nodeletd"
    ));

    // The backup of the recorded last run is not there, so one is taken at once, and another in the next minute.
    wait_for(&master, 1, Duration::from_secs(120));
    wait_for(&master, 2, Duration::from_secs(180));
    let times = master.sh(&format!(
        r#"cd {DIRECTORY}; for one in $(ls *.json | sort | head -2); do
            for what in taken verified; do
                date --date "$(sed -n -E "s/.*\"$what\": \"([^\"]*)\".*/\1/p" $one)" +%s
            done
        done"#
    ));
    let times: Vec<u64> = times.lines().filter_map(|one| one.parse().ok()).collect();
    let [first, ended, second, _] = times[..] else {
        panic!("two backups say when they were taken: {times:?}");
    };
    let minute = (first / 60 + 1) * 60;
    // There is a pause between two backups, and a busy machine takes a while to begin one.
    let due = minute.max(ended + 10);
    assert!(second >= minute && second < due + 110, "{times:?}");
    assert_eq!(
        master.sh("journalctl -u pf9-nodeletd --output cat | grep -c 'instead of in a control group' || true"),
        "0"
    );

    // A daemon that is killed during a missed backup, whose restore test is held: the programs that it ran end with it, older backups stay, and the missed one
    // is taken again, long before the next is due.
    master.sh("systemctl stop pf9-nodeletd");
    // A busy machine may have made one more.
    let before = verified_backups(&master).len();
    assert!(before >= 2, "{before}");
    master.configure(&[
        ("ETCD_BACKUP_SCHEDULE", "0 0 1 1 *"),
        ("LOOP_INTERVAL", "5s"),
    ]);
    master.apply(&[]).exits(0);
    let missed = format!(
        "printf '{{\"last_good\": %s}}' $(date --date '2 years ago' +%s) > {record}; systemctl start pf9-nodeletd"
    );
    master.sh(&format!(
        "{missed}; {}; systemctl kill --signal KILL pf9-nodeletd",
        pause_proof_when(SERVES, 300)
    ));
    assert_eq!(verified_backups(&master).len(), before);
    wait_for(&master, before + 1, Duration::from_secs(240));
    master.sh("systemctl stop pf9-nodeletd");
    nothing_left(&master);
    master.nodelet(&["etcd", "verify"]).exits(0);

    // A pause ends a backup of the daemon, and a backup by an operator then has the host to itself.
    master.sh(&format!("{missed}; {}", pause_proof_when(SERVES, 300)));
    let limits =
        "docker inspect --format '{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}' pf9-etcd-proof";
    assert_eq!(
        master.sh(limits),
        "500000000 1073741824",
        "half a processor, 1 GiB"
    );
    master.sh("nodelet pause 10m --because 'a look'");
    let gone = "! docker ps --all --format '{{.Names}}' | grep -qx pf9-etcd-proof";
    master.wait_for("it has ended", gone, Duration::from_secs(90));
    master.nodelet(&["etcd", "backup"]).exits(0);
    assert_eq!(verified_backups(&master).len(), before + 2);
    master.sh("nodelet resume; systemctl stop pf9-nodeletd");

    master.configure(&[]);
    master.apply(&[]).exits(0);
    without_backups(&master);
}
