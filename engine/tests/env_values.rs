//! Behaviour of the settings on values: merging, secrets, limits, and reading back what was written.

use std::path::Path;

use engine::env::{
    EnvError, KEYS, KubeEnv, MAX_FILE_BYTES, MAX_FILES, SecretText, SettingValue, Source, parse,
    render,
};
use proptest::prelude::*;

fn file(name: &str, text: &str) -> (String, Vec<u8>) {
    (name.to_owned(), text.as_bytes().to_vec())
}

fn pairs(pairs: &[(&str, &str)]) -> Result<KubeEnv, Vec<EnvError>> {
    KubeEnv::from_pairs(
        pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned())),
    )
}

#[test]
fn files_are_sorted_by_name_and_later_wins() {
    let env = KubeEnv::resolve(vec![
        file(
            "b.yaml",
            "# c\n\nUSE_CGROUPS: false\nMAX_NAT_CONN: 0\nEXTERNAL_DNS_NAME: ''\n",
        ),
        file(
            "a.yaml",
            "MASTER_IP: 192.0.2.1\nUSE_CGROUPS: true\nMAX_NAT_CONN: 7\nEXTERNAL_DNS_NAME: a.b\n",
        ),
    ])
    .expect("both are valid");
    assert_eq!(env.get("USE_CGROUPS"), Some(&SettingValue::Bool(false)));
    assert_eq!(env.get("MAX_NAT_CONN"), Some(&SettingValue::Integer(0)));
    assert_eq!(
        env.get("EXTERNAL_DNS_NAME"),
        Some(&SettingValue::Text(String::new()))
    );
    assert_eq!(
        env.source_of("USE_CGROUPS").map(ToString::to_string),
        Some("b.yaml:3:1".into())
    );
    assert_eq!(
        env.source_of("MASTER_IP").map(ToString::to_string),
        Some("a.yaml:1:1".into())
    );
    assert_eq!(env.source_of("CPU_LIMIT"), Some(&Source::Default));
    assert_eq!(env.iter().count(), KEYS.len());
}

#[test]
fn positions_are_right_in_every_style() {
    let text = "# head\n%s\n".replace(
        "%s",
        concat!(
            "\"ROLE\" : master # tail\n",
            "\n",
            "DOCKERHUB_ID: |\n  K8S_API_PORT: 1\n\n  # no comment\n",
            "'CPU_LIMIT': &limit 7\n",
            "? MASTER_IP\n: 192.0.2.1\n",
            "RUNTIME_CONFIG: \"a\n  b\n\n  c\"\n",
            "MAX_PODS: *limit\n",
            "NO_PROXY: 0755\n",
            "DOCKERHUB_PASSWORD: word",
        ),
    );
    let env = KubeEnv::resolve(vec![file("f", &text)]).expect("valid");
    let place = |name: &str| {
        env.source_of(name)
            .map(ToString::to_string)
            .unwrap_or_default()
    };
    for (name, expected) in [
        ("ROLE", "f:2:1"),
        ("DOCKERHUB_ID", "f:4:1"),
        ("CPU_LIMIT", "f:8:1"),
        ("MASTER_IP", "f:9:3"),
        ("RUNTIME_CONFIG", "f:11:1"),
        ("MAX_PODS", "f:15:1"),
        ("NO_PROXY", "f:16:1"),
    ] {
        assert_eq!(place(name), expected, "{name}");
    }
    assert_eq!(
        env.get("DOCKERHUB_ID"),
        Some(&SettingValue::Text(
            "K8S_API_PORT: 1\n\n# no comment\n".into()
        ))
    );
    assert_eq!(
        env.get("NO_PROXY"),
        Some(&SettingValue::Text("0755".into()))
    );
    assert_eq!(env.get("MAX_PODS"), Some(&SettingValue::Integer(7)));
}

#[test]
fn images_follow_registry_and_version_unless_given() {
    let env = pairs(&[
        ("MASTER_IP", "192.0.2.1"),
        ("K8S_PRIVATE_REGISTRY", "h:5001/k8s"),
        ("K8S_VERSION", "v1.21.3"),
        ("PAUSE_IMAGE", "other/pause:3.6"),
    ])
    .expect("valid");
    let text = |name: &str| env.get(name).map(ToString::to_string).unwrap_or_default();
    assert_eq!(text("KUBE_PROXY_IMAGE"), "h:5001/k8s/kube-proxy:v1.21.3");
    assert_eq!(text("ETCD_IMAGE"), "h:5001/k8s/etcd:3.4.23-0");
    assert_eq!(text("PAUSE_IMAGE"), "other/pause:3.6");
}

#[test]
fn a_secret_shows_only_where_it_is_exposed() {
    let env = pairs(&[
        ("MASTER_IP", "192.0.2.1"),
        ("DOCKERHUB_ID", "account"),
        ("DOCKERHUB_PASSWORD", "hunter2"),
    ])
    .expect("valid");
    let value = env.get("DOCKERHUB_PASSWORD").expect("a key");
    let shown = [
        value.to_string(),
        format!("{value:?}"),
        format!("{env:?}"),
        serde_json::to_string(value).expect("serializes"),
        render(&env, SecretText::reference),
    ];
    for text in shown {
        assert!(
            !text.contains("hunter2") && text.contains("secret:kube/DOCKERHUB_PASSWORD"),
            "{text}"
        );
    }
    assert!(
        render(&env, |secret| secret.expose().to_owned())
            .contains("export DOCKERHUB_PASSWORD=\"hunter2\"\n")
    );
}

/// Only `role.yaml` says which of them are secrets.
#[test]
fn settings_of_parameters_are_kept_and_not_shown() {
    let env = KubeEnv::resolve_with_override(
        vec![file(
            "a.yaml",
            "MASTER_IP: 192.0.2.1\nROLE_TOKEN: hunter2\nROLE_PACE: slow\n",
        )],
        Some(("b.env".to_owned(), b"ROLE_PACE=fast\n".to_vec())),
    )
    .expect("valid");
    let given: Vec<(&str, &str, String)> = env
        .role_settings()
        .map(|(name, text, source)| (name, text.expose(), source.to_string()))
        .collect();
    assert_eq!(
        given,
        [
            ("ROLE_PACE", "fast", "b.env:1".to_owned()),
            ("ROLE_TOKEN", "hunter2", "a.yaml:2:1".to_owned()),
        ]
    );
    assert!(!format!("{env:?}").contains("hunter2"));
    // They are sorted among the others, are read back, and count when settings are compared.
    let text = render(&env, |secret| secret.expose().to_owned());
    assert!(text.contains("export ROLE=\"none\"\nexport ROLE_PACE=\"fast\"\nexport ROLE_TOKEN=\"hunter2\"\nexport RUNTIME="));
    let back = parse(Path::new("kube.env"), text.as_bytes()).expect("our own text");
    let back = back.into_iter().map(|it| (it.name, it.value));
    let back = KubeEnv::from_pairs(back).expect("valid again");
    assert!(env.iter().eq(back.iter()));
    let without = pairs(&[("MASTER_IP", "192.0.2.1")]).expect("valid");
    assert_ne!(env, without);
    assert_eq!(without.get("ROLE_PACE"), None);
}

/// A file of another kind among the settings: its first line may be a secret.
#[test]
fn invalid_names_are_not_shown() {
    let problems = KubeEnv::resolve(vec![file("/f", "root:$6$salt$HASH:20782:0::: x\n")]);
    let messages = problems.expect_err("it is no setting");
    let messages: Vec<String> = messages.iter().map(ToString::to_string).collect();
    assert!(!messages.concat().contains("HASH"), "{messages:?}");
    let problems = KubeEnv::resolve(vec![file("/f", "\"root:$6$salt$HASH:0\": x\nOOPS: 1\n")]);
    let messages = problems.expect_err("they are no settings");
    let messages: Vec<String> = messages.iter().map(ToString::to_string).collect();
    assert!(!messages.concat().contains("HASH"), "{messages:?}");
    assert!(
        messages.concat().contains("unknown key `OOPS`"),
        "{messages:?}"
    );
}

#[test]
fn errors_know_their_location() {
    let problems = KubeEnv::resolve(vec![file("/f", "MASTER_IP: 192.0.2.1\n\nOOPS: 1\n")])
        .expect_err("unknown");
    assert_eq!(
        problems.first().and_then(EnvError::location),
        Some(("/f".into(), 3))
    );
    assert_eq!(
        pairs(&[])
            .expect_err("missing")
            .first()
            .and_then(EnvError::location),
        None
    );
}

#[test]
fn input_is_bounded() {
    let refused = |files| {
        KubeEnv::resolve(files)
            .expect_err("refused")
            .first()
            .map(ToString::to_string)
            .unwrap_or_default()
    };
    assert_eq!(
        refused((0..=MAX_FILES).map(|n| file(&format!("{n}"), "")).collect()),
        "65 configuration files, at most 64 are read"
    );
    assert_eq!(
        refused(vec![file("f", &" ".repeat(MAX_FILE_BYTES + 1))]),
        "f: 1048577 bytes, at most 1048576 are read"
    );
    assert_eq!(
        refused(vec![file(
            "f",
            &format!("NO_PROXY: {}", "[".repeat(MAX_FILE_BYTES - 10))
        )]),
        "f:1: brackets nested more than 32 deep, expected `KEY: value` lines"
    );
    let many: String = (0..2000).map(|n| format!("K{n}: 1\n")).collect();
    assert_eq!(refused(vec![file("f", &many)]), "f: more than 1024 keys");
    assert_eq!(
        refused(vec![file(
            "f",
            &format!("NO_PROXY: {}", "x".repeat(70_000))
        )]),
        format!(
            "f:1:1: NO_PROXY: expected at most 65536 bytes, found `{}…`",
            "x".repeat(60)
        )
    );
    let aliases: String = (0..900).map(|n| format!("K{n}: *a\n")).collect();
    assert_eq!(
        refused(vec![file(
            "f",
            &format!("A: &a [{}]\n{aliases}", "a,".repeat(2_000))
        )]),
        "f:1:4: invalid YAML: K4: too many nested items, expected `KEY: value` lines"
    );
    let bomb = "A: &a [x,x,x]\nB: &b [*a,*a,*a,*a]\nC: &c [*b,*b,*b,*b]\nD: [*c,*c,*c,*c]\n";
    assert_eq!(
        KubeEnv::resolve(vec![file("f", bomb)])
            .expect_err("refused")
            .len(),
        5
    );
}

/// Valid text for any key, or any text at all where any is valid.
fn settings() -> impl Strategy<Value = Vec<(String, String)>> {
    (
        "[^\0]{0,40}",
        "[^\0]{0,40}",
        "--[a-z]{1,9}=[^\\p{Cc},]{0,20}",
        20_000..30_000_u32,
        any::<bool>(),
    )
        .prop_map(|(text, password, flag, port, flags)| {
            let mut pairs = vec![
                ("MASTER_IP".to_owned(), "192.0.2.1".to_owned()),
                ("RUNTIME_CONFIG".to_owned(), text),
                ("K8S_API_PORT".to_owned(), port.to_string()),
            ];
            if !password.is_empty() {
                pairs.push(("DOCKERHUB_ID".to_owned(), "account".to_owned()));
                pairs.push(("DOCKERHUB_PASSWORD".to_owned(), password));
            }
            if flags {
                pairs.push(("KUBELET_FLAGS".to_owned(), format!("{flag},--last")));
            }
            pairs
        })
}

/// A script would be refused later (P0332), with a place in the script and not in the settings.
#[test]
fn a_directory_above_a_path_of_nodelet_is_refused() {
    for (path, refused) in [
        ("/run/pf9", Some("contains /run/pf9/nodeletd.sock")),
        ("/var/run/pf9", Some("contains /run/pf9/nodeletd.sock")),
        ("/var/run", Some("contains /run/pf9-nodelet.lock")),
        (
            "/var/run/pf9-nodelet.lock/etcd",
            Some("lies in /run/pf9-nodelet.lock"),
        ),
        ("/run/pf9/etcd", None),
        ("/run/etcd", None),
    ] {
        let settings = pairs(&[("MASTER_IP", "192.0.2.1"), ("ETCD_DATA_DIR", path)]);
        let problems = settings.err().unwrap_or_default();
        assert_eq!(problems.len(), usize::from(refused.is_some()), "{path}");
        let said = problems.iter().map(ToString::to_string);
        let said = said.collect::<String>();
        assert!(said.contains(refused.unwrap_or_default()), "{said}");
    }
}

/// An update of the program must not leave a running host without settings.
#[test]
fn saved_settings_are_not_refused_by_later_rules() {
    for setting in [
        "DOCKERHUB_PASSWORD: secret",
        "DOCKER_ROOT: /srv/docker,1",
        "API_SERVER_EXTRA_DIR: /certs/apiserver",
        "ETCD_DATA_DIR: /run/pf9",
        "ETCD_DATA_DIR: /var/run/pf9",
    ] {
        let file = format!("MASTER_IP: 192.0.2.1\n{setting}\n").into_bytes();
        let current = KubeEnv::resolve(vec![("a.yaml".to_owned(), file.clone())]);
        assert_eq!(current.expect_err(setting).len(), 1, "{setting}");
        KubeEnv::resolve_saved("settings.yaml", file).expect("they were in force");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rendered_settings_read_back_unchanged(pairs in settings()) {
        let env = KubeEnv::from_pairs(pairs).expect("valid");
        let text = render(&env, |secret| secret.expose().to_owned());
        let back: Vec<(String, String)> = parse(Path::new("kube.env"), text.as_bytes())
            .expect("our own text")
            .into_iter()
            .map(|assignment| (assignment.name, assignment.value))
            .collect();
        let again = KubeEnv::from_pairs(back).expect("valid again");
        prop_assert!(env.iter().eq(again.iter()));
        prop_assert_eq!(text, render(&again, |secret| secret.expose().to_owned()));
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[A-Z_:\\[\\]{}&*!|>'\"#%@`?, \n-]{0,80}") {
        let _ = KubeEnv::resolve(vec![("f".to_owned(), bytes.clone())]);
        let _ = KubeEnv::resolve(vec![("f".to_owned(), text.clone().into_bytes())]);
        let _ = parse(Path::new("f"), &bytes);
        let _ = parse(Path::new("f"), text.as_bytes());
    }

    #[test]
    fn yaml_text_arrives_as_it_was_written(text in "[^\0]{0,60}") {
        let pairs = std::collections::BTreeMap::from([("MASTER_IP", "192.0.2.1"), ("RUNTIME_CONFIG", &text)]);
        let yaml = serde_yaml::to_string(&pairs).expect("any text is YAML");
        let env = KubeEnv::resolve(vec![file("f", &yaml)]);
        let env = env.map_err(|problems| TestCaseError::fail(format!("{yaml}: {problems:?}")))?;
        prop_assert_eq!(env.get("RUNTIME_CONFIG"), Some(&SettingValue::Text(text)));
    }
}

/// A worker's settings, with these.
fn worker(given: &[(&str, &str)]) -> Result<KubeEnv, Vec<EnvError>> {
    let usual = [("ROLE", "worker"), ("MASTER_IP", "172.30.0.100")];
    let pairs = usual.iter().chain(given);
    KubeEnv::from_pairs(pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
}

#[test]
fn a_worker_learns_of_a_virtual_ip_and_needs_no_interface_for_it() {
    for given in [
        &[("MASTER_VIP_ENABLED", "true")][..],
        &[("MASTER_VIP_IFACE", "eth0")],
        &[("MASTER_VIP_ENABLED", "true"), ("MASTER_VIP_IFACE", "eth0")],
    ] {
        assert!(worker(given).is_ok(), "{given:?}");
    }
    let named = [
        ("MASTER_VIP_ENABLED", "true"),
        ("MASTER_IP", "api.example.com"),
    ];
    assert!(worker(&named).is_err(), "keepalived holds no name");
}

#[test]
fn the_certificates_of_a_worker_live_for_a_month_by_default() {
    let life = |given: &[(&str, &str)]| {
        let settings = worker(given).expect("they are good");
        let life = settings.get("CERTIFICATE_LIFE").expect("it has a default");
        life.to_string()
    };
    for (given, expected) in [
        (&[][..], "720h"),
        (&[("CERTIFICATE_DAYS", "10")], "240h"),
        (&[("CERTIFICATE_LIFE", "2h")], "2h"),
    ] {
        assert_eq!(life(given), expected, "{given:?}");
    }
    let master = pairs(&[("ROLE", "master"), ("MASTER_IP", "172.30.0.100")]);
    let master = master.expect("they are good");
    let life = master.get("CERTIFICATE_LIFE").expect("it has a default");
    assert_ne!(life.to_string(), "720h");
}
