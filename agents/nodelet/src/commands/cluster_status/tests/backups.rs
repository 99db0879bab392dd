//! Backups that are too old, missing, or left to another master.

use engine::host::Clock as _;
use engine::kubernetes::etcd_backup::{BACKUP_LEFT, LeftBackup};

use super::{Cluster, text};

#[tokio::test(start_paused = true)]
async fn a_backup_that_is_too_old_or_missing_is_a_problem() {
    let cluster = Cluster::healthy().await;
    let clear = || {
        for file in std::fs::read_dir(cluster.backups.path()).expect("a directory") {
            std::fs::remove_file(file.expect("a file").path()).expect("it is removed");
        }
    };
    clear();
    cluster.backup("2025-12-29T00:00:00Z");
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    assert!(
        problems.contains("is 3days old, but the limit is 2days"),
        "{problems}"
    );
    clear();
    std::fs::write(cluster.backups.path().join("etcd-x.db"), b"data").expect("it is written");
    let status = cluster.status().await;
    assert!(text::screen(&status).contains("✗ etcd-x: not verified, age unknown"));
    assert_eq!(status.exit().code(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_master_that_leaves_backups_to_another_one_has_no_problem() {
    let mut cluster = Cluster::healthy().await;
    cluster.backups = tempfile::tempdir().expect("a directory");
    assert_eq!(cluster.status().await.exit().code(), 2);
    let note = LeftBackup::new(cluster.host.now(), "cp-2", "");
    let note = serde_json::to_vec(&note).expect("JSON");
    cluster
        .host
        .with_world_mut(|world| world.file(BACKUP_LEFT, note));
    let status = cluster.status().await;
    assert_eq!(status.exit().code(), 0, "{:?}", status.problems);
    assert!(text::screen(&status).contains("- master cp-2 takes them"));
}
