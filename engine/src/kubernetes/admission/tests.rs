//! Records and tokens in the cluster of a fake master.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::*;
use crate::host::fake::{FakeHost, FaultPlan};
use crate::host::{Clock as _, ConfigMaps as _};
use crate::kubernetes::join_file::Token;

const HOUR: Duration = Duration::from_secs(3600);

/// A master of a cluster that is empty.
pub(crate) fn master() -> (FakeHost, ClusterAccess) {
    let host = FakeHost::new()
        .with_file("/etc/kubeconfig", "")
        .with_kubernetes(|rules| rules.remote_api = true);
    (host, ClusterAccess::with("/etc/kubeconfig".as_ref()))
}

async fn try_to_admit(host: &FakeHost, access: &ClusterAccess) -> HostResult<Token> {
    let token = Token::random().expect("random numbers");
    let new = NewToken {
        token: &token,
        now: host.now(),
        expires: end_of(host.now(), HOUR),
        replaces: false,
        taints: None,
    };
    admit(host, access, "w-1", &new).await.map(|()| token)
}

/// Admits node `w-1` for an hour.
pub(crate) async fn admit_once(host: &FakeHost, access: &ClusterAccess) -> Token {
    try_to_admit(host, access).await.expect("it answers")
}

async fn record(host: &FakeHost, access: &ClusterAccess) -> Admission {
    let record = admission(host, access, "w-1").await.unwrap();
    record.expect("it is there")
}

#[tokio::test]
async fn a_second_token_of_a_node_replaces_its_first_and_begins_without_keys() {
    let (host, access) = master();
    let first = admit_once(&host, &access).await;
    let found = token(&host, &access, first.id()).await.unwrap().unwrap();
    assert_eq!(found.node, "w-1");
    assert_eq!(found.expires, end_of(host.now(), HOUR));
    assert!(!found.replaces);
    let mut used = record(&host, &access).await;
    used.keys
        .insert(CertificateKind::KubeProxy, "aa".to_owned());
    used.address = Some("10.0.0.7".parse().unwrap());
    used.keys_at = Some(end_of(host.now(), HOUR));
    assert!(put(&host, &access, &used).await.unwrap());
    let read = record(&host, &access).await;
    assert_eq!((&read.keys, read.address), (&used.keys, used.address));
    assert_eq!(read.keys_at, used.keys_at);

    let second = admit_once(&host, &access).await;
    assert_eq!(token(&host, &access, first.id()).await.unwrap(), None);
    let read = record(&host, &access).await;
    assert_eq!(read.token_id.as_deref(), Some(second.id()));
    assert!(read.keys.is_empty());
    // Its certificate for the address is still valid.
    assert_eq!(read.address, used.address);
    assert_eq!(admission(&host, &access, "w-2").await.unwrap(), None);
}

/// Records of earlier versions have no claim: their address is kept.
#[tokio::test]
async fn a_claim_is_read_as_it_was_written() {
    let (host, access) = master();
    admit_once(&host, &access).await;
    let mut claiming = record(&host, &access).await;
    assert_eq!(claiming.claim, None);
    for request in [None, Some("uid-1".to_owned())] {
        claiming = record(&host, &access).await;
        claiming.claim = Some(AddressClaim {
            address: "fd00::7".parse().unwrap(),
            at: end_of(host.now(), HOUR),
            request,
        });
        assert!(put(&host, &access, &claiming).await.unwrap());
        assert_eq!(record(&host, &access).await.claim, claiming.claim);
    }
    let mut map = written(&claiming);
    map.data.remove("claim-at");
    let ended = read(map).unwrap().claim.expect("it is there");
    assert_eq!(ended.at, SystemTime::UNIX_EPOCH);
}

/// Records of earlier versions name no taints.
#[test]
fn the_taints_of_a_record_are_read_as_they_were_written() {
    let taint = |text: &str| parse_taint(text).expect("a taint");
    let named = Admission {
        node: "w-1".to_owned(),
        taints: vec![taint("gpu=true:NoSchedule"), taint("gpu:NoExecute")],
        untainted: vec![taint("example.org/team=a:PreferNoSchedule")],
        ..Admission::default()
    };
    let map = written(&named);
    assert_eq!(map.data["taints"], "gpu=true:NoSchedule,gpu:NoExecute");
    assert_eq!(read(map.clone()), Ok(named.clone()));
    let mut earlier = map.clone();
    for field in ["taints", "untainted"] {
        assert!(earlier.data.remove(field).is_some());
    }
    let without = Admission {
        taints: Vec::new(),
        untainted: Vec::new(),
        ..named
    };
    assert_eq!(read(earlier), Ok(without));
    let mut twice = map;
    let line = "gpu=a:NoSchedule, gpu=b:NoSchedule".to_owned();
    twice.data.insert("taints".to_owned(), line);
    let refused = read(twice).expect_err("they have one key and effect");
    assert!(refused.contains("`taints` is wrong"), "{refused}");
}

/// The first token is deleted in any case: it would work until its expiry.
#[tokio::test]
async fn a_token_whose_deletion_was_interrupted_ends_with_the_next_one() {
    for next in ["admit", "end", "revoke"] {
        let (host, access) = master();
        let first = admit_once(&host, &access).await;
        host.set_faults(FaultPlan::none().fail("delete_object", "*").times(1));
        try_to_admit(&host, &access).await.expect_err("it fails");
        assert!(token(&host, &access, first.id()).await.unwrap().is_some());
        let second = record(&host, &access).await;
        match next {
            "admit" => drop(admit_once(&host, &access).await),
            "end" => assert!(end_token(&host, &access, &second).await.unwrap()),
            _ => drop(revoke(&host, &access, "w-1", "").await.unwrap()),
        }
        let second = second.token_id.expect("it has a token");
        for id in [first.id(), &second] {
            assert_eq!(token(&host, &access, id).await.unwrap(), None, "{next}");
        }
    }
}

/// The ids of all tokens that the API server accepts.
fn live_tokens(host: &FakeHost) -> BTreeSet<String> {
    let is_live = |name: &str| Some(name.rsplit_once("bootstrap-token-")?.1.to_owned());
    host.with_world(|world| {
        let names = world.cluster.objects.keys();
        names.filter_map(|name| is_live(name)).collect()
    })
}

fn named(record: &Admission) -> BTreeSet<String> {
    let named = record.token_id.iter().chain(&record.token_before);
    named.cloned().collect()
}

/// The deletion of the first token has failed with the second one.
#[tokio::test]
async fn no_failed_call_of_a_third_admission_leaves_a_token_that_its_record_does_not_name() {
    let faults = [FaultPlan::fail_call, FaultPlan::fail_after_call];
    let mut failed = 0;
    for (fault, call) in faults
        .iter()
        .flat_map(|fault| (1..=6).map(move |n| (fault, n)))
    {
        let (host, access) = master();
        admit_once(&host, &access).await;
        host.set_faults(FaultPlan::none().fail("delete_object", "*").times(1));
        try_to_admit(&host, &access).await.expect_err("it fails");
        let second = record(&host, &access).await;
        assert_eq!(live_tokens(&host), named(&second));
        assert_eq!(live_tokens(&host).len(), 2);

        host.set_faults(fault(FaultPlan::none(), call));
        let third = try_to_admit(&host, &access).await;
        let present = record(&host, &access).await;
        let (live, named) = (live_tokens(&host), named(&present));
        assert!(live.is_subset(&named), "call {call}: {live:?} {named:?}");
        // The token that counts is there.
        let counts = present.token_id.expect("it has a token");
        assert!(live.contains(&counts), "call {call}");
        match third {
            Ok(token) => assert_eq!(token.id(), counts),
            Err(_) => failed += 1,
        }
    }
    assert_eq!(failed, 8, "each of its four calls fails in two ways");
}

#[tokio::test]
async fn an_earlier_token_that_cannot_be_deleted_is_named_with_what_became_of_the_new_one() {
    let (host, access) = master();
    let first = admit_once(&host, &access).await;
    host.set_faults(FaultPlan::none().fail("delete_object", "*"));
    let text = |error: HostError| chain(&error).join(": ");
    let second = try_to_admit(&host, &access).await.map(drop);
    let second = text(second.expect_err("it fails"));
    let third = try_to_admit(&host, &access).await.map(drop);
    let third = text(third.expect_err("it fails"));
    for (text, outcome) in [(second, "new token is valid"), (third, "no new token")] {
        assert!(
            text.contains(first.id()) && text.contains(outcome),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_failed_admission_leaves_the_earlier_token() {
    for call in ["apply_object", "put_config_map"] {
        let (host, access) = master();
        let first = admit_once(&host, &access).await;
        host.set_faults(FaultPlan::none().fail(call, "*").times(1));
        try_to_admit(&host, &access).await.expect_err("it fails");
        assert!(token(&host, &access, first.id()).await.unwrap().is_some());
        let read = record(&host, &access).await;
        assert_eq!(read.token_id.as_deref(), Some(first.id()), "{call}");
    }
}

#[tokio::test]
async fn a_write_over_another_version_of_a_record_changes_nothing() {
    let (host, access) = master();
    admit_once(&host, &access).await;
    let read = record(&host, &access).await;
    assert!(end_token(&host, &access, &read).await.unwrap());
    assert!(!put(&host, &access, &read).await.unwrap());
    assert_eq!(record(&host, &access).await.token_id, None);
}

#[tokio::test]
async fn nothing_is_left_of_a_withdrawn_admission() {
    let (host, access) = master();
    withdraw(&host, &access, "w-1")
        .await
        .expect("none is there");
    for removed in [false, true] {
        let its = admit_once(&host, &access).await;
        if removed {
            revoke(&host, &access, "w-1", "uid-1").await.unwrap();
        }
        withdraw(&host, &access, "w-1").await.unwrap();
        assert_eq!(admission(&host, &access, "w-1").await.unwrap(), None);
        assert_eq!(token(&host, &access, its.id()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_revoked_node_has_a_tombstone_and_no_token() {
    let (host, access) = master();
    assert_eq!(revoke(&host, &access, "w-1", "").await.unwrap(), None);
    let its = admit_once(&host, &access).await;
    let before = revoke(&host, &access, "w-1", "uid-1").await.unwrap();
    assert_eq!(before.unwrap().token_id.as_deref(), Some(its.id()));
    assert_eq!(token(&host, &access, its.id()).await.unwrap(), None);
    let tombstone = record(&host, &access).await;
    let removed = tombstone.removed.clone().expect("it is a tombstone");
    assert_eq!(removed.uid, "uid-1");
    assert_eq!(removed.certificates_end(), removed.at + LONGEST_LIFE);
    revoke(&host, &access, "w-1", "uid-2")
        .await
        .expect("it can be repeated");
    assert_eq!(record(&host, &access).await, tombstone);
}

#[tokio::test]
async fn a_record_with_the_name_of_another_node_admits_no_node() {
    let (host, access) = master();
    let mut map = written(&Admission {
        node: "w-1".to_owned(),
        ..Admission::default()
    });
    map.data.insert("node".to_owned(), "w-2".to_owned());
    assert!(host.put_config_map(&access, &map).await.unwrap());
    admission(&host, &access, "w-1").await.unwrap_err();
    let all = admissions(&host, &access).await.unwrap();
    assert!(all.records.is_empty());
    let [damaged] = all.damaged.as_slice() else {
        panic!("{all:?}");
    };
    assert_eq!(damaged.node, "w-1");
}

#[tokio::test]
async fn a_damaged_record_is_listed_with_its_node_and_hides_no_other_one() {
    for field in [
        "keys-at",
        "address",
        "claim-address",
        "claim-at",
        "left-at",
        "removed-at",
        "taints",
        "untainted",
    ] {
        let (host, access) = master();
        admit_once(&host, &access).await;
        let mut map = written(&Admission {
            node: "w-2".to_owned(),
            ..Admission::default()
        });
        map.data.insert(field.to_owned(), "?".to_owned());
        assert!(host.put_config_map(&access, &map).await.unwrap());
        let all = admissions(&host, &access).await.unwrap();
        let readable: Vec<&str> = all.records.keys().map(String::as_str).collect();
        assert_eq!(readable, ["w-1"], "{field}");
        let [damaged] = all.damaged.as_slice() else {
            panic!("{all:?}");
        };
        assert_eq!(damaged.node, "w-2");
        assert_eq!(damaged.config_map, "nodelet-node-w-2");
        assert!(damaged.problem.contains(field), "{damaged:?}");
    }
}

#[test]
fn a_token_without_a_readable_expiry_has_ended() {
    let secret = |expiration: &str| {
        let object = json!({
            "metadata": {"annotations": {token::NODE: "w-1"}},
            "data": {"expiration": BASE64_STANDARD.encode(expiration)},
        });
        read_token("abcdef", &object)
    };
    let ended = secret("soon").expect("it is for a node");
    assert_eq!(ended.expires, SystemTime::UNIX_EPOCH);
    let object = json!({"data": {"expiration": ""}});
    assert_eq!(read_token("abcdef", &object), None, "it is for no node");
}

/// `kubectl label`, or a restore without labels.
#[tokio::test]
async fn a_record_counts_without_its_labels() {
    let (host, access) = master();
    admit_once(&host, &access).await;
    let name = record_name("w-1");
    let map = host.config_map(&access, NAMESPACE, &name).await.unwrap();
    let mut map = map.expect("it is there");
    map.labels.clear();
    assert!(host.put_config_map(&access, &map).await.unwrap());
    let all = admissions(&host, &access).await.unwrap();
    assert!(all.records.contains_key("w-1"), "{all:?}");
}
