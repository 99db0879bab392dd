//! Requests in the cluster of a fake master, from the token to the certificates.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::*;
use crate::host::fake::{FakeHost, Fault, FaultKind, FaultPlan, Trigger};
use crate::host::{CertificateRequests as _, Clock as _, NewCertificateRequest};
use crate::kubernetes::admission::JOINING;
use crate::kubernetes::admission::tests::admit_once as admitted;
use crate::kubernetes::join_file::Token;
use crate::kubernetes::node_request::MOST_PENDING;
use crate::resource::pki::AuthoritySpec;
use crate::resource::{Context, NoSecrets, Outputs, Receipt, Resource};

mod addresses;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn make<R: Resource>(host: &FakeHost, resource: &R) {
    let cx = Context {
        host,
        outputs: &Outputs::default(),
        secrets: &NoSecrets,
        absent: false,
        cancel: None,
    };
    let observed = resource.observe(&cx).await.expect("it can be observed");
    let mut receipt = Receipt::default();
    let made = resource.converge(&observed, &cx, &mut receipt).await;
    made.expect("it is made");
}

/// A master with its authority and the certificate of its API server.
async fn master() -> (FakeHost, ClusterAccess) {
    let (host, access) = admission::tests::master();
    let authority = AuthoritySpec {
        name: AUTHORITY.to_owned(),
        common_name: "kubernetes".to_owned(),
        years: 10,
        rotation: None,
        successor: None,
    };
    make(&host, &authority).await;
    let apiserver = CertificateSpec {
        path: "apiserver".to_owned(),
        authority: AUTHORITY.to_owned(),
        common_name: "apiserver".to_owned(),
        organizations: Vec::new(),
        usage: Usage::Server,
        dns_names: vec!["kubernetes".to_owned()],
        addresses: vec!["10.0.0.1".parse().expect("an address")],
        life: DAY * 90,
        signed_by: crate::resource::pki::SignedBy::Authority,
    };
    make(&host, &apiserver).await;
    (host, access)
}

/// The request with the name `a`.
async fn request_a(host: &FakeHost, access: &ClusterAccess) -> CertificateRequest {
    let request = host.certificate_request(access, "a").await;
    request.expect("it answers").expect("it is there")
}

/// Puts a request of the token's user into the cluster.
fn ask(host: &FakeHost, token: &Token, name: &str, subject: (&str, bool), server: bool) {
    let user = format!("system:bootstrap:{}", token.id());
    ask_as(host, (&user, JOINING), name, subject, server);
}

/// Puts a request of this user of a group into the cluster.
fn ask_as(
    host: &FakeHost,
    (user, group): (&str, &str),
    name: &str,
    subject: (&str, bool),
    server: bool,
) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if subject.1 {
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
    }
    params
        .distinguished_name
        .push(DnType::CommonName, subject.0);
    if server {
        let node = subject.0.trim_start_matches("system:node:");
        params.subject_alt_names = vec![
            SanType::DnsName(node.try_into().expect("a name")),
            SanType::IpAddress("10.0.0.7".parse().expect("an address")),
        ];
    }
    let key = KeyPair::generate().expect("a key");
    let request = params.serialize_request(&key).expect("a request");
    let purpose = if server { "server auth" } else { "client auth" };
    let new = NewCertificateRequest {
        name: name.to_owned(),
        request: request.pem().expect("PEM").into_bytes(),
        signer: NODE_SIGNER.to_owned(),
        usages: vec!["digital signature".to_owned(), purpose.to_owned()],
    };
    host.with_world_mut(|world| world.certificate_request(&new, user, &[group.to_owned()]));
}

const KUBELET: (&str, bool) = ("system:node:w-1", true);

async fn signed(host: &FakeHost, access: &ClusterAccess) -> SigningReport {
    let report = sign_requests(host, access, DAY * 90, &BTreeSet::new()).await;
    report.expect("it signs")
}

async fn record(host: &FakeHost, access: &ClusterAccess) -> Admission {
    let record = admission::admission(host, access, "w-1").await;
    record.expect("it answers").expect("it is there")
}

#[tokio::test]
async fn a_joining_node_gets_three_certificates_and_its_token_stays() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "client", KUBELET, false);
    ask(&host, &token, "server", KUBELET, true);
    assert_eq!(signed(&host, &access).await.requests.len(), 2);
    ask(&host, &token, "proxy", ("system:kube-proxy", false), false);
    let report = signed(&host, &access).await;
    assert_eq!(
        report.requests[0].outcome,
        RequestOutcome::Signed(NodeCertificate::KubeProxy)
    );
    // The worker needs it to fetch its certificates.
    let found = admission::token(&host, &access, token.id()).await;
    assert!(found.expect("it answers").is_some());
    let record = record(&host, &access).await;
    assert_eq!(record.token_id.as_deref(), Some(token.id()));
    assert_eq!(record.keys.len(), 3);
    assert_eq!(
        record.address,
        Some("10.0.0.7".parse().expect("an address"))
    );
    assert!(signed(&host, &access).await.requests.is_empty());

    // The certificates are those that were decided on, and end in time.
    for (name, usage, names) in [
        ("client", "client", 0),
        ("server", "server", 1),
        ("proxy", "client", 0),
    ] {
        let request = host.certificate_request(&access, name).await;
        let request = request.expect("it answers").expect("it is there");
        assert_eq!(request.state, RequestState::Approved);
        let path = format!("/etc/{name}.crt");
        let certificate = request.certificate.expect("it is signed");
        let certificate = String::from_utf8(certificate).expect("PEM");
        let host = FakeHost::new().with_file(&path, &certificate);
        let facts = certificate_in(&host, path.as_ref()).await;
        let facts = facts.expect("it is read").expect("a certificate");
        assert_eq!(facts.usage, usage);
        assert_eq!(facts.names.len(), names);
        assert_eq!(facts.addresses.len(), names);
        assert_eq!(facts.issuer, "CN=kubernetes");
        let left = facts.not_after.duration_since(host.now()).expect("later");
        assert!(
            left <= LONGEST_LIFE && left > LONGEST_LIFE - HOUR,
            "{left:?}"
        );
    }
}

/// Each master looks at each request, so a decision must not cost the API server much.
#[tokio::test]
async fn records_are_listed_once_and_once_more_for_each_certificate() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", KUBELET, false);
    ask(&host, &token, "b", ("system:kube-proxy", false), false);
    host.clear_journal();
    let report = signed(&host, &access).await;
    for request in &report.requests {
        assert!(matches!(request.outcome, RequestOutcome::Signed(_)));
    }
    let calls = host.journal();
    let count = |name: &str| calls.iter().filter(|call| call.name == name).count();
    assert_eq!((count("config_maps"), count("secret")), (3, 4));
    assert_eq!(count("compare_object"), 0);
}

#[tokio::test]
async fn a_node_that_was_admitted_during_a_call_is_not_denied() {
    let (host, access) = master().await;
    let signer = Signer::new(&host, &access, DAY).await.expect("it signs");
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", KUBELET, false);
    let request = host.certificate_request(&access, "a").await;
    let request = request.expect("it answers").expect("it is there");
    let outcome = signer.handle(&request, 0).await;
    assert!(matches!(outcome, RequestOutcome::Signed(_)), "{outcome:?}");
}

#[tokio::test]
async fn a_wrong_request_is_denied_and_stops_no_other() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a-wrong", ("system:node:w-2", true), false);
    ask(&host, &token, "b-right", KUBELET, false);
    let report = signed(&host, &access).await;
    let outcomes: Vec<bool> = report
        .requests
        .iter()
        .map(|its| matches!(its.outcome, RequestOutcome::Signed(_)))
        .collect();
    assert_eq!(outcomes, [false, true]);
    let wrong = host.certificate_request(&access, "a-wrong").await;
    let wrong = wrong.expect("it answers").expect("it is there");
    assert!(matches!(wrong.state, RequestState::Denied(_)), "{wrong:?}");
    assert_eq!(wrong.certificate, None);
}

/// An administrator has approved it, or nodeletd was killed after its approval.
#[tokio::test]
async fn an_approved_request_is_decided_once_more_before_it_is_signed() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a-wrong", ("system:node:w-2", true), false);
    ask(&host, &token, "b-right", KUBELET, false);
    for name in ["a-wrong", "b-right"] {
        let request = host.certificate_request(&access, name).await;
        let request = request.expect("it answers").expect("it is there");
        let approved = host
            .approve_certificate_request(&access, &request, "")
            .await;
        approved.expect("it is approved");
    }
    let report = signed(&host, &access).await;
    let wrong = &report.requests[0].outcome;
    assert!(
        matches!(wrong, RequestOutcome::Denied(why) if why.contains("common name") && why.contains("deleted")),
        "{wrong:?}"
    );
    assert!(matches!(
        report.requests[1].outcome,
        RequestOutcome::Signed(_)
    ));
    // It would be decided for ever.
    let wrong = host.certificate_request(&access, "a-wrong").await;
    assert_eq!(wrong.expect("it answers"), None);
}

/// The approval was there after the list of requests.
#[tokio::test]
async fn a_wrong_request_that_is_approved_meanwhile_is_deleted_by_the_next_call() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", ("system:node:w-2", true), false);
    let signer = Signer::new(&host, &access, DAY).await.expect("it signs");
    let request = request_a(&host, &access).await;
    let approved = host
        .approve_certificate_request(&access, &request, "")
        .await;
    approved.expect("it is approved");
    let outcome = signer.handle(&request, 0).await;
    assert!(matches!(outcome, RequestOutcome::Failed(_)), "{outcome:?}");
    let outcome = &signed(&host, &access).await.requests[0].outcome;
    assert!(matches!(outcome, RequestOutcome::Denied(_)), "{outcome:?}");
    assert!(signed(&host, &access).await.requests.is_empty());
}

#[tokio::test]
async fn too_many_requests_wait_are_denied_or_are_deleted() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    for number in 0..MOST + 1 {
        ask(&host, &token, &format!("r-{number:03}"), KUBELET, false);
    }
    let others: Vec<String> = (0..4).map(|node| format!("system:node:w-{node}")).collect();
    for (requester, number) in others.iter().flat_map(|its| (0..20).map(move |n| (its, n))) {
        let name = format!("{}-{number:02}", requester.replace(':', "-"));
        ask_as(&host, (requester, "system:nodes"), &name, KUBELET, false);
    }
    let report = signed(&host, &access).await;
    assert_eq!((report.requests.len(), report.left), (MOST, 20));
    let user = format!("system:bootstrap:{}", token.id());
    let deleted = DeletedRequests {
        numbers: [(user, MOST + 1 - 40)].into(),
        ..DeletedRequests::default()
    };
    assert_eq!(report.deleted, deleted);
    // The first one decides the key of the token.
    let first = &report.requests[0].outcome;
    assert!(matches!(first, RequestOutcome::Signed(_)), "{first:?}");
    let report = signed(&host, &access).await;
    assert_eq!((report.requests.len(), report.left), (20, 0));
    ask(&host, &token, "again", KUBELET, false);
    let skip = BTreeSet::from(["again".to_owned()]);
    let report = sign_requests(&host, &access, DAY, &skip).await;
    let report = report.expect("it signs");
    assert!(report.requests.is_empty());
    // Of the denied ones, the newest stay, so that their requester finds the reason.
    let left = host.with_world(|world| world.certificate_requests());
    let its = left.iter().filter(|its| its.name.starts_with("r-"));
    assert_eq!(its.count(), 20);
}

#[tokio::test]
async fn requests_are_signed_and_deleted_also_if_not_all_could_be_read() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", KUBELET, false);
    for number in 0..41 {
        let user = ("system:node:w-9", "system:nodes");
        ask_as(&host, user, &format!("r-{number}"), KUBELET, false);
    }
    host.with_world_mut(|world| world.has_more_requests(true));
    let report = signed(&host, &access).await;
    assert!(report.has_more);
    let outcome = &report.requests[0].outcome;
    assert!(matches!(outcome, RequestOutcome::Signed(_)), "{outcome:?}");
    assert_eq!(report.deleted.numbers["system:node:w-9"], 1);
    let later = &report.requests.last().expect("40 more").outcome;
    assert!(
        matches!(later, RequestOutcome::Denied(why) if why.contains("too many")),
        "{later:?}"
    );
}

#[tokio::test]
async fn a_request_that_cannot_be_deleted_is_left_and_the_reason_is_told() {
    let (host, access) = master().await;
    for number in 0..50 {
        let user = ("system:node:w-9", "system:nodes");
        ask_as(&host, user, &format!("r-{number}"), KUBELET, false);
    }
    let fails = FaultPlan::none().fail("delete_certificate_request", "*");
    host.set_faults(fails.times(1));
    let report = signed(&host, &access).await;
    assert_eq!(report.deleted.left, 1);
    assert_eq!(report.deleted.numbers["system:node:w-9"], 9);
    assert!(report.deleted.problem.is_some());
}

#[tokio::test]
async fn a_second_key_of_a_token_is_denied() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", KUBELET, false);
    ask(&host, &token, "b", KUBELET, false);
    let report = signed(&host, &access).await;
    assert!(matches!(
        report.requests[0].outcome,
        RequestOutcome::Signed(_)
    ));
    let second = &report.requests[1].outcome;
    assert!(
        matches!(second, RequestOutcome::Denied(why) if why.contains("another key")),
        "{second:?}"
    );
}

/// The key is in the record before anything is signed: after an interruption, another key must not be signed.
#[tokio::test]
async fn a_key_is_noted_before_its_certificate_is_signed() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", KUBELET, false);
    host.set_faults(FaultPlan::none().fail("put_config_map", "*").times(1));
    let report = signed(&host, &access).await;
    assert!(matches!(
        report.requests[0].outcome,
        RequestOutcome::Failed(_)
    ));
    let request = request_a(&host, &access).await;
    assert_eq!(
        (request.state, request.certificate),
        (RequestState::Pending, None)
    );
    host.set_faults(FaultPlan::none().fail("set_certificate", "*").times(1));
    let report = signed(&host, &access).await;
    assert!(matches!(
        report.requests[0].outcome,
        RequestOutcome::Failed(_)
    ));
    assert_eq!(record(&host, &access).await.keys.len(), 1);
    let report = signed(&host, &access).await;
    assert!(matches!(
        report.requests[0].outcome,
        RequestOutcome::Signed(_)
    ));
}

#[tokio::test]
async fn a_request_whose_node_is_removed_meanwhile_gets_no_certificate() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", KUBELET, false);
    let signer = Signer::new(&host, &access, DAY).await.expect("it signs");
    let mut request = request_a(&host, &access).await;
    let granted = signer.decide(&request, 0).await.expect("it answers");
    let granted = granted.expect("it is admitted");
    let usable = async || {
        let record = signer.usable_record(&request, &granted).await;
        record.expect("it answers")
    };
    let record = usable().await.expect("it is admitted");
    let noted = signer.note(&request, &granted, &record).await;
    assert!(noted.expect("it answers"));
    let revoked = admission::revoke(&host, &access, "w-1", "").await;
    revoked.expect("it answers");
    assert_eq!(usable().await, None);
    let noted = signer.note(&request, &granted, &record).await;
    assert!(!noted.expect("it answers"));
    let outcome = signer.sign_noted(&mut request, &granted, 0).await;
    let outcome = outcome.expect("it answers");
    assert!(matches!(outcome, RequestOutcome::Denied(_)), "{outcome:?}");
    let left = host.certificate_request(&access, "a").await;
    assert_eq!(left.expect("it answers"), None);
}

/// Its requests are older than those of all others, and more than one call decides.
#[tokio::test]
async fn a_requester_with_many_requests_holds_up_no_other_one() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    for number in 0..2 * MOST {
        let node = ("system:node:w-9", "system:nodes");
        ask_as(&host, node, &format!("r-{number:03}"), KUBELET, false);
    }
    ask(&host, &token, "z", KUBELET, false);
    let report = signed(&host, &access).await;
    let names = report.requests.iter().map(|its| its.name.as_str());
    assert_eq!(names.take(2).collect::<Vec<_>>(), ["r-000", "z"]);
    let second = &report.requests[1].outcome;
    assert!(matches!(second, RequestOutcome::Signed(_)), "{second:?}");
}

#[tokio::test]
async fn a_request_too_many_is_denied_without_another_read() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", KUBELET, false);
    let signer = Signer::new(&host, &access, DAY).await.expect("it signs");
    let request = host.certificate_request(&access, "a").await;
    let request = request.expect("it answers").expect("it is there");
    host.clear_journal();
    let outcome = signer.handle(&request, MOST_PENDING).await;
    assert!(
        matches!(&outcome, RequestOutcome::Denied(why) if why.contains("too many")),
        "{outcome:?}"
    );
    let calls: Vec<_> = host.journal().iter().map(|call| call.name).collect();
    assert_eq!(calls, ["decide_certificate_request"]);
}

#[tokio::test]
async fn a_request_that_another_master_has_signed_is_settled() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", KUBELET, false);
    let signer = Signer::new(&host, &access, DAY).await.expect("it signs");
    let request = request_a(&host, &access).await;
    host.with_world_mut(|world| world.sign_request("a", b"PEM"));
    assert_eq!(signer.handle(&request, 0).await, RequestOutcome::Settled);
}

/// The API server takes the approval of one of two masters, and refuses that of the other one, which has read the same version.
#[tokio::test]
async fn an_approval_that_another_master_was_faster_with_is_no_failure() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    let faults = |fault_kind| {
        FaultPlan::none().with(Fault {
            trigger: Trigger::Call {
                name: "decide_certificate_request".to_owned(),
                argument: "*".to_owned(),
            },
            fault_kind,
            remaining: None,
        })
    };
    ask(&host, &token, "a", KUBELET, false);
    // It is not approved: the failure counts.
    host.set_faults(faults(FaultKind::Fail));
    let report = signed(&host, &access).await;
    let outcome = &report.requests[0].outcome;
    assert!(matches!(outcome, RequestOutcome::Failed(_)), "{outcome:?}");
    // The one for a new address is approved at another place.
    ask(&host, &token, "b", KUBELET, true);
    host.set_faults(faults(FaultKind::FailAfter));
    let report = signed(&host, &access).await;
    assert_eq!(report.requests.len(), 2);
    for one in report.requests {
        let outcome = one.outcome;
        assert!(matches!(outcome, RequestOutcome::Signed(_)), "{outcome:?}");
    }
}

/// It was deleted and made again under its name meanwhile: what was decided is not about the new one.
#[tokio::test]
async fn a_request_that_was_made_again_is_not_signed_for_the_first() {
    let (host, access) = master().await;
    let token = admitted(&host, &access).await;
    ask(&host, &token, "a", KUBELET, false);
    let signer = Signer::new(&host, &access, DAY).await.expect("it signs");
    let read = async || {
        let request = host.certificate_request(&access, "a").await;
        request.expect("it answers").expect("it is there")
    };
    let first = read().await;
    ask(&host, &token, "a", ("system:node:w-2", true), false);
    assert_eq!(signer.handle(&first, 0).await, RequestOutcome::Settled);
    let second = read().await;
    assert_eq!(
        (second.state, second.certificate),
        (RequestState::Pending, None)
    );
}

#[tokio::test]
async fn a_host_without_the_key_of_the_authority_decides_nothing() {
    let (host, access) = admission::tests::master();
    let error = sign_requests(&host, &access, DAY, &BTreeSet::new())
        .await
        .expect_err("no key");
    assert!(error.to_string().contains("only masters"), "{error}");
}
