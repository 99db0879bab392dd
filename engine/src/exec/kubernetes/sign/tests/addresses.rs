//! Requests for the address of a node: no two nodes get certificates for one address, and no address is taken for ever without one.

use std::net::IpAddr;

use super::*;
use crate::host::ConfigMaps as _;
use crate::kubernetes::admission::{AddressClaim, CLAIM_LIFE};

const FIRST: (&str, &str) = ("system:node:w-1", "system:nodes");
const SECOND: (&str, &str) = ("system:node:w-2", "system:nodes");
const OTHER_KUBELET: (&str, bool) = ("system:node:w-2", true);

/// The address that all requests are for.
fn address() -> IpAddr {
    "10.0.0.7".parse().expect("an address")
}

fn earlier_address() -> IpAddr {
    "10.0.0.6".parse().expect("an address")
}

async fn put(host: &FakeHost, access: &ClusterAccess, record: &Admission) {
    let put = admission::put(host, access, record).await;
    assert!(put.expect("it answers"), "another version is there");
}

async fn admit_by_record(host: &FakeHost, access: &ClusterAccess, node: &str) {
    let admitted = Admission {
        node: node.to_owned(),
        ..Admission::default()
    };
    put(host, access, &admitted).await;
}

async fn record_of(host: &FakeHost, access: &ClusterAccess, node: &str) -> Admission {
    let record = admission::admission(host, access, node).await;
    record.expect("it answers").expect("it is there")
}

/// A master, and nodes `w-1` and `w-2` that ask for the same address, with the requests `a` and `b`.
async fn two_nodes() -> (FakeHost, ClusterAccess) {
    let (host, access) = master().await;
    admit_by_record(&host, &access, "w-1").await;
    admit_by_record(&host, &access, "w-2").await;
    ask_as(&host, FIRST, "a", KUBELET, true);
    ask_as(&host, SECOND, "b", OTHER_KUBELET, true);
    (host, access)
}

/// A request on its way through a master.
struct OnItsWay {
    request: CertificateRequest,
    granted: Granted,
}

impl OnItsWay {
    async fn new(signer: &Signer<'_>, name: &str) -> Self {
        let request = signer.host.certificate_request(signer.access, name).await;
        let request = request.expect("it answers").expect("it is there");
        let granted = signer.decide(&request, 0).await.expect("it answers");
        Self {
            request,
            granted: granted.expect("the address is free"),
        }
    }

    async fn claim(&self, signer: &Signer<'_>) -> Claim {
        let record = signer.usable_record(&self.request, &self.granted).await;
        let record = record.expect("it answers").expect("it is admitted");
        let claim = signer.claim(&self.request, &self.granted, &record, address(), 0);
        claim.await.expect("it answers")
    }

    async fn sign(&mut self, signer: &Signer<'_>, held: &Admission) -> Option<RequestOutcome> {
        let signed = signer.sign_held(&mut self.request, &self.granted, held, address());
        signed.await.expect("it answers")
    }
}

/// Writes the claim of node `w-1` as a master whose clock differs by this.
async fn claim_first(host: &FakeHost, access: &ClusterAccess, is_behind: bool) {
    let minute = Duration::from_secs(60);
    let claiming = Admission {
        claim: Some(AddressClaim {
            address: address(),
            at: match is_behind {
                true => host.now() - minute,
                false => host.now() + minute,
            },
            request: None,
        }),
        ..record_of(host, access, "w-1").await
    };
    put(host, access, &claiming).await;
}

/// A master that signs certificates of a day.
async fn signer<'a>(host: &'a FakeHost, access: &'a ClusterAccess) -> Signer<'a> {
    let signer = Signer::new(host, access, DAY).await;
    signer.expect("it signs")
}

#[track_caller]
fn held(claim: Claim) -> Admission {
    match claim {
        Claim::Held(held) => *held,
        Claim::Refused(_) | Claim::Waits(_) | Claim::Changed => panic!("{claim:?}"),
    }
}

#[track_caller]
fn is_signed(outcome: &RequestOutcome) {
    assert!(matches!(outcome, RequestOutcome::Signed(_)), "{outcome:?}");
}

#[track_caller]
fn is_denied(outcome: &RequestOutcome, why: &str) {
    assert!(
        matches!(outcome, RequestOutcome::Denied(reason) if reason.contains(why)),
        "{outcome:?}"
    );
}

#[track_caller]
fn waits_for(outcome: &RequestOutcome, node: &str) {
    assert!(
        matches!(outcome, RequestOutcome::Failed(reason) if reason.contains(&format!("waits for node `{node}`"))),
        "{outcome:?}"
    );
}

/// The outcomes of the open requests of one call, by name.
async fn outcomes(host: &FakeHost, access: &ClusterAccess) -> BTreeMap<String, RequestOutcome> {
    let report = signed(host, access).await;
    let outcomes = report.requests.into_iter();
    outcomes.map(|its| (its.name, its.outcome)).collect()
}

/// The second master has read all records before the first one claimed. The clock of the first one is behind, so its claim is the earlier one.
#[tokio::test]
async fn a_claim_that_gives_way_is_taken_away_before_it_is_signed() {
    let (host, access) = two_nodes().await;
    let signer = signer(&host, &access).await;
    let mut first = OnItsWay::new(&signer, "a").await;
    let mut second = OnItsWay::new(&signer, "b").await;
    let held_by_second = held(second.claim(&signer).await);
    claim_first(&host, &access, true).await;
    let held_by_first = held(first.claim(&signer).await);
    assert_eq!(second.sign(&signer, &held_by_second).await, None);
    let signed_first = first.sign(&signer, &held_by_first).await;
    is_signed(&signed_first.expect("it holds the address"));
    // It was approved a moment ago.
    is_denied(&outcomes(&host, &access).await["b"], "`w-1`");
    let left = host.certificate_request(&access, "b").await;
    assert_eq!(left.expect("it answers"), None);
    assert!(record_of(&host, &access, "w-1").await.keeps(address()));
    assert_eq!(record_of(&host, &access, "w-2").await.address, None);
}

#[tokio::test]
async fn a_later_claim_waits_and_is_denied_when_the_first_one_is_signed() {
    let (host, access) = two_nodes().await;
    let signer = signer(&host, &access).await;
    let first = OnItsWay::new(&signer, "a").await;
    let mut second = OnItsWay::new(&signer, "b").await;
    let held_by_second = held(second.claim(&signer).await);
    claim_first(&host, &access, false).await;
    let waits = first.claim(&signer).await;
    assert!(
        matches!(&waits, Claim::Waits(why) if why.contains("`w-2`") && why.contains("cluster remove w-2")),
        "{waits:?}"
    );
    let signed_second = second.sign(&signer, &held_by_second).await;
    is_signed(&signed_second.expect("it holds the address"));
    is_denied(&signer.handle(&first.request, 0).await, "`w-2`");
}

/// Its master ended between the claim and the approval, and its request is gone.
#[tokio::test]
async fn a_claim_for_nothing_ends() {
    let (host, access) = two_nodes().await;
    let signer = signer(&host, &access).await;
    let second = OnItsWay::new(&signer, "b").await;
    held(second.claim(&signer).await);
    let listed = second.request.listed();
    let deleted = host.delete_certificate_request(&access, &listed);
    deleted.await.expect("it is deleted");
    host.pause(Duration::from_secs(2)).await;
    waits_for(&outcomes(&host, &access).await["a"], "w-2");
    let waiting = request_a(&host, &access).await;
    assert_eq!(waiting.state, RequestState::Pending);
    host.pause(CLAIM_LIFE).await;
    is_signed(&outcomes(&host, &access).await["a"]);
    assert_eq!(record_of(&host, &access, "w-2").await.claim, None);
}

/// As long as its request is approved, a master may sign it at any time.
#[tokio::test]
async fn a_claim_that_is_being_signed_does_not_end() {
    let (host, access) = two_nodes().await;
    host.set_faults(FaultPlan::none().fail("set_certificate", "a"));
    for _ in 0..2 {
        let all = outcomes(&host, &access).await;
        assert!(matches!(all["a"], RequestOutcome::Failed(_)), "{all:?}");
        waits_for(&all["b"], "w-1");
        host.pause(CLAIM_LIFE).await;
    }
    host.set_faults(FaultPlan::none());
    let all = outcomes(&host, &access).await;
    is_signed(&all["a"]);
    is_denied(&all["b"], "the address of node `w-1`");
    let record = record_of(&host, &access, "w-1").await;
    assert_eq!((record.address, record.claim), (Some(address()), None));
}

/// The nodes and requests of `two_nodes`. The first attempt to sign request `a` has failed, so masters look at it again.
async fn after_a_failed_signature() -> (FakeHost, ClusterAccess) {
    let (host, access) = two_nodes().await;
    host.set_faults(FaultPlan::none().fail("set_certificate", "a").times(1));
    let all = outcomes(&host, &access).await;
    assert!(matches!(all["a"], RequestOutcome::Failed(_)), "{all:?}");
    (host, access)
}

/// Between the decision of the first master and its signature, its node is removed, and the second master signs for another node.
#[tokio::test]
async fn a_request_that_is_looked_at_again_is_not_signed_if_its_address_has_gone_to_another_node() {
    let (host, access) = after_a_failed_signature().await;
    let one = signer(&host, &access).await;
    let other = signer(&host, &access).await;
    let mut first = OnItsWay::new(&one, "a").await;
    let held_by_first = held(first.claim(&one).await);
    let revoked = admission::revoke(&host, &access, "w-1", "").await;
    revoked.expect("it answers");
    let second = host.certificate_request(&access, "b").await;
    let second = second.expect("it answers").expect("it is there");
    is_signed(&other.handle(&second, 0).await);
    assert!(record_of(&host, &access, "w-2").await.keeps(address()));
    assert_eq!(first.sign(&one, &held_by_first).await, None);
    assert_eq!(request_a(&host, &access).await.certificate, None);
    is_denied(&one.handle(&first.request, 0).await, "was removed");
}

/// The time stands still, so both masters look at it again at the same time.
#[tokio::test]
async fn only_one_of_two_masters_signs_a_request_that_both_look_at_again() {
    let (host, access) = after_a_failed_signature().await;
    let one = signer(&host, &access).await;
    let other = signer(&host, &access).await;
    let mut first = OnItsWay::new(&one, "a").await;
    let mut second = OnItsWay::new(&other, "a").await;
    let held_by_first = held(first.claim(&one).await);
    let held_by_second = held(second.claim(&other).await);
    let signed = second.sign(&other, &held_by_second).await;
    is_signed(&signed.expect("it holds the address"));
    assert_eq!(first.sign(&one, &held_by_first).await, None);
    let settled = one.handle(&first.request, 0).await;
    assert_eq!(settled, RequestOutcome::Settled);
}

#[tokio::test]
async fn a_request_that_is_refused_after_its_approval_frees_its_address() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", KUBELET, true);
    host.set_faults(FaultPlan::none().fail("set_certificate", "*").times(1));
    let all = outcomes(&host, &access).await;
    assert!(matches!(all["a"], RequestOutcome::Failed(_)), "{all:?}");
    let held = record(&host, &access).await;
    assert!(held.claim.as_ref().is_some_and(|its| its.request.is_some()));
    let ended = admission::end_token(&host, &access, &held).await;
    ended.expect("it answers");
    is_denied(&outcomes(&host, &access).await["a"], "it is deleted");
    assert_eq!(record(&host, &access).await.claim, None);
    admit_by_record(&host, &access, "w-2").await;
    ask_as(&host, SECOND, "b", OTHER_KUBELET, true);
    is_signed(&outcomes(&host, &access).await["b"]);
}

/// Claim, approval, record and certificate were written, and the last write of the record failed.
#[tokio::test]
async fn an_address_is_not_free_if_only_its_last_note_is_missing() {
    let (host, access) = two_nodes().await;
    host.set_faults(FaultPlan::none().fail_call(5));
    is_signed(&outcomes(&host, &access).await["a"]);
    let record = record_of(&host, &access, "w-1").await;
    assert!(record.address.is_none() && record.claim.is_some());
    host.pause(CLAIM_LIFE).await;
    waits_for(&outcomes(&host, &access).await["b"], "w-1");
    // Its next certificate settles it.
    ask_as(&host, FIRST, "c", KUBELET, true);
    is_signed(&outcomes(&host, &access).await["c"]);
    let record = record_of(&host, &access, "w-1").await;
    assert_eq!((record.address, record.claim), (Some(address()), None));
    is_denied(&outcomes(&host, &access).await["b"], "`w-1`");
}

/// It has a certificate for another address, and moves with its new token.
#[tokio::test]
async fn a_move_that_is_denied_leaves_the_earlier_address() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    let moving = Admission {
        address: Some(earlier_address()),
        ..record(&host, &access).await
    };
    put(&host, &access, &moving).await;
    ask(&host, &token, "a", KUBELET, true);
    let signer = signer(&host, &access).await;
    let other = Admission {
        node: "w-2".to_owned(),
        address: Some(address()),
        ..Admission::default()
    };
    put(&host, &access, &other).await;
    let request = request_a(&host, &access).await;
    is_denied(&signer.handle(&request, 0).await, "`w-2`");
    let left = record(&host, &access).await;
    assert_eq!(left.address, Some(earlier_address()));
    // No key was noted, so the token still lets it move.
    assert!(left.keys.is_empty());
}

/// Edits the time of the last key in the record of a node. An empty one is none.
async fn edit_keys_at(host: &FakeHost, access: &ClusterAccess, node: &str, value: &str) {
    let name = format!("nodelet-node-{node}");
    let map = host.config_map(access, "kube-system", &name).await;
    let mut map = map.expect("it answers").expect("it is there");
    map.data.insert("keys-at".to_owned(), value.to_owned());
    let put = host.put_config_map(access, &map).await;
    assert!(put.expect("it answers"), "another version is there");
}

/// The certificate of its node is valid.
#[tokio::test]
async fn the_address_of_a_damaged_record_is_not_free() {
    let (host, access) = master().await;
    admit_by_record(&host, &access, "w-1").await;
    admit_by_record(&host, &access, "w-2").await;
    ask_as(&host, FIRST, "a", KUBELET, true);
    is_signed(&outcomes(&host, &access).await["a"]);
    edit_keys_at(&host, &access, "w-1", "yesterday").await;
    ask_as(&host, SECOND, "b", OTHER_KUBELET, true);
    let waits = &outcomes(&host, &access).await["b"];
    let next = "kubectl -n kube-system edit configmap nodelet-node-w-1";
    assert!(
        matches!(waits, RequestOutcome::Failed(reason) if reason.contains(next)),
        "{waits:?}"
    );
    let waiting = host.certificate_request(&access, "b").await;
    let waiting = waiting.expect("it answers").expect("it is there");
    assert_eq!(
        (waiting.state, waiting.certificate),
        (RequestState::Pending, None)
    );
    edit_keys_at(&host, &access, "w-1", "").await;
    is_denied(&outcomes(&host, &access).await["b"], "`w-1`");
}

/// Mended, it lets the same request be signed: a denied one would stay denied.
#[tokio::test]
async fn a_request_of_a_node_with_a_damaged_record_waits() {
    let (host, access) = master().await;
    admit_by_record(&host, &access, "w-1").await;
    edit_keys_at(&host, &access, "w-1", "yesterday").await;
    ask_as(&host, FIRST, "a", KUBELET, false);
    let waits = &outcomes(&host, &access).await["a"];
    let next = "kubectl -n kube-system edit configmap nodelet-node-w-1";
    assert!(
        matches!(waits, RequestOutcome::Failed(reason) if reason.contains(next)),
        "{waits:?}"
    );
    edit_keys_at(&host, &access, "w-1", "").await;
    is_signed(&outcomes(&host, &access).await["a"]);
}

#[tokio::test]
async fn a_damaged_record_holds_up_no_request_without_a_new_address() {
    let (host, access) = after_a_failed_signature().await;
    edit_keys_at(&host, &access, "w-2", "yesterday").await;
    // Its claim is being signed, so other nodes have waited for it.
    is_signed(&outcomes(&host, &access).await["a"]);
    ask_as(&host, FIRST, "c", KUBELET, false);
    ask_as(&host, FIRST, "d", KUBELET, true);
    let all = outcomes(&host, &access).await;
    is_signed(&all["c"]);
    is_signed(&all["d"]);
}

/// Two masters decide about two requests of a node for two addresses at the same time.
#[tokio::test]
async fn a_second_address_is_not_noted_over_the_first() {
    let (host, access) = master().await;
    admitted(&host, &access).await;
    ask_as(&host, FIRST, "a", KUBELET, true);
    let signer = signer(&host, &access).await;
    let its = OnItsWay::new(&signer, "a").await;
    let before = record(&host, &access).await;
    let faster = Admission {
        address: Some(earlier_address()),
        ..before.clone()
    };
    put(&host, &access, &faster).await;
    let usable = signer.usable_record(&its.request, &its.granted).await;
    assert_eq!(usable.expect("it answers"), None);
    let claim = signer.claim(&its.request, &its.granted, &before, address(), 0);
    let claim = claim.await.expect("it answers");
    assert!(matches!(claim, Claim::Changed), "{claim:?}");
    is_denied(&signer.handle(&its.request, 0).await, "10.0.0.6");
    let left = record(&host, &access).await;
    assert_eq!((left.address, left.claim), (faster.address, None));
}

/// Its Node has no label yet, or is not there.
#[tokio::test]
async fn the_address_of_a_master_without_a_node_is_reserved() {
    let (host, access) = master().await;
    let other = masters::MasterEntry {
        name: "cp-2".to_owned(),
        address: address(),
        etcd_id: None,
        voter: true,
    };
    let list = masters::render(&[other]).expect("a list");
    let host = host.with_file(masters::MASTERS, String::from_utf8(list).expect("text"));
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", KUBELET, true);
    is_denied(&outcomes(&host, &access).await["a"], "`cp-2`");
}
