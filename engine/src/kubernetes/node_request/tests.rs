//! Decisions about requests: what an admitted node gets, and each reason to deny.

use std::time::Duration;

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

use super::*;
use x509_parser::pem::Pem;

use crate::host::RequestState;
use crate::kubernetes::admission::RemovedNode;

mod unsignable;

const CLIENT: [&str; 2] = ["digital signature", "client auth"];
const SERVER: [&str; 2] = ["digital signature", "server auth"];
const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const ADDRESS: &str = "10.0.0.7";

/// The fields of a certification request.
fn params(common_name: &str, organizations: &[&str]) -> CertificateParams {
    let mut name = DistinguishedName::new();
    for organization in organizations {
        name.push(DnType::OrganizationName, *organization);
    }
    name.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params
}

fn kubelet() -> CertificateParams {
    params("system:node:w-1", &["system:nodes"])
}

fn server(names: &[&str], addresses: &[&str]) -> CertificateParams {
    let mut params = kubelet();
    let names = names.iter().map(|name| (*name).try_into().expect("a name"));
    params.subject_alt_names = names.map(SanType::DnsName).collect();
    let addresses = addresses.iter().map(|its| its.parse().expect("an address"));
    params
        .subject_alt_names
        .extend(addresses.map(SanType::IpAddress));
    params
}

fn pem(params: &CertificateParams) -> Vec<u8> {
    let key = KeyPair::generate().expect("a key");
    let request = params.serialize_request(&key).expect("a request");
    request.pem().expect("PEM").into_bytes()
}

fn request(params: &CertificateParams, usages: &[&str]) -> CertificateRequest {
    CertificateRequest {
        name: "a".to_owned(),
        uid: "1".to_owned(),
        requester: "system:bootstrap:abcdef".to_owned(),
        groups: vec![JOINING.to_owned(), "system:authenticated".to_owned()],
        signer: NODE_SIGNER.to_owned(),
        request: pem(params),
        usages: usages.iter().map(|usage| (*usage).to_owned()).collect(),
        state: RequestState::Pending,
        certificate: None,
        created: None,
    }
}

/// The use of a token or a node's own certificate for the request with the uid `1`.
fn used_by(requester: &Requester, now: SystemTime) -> NotedRequest<'_> {
    NotedRequest {
        requester,
        request: "1",
        now,
    }
}

/// The same request by a node.
fn by_node(name: &str, request: CertificateRequest) -> CertificateRequest {
    CertificateRequest {
        requester: format!("system:node:{name}"),
        groups: vec![NODES.to_owned()],
        ..request
    }
}

/// A cluster that has admitted w-1, with nodes of the names and addresses that the tests use.
struct World {
    token: Option<TokenRecord>,
    admission: Option<Admission>,
    others: BTreeMap<String, Admission>,
    nodes: BTreeMap<String, ClusterNode>,
    reserved: Reserved,
    pending_before: usize,
}

impl World {
    fn new() -> Self {
        let node = |address: &str, is_master: bool| ClusterNode {
            addresses: vec![address.parse().expect("an address")],
            ready: Some(true),
            labels: is_master
                .then(|| (MASTER_LABEL.to_owned(), String::new()))
                .into_iter()
                .collect(),
            ..ClusterNode::default()
        };
        let of_other = |address: &str| Admission {
            node: "w-2".to_owned(),
            address: Some(address.parse().expect("an address")),
            ..Admission::default()
        };
        Self {
            token: Some(TokenRecord {
                id: "abcdef".to_owned(),
                node: "w-1".to_owned(),
                expires: NOW + Duration::from_secs(1),
                replaces: false,
            }),
            admission: Some(Admission {
                node: "w-1".to_owned(),
                token_id: Some("abcdef".to_owned()),
                ..Admission::default()
            }),
            others: BTreeMap::from([("w-2".to_owned(), of_other("10.0.0.8"))]),
            nodes: BTreeMap::from([
                ("w-3".to_owned(), node("10.0.0.10", false)),
                ("cp-1".to_owned(), node("10.0.0.2", true)),
            ]),
            reserved: Reserved {
                names: ["kubernetes".to_owned()].into(),
                addresses: ["10.0.0.1".parse().expect("an address")].into(),
                masters: [("cp-2".to_owned(), "10.0.0.3".parse().expect("an address"))].into(),
            },
            pending_before: 0,
        }
    }

    fn decide(&self, request: &CertificateRequest) -> Result<NodeCertificate, String> {
        self.granted(request).map(|granted| granted.certificate)
    }

    fn granted(&self, request: &CertificateRequest) -> Result<Granted, String> {
        let known = Known {
            now: NOW,
            token: self.token.as_ref(),
            admission: self.admission.as_ref(),
            admissions: &self.others,
            nodes: &self.nodes,
            reserved: &self.reserved,
            pending_before: self.pending_before,
        };
        decide(request, &known)
    }

    #[track_caller]
    fn denies(&self, request: &CertificateRequest, why: &str) {
        let reason = self.decide(request).expect_err("it must be denied");
        assert!(reason.contains(why), "`{reason}` does not say `{why}`");
    }
}

#[test]
fn an_admitted_node_gets_its_three_certificates() {
    let world = World::new();
    let node = "w-1".to_owned();
    let client = NodeCertificate::KubeletClient { node: node.clone() };
    let server_of = |address: &str| NodeCertificate::KubeletServer {
        node: node.clone(),
        address: address.parse().expect("an address"),
    };
    assert_eq!(
        world.decide(&request(&kubelet(), &CLIENT)),
        Ok(client.clone())
    );
    let enciphers = ["key encipherment", "client auth", "digital signature"];
    assert_eq!(
        world.decide(&request(&kubelet(), &enciphers)),
        Ok(client.clone())
    );
    for address in [ADDRESS, "fd00::7"] {
        let asked = request(&server(&["w-1"], &[address]), &SERVER);
        assert_eq!(world.decide(&asked), Ok(server_of(address)));
    }
    let proxy = request(&params("system:kube-proxy", &[]), &CLIENT);
    assert_eq!(world.decide(&proxy), Ok(NodeCertificate::KubeProxy));
    // A request may repeat in itself what the object says.
    let mut repeats = kubelet();
    repeats.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    repeats.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    repeats.is_ca = IsCa::ExplicitNoCa;
    assert_eq!(world.decide(&request(&repeats, &CLIENT)), Ok(client));
}

#[test]
fn a_node_renews_its_certificates_without_a_token() {
    let mut world = World::new();
    world.token = None;
    world.nodes.insert(
        "w-1".to_owned(),
        ClusterNode {
            ready: Some(true),
            addresses: vec![ADDRESS.parse().expect("an address")],
            ..ClusterNode::default()
        },
    );
    let asked = by_node("w-1", request(&server(&["w-1"], &[ADDRESS]), &SERVER));
    world.decide(&asked).expect("its own name and address");
    let asked = by_node("w-1", request(&kubelet(), &CLIENT));
    world.decide(&asked).expect("it is admitted");
    world.admission = None;
    world.denies(&asked, "not admitted");
}

#[test]
fn a_node_that_is_named_after_its_address_has_no_dns_name() {
    let mut world = World::new();
    let named = ADDRESS.to_owned();
    for its in [
        &mut world.token.as_mut().expect("it is there").node,
        &mut world.admission.as_mut().expect("it is there").node,
    ] {
        its.clone_from(&named);
    }
    let of = |addresses: &[&str]| {
        let mut asked = server(&[], addresses);
        asked.distinguished_name =
            params(&format!("system:node:{ADDRESS}"), &["system:nodes"]).distinguished_name;
        request(&asked, &SERVER)
    };
    world.decide(&of(&[ADDRESS])).expect("its own address");
    world.denies(&of(&["10.0.0.9"]), "alternative names");
}

#[test]
fn other_users_get_nothing() {
    let world = World::new();
    let asked = request(&kubelet(), &CLIENT);
    for (user, groups) in [
        ("admin", vec!["system:masters"]),
        ("system:bootstrap:abcdef", vec!["system:bootstrappers"]),
        ("system:bootstrap:ABCDEF", vec![JOINING]),
        ("system:node:w-1", vec![]),
        ("system:node:", vec![NODES]),
        ("system:serviceaccount:a:b", vec![NODES, JOINING]),
    ] {
        let other = CertificateRequest {
            requester: user.to_owned(),
            groups: groups.into_iter().map(str::to_owned).collect(),
            ..asked.clone()
        };
        world.denies(&other, "neither the token of a node nor a node");
    }
    let signer = CertificateRequest {
        signer: "kubernetes.io/kube-apiserver-client".to_owned(),
        ..asked
    };
    world.denies(&signer, "signer");
}

#[test]
fn only_the_present_token_of_a_node_counts() {
    let asked = request(&kubelet(), &CLIENT);
    let with = |change: &dyn Fn(&mut World)| {
        let mut world = World::new();
        change(&mut world);
        world
    };
    with(&|world| world.token = None).denies(&asked, "unknown");
    with(&|world| world.token.as_mut().unwrap().id = "zzzzzz".to_owned()).denies(&asked, "unknown");
    with(&|world| world.token.as_mut().unwrap().expires = NOW).denies(&asked, "expired");
    with(&|world| world.admission = None).denies(&asked, "not admitted");
    with(&|world| world.admission.as_mut().unwrap().node = "w-2".to_owned())
        .denies(&asked, "not admitted");
    with(&|world| world.admission.as_mut().unwrap().token_id = Some("zzzzzz".to_owned()))
        .denies(&asked, "another token");
    with(&|world| world.admission.as_mut().unwrap().token_id = None)
        .denies(&asked, "none any more");
}

#[test]
fn the_name_of_a_ready_node_or_a_master_is_taken() {
    let asked = request(&kubelet(), &CLIENT);
    let mut world = World::new();
    let mut node = ClusterNode {
        ready: Some(false),
        ..ClusterNode::default()
    };
    world.nodes.insert("w-1".to_owned(), node.clone());
    world.decide(&asked).expect("it comes back");
    node.ready = Some(true);
    world.nodes.insert("w-1".to_owned(), node.clone());
    world.denies(&asked, "is Ready");
    world.token.as_mut().expect("it is there").replaces = true;
    world.decide(&asked).expect("an administrator allowed it");
    node.labels.insert(MASTER_LABEL.to_owned(), String::new());
    world.nodes.insert("w-1".to_owned(), node);
    world.denies(&asked, "is a master");
    world.denies(&by_node("w-1", asked.clone()), "is a master");
    world.nodes.clear();
    let listed = world.reserved.masters.clone();
    let address = ADDRESS.parse().expect("an address");
    world.reserved.masters.insert("w-1".to_owned(), address);
    world.denies(&asked, "is a master");
    world.reserved.masters = listed;
    world.reserved.names.insert("w-1".to_owned());
    world.denies(&asked, "a name of the API server");
}

#[test]
fn another_subject_is_denied() {
    let world = World::new();
    for (name, organizations, why) in [
        ("system:node:w-2", &["system:nodes"][..], "common name"),
        ("system:node:w-1", &[], "organizations"),
        ("system:node:w-1", &["system:masters"], "organizations"),
        ("system:kube-proxy", &["system:masters"], "organizations"),
        ("admin", &["system:masters"], "common name"),
        ("system:node:", &["system:nodes"], "common name"),
        ("SYSTEM:NODE:W-1", &["system:nodes"], "common name"),
    ] {
        world.denies(&request(&params(name, organizations), &CLIENT), why);
    }
    let mut more = kubelet();
    more.distinguished_name
        .push(DnType::OrganizationalUnitName, "x");
    world.denies(&request(&more, &CLIENT), "subject");
    let mut unnamed = CertificateParams::default();
    unnamed.distinguished_name = DistinguishedName::new();
    world.denies(&request(&unnamed, &CLIENT), "exactly one common name");
    // Another node's certificate, asked for by a node that is admitted.
    let other = request(&params("system:node:w-2", &["system:nodes"]), &CLIENT);
    world.denies(&by_node("w-1", other), "common name");
}

#[test]
fn other_alternative_names_are_denied() {
    let world = World::new();
    for (names, addresses, why) in [
        (&["w-1", "w-2"][..], &[ADDRESS][..], "alternative names"),
        (&["w-2"], &[ADDRESS], "alternative names"),
        (&["w-1"], &[], "alternative names"),
        (&[], &[ADDRESS], "alternative names"),
        (&["w-1"], &[ADDRESS, "10.0.0.9"], "alternative names"),
        (&["w-1"], &["10.0.0.8"], "the address of node `w-2`"),
        (&["w-1"], &["10.0.0.2"], "the address of node `cp-1`"),
        (&["w-1"], &["10.0.0.3"], "the address of node `cp-2`"),
        (&["w-1"], &["10.0.0.1"], "an address of the API server"),
        (&["w-1"], &["127.0.0.1"], "not the address of a node"),
        (&["w-1"], &["::1"], "not the address of a node"),
        (
            &["w-1"],
            &["::ffff:10.0.0.1"],
            "an address of the API server",
        ),
        (&["w-1"], &["0.0.0.0"], "not the address of a node"),
        (&["w-1"], &["224.0.0.1"], "not the address of a node"),
    ] {
        world.denies(&request(&server(names, addresses), &SERVER), why);
    }
    world.denies(
        &request(&server(&["w-1"], &[ADDRESS]), &CLIENT),
        "no alternative names",
    );
    let mut proxy = server(&["w-1"], &[]);
    proxy.distinguished_name = params("system:kube-proxy", &[]).distinguished_name;
    world.denies(&request(&proxy, &CLIENT), "no alternative names");
    let mut odd = server(&["w-1"], &[ADDRESS]);
    let mail = "a@example.com".try_into().expect("a name");
    odd.subject_alt_names.push(SanType::Rfc822Name(mail));
    world.denies(&request(&odd, &SERVER), "neither a DNS name nor an address");
}

#[test]
fn other_usages_are_denied() {
    let world = World::new();
    for usages in [
        &["client auth"][..],
        &["digital signature"],
        &[],
        &["digital signature", "client auth", "server auth"],
        &["digital signature", "client auth", "cert sign"],
        &["digital signature", "client auth", "any"],
        &["key encipherment", "client auth"],
    ] {
        world.denies(&request(&kubelet(), usages), "usages");
    }
    // kube-proxy serves nothing.
    world.denies(
        &request(&params("system:kube-proxy", &[]), &SERVER),
        "usages",
    );
    let within = |change: &dyn Fn(&mut CertificateParams), why: &str| {
        let mut its = kubelet();
        change(&mut its);
        world.denies(&request(&its, &CLIENT), why);
    };
    within(
        &|its| its.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
        "authority",
    );
    within(
        &|its| its.key_usages = vec![KeyUsagePurpose::KeyCertSign],
        "more than to sign",
    );
    within(
        &|its| its.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
        "more than client auth",
    );
    within(
        &|its| its.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any],
        "more than to be a client or a server",
    );
    within(
        &|its| {
            let policy = CustomExtension::from_oid_content(&[2, 5, 29, 54], vec![2, 1, 0]);
            its.custom_extensions = vec![policy];
        },
        "extension",
    );
}

#[test]
fn a_request_that_cannot_be_read_or_verified_is_denied() {
    let world = World::new();
    let good = request(&kubelet(), &CLIENT);
    let with = |content: Vec<u8>| CertificateRequest {
        request: content,
        ..good.clone()
    };
    let twice = [good.request.clone(), good.request.clone()].concat();
    for content in [Vec::new(), b"text".to_vec(), twice] {
        world.denies(&with(content), "not one certification request");
    }
    let text = String::from_utf8(good.request.clone()).expect("PEM");
    let renamed = text.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    world.denies(&with(renamed.into_bytes()), "not one certification request");
    let mut der = Pem::iter_from_buffer(&good.request)
        .next()
        .expect("a block")
        .expect("PEM")
        .contents;
    let last = der.len() - 1;
    der[last] ^= 1;
    let block = pem_block(&der);
    world.denies(&with(block), "");
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let other = kubelet().serialize_request(&key).expect("a request");
    let other = other.pem().expect("PEM").into_bytes();
    world.denies(&with(other), "not an ECDSA key");
}

fn pem_block(der: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("ASCII"))
        .collect();
    let begin = "-----BEGIN CERTIFICATE REQUEST-----";
    let end = "-----END CERTIFICATE REQUEST-----";
    format!("{begin}\n{}\n{end}\n", lines.join("\n")).into_bytes()
}

#[test]
fn a_token_is_bound_to_the_keys_that_it_was_used_for() {
    let mut world = World::new();
    let first = request(&kubelet(), &CLIENT);
    let granted = world.granted(&first).expect("it is the first key");
    let by_token = Requester::Token("abcdef".to_owned());
    let record = world.admission.clone().expect("it is there");
    let noted = granted.noted_in(&record, used_by(&by_token, NOW));
    let noted = noted.expect("the key is new");
    assert_eq!(noted.keys_at, Some(NOW));
    let later = used_by(&by_token, NOW + Duration::from_secs(1));
    assert_eq!(granted.noted_in(&noted, later), None);
    world.admission = Some(noted.clone());
    world.decide(&first).expect("the same key again");
    let second = request(&kubelet(), &CLIENT);
    world.denies(&second, "used already for another key");
    let proxy = request(&params("system:kube-proxy", &[]), &CLIENT);
    world.decide(&proxy).expect("it is of another kind");
    // A renewal has a new key, and changes nothing in the record.
    let renewal = by_node("w-1", second);
    let granted = world.granted(&renewal).expect("it is the node itself");
    let by_node = Requester::Node("w-1".to_owned());
    assert_eq!(granted.noted_in(&noted, used_by(&by_node, NOW)), None);
}

#[test]
fn a_removed_node_gets_nothing() {
    let mut world = World::new();
    let asked = request(&kubelet(), &CLIENT);
    world.admission.as_mut().expect("it is there").removed = Some(RemovedNode {
        at: NOW,
        uid: String::new(),
    });
    world.denies(
        &asked,
        "was removed from the cluster at 1970-01-01T00:00:00Z",
    );
    world.denies(&by_node("w-1", asked), "was removed from the cluster");
}

#[test]
fn only_records_and_masters_hold_addresses() {
    let mut world = World::new();
    let of = |address: &str| request(&server(&["w-1"], &[address]), &SERVER);
    world
        .decide(&of("10.0.0.10"))
        .expect("only worker `w-3` says that it has it");
    let first = world.granted(&of(ADDRESS)).expect("it is free");
    let by_token = Requester::Token("abcdef".to_owned());
    let record = world.admission.clone().expect("it is there");
    let noted = first.noted_in(&record, used_by(&by_token, NOW));
    let noted = noted.expect("it is new");
    let address: IpAddr = ADDRESS.parse().expect("an address");
    assert_eq!((noted.address, noted.bound_to()), (None, Some(address)));
    let noted = noted.signed(address);
    world.others.insert("w-1".to_owned(), noted.clone());
    world.admission = Some(noted);
    // The address of a removed node is free.
    world.admission.as_mut().expect("it is there").keys.clear();
    world.denies(&of("10.0.0.8"), "the address of node `w-2`");
    world.others.get_mut("w-2").expect("it is there").removed = Some(RemovedNode {
        at: NOW,
        uid: String::new(),
    });
    world.decide(&of("10.0.0.8")).expect("its node was removed");
}

/// All its certificates stay valid, so a node that asked for one address after the other would have those of many hosts.
#[test]
fn a_node_gets_no_second_address_without_a_new_token() {
    let mut world = World::new();
    let here = request(&server(&["w-1"], &[ADDRESS]), &SERVER);
    let there = request(&server(&["w-1"], &["10.0.0.9"]), &SERVER);
    let by_token = Requester::Token("abcdef".to_owned());
    let record = world.admission.clone().expect("it is there");
    let first = world.granted(&here).expect("it is free");
    let noted = first.noted_in(&record, used_by(&by_token, NOW));
    let noted = noted.expect("it is new");
    world.others.insert("w-1".to_owned(), noted.clone());
    world.admission = Some(noted.clone());
    world.denies(&by_node("w-1", there.clone()), "nodelet pki issue w-1");
    // Its token is bound to the address as well, also with the same key.
    world.denies(&there, "nodelet pki issue w-1");
    let renewal = by_node("w-1", here);
    world.decide(&renewal).expect("it is its own address");
    // An administrator has admitted it again.
    let admitted = Admission {
        keys: BTreeMap::new(),
        ..noted
    };
    world.admission = Some(admitted.clone());
    world.denies(&by_node("w-1", there.clone()), "nodelet pki issue w-1");
    let moved = world.granted(&there).expect("its new token lets it move");
    let moved = moved.noted_in(&admitted, used_by(&by_token, NOW));
    let address = moved.expect("it is another address").bound_to();
    assert_eq!(address, Some("10.0.0.9".parse().expect("an address")));
}

#[test]
fn a_requester_with_too_many_open_requests_is_denied() {
    let mut world = World::new();
    let asked = request(&kubelet(), &CLIENT);
    world.pending_before = MOST_PENDING - 1;
    world.decide(&asked).expect("the last one that is allowed");
    world.pending_before = MOST_PENDING;
    world.denies(&asked, "too many");
}
