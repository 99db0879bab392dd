//! Join files of masters: who can read which, and what is refused.

use std::time::Duration;

use super::*;
use crate::host::fake::{Call, FakeHost, FaultPlan};
use crate::kubernetes::join_file::tests::{NOW, sealed_content, time};
use crate::kubernetes::join_file::{JoinFile, Token, new_identity};

fn authority() -> AuthorityPem {
    let made = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).expect("it is made");
    AuthorityPem {
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
    }
}

fn file() -> MasterJoinFile {
    MasterJoinFile {
        authorities: MASTER_AUTHORITIES
            .map(|name| (name.to_owned(), authority()))
            .into(),
        service_account_key: "the key of accounts".to_owned(),
        encryption_keys: "the keys of Secrets".to_owned(),
        masters: vec![MasterEntry {
            name: "cp-1".to_owned(),
            address: "10.0.0.1".parse().expect("an address"),
            etcd_id: Some(1),
            voter: true,
        }],
        ..MasterJoinFile::new("cp-2", "https://10.0.0.100:443", NOW + 3600)
    }
}

fn worker_file() -> JoinFile {
    let token = Token::random().expect("random numbers");
    let authority = authority().certificate;
    JoinFile::new("cp-2", "https://10.0.0.1", &authority, token, NOW + 3600)
}

/// A host with this join file and identity.
fn joining(sealed: &[u8], secret: &str) -> FakeHost {
    let sealed = String::from_utf8_lossy(sealed).into_owned();
    let host = FakeHost::new().with_file(JOIN_FILE, sealed);
    host.with_file(IDENTITY, secret)
}

/// Valid for an hour by the clock of a fake host.
fn valid_file() -> MasterJoinFile {
    let now = FakeHost::new().with_world(|world| world.now());
    let now = now.duration_since(SystemTime::UNIX_EPOCH);
    MasterJoinFile {
        expires: now.expect("it is after 1970").as_secs() + 3600,
        ..file()
    }
}

#[tokio::test]
async fn a_host_that_is_to_join_knows_the_masters_before_it_has_joined() {
    let (secret, public) = new_identity();
    let file = valid_file();
    let sealed = file.seal(&public).expect("it is sealed");
    let host = joining(&sealed, &secret);
    let names = ["10.0.0.2".to_owned(), "cp-2".to_owned()];
    assert_eq!(masters_to_join(&host, &names).await, file.masters);
    // The file is for another node, or is over.
    assert_eq!(masters_to_join(&host, &names[..1]).await, []);
    host.with_world_mut(|world| world.advance(Duration::from_secs(2 * 3600)));
    assert_eq!(masters_to_join(&host, &names).await, []);
}

/// Also a host whose files a plain user cannot read can be planned.
#[tokio::test]
async fn a_file_that_cannot_be_used_names_no_masters() {
    let (secret, public) = new_identity();
    let sealed = valid_file().seal(&public).expect("it is sealed");
    let of_worker = worker_file().seal(&public).expect("it is sealed");
    let text = String::from_utf8_lossy(&sealed).into_owned();
    let unreadable =
        |path| joining(&sealed, &secret).with_faults(FaultPlan::none().fail("read", path));
    for host in [
        FakeHost::new(),
        FakeHost::new().with_file(JOIN_FILE, text),
        joining(&of_worker, &secret),
        unreadable(JOIN_FILE),
        unreadable(IDENTITY),
    ] {
        assert_eq!(masters_to_join(&host, &["cp-2".to_owned()]).await, []);
    }
}

/// The identity is a secret: it is read only if there is something to open.
#[tokio::test]
async fn without_a_join_file_the_identity_is_not_read() {
    let (secret, _) = new_identity();
    let host = FakeHost::new().with_file(IDENTITY, secret);
    assert_eq!(masters_to_join(&host, &["cp-2".to_owned()]).await, []);
    let read_it = |call: &Call| call.argument.contains(IDENTITY);
    assert!(!host.journal().iter().any(read_it));
}

#[test]
fn only_its_host_can_read_a_file() {
    let (secret, public) = new_identity();
    let file = file();
    let sealed = file.seal(&public).expect("it is sealed");
    let text = String::from_utf8_lossy(&sealed).into_owned();
    assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
    assert!(!text.contains("PRIVATE KEY"), "{text}");
    assert_eq!(MasterJoinFile::open(&sealed, &secret), Ok(file));
    let (other, _) = new_identity();
    let refused = MasterJoinFile::open(&sealed, &other);
    assert_eq!(refused, Err(JoinFileError::OtherRecipient));
    let mut short = sealed;
    short.truncate(short.len() / 2);
    MasterJoinFile::open(&short, &secret).expect_err("it is cut short");
}

#[test]
fn a_file_of_the_other_kind_is_refused() {
    let (secret, public) = new_identity();
    let of_master = file().seal(&public).expect("it is sealed");
    let of_worker = worker_file().seal(&public).expect("it is sealed");
    let refused = JoinFile::open(&of_master, &secret);
    assert_eq!(refused, Err(JoinFileError::ForMaster));
    let refused = MasterJoinFile::open(&of_worker, &secret);
    assert_eq!(refused, Err(JoinFileError::ForWorker));
}

#[test]
fn a_file_is_for_one_node_and_address_and_one_time() {
    let file = file();
    let own = "10.0.0.2".parse().expect("an address");
    assert_eq!(file.check("cp-2", own, time(NOW)), Ok(()));
    let other = file.check("cp-3", own, time(NOW));
    assert!(
        matches!(other, Err(JoinFileError::OtherNode { .. })),
        "{other:?}"
    );
    let late = file.check("cp-2", own, time(NOW + 3600));
    assert!(
        matches!(late, Err(JoinFileError::Expired { .. })),
        "{late:?}"
    );
    let taken = "10.0.0.1".parse().expect("an address");
    let refused = file
        .check("cp-2", taken, time(NOW))
        .expect_err("another has it");
    assert!(
        refused
            .to_string()
            .contains("master `cp-1` has the address"),
        "{refused}"
    );
    let of_worker = "10.0.0.21".parse().expect("an address");
    let with_nodes = MasterJoinFile {
        addresses: vec![of_worker],
        ..file
    };
    assert_eq!(with_nodes.check("cp-2", own, time(NOW)), Ok(()));
    let refused = with_nodes
        .check("cp-2", of_worker, time(NOW))
        .expect_err("a worker has it");
    assert!(
        refused.to_string().contains("another node has the address"),
        "{refused}"
    );
}

#[test]
fn content_that_no_master_writes_is_refused() {
    let (_, public) = new_identity();
    type Change = fn(&mut MasterJoinFile);
    let changes: [(&str, Change); 10] = [
        ("a name", |its| its.node = "CP_2".to_owned()),
        ("an end", |its| its.expires = u64::MAX),
        ("a URL", |its| its.api = "http://10.0.0.100".to_owned()),
        ("an authority less", |its| {
            drop(its.authorities.remove("etcd"))
        }),
        ("an authority more", |its| {
            its.authorities.insert("other".to_owned(), authority());
        }),
        ("no key", |its| its.service_account_key.clear()),
        ("a long text", |its| {
            its.encryption_keys = "a".repeat(LONGEST_TEXT + 1)
        }),
        ("no masters", |its| its.masters.clear()),
        ("too many addresses", |its| {
            its.addresses = vec![its.masters[0].address; MOST_ADDRESSES + 1];
        }),
        ("itself", |its| its.masters[0].name = "cp-2".to_owned()),
    ];
    for (what, change) in changes {
        let mut file = file();
        change(&mut file);
        let refused = file.seal(&public).expect_err(what);
        assert!(
            matches!(refused, JoinFileError::Content(_)),
            "{what}: {refused:?}"
        );
    }
}

/// A nodelet that does not know the settings names the format in its refusal; this one still reads its files.
#[test]
fn files_of_earlier_formats_are_read_and_one_of_a_newer_is_not() {
    let (secret, public) = new_identity();
    let mut content = serde_json::to_value(file()).expect("JSON");
    assert_eq!(content["version"], 8);
    let mut opened = |version: u32| {
        content["version"] = version.into();
        MasterJoinFile::open(&sealed_content(&content, &public), &secret)
    };
    for version in [2, 3, 5] {
        assert_eq!(opened(version).expect("it is read").node, "cp-2");
    }
    // The first one is the format of a successor.
    for version in [4, 10] {
        assert_eq!(opened(version), Err(JoinFileError::Version(version)));
    }
    for version in [6, 7, 9] {
        assert_eq!(opened(version), Err(JoinFileError::ForWorker));
    }
}

#[test]
fn neither_debug_nor_errors_show_a_key() {
    let (secret, public) = new_identity();
    let mut file = file();
    let key = file.authorities["cluster"].key.clone();
    let shown = format!("{file:?} {:?}", file.authorities);
    for text in [&key, &file.service_account_key, &file.encryption_keys] {
        assert!(!shown.contains(text.as_str()), "{shown}");
    }
    file.masters.clear();
    let error = file.seal(&public).expect_err("it names no master");
    assert!(!error.to_string().contains(&key), "{error}");
    let content =
        serde_json::json!({"version": 2, "kind": "master", "service_account_key": key, "node": 7});
    let sealed = sealed_content(&content, &public);
    let error = MasterJoinFile::open(&sealed, &secret).expect_err("a number");
    assert!(!error.to_string().contains("PRIVATE"), "{error}");
}
