//! Join files: who can read which, and what is refused.

use super::*;

pub(super) const NOW: u64 = 1_772_600_000;

/// A self-signed certificate.
fn authority() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["ca".to_owned()]).expect("a name");
    params.self_signed(&key).expect("a certificate").pem()
}

fn file() -> JoinFile {
    let token = Token::random().expect("random numbers");
    let mut file = JoinFile::new(
        "w-1",
        "https://10.0.0.1:443",
        &authority(),
        token,
        NOW + 3600,
    );
    file.api.push("https://[fd00::1]".to_owned());
    file.masters.push(IpAddr::from([10, 0, 0, 1]));
    let setting = ("CONTAINERS_CIDR".to_owned(), "10.20.0.0/16".to_owned());
    file.settings.extend([setting]);
    file
}

pub(super) fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn only_its_host_can_read_a_file() {
    let (secret, public) = new_identity();
    let file = file();
    let sealed = file.seal(&public).expect("it is sealed");
    assert!(sealed.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----"));
    assert_eq!(JoinFile::open(&sealed, &secret), Ok(file));
    let (other, _) = new_identity();
    assert_eq!(
        JoinFile::open(&sealed, &other),
        Err(JoinFileError::OtherRecipient)
    );
}

#[test]
fn an_identity_may_have_the_comments_of_age_keygen() {
    let (secret, public) = new_identity();
    let text = format!("# created: 2026-03-04\n# public key: {public}\n{secret}\n");
    assert_eq!(public_key(&text), Ok(public));
    for damaged in [
        "",
        "# public key: age1",
        "AGE-SECRET-KEY-1QQQQ",
        &secret[..40],
    ] {
        assert_eq!(
            public_key(damaged),
            Err(JoinFileError::Identity),
            "{damaged}"
        );
    }
}

#[test]
fn a_changed_or_shortened_file_is_refused() {
    let (secret, public) = new_identity();
    let sealed = file().seal(&public).expect("it is sealed");
    let text = String::from_utf8(sealed.clone()).expect("it is text");
    let lines: Vec<&str> = text.lines().collect();
    // Each line of the armour but the first and the last.
    for number in 1..lines.len() - 1 {
        let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let other = if changed[number].starts_with('A') {
            "B"
        } else {
            "A"
        };
        changed[number].replace_range(..1, other);
        let opened = JoinFile::open(changed.join("\n").as_bytes(), &secret);
        assert!(opened.is_err(), "line {number} was changed: {opened:?}");
        let mut short: Vec<&str> = lines.clone();
        short.remove(number);
        let opened = JoinFile::open(short.join("\n").as_bytes(), &secret);
        assert!(opened.is_err(), "line {number} is missing: {opened:?}");
    }
    for length in [0, 1, 40, sealed.len() / 2] {
        JoinFile::open(&sealed[..length], &secret).expect_err("it is cut short");
    }
    let long = vec![b'a'; LONGEST + 1];
    assert_eq!(JoinFile::open(&long, &secret), Err(JoinFileError::TooLarge));
}

/// A file whose content this version of the program would not write.
pub(super) fn sealed_content(content: &serde_json::Value, public: &str) -> Vec<u8> {
    let key: age::x25519::Recipient = public.parse().expect("a key");
    let content = serde_json::to_vec(content).expect("JSON");
    age::encrypt_and_armor(&key, &content)
        .expect("it is sealed")
        .into_bytes()
}

#[test]
fn content_of_another_version_or_with_unknown_fields_is_refused() {
    let (secret, public) = new_identity();
    let good = serde_json::to_value(file()).expect("JSON");
    let opened = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut content = good.clone();
        change(&mut content);
        JoinFile::open(&sealed_content(&content, &public), &secret)
    };
    assert!(opened(&|_| {}).is_ok());
    let newer = opened(&|content| {
        content["version"] = 2.into();
        content["more"] = 1.into();
    });
    assert_eq!(newer, Err(JoinFileError::Version(2)));
    let earlier = opened(&|content| {
        content["version"] = 1.into();
        let fields = content.as_object_mut().expect("it has fields");
        fields.retain(|name, _| name != "masters" && name != "settings");
    });
    assert_eq!(earlier.expect("it is read").masters, [] as [IpAddr; 0]);
    let without_issue = opened(&|content| content["version"] = 7.into());
    assert_eq!(without_issue.expect("it is read").issued, None);
    let without_addresses = opened(&|content| content["version"] = 6.into());
    let without_addresses = without_addresses.expect("it is read");
    assert_eq!(without_addresses.addresses, BTreeMap::new());
    let changes: [(&str, serde_json::Value); 11] = [
        ("addresses", serde_json::json!({"10.0.0.2": "W_1"})),
        ("addresses", serde_json::json!({"10.0.0.256": "w-2"})),
        ("more", 1.into()),
        ("node", "W_1".into()),
        ("api", serde_json::json!([])),
        ("api", serde_json::json!(["http://10.0.0.1"])),
        ("api", serde_json::json!(["https://a\"b"])),
        ("token", "short.token".into()),
        ("authorities", "".into()),
        ("expires", u64::MAX.into()),
        ("issued", u64::MAX.into()),
    ];
    for (field, value) in changes {
        let refused = opened(&|content| content[field] = value.clone());
        assert!(
            matches!(refused, Err(JoinFileError::Content(_))),
            "{field}: {refused:?}"
        );
    }
}

#[test]
fn a_private_key_among_the_authorities_is_refused() {
    let (_, public) = new_identity();
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut file = file();
    file.authorities += &key.serialize_pem();
    file.seal(&public)
        .expect_err("a private key never leaves a master");
}

#[test]
fn a_file_is_for_one_node_and_one_time() {
    let file = file();
    assert_eq!(file.check("w-1", time(NOW)), Ok(()));
    let other = file.check("w-2", time(NOW));
    assert!(
        matches!(other, Err(JoinFileError::OtherNode { .. })),
        "{other:?}"
    );
    let late = file.check("w-1", time(NOW + 3600));
    assert!(
        matches!(late, Err(JoinFileError::Expired { .. })),
        "{late:?}"
    );
}

/// A new file does not help on a host whose clock is wrong.
#[test]
fn a_wrong_clock_is_told_from_a_file_that_is_over() {
    const DAY: u64 = 24 * 60 * 60;
    let made = JoinFile {
        issued: Some(NOW),
        ..file()
    };
    let says = |now: u64| {
        let refused = made.check("w-1", time(now)).expect_err("it is refused");
        refused.to_string()
    };
    let shown = |now: u64| humantime::format_rfc3339_seconds(time(now)).to_string();
    let early = says(NOW - 10 * DAY);
    assert_eq!(
        early,
        format!(
            "it was made at {}, and the clock of this host says {}",
            shown(NOW),
            shown(NOW - 10 * DAY)
        )
    );
    let late = says(NOW + 30 * DAY);
    for part in [
        shown(NOW),
        shown(NOW + 30 * DAY),
        "it expired at".to_owned(),
    ] {
        assert!(late.contains(&part), "{late}");
    }
    assert_eq!(made.check("w-1", time(NOW - 299)), Ok(()));
    // An earlier version did not write it.
    assert_eq!(file().check("w-1", time(NOW - 10 * DAY)), Ok(()));
    let before_1970 = made.check("w-1", SystemTime::UNIX_EPOCH - Duration::from_secs(1));
    before_1970.expect_err("it has no clock");
}

#[test]
fn a_file_names_the_node_that_has_an_address() {
    let (secret, public) = new_identity();
    let mut file = file();
    let of = |last| IpAddr::from([10, 0, 0, last]);
    file.masters.push(of(3));
    file.add_addresses([("cp-1", of(1)), ("w-2", of(2))]);
    let sealed = file.seal(&public).expect("it is sealed");
    let file = JoinFile::open(&sealed, &secret).expect("it is read");
    for (last, taken_by) in [
        (1, Some(("master `cp-1`", Some("cp-1")))),
        (2, Some(("node `w-2`", Some("w-2")))),
        (3, Some(("a master", None))),
        (4, None),
    ] {
        let expected = match taken_by {
            Some((node, name)) => Err(JoinFileError::TakenAddress {
                node: node.to_owned(),
                name: name.map(str::to_owned),
                address: of(last),
            }),
            None => Ok(()),
        };
        assert_eq!(file.check_address(of(last)), expected, "{last}");
    }
}

#[test]
fn a_file_of_a_large_cluster_stays_short_enough() {
    let (_, public) = new_identity();
    let mut file = file();
    let name = "n".repeat(LONGEST_NODE_NAME);
    let all = (0..2000u32).map(|number| (name.as_str(), IpAddr::from(number.to_be_bytes())));
    file.add_addresses(all);
    assert!(file.addresses.len() > 200, "{}", file.addresses.len());
    assert!(file.addresses.len() < 2000);
    file.seal(&public).expect("it is short enough");
}

#[test]
fn only_the_public_key_of_a_host_is_a_recipient() {
    let (secret, public) = new_identity();
    for wrong in ["", "age1", &secret, &public[..20]] {
        let refused = file().seal(wrong).expect_err("it is no key");
        assert!(
            matches!(refused, JoinFileError::Recipient(_)),
            "{refused:?}"
        );
    }
}

#[test]
fn neither_debug_nor_errors_show_a_secret() {
    let (secret, public) = new_identity();
    let file = file();
    let shown = format!("{file:?} {:?}", file.token);
    assert!(!shown.contains(file.token.secret()), "{shown}");
    let content = serde_json::json!({"version": 1, "token": file.token.expose(), "node": 7});
    let error = JoinFile::open(&sealed_content(&content, &public), &secret).expect_err("a number");
    assert!(!error.to_string().contains(file.token.secret()), "{error}");
    let error = file
        .seal(&secret)
        .expect_err("it is no public key")
        .to_string();
    assert!(!error.contains(&secret[16..]), "{error}");
}

#[test]
fn tokens_have_the_form_of_kubernetes_and_differ() {
    let one = Token::random().expect("random numbers");
    let other = Token::random().expect("random numbers");
    assert!(is_token_id(one.id()));
    assert_eq!(one.secret().len(), 16);
    assert_ne!(one, other);
    assert_eq!(Token::try_from(one.expose()), Ok(one));
    for wrong in [
        "",
        "abcdef",
        "abcdef.",
        "ABCDEF.0123456789abcdef",
        "abcdef.0123456789abcde",
    ] {
        Token::try_from(wrong.to_owned()).expect_err(wrong);
    }
}
