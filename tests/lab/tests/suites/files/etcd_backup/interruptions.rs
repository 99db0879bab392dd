//! Interruptions of a backup, and directories that are not suitable.

use std::time::Duration;

use lab_suites::{Master, shared};

use super::{
    DIRECTORY, ETCDCTL, SERVES, nothing_left, pause_proof_when, verified_backups, without_backups,
};

/// Holds at any container of a restore test.
const ANY: &str = "true";
/// Starts a backup in the background, as a unit, and holds its restore test at such a container: without that, the restore test of a small store
/// is over before a test could interrupt it.
fn begin(master: &Master, config: &str, at: &str) {
    master.sh("docker rm --force pf9-etcd-proof 2>/dev/null || true");
    let pause = pause_proof_when(at, 100);
    master.sh(&format!(
        "systemctl reset-failed backup 2>/dev/null || true; rm -f /run/backup.err
        systemd-run --quiet --unit=backup --property=StandardError=file:/run/backup.err nodelet etcd backup --config {config}
        {pause}"
    ));
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_crash_keeps_older_backups_and_leaves_no_partial_one() {
    let master = shared();
    without_backups(&master);
    master.nodelet(&["etcd", "backup"]).exits(0);
    let older = verified_backups(&master);

    begin(&master, "/etc/pf9/nodelet", ANY);
    master.sh("systemctl kill --signal KILL backup");
    let over = "! systemctl is-active --quiet backup";
    master.wait_for("it is dead", over, Duration::from_secs(10));
    assert_eq!(verified_backups(&master), older);
    assert_eq!(
        master.sh(&format!("ls {DIRECTORY} | grep -c 'db$'")),
        "1",
        "no final name but the older one's"
    );
    master.nodelet(&["etcd", "verify"]).exits(0);

    // A command that changes the host goes first.
    begin(&master, "/etc/pf9/nodelet", ANY);
    let _ = master.apply(&["--only", "node-config"]).exits(0);
    master.wait_for("the backup ended", over, Duration::from_secs(10));
    master.sh("grep -q 'asked to end, and left nothing' /run/backup.err");
    nothing_left(&master);
    assert_eq!(verified_backups(&master), older);

    // A backup does not wait for a command that changes the host.
    master.sh("exec 9<>/run/pf9-nodelet.lock; flock 9; echo '`nodelet apply` (process 1, since now)' >&9; ! nodelet etcd backup 2>/run/backup.err; grep -q 'being worked on by `nodelet apply`' /run/backup.err");

    master.nodelet(&["etcd", "backup"]).exits(0);
    nothing_left(&master);
    assert_eq!(verified_backups(&master).len(), 2);
    without_backups(&master);
}

/// A large store takes longer to restore than the API server lets etcd keep a revision.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn compaction_during_the_proof_does_not_fail_it() {
    let master = shared();
    without_backups(&master);
    begin(&master, "/etc/pf9/nodelet", SERVES);
    master.sh(&format!(
        r#"for n in 1 2 3; do {ETCDCTL} put /compacted $n > /dev/null; done
        revision=$({ETCDCTL} get /compacted --write-out json | grep -o '"revision":[0-9]*' | cut -d: -f2)
        {ETCDCTL} compact $revision
        {ETCDCTL} del /compacted
        docker unpause pf9-etcd-proof"#
    ));
    let over = "! systemctl is-active --quiet backup";
    master.wait_for("it has ended", over, Duration::from_secs(60));
    assert_eq!(master.sh("cat /run/backup.err"), "");
    assert_eq!(verified_backups(&master).len(), 1);
    nothing_left(&master);
    without_backups(&master);
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_directory_that_fills_up_in_the_middle_keeps_what_it_has() {
    let master = shared();
    without_backups(&master);
    // A store large enough that the end of a snapshot is far from its beginning, and a disk of 256 MiB.
    master.sh(&format!(
        r#"head -c 700000 /dev/urandom | base64 --wrap=0 > /tmp/value
        for i in $(seq 40); do {ETCDCTL} put /load/$i < /tmp/value >/dev/null; done
        truncate --size 256M /var/tmp/small.img
        mkfs.ext4 -q -m 0 /var/tmp/small.img
        mkdir -p /mnt/small && mount -o loop /var/tmp/small.img /mnt/small
        mkdir --mode 700 /mnt/small/backups
        rm -rf /tmp/small && cp -r /etc/pf9/nodelet /tmp/small
        echo 'ETCD_BACKUP_DIR: /mnt/small/backups' >> /tmp/small/config.yaml"#
    ));
    let backup = ["etcd", "backup", "--config", "/tmp/small"];
    master.nodelet(&backup).exits(0);
    let files = "ls -A /mnt/small/backups";
    let older = master.sh(files);

    // Another program takes all room after the backup has begun.
    master.sh(r#"cat > /tmp/fill <<'END'
        until ls /mnt/small/backups/.etcd-*.part >/dev/null 2>&1; do :; done
        fallocate --length $(df --output=avail --block-size=1 /mnt/small | tail -1) /mnt/small/filler
        dd if=/dev/zero of=/mnt/small/last bs=4K 2>/dev/null
END
        systemd-run --quiet --unit=fill sh /tmp/fill"#);
    let filled = master.nodelet(&backup);
    master.sh("systemctl stop fill 2>/dev/null || true");
    assert_eq!(master.sh(files), older, "{}", filled.text());
    filled.exits(1).says(&[
        "No space left on device",
        "make room on the file system of /mnt/small/backups ",
    ]);
    nothing_left(&master);

    // While the disk is full, a backup does not even begin, and says why. The failed one has left some room.
    master.sh("dd if=/dev/zero of=/mnt/small/rest bs=64K 2>/dev/null || true");
    master.nodelet(&backup).exits(1).says(&[
        "make room for",
        "/mnt/small/backups has",
        "ETCD_BACKUP_COUNT",
    ]);
    master
        .nodelet(&["etcd", "status", "--config", "/tmp/small"])
        .exits(2)
        .says(&["MiB left"]);
    master
        .nodelet(&["etcd", "verify", "--config", "/tmp/small"])
        .exits(0);
    master.sh("rm -f /mnt/small/filler /mnt/small/last /mnt/small/rest");
    master.nodelet(&backup).exits(0);

    // Directories that are not suitable.
    master.sh("mount -o remount,ro /mnt/small");
    master
        .nodelet(&backup)
        .exits(1)
        .says(&["read-only", "remount,rw"]);
    master.sh("umount /mnt/small; sed -i '$d' /tmp/small/config.yaml; echo 'ETCD_BACKUP_DIR: /run/backups' >> /tmp/small/config.yaml");
    master
        .nodelet(&backup)
        .exits(1)
        .says(&["in memory (tmpfs)", "ETCD_BACKUP_DIR"]);
    master.sh(&format!(
        "test ! -e /run/backups; rm -rf /tmp/small /var/tmp/small.img; {ETCDCTL} del --prefix /load/ >/dev/null"
    ));
    master.check(&[]).exits(0);
    without_backups(&master);
}

/// A disk that does not answer any more, as one of another host may: a backup waits for the disk, and no command waits for the
/// backup.
#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn a_directory_that_hangs_blocks_no_command() {
    let master = shared();
    without_backups(&master);
    master.sh(
        "truncate --size 512M /var/tmp/hangs.img; mkfs.ext4 -q -m 0 /var/tmp/hangs.img
        mkdir -p /mnt/hangs && mount -o loop /var/tmp/hangs.img /mnt/hangs
        mkdir --mode 700 /mnt/hangs/backups
        rm -rf /tmp/hangs && cp -r /etc/pf9/nodelet /tmp/hangs
        echo 'ETCD_BACKUP_DIR: /mnt/hangs/backups' >> /tmp/hangs/config.yaml",
    );
    let backup = ["etcd", "backup", "--config", "/tmp/hangs"];
    master.nodelet(&backup).exits(0);
    let files = "ls -A /mnt/hangs/backups";
    let older = master.sh(files);
    // The disk thaws even if this test fails.
    master.sh(
        "fsfreeze --freeze /mnt/hangs
        systemd-run --quiet --on-active=100 --unit=thaw fsfreeze --unfreeze /mnt/hangs
        systemctl reset-failed backup 2>/dev/null || true
        systemd-run --quiet --unit=backup --property=StandardError=file:/run/backup.err nodelet etcd backup --config /tmp/hangs",
    );
    let waits = "grep -q ') D ' /proc/$(systemctl show --value --property MainPID backup)/task/*/stat && grep -q 'etcd backup' /run/pf9-nodelet.lock";
    master.wait_for("it waits for the disk", waits, Duration::from_secs(15));
    master.apply(&["--only", "node-config"]).exits(0);
    master.sh("grep -q 'asked to end' /run/backup.err; fsfreeze --unfreeze /mnt/hangs; systemctl stop thaw.timer");
    let over = "! systemctl is-active --quiet backup";
    master.wait_for("it has ended", over, Duration::from_secs(15));
    // The backup's part may be created after the thaw; the next backup removes it.
    master.nodelet(&backup).exits(0);
    let all = master.sh(files);
    assert!(all.contains(&older) && !all.contains("part"), "{all}");
    assert_eq!(all.lines().count(), 2 * older.lines().count());
    nothing_left(&master);
    master.sh("umount /mnt/hangs; rm -rf /mnt/hangs /tmp/hangs /var/tmp/hangs.img");
    without_backups(&master);
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn an_impossible_schedule_and_a_temporary_directory_are_refused() {
    let master = shared();
    for (schedule, why) in [
        ("0 0 30 2 *", "it never comes"),
        ("0 3 * *", "4 fields instead of five"),
        ("61 3 * * *", "`61` is not from 0 to 59"),
    ] {
        master.configure(&[("ETCD_BACKUP_SCHEDULE", schedule)]);
        master
            .apply(&[])
            .exits(1)
            .says(&["ETCD_BACKUP_SCHEDULE", why]);
    }
    master.sh(
        "mkdir -m 0755 -p /srv/open /srv/read-only; mount --bind -o ro /srv/read-only /srv/read-only; touch /srv/file
        mkdir /srv/full; truncate --size 64M /var/tmp/full.img; mkfs.ext4 -q /var/tmp/full.img; mount -o loop /var/tmp/full.img /srv/full
        cat /dev/zero > /srv/full/filler 2> /dev/null || true",
    );
    for (directory, why) in [
        ("/run/backups", "in memory (tmpfs)"),
        ("/srv/read-only/backups", "mounted read-only"),
        ("/srv/open", "others than root may look into it (mode 0755)"),
        ("/srv/file", "not a directory"),
        ("/srv/full/backups", " free of "),
    ] {
        master.configure(&[("ETCD_BACKUP_DIR", directory)]);
        master
            .apply(&[])
            .exits(1)
            .says(&["ETCD_BACKUP_DIR", directory, why]);
    }
    master.sh(
        "umount /srv/read-only /srv/full; rmdir /srv/read-only /srv/open /srv/full; rm /srv/file /var/tmp/full.img",
    );
    master.configure(&[]);
    master.apply(&[]).exits(0).changes_nothing();
}
