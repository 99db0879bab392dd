//! What a further master takes from its join file, and what it refuses.

use super::*;
use crate::host::Files as _;
use crate::host::fake::FaultPlan;
use std::collections::BTreeMap;

use crate::kubernetes::join_file::{JoinFile, Token};
use crate::resource::Action;
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::JoinFileSpec;
use crate::resource::pki::keys::record::identity;

/// The join file of a worker of the same cluster.
fn worker_file(file: &MasterJoinFile) -> JoinFile {
    let token = Token::random().expect("random numbers");
    let authority = &file.authorities["cluster"].certificate;
    JoinFile::new(NODE, API, authority, token, file.expires)
}

/// The texts that only the two masters may know.
fn secrets(file: &MasterJoinFile) -> Vec<String> {
    let keys = file.authorities.values().map(|its| its.key.clone());
    let keys = keys.chain([
        file.service_account_key.clone(),
        file.encryption_keys.clone(),
    ]);
    // A line of each that is specific to it.
    keys.filter_map(|text| {
        let longest = text.lines().max_by_key(|line| line.len())?;
        Some(longest.trim().to_owned())
    })
    .collect()
}

#[tokio::test]
async fn a_master_gets_the_keys_of_the_others() {
    let (master, host, _) = master_to_be().await;
    let change = apply(&host, &spec()).await.expect("it joins");
    assert_eq!(change.action, Action::Create);
    assert_eq!(apply(&host, &spec()).await, None);
    for record in RECORDS.iter().chain([&LIST]) {
        let entry = host.entry(record.as_ref()).await.expect("it can be read");
        let attributes = entry.expect("it is there").attributes;
        assert_eq!(attributes, PRIVATE, "{record}");
    }
    let names = crate::kubernetes::masters::read(&host)
        .await
        .expect("a list");
    assert_eq!(names, exported(&master).await.masters);
    // The steps that make keys find them.
    let changes = make_keys(&host).await;
    assert!(
        changes.iter().all(|its| its.action == Action::Change),
        "{changes:?}"
    );
    for path in FILES {
        assert_eq!(text(&host, path), text(&master, path), "{path}");
    }
    assert_eq!(make_keys(&host).await, []);
    assert_eq!(apply(&host, &spec()).await, None);
}

#[tokio::test]
async fn a_master_that_has_joined_needs_no_join_file() {
    let (_, host, _) = master_to_be().await;
    apply(&host, &spec()).await.expect("it joins");
    make_keys(&host).await;
    let notes = || note(&host);
    let left = notes().await.expect("the file has all keys");
    assert!(left.contains(JOIN) && left.contains("remove it"), "{left}");
    advance(&host, HOUR * 2);
    assert_eq!(notes().await, None, "it is over");
    host.with_world_mut(|world| world.remove(JOIN));
    assert_eq!(notes().await, None, "it is gone");
    assert_eq!(apply(&host, &spec()).await, None);
    put(&host, JOIN, "garbage", 0o600);
    let note = notes().await.expect("an operator should know");
    assert!(note.contains("this host has joined"), "{note}");
    assert_eq!(apply(&host, &spec()).await, None);
    // The first master has the same step once `new` is no longer set.
    assert_eq!(apply(&first_master().await, &spec()).await, None);
}

/// The note of the step on this host.
async fn note(host: &FakeHost) -> Option<String> {
    let cx = crate::resource::tests::context(host);
    let observed = spec().observe(&cx).await.expect("it can be observed");
    spec().note(&observed)
}

/// Its keys were rotated since, or the file is of another cluster. It works, so the file must not stop it.
#[tokio::test]
async fn a_master_that_has_joined_is_not_stopped_by_a_file_with_other_keys() {
    let (_, host, _) = master_to_be().await;
    make_keys(&host).await;
    let before = host.snapshot();
    assert_eq!(apply(&host, &spec()).await, None);
    assert!(host.snapshot() == before, "nothing is changed");
    let said = note(&host).await.expect("an operator should know");
    assert!(said.contains("of another cluster than the file"), "{said}");
    assert!(said.contains("move"), "{said}");
}

#[tokio::test]
async fn nothing_is_made_without_a_file_and_nothing_is_replaced() {
    let (master, fresh, public) = master_to_be().await;
    let file = exported(&master).await;
    let other = exported(&first_master().await).await;
    let (_, foreign) = new_identity();
    let leaf = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).expect("it is made");
    type Prepare<'a> = Box<dyn Fn(&FakeHost) + 'a>;
    let with = |change: &dyn Fn(&mut MasterJoinFile)| -> Prepare<'_> {
        let mut its = file.clone();
        change(&mut its);
        let public = public.clone();
        Box::new(move |host| place(host, &its, &public))
    };
    let worker = worker_file(&file).seal(&public).expect("it is sealed");
    let cases: Vec<(Prepare<'_>, &str, &str)> = vec![
        (
            Box::new(|host| host.with_world_mut(|world| world.remove(JOIN))),
            "it is not there",
            "ETCD_INITIAL_CLUSTER_STATE: new",
        ),
        (
            Box::new(|host| put(host, JOIN, &String::from_utf8_lossy(&worker), 0o600)),
            "it is for a worker",
            "nodelet pki export cp-2",
        ),
        (
            Box::new(|host| place(host, &file, &foreign)),
            "another host",
            "nodelet pki export cp-2",
        ),
        (
            with(&|its| its.node = "cp-3".to_owned()),
            "it is for node `cp-3`",
            "cp-3",
        ),
        (
            with(&|its| its.expires = 1),
            "it expired at 1970",
            "nodelet pki export cp-2",
        ),
        (
            with(&|its| its.masters[0].address = spec().address),
            "master `cp-1` has the address of this host",
            "nodelet pki export cp-2",
        ),
        (
            with(&|its| its.addresses = vec![spec().address]),
            "another node has the address of this host",
            "give this host another address",
        ),
        (
            with(&|its| its.api = "https://10.0.0.101:443".to_owned()),
            "https://10.0.0.101:443",
            "MASTER_IP",
        ),
        (
            with(&|its| {
                let pairs = [("CONTAINERS_CIDR", "10.30.0.0/16"), ("CLUSTER_ID", "c2")];
                let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
                its.settings = pairs.into();
            }),
            "the masters have CLUSTER_ID=c2, CONTAINERS_CIDR=10.30.0.0/16, and the settings of this host say CLUSTER_ID=0A1b, CONTAINERS_CIDR=10.20.0.0/16",
            "set CLUSTER_ID, CONTAINERS_CIDR as on the masters",
        ),
        (
            with(&|its| {
                let key = other.authorities["etcd"].key.clone();
                its.authorities.get_mut("etcd").expect("it has it").key = key;
            }),
            "authority `etcd` is damaged",
            "nodelet pki export cp-2",
        ),
        (
            with(&|its| {
                let etcd = its.authorities.get_mut("etcd").expect("it has it");
                etcd.certificate = leaf.cert.pem();
                etcd.key = leaf.signing_key.serialize_pem();
            }),
            "authority `etcd` is damaged",
            "nodelet pki export cp-2",
        ),
        (
            with(&|its| its.service_account_key = "garbage".to_owned()),
            "the service-account key is damaged",
            "nodelet pki export cp-2",
        ),
        (
            with(&|its| its.encryption_keys = "garbage".to_owned()),
            "the encryption keys are damaged",
            "nodelet pki export cp-2",
        ),
    ];
    for (prepare, what, remedy) in cases {
        let host = fresh.fork();
        prepare(&host);
        refused(&host, what, remedy).await;
    }
}

/// Checks that a host refuses its join file, and that nothing on it is changed.
async fn refused(host: &FakeHost, what: &str, remedy: &str) {
    let before = host.snapshot();
    let error = run(host, &spec(), false, &mut Receipt::default()).await;
    let error = error.expect_err(what);
    assert!(error.is_permanent(), "{error}");
    let shown = error.to_string();
    assert!(
        shown.starts_with("join the cluster as master `cp-2`"),
        "{shown}"
    );
    assert!(shown.contains(what), "{what}: {shown}");
    let ResourceError::Unmet { next, .. } = &error else {
        panic!("{error}")
    };
    assert!(next.contains(remedy), "{what}: {next}");
    assert!(host.snapshot() == before, "{what}: nothing is changed");
}

#[tokio::test]
async fn each_key_that_differs_stops_the_host() {
    let (_, fresh, _) = master_to_be().await;
    // A host with the key of authority `cluster` has joined.
    for name in ["etcd", "front-proxy"] {
        let host = fresh.fork();
        let spec = AuthoritySpec {
            name: name.to_owned(),
            ..cluster()
        };
        apply(&host, &spec).await.expect("it is made");
        refused(&host, &format!("authority `{name}`"), "clean --purge").await;
    }
    let host = fresh.fork();
    apply(&host, &ServiceAccountKeySpec {})
        .await
        .expect("it is made");
    refused(&host, "the service-account key", "clean --purge").await;
    let host = fresh.fork();
    apply(
        &host,
        &EncryptionKeysSpec {
            rotation: None,
            successor: None,
        },
    )
    .await
    .expect("it is made");
    refused(&host, "the encryption keys", "clean --purge").await;
}

#[tokio::test]
async fn a_clock_outside_of_the_authorities_validity_is_named() {
    let (master, host, public) = master_to_be().await;
    let years = DAY * 365 * 20;
    advance(&host, years);
    let mut file = exported(&master).await;
    file.expires += years.as_secs();
    place(&host, &file, &public);
    refused(&host, "the clock of this host says", "set the clock").await;
}

#[tokio::test]
async fn a_master_that_is_on_no_network_of_the_others_is_refused() {
    let (master, host, public) = master_to_be().await;
    let file = exported(&master).await;
    place(&host, &file, &public);
    let [a, b, c, _] = match file.masters[0].address {
        std::net::IpAddr::V4(address) => address.octets(),
        std::net::IpAddr::V6(_) => panic!("nodes have IPv4 addresses"),
    };
    let spec = JoinMasterSpec {
        on_link: true,
        ..spec()
    };
    for (network, joins) in [([a, b, c + 1, 77], false), ([a, b, c, 77], true)] {
        let host = host.fork();
        host.with_world_mut(|world| world.link("eth0", true, &[(network.into(), 24)]));
        let joined = run(&host, &spec, false, &mut Receipt::default()).await;
        assert_eq!(joined.is_ok(), joins, "{joined:?}");
        if let Err(error) = joined {
            let text = error.to_string();
            assert!(text.contains("is not on a network of this host"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_worker_can_become_a_master_of_its_cluster() {
    let (master, host, public) = master_to_be().await;
    let file = exported(&master).await;
    let sealed = worker_file(&file).seal(&public).expect("it is sealed");
    put(&host, JOIN, &String::from_utf8_lossy(&sealed), 0o600);
    let as_worker = JoinFileSpec {
        path: JOIN.into(),
        node: NODE.to_owned(),
        address: None,
        settings: BTreeMap::new(),
        on_link: false,
    };
    apply(&host, &as_worker)
        .await
        .expect("it joins as a worker");
    let certificate = text(&host, CA);
    place(&host, &file, &public);
    apply(&host, &spec()).await.expect("it joins");
    make_keys(&host).await;
    assert_eq!(text(&host, CA), certificate, "its form stays");
    let key = |host: &FakeHost| identity("ca.key", text(host, CA_KEY).as_bytes());
    assert_eq!(key(&host), key(&master));
    assert_eq!(apply(&host, &spec()).await, None);
}

#[tokio::test]
async fn a_list_of_masters_that_helps_stays() {
    let (_, host, _) = master_to_be().await;
    let list = |text: &str| put(&host, LIST, text, 0o600);
    let known = r#"{"version":1,"masters":[{"name":"cp-1","address":"10.0.0.1","voter":true},{"name":"cp-3","address":"10.0.0.3","voter":true}]}"#;
    list(known);
    apply(&host, &spec()).await.expect("it joins");
    assert_eq!(text(&host, LIST), known);
    let (_, host, _) = master_to_be().await;
    put(
        &host,
        LIST,
        &known
            .replace("10.0.0.1", "10.9.0.1")
            .replace("10.0.0.3", "10.9.0.3"),
        0o600,
    );
    apply(&host, &spec()).await.expect("it joins");
    assert!(
        text(&host, LIST).contains("10.0.0.1"),
        "{}",
        text(&host, LIST)
    );
}

#[tokio::test]
async fn joining_can_be_taken_back_and_shows_no_key() {
    let (master, host, _) = master_to_be().await;
    let secrets = secrets(&exported(&master).await);
    assert_eq!(secrets.len(), 5);
    let cx = crate::resource::tests::context(&host);
    let observed = spec().observe(&cx).await.expect("it can be observed");
    let before = host.snapshot();
    let mut receipt = Receipt::default();
    let change = run(&host, &spec(), false, &mut receipt)
        .await
        .expect("it joins");
    let shown = format!("{change:?} {receipt:?} {observed:?} {:?}", spec());
    for secret in &secrets {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(receipt.revert(&host).await.is_empty());
    assert!(host.snapshot() == before);
}

#[tokio::test]
async fn after_a_crash_anywhere_the_next_run_joins() {
    let (master, start, _) = master_to_be().await;
    let counted = start.fork();
    counted.clear_journal();
    apply(&counted, &spec()).await.expect("it joins");
    assert!(
        counted.mutations() >= 6,
        "a list and five records are written"
    );
    for n in 1..=counted.mutations() {
        for plan in [
            FaultPlan::none().crash_before(n),
            FaultPlan::none().crash_after(n),
        ] {
            let host = start.fork().with_faults(plan);
            let crashed = run(&host, &spec(), false, &mut Receipt::default()).await;
            crashed.expect_err("the program ends");
            host.end_crash();
            // Without the file, an incomplete join makes no new keys.
            let without = host.fork();
            without.with_world_mut(|world| world.remove(JOIN));
            let joined = run(&without, &spec(), false, &mut Receipt::default()).await;
            let is_complete = without.with_world(|world| world.text(RECORDS[4]).is_some());
            assert_eq!(joined.is_ok(), is_complete, "effect {n}: {joined:?}");
            run(&host, &spec(), false, &mut Receipt::default())
                .await
                .expect("it joins");
            assert_eq!(apply(&host, &spec()).await, None, "effect {n}");
            make_keys(&host).await;
            for path in FILES {
                assert_eq!(text(&host, path), text(&master, path), "effect {n}: {path}");
            }
        }
    }
}
