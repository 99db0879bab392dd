//! Backups of this host and of other masters that are too old, missing, not published, or left to another master.

use std::path::Path;

use engine::host::ClusterAccess;
use engine::kubernetes::etcd_backup::{BACKUP_LEFT, LeftBackup, withdraw};

use super::*;
use crate::commands::cluster_status::backups::of_masters;

/// Publishes when a master has taken its last verified backup; without a time, what it has published is withdrawn.
pub(super) async fn publish(cluster: &Cluster, node: &str, taken: Option<&str>) {
    use engine::kubernetes::etcd_backup::publish;
    let (host, access) = (&cluster.host, ClusterAccess::with(Path::new(KUBECONFIG)));
    let done = match taken {
        Some(taken) => {
            let taken = humantime::parse_rfc3339(taken).expect("a time");
            publish(host, &access, node, taken).await
        }
        None => withdraw(host, &access, node).await,
    };
    done.expect("the API server answers");
}

/// Removes the backups of this host.
fn clear(cluster: &Cluster) {
    for file in std::fs::read_dir(cluster.backups.path()).expect("a directory") {
        std::fs::remove_file(file.expect("a file").path()).expect("it is removed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_is_too_old_or_missing_is_a_problem() {
    let cluster = Cluster::healthy().await;
    clear(&cluster);
    cluster.backup("2025-12-29T00:00:00Z");
    let (problems, code) = cluster.problems().await;
    assert_eq!(code, 2);
    assert!(
        problems.contains("is 3days old, but the limit is 2days"),
        "{problems}"
    );
    assert_eq!(
        problems.lines().count(),
        1,
        "the others have young ones: {problems}"
    );
    clear(&cluster);
    std::fs::write(cluster.backups.path().join("etcd-x.db"), b"data").expect("it is written");
    let status = cluster.status().await;
    assert!(text::screen(&status).contains("✗ this host: etcd-x, not verified, age unknown"));
    assert_eq!(status.exit().code(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_master_that_leaves_backups_to_another_one_has_no_problem() {
    let mut cluster = Cluster::healthy().await;
    cluster.masters = BackupMasters::One;
    clear(&cluster);
    assert_eq!(cluster.status().await.exit().code(), 2);
    let note = LeftBackup::new(cluster.host.now(), "cp-2", "");
    let note = serde_json::to_vec(&note).expect("JSON");
    cluster
        .host
        .with_world_mut(|world| world.file(BACKUP_LEFT, note));
    // The other one may have withdrawn its time, because it was asked to end a backup.
    for node in ["cp-2", "cp-3"] {
        publish(&cluster, node, None).await;
    }
    let status = cluster.status().await;
    assert_eq!(status.exit().code(), 0, "{:?}", status.problems);
    assert!(text::screen(&status).contains("- this host: master cp-2 takes them"));
}

/// If one master takes the backups, the earlier ones of the others grow old.
#[tokio::test(start_paused = true)]
async fn an_old_backup_of_another_master_is_a_problem_if_each_takes_its_own() {
    let mut cluster = Cluster::healthy().await;
    publish(&cluster, "cp-2", Some("2025-12-30T00:00:00Z")).await;
    let (problems, code) = cluster.problems().await;
    let says = "the newest verified backup that master cp-2 has published is 2days old, but the limit is 2days → `nodelet etcd status` there";
    assert!(problems.starts_with(says) && code == 2, "{problems}");
    let status = cluster.status().await;
    let shown = text::screen(&status);
    assert!(shown.contains("✗ cp-2: verified, 2days ago"), "{shown}");
    let line = "nodelet_cluster_master_backup_age_seconds{node=\"cp-2\"} 172800\n";
    let metrics_now = metrics::text(&status);
    assert!(metrics_now.contains(line), "{metrics_now}");

    cluster.masters = BackupMasters::One;
    let status = cluster.status().await;
    assert_eq!(status.exit().code(), 0, "{:?}", status.problems);
    let shown = text::screen(&status);
    assert!(shown.contains("- cp-2: verified, 2days ago"), "{shown}");
    let metrics_now = metrics::text(&status);
    assert!(!metrics_now.contains(line), "{metrics_now}");

    cluster.masters = BackupMasters::All;
    cluster.enabled = false;
    let (problems, code) = cluster.problems().await;
    assert!(problems.is_empty() && code == 0, "{problems}");
}

#[tokio::test(start_paused = true)]
async fn a_master_that_has_published_none_is_a_problem_if_no_master_has_a_young_one() {
    let mut cluster = Cluster::healthy().await;
    publish(&cluster, "cp-2", None).await;
    let status = cluster.status().await;
    assert_eq!(status.exit().code(), 0, "{:?}", status.problems);
    let shown = text::screen(&status);
    assert!(shown.contains("- cp-2: not published"), "{shown}");
    let metrics = metrics::text(&status);
    assert!(!metrics.contains("backup_age_seconds{node=\"cp-2\"}"));
    // The one of cp-3 is young, but this host has none.
    clear(&cluster);
    let (problems, _) = cluster.problems().await;
    assert!(!problems.contains("cp-2"), "{problems}");

    publish(&cluster, "cp-3", Some("2025-12-29T00:00:00Z")).await;
    for masters in [BackupMasters::All, BackupMasters::One] {
        cluster.masters = masters;
        let (problems, code) = cluster.problems().await;
        assert_eq!(code, 2);
        for says in [
            "there is no verified backup in",
            "master cp-2 has published no verified backup, and no master has a young one → `nodelet etcd backup` there",
            "that master cp-3 has published is 3days old",
        ] {
            assert!(problems.contains(says), "{says}: {problems}");
        }
        assert_eq!(problems.lines().count(), 3, "{problems}");
    }
    // While it is not known whether this host has a young one, none is missed.
    let status = cluster.status().await;
    let rows = status.nodes.known().expect("they are known");
    let unknown = Part::unknown("no answer within 2 s");
    let found = of_masters(&cluster.settings(), &unknown, rows, cluster.host.now());
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|one| one.too_old.is_none()), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_published_backup_of_the_future_does_not_count() {
    let cluster = Cluster::healthy().await;
    publish(&cluster, "cp-2", Some("2026-01-01T00:30:00Z")).await;
    let (problems, code) = cluster.problems().await;
    assert_eq!(
        (problems.as_str(), code),
        ("", 0),
        "the clock is a little ahead"
    );
    // One of these is nearer to now than the limit of two days.
    for taken in ["2026-01-01T02:00:00Z", "2026-01-04T00:00:00Z"] {
        publish(&cluster, "cp-2", Some(taken)).await;
        let (problems, code) = cluster.problems().await;
        let says = format!("master cp-2 has published a backup of the future ({taken}) → ");
        assert!(problems.starts_with(&says) && code == 2, "{problems}");
        let shown = text::screen(&cluster.status().await);
        let says = format!("✗ cp-2: verified, of the future: {taken}");
        assert!(shown.contains(&says), "{shown}");
    }
}

/// The other masters have young ones.
#[tokio::test(start_paused = true)]
async fn a_master_that_never_published_one_is_a_problem_once_its_node_is_old() {
    let mut cluster = Cluster::healthy().await;
    let joined = |cluster: &Cluster, ago: &str| {
        let ago = humantime::parse_duration(ago).expect("a duration");
        let created = cluster.host.now() - ago;
        let label = (MASTER_LABEL.to_owned(), String::new());
        cluster.node("cp-2", |node| {
            node.labels = BTreeMap::from([label]);
            node.created = Some(created);
        });
    };
    joined(&cluster, "47h");
    let (problems, code) = cluster.problems().await;
    assert_eq!((problems.as_str(), code), ("", 0));
    joined(&cluster, "48h");
    let (problems, code) = cluster.problems().await;
    let says = "master cp-2 has published no verified backup, although its node is older than the limit → `nodelet etcd backup` there";
    assert!(problems.starts_with(says) && code == 2, "{problems}");
    cluster.masters = BackupMasters::One;
    let (problems, code) = cluster.problems().await;
    assert_eq!((problems.as_str(), code), ("", 0));
}
