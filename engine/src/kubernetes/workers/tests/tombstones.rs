//! When the tombstone of a removed worker is deleted.

use super::*;

#[tokio::test]
async fn a_tombstone_is_deleted_when_its_certificates_have_ended() {
    let (host, access) = master();
    let week = Duration::from_secs(7 * 24 * 3600);
    for (name, ago) in [
        ("w-1", LONGEST_LIFE + CLOCKS_DIFFER),
        ("w-2", LONGEST_LIFE + CLOCKS_DIFFER - MINUTE),
        ("w-3", LONGEST_LIFE + week),
    ] {
        let tombstone = Admission {
            node: name.to_owned(),
            removed: Some(RemovedNode {
                at: host.now() - ago - Duration::from_secs(1),
                uid: String::new(),
            }),
            ..Admission::default()
        };
        assert!(put(&host, &access, &tombstone).await.unwrap());
    }
    issue(&host, &access, "w-4", false).await;
    // Its Node is there.
    host.with_world_mut(|world| world.node("w-3", labelled(&[WORKER_LABEL])));
    let forgets = ("w-1".to_owned(), Care::Forget);
    assert_eq!(cared(&host, &access).await, [forgets]);
    let left = admissions(&host, &access).await.unwrap();
    let left: Vec<&str> = left.records.keys().map(String::as_str).collect();
    assert_eq!(left, ["w-2", "w-3", "w-4"]);
}

/// The clock of one master may be far ahead. The tombstone could not be made again.
#[tokio::test]
async fn a_tombstone_stays_until_the_clocks_of_two_nodes_say_that_it_is_over() {
    let (host, access) = master();
    let tombstone = Admission {
        node: "w-1".to_owned(),
        removed: Some(RemovedNode {
            at: host.now(),
            uid: String::new(),
        }),
        ..Admission::default()
    };
    assert!(put(&host, &access, &tombstone).await.unwrap());
    let reports = |name: &str, reported| {
        let node = ClusterNode {
            reported: Some(reported),
            ..labelled(&[MASTER_LABEL])
        };
        host.with_world_mut(|world| world.node(name, node));
    };
    let over = host.now() + LONGEST_LIFE + CLOCKS_DIFFER;
    reports("cp-2", host.now());
    host.pause(LONGEST_LIFE + CLOCKS_DIFFER).await;
    reports("cp-1", host.now());
    assert_eq!(cared(&host, &access).await, []);
    reports("cp-2", over);
    let forgets = ("w-1".to_owned(), Care::Forget);
    assert_eq!(cared(&host, &access).await, [forgets]);
}
