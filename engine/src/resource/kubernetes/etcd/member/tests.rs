use super::*;
use crate::host::fake::{FakeHost, FaultPlan};
use crate::host::{Clock as _, EtcdMembers as _};
use crate::resource::kubernetes::etcd::api::AUTHORITY;
use crate::resource::tests::{apply_in, context};

const DATA: &str = "/var/etcd";
const SETTINGS: &str = "/etc/pf9/kube.d/etcd/member.env";
const PEER: &str = "https://172.30.0.13:2380";
const RECORD: &str = "/var/opt/pf9/nodelet/kept/data-etcd.json";
const MARKER: &str = "/var/etcd/member/nodelet-learner";
/// Settings of another time.
const OTHER: &str = "ETCD_INITIAL_CLUSTER_STATE=new\nETCD_INITIAL_CLUSTER=a=b\n";
const LOG: &str = "/var/etcd/member/wal/0.wal";
const STORE: &str = "/var/etcd/member/snap/db";
const IDENTITY: &str = "/var/etcd/member/nodelet-data-id";
const API: &str = "172.30.0.10:443";

fn spec(initial_state: InitialState) -> EtcdMemberSpec {
    EtcdMemberSpec {
        name: "m-3".to_owned(),
        data: DATA.into(),
        peer: PEER.to_owned(),
        settings: SETTINGS.into(),
        initial_state,
        token: "c-1".to_owned(),
        api: Some("https://172.30.0.10:443".to_owned()),
        data_id: Some("etcd".to_owned()),
    }
}

/// A host beside two masters that work.
fn host() -> FakeHost {
    let masters = r#"{"version":1,"masters":[{"name":"m-1","address":"172.30.0.11","voter":true},{"name":"m-2","address":"172.30.0.12","voter":true}]}"#;
    let host = FakeHost::new().with_file(MASTERS, masters);
    host.with_world_mut(|world| {
        world.etcd.voter("m-1", "172.30.0.11", 11);
        world.etcd.voter("m-2", "172.30.0.12", 12);
    });
    host
}

async fn apply_as(host: &FakeHost, state: InitialState) -> ResourceResult<Option<Change>> {
    apply_in(&context(host), &spec(state), &mut Receipt::default()).await
}

async fn join_cluster(host: &FakeHost) -> ResourceResult<Option<Change>> {
    apply_as(host, InitialState::Existing).await
}

fn settings(host: &FakeHost) -> Option<String> {
    host.with_world(|world| world.text(SETTINGS))
}

fn members(host: &FakeHost) -> Vec<(u64, bool)> {
    host.with_world(|world| {
        let members = world.etcd.members.iter();
        members.map(|one| (one.id, one.learner)).collect()
    })
}

fn is_there(host: &FakeHost, path: &str) -> bool {
    host.with_world(|world| world.text(path).is_some())
}

#[tokio::test]
async fn the_first_master_begins_a_cluster_of_itself_once() {
    let host = FakeHost::new();
    let change = apply_as(&host, InitialState::New).await.expect("it works");
    assert_eq!(change.expect("it is made").action, Action::Create);
    let text = settings(&host).expect("it is written");
    assert_eq!(
        text,
        "ETCD_INITIAL_CLUSTER_STATE=new\nETCD_INITIAL_CLUSTER_TOKEN=c-1\nETCD_INITIAL_CLUSTER=m-3=https://172.30.0.13:2380\nETCD_INITIAL_ADVERTISE_PEER_URLS=https://172.30.0.13:2380\n"
    );
    assert_eq!(
        apply_as(&host, InitialState::New).await.expect("it works"),
        None
    );
    // Its settings are no part of a later comparison.
    host.with_world_mut(|world| {
        world.file(LOG, "");
        world.file(SETTINGS, OTHER);
    });
    for state in [InitialState::New, InitialState::Existing] {
        assert_eq!(apply_as(&host, state).await.expect("it works"), None);
    }
    // Only a file with which etcd does not start is written again.
    host.with_world_mut(|world| world.file(SETTINGS, ""));
    apply_as(&host, InitialState::New)
        .await
        .expect("it works")
        .expect("it differs");
    assert_eq!(settings(&host), Some(text));
}

#[tokio::test]
async fn one_of_several_masters_with_data_never_gets_the_state_new() {
    let host = host().with_file(LOG, "");
    host.with_world_mut(|world| world.etcd.voter("m-3", "172.30.0.13", 13));
    apply_as(&host, InitialState::New)
        .await
        .expect("it works")
        .expect("it differs");
    let text = settings(&host).expect("it is written");
    assert!(
        text.starts_with("ETCD_INITIAL_CLUSTER_STATE=existing\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_second_cluster_is_refused() {
    let host = FakeHost::new().with_file(AUTHORITY, "pem");
    host.with_world_mut(|world| {
        let answer = (401, String::new());
        world.endpoints.insert(API.to_owned(), answer);
    });
    let error = apply_as(&host, InitialState::New)
        .await
        .expect_err("an API server answers");
    assert!(error.to_string().contains("HTTP status 401"), "{error}");
    assert_eq!((host.mutations(), settings(&host)), (0, None));
    // The address is this host's own.
    host.with_world_mut(|world| {
        let address = "172.30.0.10".parse().expect("an address");
        world.link("eth0", true, &[(address, 24)]);
    });
    apply_as(&host, InitialState::New)
        .await
        .expect("it works")
        .expect("it begins");
    // A file of an earlier time is no permission.
    host.with_world_mut(|world| {
        assert!(world.links.remove("eth0").is_some());
    });
    let error = apply_as(&host, InitialState::New)
        .await
        .expect_err("an API server answers");
    assert!(error.is_permanent(), "{error}");
}

/// Before anything is touched, the host has no authority yet.
#[tokio::test]
async fn a_bare_host_is_told_that_its_cluster_exists() {
    let existing = FakeHost::new();
    existing.with_world_mut(|world| {
        let failure = rustls::CertificateError::UnknownIssuer;
        let failure = rustls::Error::InvalidCertificate(failure);
        world.tls_failures.insert(API.to_owned(), failure);
    });
    let may = async |host: &FakeHost, state| spec(state).may_begin(host).await;
    let error = may(&existing, InitialState::New).await;
    let error = error.expect_err("a server answers");
    assert!(error.is_permanent(), "{error}");
    assert!(
        error.to_string().contains("so the cluster exists"),
        "{error}"
    );
    assert_eq!(existing.mutations(), 0);
    may(&existing, InitialState::Existing)
        .await
        .expect("it begins no cluster");
    may(&FakeHost::new(), InitialState::New)
        .await
        .expect("none answers");
    // It has data, or knows other masters.
    let with_data = existing.fork().with_file(LOG, "");
    may(&with_data, InitialState::New)
        .await
        .expect("it begins no cluster");
    let masters =
        r#"{"version":1,"masters":[{"name":"m-1","address":"172.30.0.11","voter":true}]}"#;
    let beside = existing.fork().with_file(MASTERS, masters);
    may(&beside, InitialState::New)
        .await
        .expect("it joins the other");
}

#[tokio::test]
async fn a_failed_handshake_is_an_answer_of_an_api_server() {
    let host = FakeHost::new().with_file(AUTHORITY, "pem");
    let failure = rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure);
    host.with_world_mut(|world| {
        world.tls_failures.insert(API.to_owned(), failure);
    });
    let error = apply_as(&host, InitialState::New)
        .await
        .expect_err("a server answers");
    assert!(error.is_permanent(), "{error}");
    assert!(
        error.to_string().contains("so the cluster exists"),
        "{error}"
    );
    assert_eq!((host.mutations(), settings(&host)), (0, None));
}

#[tokio::test]
async fn a_host_that_had_data_begins_no_cluster() {
    let id = "00112233445566778899aabbccddeeff";
    let record = format!(r#"{{"version":1,"id":"{id}"}}"#);
    for written in [None, Some(OTHER)] {
        let host = FakeHost::new().with_file(RECORD, &record);
        if let Some(text) = written {
            host.with_world_mut(|world| world.file(SETTINGS, text));
        }
        let error = apply_as(&host, InitialState::New)
            .await
            .expect_err("it had data");
        let ResourceError::Unmet { what, next } = &error else {
            panic!("{error}");
        };
        assert!(what.contains("lost or exchanged"), "{what}");
        for part in ["put the right data back", "restore a backup", "existing"] {
            assert!(next.contains(part), "{next}");
        }
        assert_eq!(host.mutations(), 0);
        // etcd has not started since the id was made.
        host.with_world_mut(|world| world.file(IDENTITY, id));
        apply_as(&host, InitialState::New).await.expect("it works");
        assert!(settings(&host).is_some());
    }
}

#[tokio::test]
async fn the_first_master_that_lost_its_disk_joins_the_others() {
    let host = host().with_file(RECORD, "{}").with_file(SETTINGS, OTHER);
    host.with_world_mut(|world| {
        world.etcd.voter("m-3", "172.30.0.13", 13);
        world.etcd.silence("172.30.0.13");
    });
    apply_as(&host, InitialState::New)
        .await
        .expect("it works")
        .expect("it joins");
    let members = members(&host);
    assert_eq!(members.len(), 3);
    assert!(members[2].1, "it has no vote yet");
    let text = settings(&host).expect("it is written");
    assert!(text.contains("STATE=existing\n"), "{text}");
    // Without them it waits, and begins nothing.
    let list = host.with_world(|world| world.text(MASTERS));
    let alone = FakeHost::new().with_file(MASTERS, list.expect("it is there"));
    let error = apply_as(&alone, InitialState::New)
        .await
        .expect_err("no other one answers");
    assert!(!error.is_permanent(), "{error}");
    assert_eq!((alone.mutations(), settings(&alone)), (0, None));
}

#[tokio::test]
async fn a_member_whose_address_changed_is_not_taken_for_the_listed_one() {
    let host = host().with_file(LOG, "");
    host.with_world_mut(|world| world.etcd.voter("m-3", "172.30.0.99", 13));
    let error = join_cluster(&host).await.expect_err("it has moved");
    let ResourceError::Unmet { what, next } = &error else {
        panic!("{error}");
    };
    assert!(what.contains("https://172.30.0.99:2380"), "{what}");
    assert!(next.contains("nodelet cluster remove m-3"), "{next}");
    assert_eq!((host.mutations(), settings(&host)), (0, None));
}

#[tokio::test]
async fn a_member_that_works_elsewhere_is_not_replaced() {
    let host = host();
    host.with_world_mut(|world| world.etcd.voter("m-3", "172.30.0.13", 13));
    let error = join_cluster(&host).await.expect_err("it works");
    assert!(error.is_permanent(), "{error}");
    assert_eq!((host.mutations(), members(&host).len()), (0, 3));
    // Another member answers there, so its own one does not work.
    host.with_world_mut(|world| {
        let state = world.etcd.states.get_mut("https://172.30.0.13:4001");
        state.expect("it is there").id = 99;
    });
    join_cluster(&host)
        .await
        .expect("it works")
        .expect("it is replaced");
}

#[tokio::test]
async fn without_data_and_masters_nothing_is_begun() {
    let host = FakeHost::new();
    let error = join_cluster(&host).await.expect_err("it knows no cluster");
    let ResourceError::Unmet { next, .. } = error else {
        panic!("{error}");
    };
    assert!(next.contains("ETCD_INITIAL_CLUSTER_STATE to new"), "{next}");
    assert_eq!(host.mutations(), 0);
}

#[tokio::test]
async fn a_host_joins_as_a_learner_once() {
    let host = host().with_file(RECORD, "{}");
    join_cluster(&host)
        .await
        .expect("it works")
        .expect("it differs");
    assert_eq!(members(&host), [(11, false), (12, false), (13, true)]);
    let text = settings(&host).expect("it is written");
    assert!(
        text.starts_with("ETCD_INITIAL_CLUSTER_STATE=existing\n"),
        "{text}"
    );
    for part in [
        "m-1=https://172.30.0.11:2380",
        "m-3=https://172.30.0.13:2380",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(is_there(&host, MARKER) && !is_there(&host, RECORD));
    assert_eq!(join_cluster(&host).await.expect("it works"), None);
}

#[tokio::test]
async fn a_host_that_is_too_early_waits_and_goes_on() {
    let host = host();
    host.with_world_mut(|world| {
        let state = world.etcd.states.get_mut("https://172.30.0.12:4001");
        state.expect("it is there").leader = None;
    });
    let error = join_cluster(&host).await.expect_err("it waits");
    assert!(!error.is_permanent(), "{error}");
    assert!(
        error.to_string().contains("m-2: it knows no leader"),
        "{error}"
    );
    assert_eq!((members(&host).len(), settings(&host)), (2, None));
    host.with_world_mut(|world| {
        let state = world.etcd.states.get_mut("https://172.30.0.12:4001");
        state.expect("it is there").leader = Some(11);
    });
    join_cluster(&host)
        .await
        .expect("it works")
        .expect("it joins");
    let silent = FakeHost::new();
    let list = host
        .with_world(|world| world.text(MASTERS))
        .expect("it is there");
    let silent = silent.with_file(MASTERS, list);
    let error = join_cluster(&silent).await.expect_err("nothing answers");
    assert!(
        !error.is_permanent() && error.to_string().contains("with quorum"),
        "{error}"
    );
}

#[tokio::test]
async fn an_interrupted_join_goes_on_and_adds_no_second_member() {
    for call in 1..=12 {
        let host = host().with_faults(FaultPlan::none().crash_after(call));
        if join_cluster(&host).await.is_ok() {
            continue;
        }
        host.end_crash();
        join_cluster(&host).await.expect("it goes on");
        assert_eq!(members(&host).len(), 3, "{call}");
        assert!(settings(&host).is_some(), "{call}");
        assert_eq!(join_cluster(&host).await.expect("it works"), None, "{call}");
    }
}

#[tokio::test]
async fn a_member_whose_disk_was_emptied_is_replaced() {
    let host = host();
    host.with_world_mut(|world| {
        world.etcd.voter("m-3", "172.30.0.13", 13);
        world.etcd.silence("172.30.0.13");
    });
    join_cluster(&host)
        .await
        .expect("it works")
        .expect("it differs");
    let members = members(&host);
    assert_eq!(members.len(), 3);
    assert!(members[2].1, "it has no vote yet");
}

/// Its disk was emptied afterwards, or it was a learner: so it looks like a new host.
#[tokio::test]
async fn a_removed_master_does_not_add_itself_until_the_keys_are_exported_again() {
    for is_learner in [false, true] {
        let host = host();
        if is_learner {
            join_cluster(&host).await.expect("it joins");
        }
        let endpoints = ["https://172.30.0.11:4001".to_owned()];
        let marked = removed::mark(&host, &endpoints, "m-3").await;
        marked.expect("it answers");
        let left = host.member_remove(&endpoints, 13).await;
        left.expect("it answers");
        let before = host.mutations();
        let error = join_cluster(&host).await.expect_err("it was removed");
        let ResourceError::Unmet { what, next } = error else {
            panic!("{error:?}");
        };
        assert!(what.contains("was removed from the cluster"), "{what}");
        assert!(next.contains("nodelet pki export m-3 --to"), "{next}");
        assert_eq!((members(&host).len(), host.mutations()), (2, before));

        let export = async || {
            let until = host.now() + Duration::from_secs(3600);
            let permitted = removed::permit(&host, &endpoints, "m-3", until).await;
            permitted.expect("it answers");
        };
        export().await;
        host.pause(Duration::from_secs(3600)).await;
        let error = join_cluster(&host).await.expect_err("the file has ended");
        let ended = matches!(&error, ResourceError::Unmet { what, next } if what.contains("has ended") && !next.contains("--purge"));
        assert!(ended, "{error:?}");
        export().await;
        join_cluster(&host).await.expect("it joins again");
        assert_eq!(members(&host).len(), 3, "{is_learner}");
        // Its join was interrupted, and the file has ended meanwhile.
        let left = host.member_remove(&endpoints, 13).await;
        left.expect("it answers");
        host.pause(Duration::from_secs(3600)).await;
        join_cluster(&host).await.expect("it joins again");
    }
}

/// A removal has marked it, and was killed before it removed the member.
#[tokio::test]
async fn a_master_whose_removal_is_not_over_does_not_replace_its_member() {
    let host = host();
    host.with_world_mut(|world| {
        world.etcd.voter("m-3", "172.30.0.13", 13);
        world.etcd.silence("172.30.0.13");
    });
    let endpoints = ["https://172.30.0.11:4001".to_owned()];
    let marked = removed::mark(&host, &endpoints, "m-3").await;
    marked.expect("it answers");
    let before = host.mutations();
    let error = join_cluster(&host).await.expect_err("it is being removed");
    let ResourceError::Unmet { what, next } = error else {
        panic!("{error:?}");
    };
    assert!(what.contains("has begun and is not over"), "{what}");
    assert!(!next.contains("--purge"), "{next}");
    assert_eq!((host.mutations(), members(&host).len()), (before, 3));
}

/// The removal has not seen the new member. What it wrote when it joined for the first time names the same members.
#[tokio::test]
async fn a_master_that_was_removed_while_it_joined_does_not_start() {
    let settings = "ETCD_INITIAL_CLUSTER_STATE=existing\nETCD_INITIAL_CLUSTER_TOKEN=c-1\nETCD_INITIAL_CLUSTER=m-1=https://172.30.0.11:2380,m-2=https://172.30.0.12:2380,m-3=https://172.30.0.13:2380\nETCD_INITIAL_ADVERTISE_PEER_URLS=https://172.30.0.13:2380\n";
    let host = host().with_file(SETTINGS, settings).with_file(MARKER, "");
    let endpoints = ["https://172.30.0.11:4001".to_owned()];
    let added = host.member_add_learner(&endpoints, PEER).await;
    added.expect("it answers");
    let started = join_cluster(&host).await.expect("it is a member");
    assert_eq!(started, None);
    let marked = removed::mark(&host, &endpoints, "m-3").await;
    marked.expect("it answers");
    let before = host.mutations();
    let error = join_cluster(&host).await.expect_err("it was removed");
    let ResourceError::Unmet { what, next } = error else {
        panic!("{error:?}");
    };
    assert!(what.contains("while it joined"), "{what}");
    assert!(
        next.contains("nodelet cluster remove 172.30.0.13"),
        "{next}"
    );
    assert_eq!(host.mutations(), before);
}

/// It may be one that was removed.
#[tokio::test]
async fn a_host_does_not_add_itself_while_etcd_does_not_tell_whether_it_was_removed() {
    let host = host();
    host.set_faults(FaultPlan::none().fail("get_key", "*"));
    let error = join_cluster(&host).await.expect_err("it is not known");
    let awaited = matches!(error, ResourceError::Awaited { .. });
    assert!(awaited, "{error:?}");
    assert_eq!(members(&host).len(), 2);
}

#[tokio::test]
async fn a_member_that_was_removed_keeps_its_data_and_says_so() {
    let host = host().with_file(LOG, "");
    let error = join_cluster(&host).await.expect_err("it is not listed");
    assert!(
        error.is_permanent() && error.to_string().contains("was removed"),
        "{error}"
    );
    assert!(is_there(&host, LOG));
    assert_eq!((host.mutations(), members(&host).len()), (0, 2));
    // Without quorum nothing is concluded.
    host.with_world_mut(|world| world.etcd.silence("172.30.0.12"));
    host.with_world_mut(|world| world.file(SETTINGS, OTHER));
    assert_eq!(join_cluster(&host).await.expect("it works"), None);
}

#[tokio::test]
async fn the_data_of_a_learner_that_was_rolled_back_is_thrown_away() {
    let host = host();
    let (cx, spec) = (context(&host), spec(InitialState::Existing));
    let mut receipt = Receipt::default();
    apply_in(&cx, &spec, &mut receipt).await.expect("it works");
    // etcd has run and written data, then the phase failed.
    host.with_world_mut(|world| world.file(LOG, ""));
    let errors = receipt.revert(&host).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(members(&host).len(), 2);
    assert!(settings(&host).is_none() && is_there(&host, LOG));
    join_cluster(&host)
        .await
        .expect("it works")
        .expect("it joins again");
    assert!(!is_there(&host, LOG) && is_there(&host, MARKER));
    assert_eq!(members(&host).len(), 3);
}

/// etcd makes a store before it knows whether it may join.
#[tokio::test]
async fn a_learner_with_a_store_and_no_log_has_no_data() {
    let host = host();
    join_cluster(&host)
        .await
        .expect("it works")
        .expect("it joins");
    host.with_world_mut(|world| world.file(STORE, ""));
    assert_eq!(join_cluster(&host).await.expect("it works"), None);
    // Another member has joined meanwhile: etcd refuses the list that was written.
    host.with_world_mut(|world| world.etcd.voter("m-4", "172.30.0.14", 14));
    join_cluster(&host)
        .await
        .expect("it works")
        .expect("it differs");
    let text = settings(&host).expect("it is written");
    assert!(text.contains("m-4="), "{text}");
    assert!(!is_there(&host, STORE) && is_there(&host, MARKER));
}

#[tokio::test]
async fn an_interrupted_removal_of_a_learners_data_goes_on() {
    let mut crashes = 0;
    for call in 1..=12 {
        let host = host();
        for path in [MARKER, LOG, STORE, IDENTITY] {
            host.with_world_mut(|world| world.file(path, ""));
        }
        let host = host.with_faults(FaultPlan::none().crash_after(call));
        if join_cluster(&host).await.is_ok() {
            continue;
        }
        crashes += 1;
        host.end_crash();
        assert!(is_there(&host, MARKER), "{call}");
        join_cluster(&host).await.expect("it goes on");
        for path in [LOG, STORE, IDENTITY] {
            assert!(!is_there(&host, path), "{call}: {path}");
        }
        assert_eq!(members(&host).len(), 3, "{call}");
    }
    assert!(crashes > 3, "{crashes}");
}

#[tokio::test]
async fn the_undo_never_removes_a_voter() {
    let host = host();
    let undo = spec(InitialState::Existing).removal(&["https://172.30.0.11:4001".to_owned()]);
    host.with_world_mut(|world| world.etcd.voter("m-3", "172.30.0.13", 13));
    undo.carry_out(&host).await.expect("nothing is to be done");
    assert_eq!(members(&host).len(), 3);
    host.with_world_mut(|world| world.etcd.members[2].learner = true);
    undo.carry_out(&host).await.expect("it is removed");
    assert_eq!(members(&host).len(), 2);
    // A host is cleaned even if the others are away.
    host.with_world_mut(|world| world.etcd.states.clear());
    undo.carry_out(&host).await.expect("it is left");
}
