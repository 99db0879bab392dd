//! What scripts may read: `host`, `cluster`, `role` and `kube`, from facts, settings and the role. The tables in `fields.rs` and
//! `engine/src/role/fields.rs` describe the fields.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::env::{self, KEYS, Kind, KubeEnv};
use crate::facts::{CgroupVersion, Facts, MASTERS_REMEDY, MASTERS_UNKNOWN, MasterEntry};
use crate::model::{Diagnostic, SecretRef, Span, Value};
use crate::role::{ParameterKind, RolePackage};
use crate::script::ScriptContext;

/// The drivers for control groups, with v1 and with v2.
const CGROUP_DRIVERS: [&str; 2] = ["cgroupfs", "systemd"];

/// The setting as text; an unset one is empty.
pub(super) fn text(settings: &KubeEnv, key: &str) -> String {
    settings
        .get(key)
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// The name this host has as a node: its host name, or its address where `USE_HOSTNAME` is off.
#[must_use]
pub fn node_name(settings: &KubeEnv, facts: &Facts) -> Option<String> {
    if matches!(
        settings.get("USE_HOSTNAME"),
        Some(env::SettingValue::Bool(false))
    ) {
        facts.address.map(|address| address.to_string())
    } else {
        Some(facts.hostname.to_lowercase())
    }
}

/// What the role's scripts may read. `parameters` are those of the role with their values.
pub(super) fn script_context(
    role: &RolePackage,
    parameters: BTreeMap<String, Value>,
    settings: &KubeEnv,
    facts: &Facts,
) -> Result<ScriptContext, Box<Diagnostic>> {
    let missing = |what: &str, help: &str| {
        Box::new(
            Diagnostic::new(
                "P0608",
                Span::file("facts"),
                format!("the host has no {what}"),
            )
            .help(help),
        )
    };
    let address = facts.address.ok_or_else(|| {
        missing(
            "address on the link of its default route",
            "give it an IPv4 address and a default route; see `ip -4 route` and `ip -4 address`",
        )
    })?;
    if address.is_loopback() {
        return Err(missing(
            "address but a loopback one",
            "give it one that other hosts can reach",
        ));
    }
    let name = node_name(settings, facts)
        .ok_or_else(|| missing("usable name", "set one with `hostnamectl set-hostname`"))?;
    let masters = masters(settings, facts, &name, address)?;
    // Scripts read the settings of parameters as `role.NAME`.
    let kube = settings
        .iter()
        .filter(|(key, _)| !key.starts_with(env::ROLE_PREFIX))
        .map(|(key, value)| (key.to_owned(), setting(key, value)))
        .collect();
    Ok(ScriptContext {
        host: host(facts, &name, address),
        cluster: cluster(settings, &name, &masters),
        role: role_values(role, parameters, settings),
        kube,
        secrets: secrets(role, settings),
        choices: choices(role),
    })
}

/// The texts that fields can be, by their names in scripts.
fn choices(role: &RolePackage) -> BTreeMap<String, Vec<String>> {
    let settings = KEYS.iter().filter_map(|key| {
        let Kind::Choice(words) = key.kind else {
            return None;
        };
        let words = words.iter().map(|&word| word.to_owned());
        let empty = key.may_be_empty().then(String::new);
        Some((format!("kube.{}", key.name), words.chain(empty).collect()))
    });
    let parameters = role.manifest.parameters.iter();
    let parameters = parameters
        .filter(|(_, one)| one.kind == ParameterKind::Text && !one.choices.is_empty())
        .map(|(name, one)| (format!("role.{name}"), one.choices.clone()));
    let drivers = CGROUP_DRIVERS.map(str::to_owned).to_vec();
    let driver = ("host.cgroup_driver".to_owned(), drivers);
    let mut all: BTreeMap<_, _> = settings.chain(parameters).chain([driver]).collect();
    if let Some(kinds) = all.get("kube.ROLE").cloned() {
        all.insert("role.node".to_owned(), kinds);
    }
    all
}

/// A setting as scripts see it: flags, numbers and lists typed, the rest as text; secrets by reference.
fn setting(key: &str, value: &env::SettingValue) -> Value {
    match value {
        env::SettingValue::Bool(b) => Value::Bool(*b),
        env::SettingValue::Integer(n) => Value::Integer(*n),
        env::SettingValue::List(items) => Value::from(items.clone()),
        // An empty secret is no secret: scripts may ask whether it was given.
        env::SettingValue::Secret(secret) if secret.is_empty() => Value::from(""),
        env::SettingValue::Secret(_) => Value::Secret(SecretRef(format!("kube/{key}"))),
        other => Value::Text(other.to_string()),
    }
}

/// The names of all secrets, also of those that no file gives.
fn secrets(role: &RolePackage, settings: &KubeEnv) -> BTreeSet<String> {
    let settings = settings
        .iter()
        .filter(|(key, value)| {
            matches!(value, env::SettingValue::Secret(_)) && !key.starts_with(env::ROLE_PREFIX)
        })
        .map(|(key, _)| key.to_owned());
    let parameters = role.manifest.parameters.iter();
    let parameters = parameters
        .filter(|(_, parameter)| parameter.secret)
        .map(|(name, _)| format!("{}{}", env::ROLE_PREFIX, name.to_ascii_uppercase()));
    settings
        .chain(parameters)
        .map(|key| format!("kube/{key}"))
        .collect()
}

fn host(facts: &Facts, name: &str, address: IpAddr) -> BTreeMap<String, Value> {
    let version = facts.cgroups.as_ref().map(|cgroups| cgroups.version);
    // The systemd driver needs delegated v2 hierarchies; on v1 docker's default is cgroupfs.
    let [v1, v2] = CGROUP_DRIVERS;
    let driver = if version == Some(CgroupVersion::V2) {
        v2
    } else {
        v1
    };
    BTreeMap::from([
        ("name".to_owned(), Value::from(name)),
        ("hostname".to_owned(), Value::from(facts.hostname.clone())),
        ("address".to_owned(), Value::from(address.to_string())),
        (
            "interface".to_owned(),
            Value::from(
                facts
                    .default_route
                    .as_ref()
                    .map(|route| route.link.clone())
                    .unwrap_or_default(),
            ),
        ),
        (
            "cpus".to_owned(),
            Value::Integer(i64::from(facts.cpus.unwrap_or(1))),
        ),
        ("cgroup_driver".to_owned(), Value::from(driver)),
    ])
}

/// The masters of the cluster, sorted by name. This host is always one of them, at the address that it has now. The file that lists them may
/// be older: it names this host only after it has joined.
fn masters(
    settings: &KubeEnv,
    facts: &Facts,
    name: &str,
    address: IpAddr,
) -> Result<Vec<MasterEntry>, Box<Diagnostic>> {
    let is_master = text(settings, "ROLE") == "master";
    if let (true, Some(why)) = (is_master, facts.unknown.get(MASTERS_UNKNOWN)) {
        let message = format!("the list of masters cannot be read: {why}");
        let finding = Diagnostic::new("P0608", Span::file("facts"), message).help(MASTERS_REMEDY);
        return Err(Box::new(finding));
    }
    let own = MasterEntry {
        name: name.to_owned(),
        address,
        etcd_id: None,
        voter: true,
    };
    let listed = facts.masters.iter().filter(|_| is_master);
    let others = listed.filter(|one| one.name != name && one.address != address);
    let mut all: Vec<MasterEntry> = others.cloned().chain([own]).collect();
    all.sort();
    Ok(all)
}

fn cluster(settings: &KubeEnv, name: &str, masters: &[MasterEntry]) -> BTreeMap<String, Value> {
    let port = text(settings, "K8S_API_PORT");
    let url = |host: &str| {
        let bracketed = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        format!("https://{bracketed}:{port}")
    };
    let master = text(settings, "ROLE") == "master";
    let api_url = url(&text(settings, "MASTER_IP"));
    let local = url("127.0.0.1");
    let entry = |one: &MasterEntry| {
        Value::Map(BTreeMap::from([
            ("name".to_owned(), Value::from(one.name.clone())),
            ("address".to_owned(), Value::from(one.address.to_string())),
        ]))
    };
    let others = masters.iter().filter(|one| one.name != name);
    let others = Value::List(others.map(entry).collect());
    let masters = Value::List(masters.iter().map(entry).collect());
    let shared = settings.shared().into_iter();
    let shared = shared.map(|(name, value)| (name, Value::from(value)));
    BTreeMap::from([
        ("id".to_owned(), Value::from(cluster_id(settings))),
        (
            "api_is_address".to_owned(),
            Value::Bool(text(settings, "MASTER_IP").parse::<IpAddr>().is_ok()),
        ),
        ("api_url".to_owned(), Value::from(api_url.clone())),
        (
            "local_api_url".to_owned(),
            Value::from(if master { local } else { api_url }),
        ),
        (
            "api_service_ip".to_owned(),
            Value::from(settings.api_service_ip().to_string()),
        ),
        (
            "api_service_names".to_owned(),
            Value::from(api_service_names(&text(settings, "CLUSTER_DNS_DOMAIN"))),
        ),
        (
            "dns_service_ip".to_owned(),
            Value::from(settings.dns_service_ip().to_string()),
        ),
        ("shared_settings".to_owned(), Value::Map(shared.collect())),
        ("masters".to_owned(), masters),
        ("other_masters".to_owned(), others),
    ])
}

/// The names of the Service `kubernetes`, by which pods reach the API server. Its certificate has them.
fn api_service_names(domain: &str) -> Vec<String> {
    let name = "kubernetes.default.svc";
    let short = ["kubernetes", "kubernetes.default", name].map(str::to_owned);
    let whole = format!("{name}.{domain}");
    short.into_iter().chain([whole]).collect()
}

/// The cluster's id. If none is given, the address of its master, which also tells it apart from its neighbours.
fn cluster_id(settings: &KubeEnv) -> String {
    match text(settings, "CLUSTER_ID") {
        id if id.is_empty() => text(settings, "MASTER_IP"),
        id => id,
    }
}

fn role_values(
    role: &RolePackage,
    parameters: BTreeMap<String, Value>,
    settings: &KubeEnv,
) -> BTreeMap<String, Value> {
    let mut values = parameters;
    let payload = RolePackage::payload(&role.manifest.name);
    let environment: BTreeMap<String, Value> = settings
        .iter()
        .map(|(key, value)| (key.to_owned(), variable(role, key, value)))
        .collect();
    values.extend([
        ("name".to_owned(), Value::from(role.manifest.name.clone())),
        (
            "release".to_owned(),
            Value::from(role.manifest.release.clone()),
        ),
        ("node".to_owned(), Value::from(text(settings, "ROLE"))),
        (
            "payload".to_owned(),
            Value::from(payload.display().to_string()),
        ),
        ("kube_env".to_owned(), Value::Map(environment)),
    ]);
    values
}

/// A setting as `kube.env` has it: text, and secrets by reference.
fn variable(role: &RolePackage, key: &str, value: &env::SettingValue) -> Value {
    match value {
        env::SettingValue::Secret(secret) if secret.is_empty() => Value::from(""),
        // The text of a parameter counts as a secret only as long as the role is not known.
        env::SettingValue::Secret(text)
            if key.starts_with(env::ROLE_PREFIX) && !role.is_secret(key) =>
        {
            Value::from(text.expose())
        }
        env::SettingValue::Secret(_) => Value::Secret(SecretRef(format!("kube/{key}"))),
        other => Value::Text(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::planner::fields::{CLUSTER_FIELDS, HOST_FIELDS, kube_type};
    use crate::role::{Field, ROLE_FIELDS, field_list};

    const MANIFEST: &str = "version: 1
name: r
release: '1'
about: A role.
nodes:
  master: [example]
parameters:
  pace: { type: text, default: slow, choices: [slow, fast], doc: How fast. }
  token: { type: text, default: '', secret: true, doc: A token. }
payload: []
";

    #[tokio::test]
    async fn a_worker_reaches_an_ipv6_api_in_brackets() {
        let settings = |role| {
            [
                ("ROLE", role),
                ("MASTER_IP", "fd00:30::64"),
                ("K8S_API_PORT", "6443"),
            ]
        };
        let url = "https://[fd00:30::64]:6443";
        for (role, local) in [("worker", url), ("master", "https://127.0.0.1:6443")] {
            let context = context_with(&settings(role)).await;
            let value = |name: &str| match &context.cluster[name] {
                Value::Text(text) => text.clone(),
                other => panic!("{other:?}"),
            };
            assert_eq!(value("api_url"), url, "{role}");
            assert_eq!(value("local_api_url"), local, "{role}");
        }
    }

    /// The context of a master with these settings.
    async fn context_with(given: &[(&str, &str)]) -> ScriptContext {
        let mut facts = Facts::nothing_about("cp-1");
        facts.address = Some(IpAddr::from([192, 0, 2, 1]));
        context_of(given, &facts)
            .await
            .expect("the host has what a plan needs")
    }

    /// The same on another host.
    async fn context_of(
        given: &[(&str, &str)],
        facts: &Facts,
    ) -> Result<ScriptContext, Box<Diagnostic>> {
        let host = FakeHost::new()
            .with_file("/r/role.yaml", MANIFEST)
            .with_file("/r/phases/example.rhai", "phase(\"example\");\n")
            .with_directory("/r/phases/templates");
        let role = RolePackage::load(&host, "/r").await.expect("a role");
        let pairs = [("MASTER_IP", "192.0.2.1"), ("ROLE", "master")];
        let replaced = |key: &str| given.iter().any(|(name, _)| *name == key);
        let pairs = pairs
            .iter()
            .filter(|(name, _)| !replaced(name))
            .chain(given);
        let pairs = pairs.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let settings = KubeEnv::from_pairs(pairs).expect("good settings");
        let parameters = role.parameters_with(&settings).expect("they fit");
        script_context(&role, parameters, &settings, facts)
    }

    /// The names and addresses of masters, as scripts read them.
    fn shown(masters: &Value) -> Vec<String> {
        let Value::List(masters) = masters else {
            panic!("it is no list: {masters:?}");
        };
        let shown = |one: &Value| match one {
            Value::Map(fields) => format!("{} {}", fields["name"], fields["address"]),
            other => panic!("it is no map: {other:?}"),
        };
        masters.iter().map(shown).collect()
    }

    #[tokio::test]
    async fn masters_come_from_the_list_and_this_host_is_always_one() {
        let entry = |name: &str, address: &str| MasterEntry {
            name: name.to_owned(),
            address: address.parse().expect("an address"),
            etcd_id: Some(1),
            voter: true,
        };
        let mut facts = Facts::nothing_about("cp-2");
        facts.address = Some(IpAddr::from([192, 0, 2, 2]));
        let (first, own, third) = ("cp-1 192.0.2.1", "cp-2 192.0.2.2", "cp-3 192.0.2.3");
        let others = [entry("cp-1", "192.0.2.1"), entry("cp-3", "192.0.2.3")];
        // Before it has joined, with its present address, and with an earlier one.
        for extra in [None, Some("192.0.2.2"), Some("192.0.2.9")] {
            facts.masters = others.to_vec();
            facts
                .masters
                .extend(extra.map(|address| entry("cp-2", address)));
            let its = context_of(&[], &facts).await.expect("a context");
            assert_eq!(shown(&its.cluster["masters"]), [first, own, third]);
            assert_eq!(shown(&its.cluster["other_masters"]), [first, third]);
        }
        facts.masters.clear();
        let its = context_of(&[], &facts).await.expect("a context");
        assert_eq!(shown(&its.cluster["masters"]), [own]);
        assert!(shown(&its.cluster["other_masters"]).is_empty());
    }

    /// Without the list, the plan would take the other masters for strangers.
    #[tokio::test]
    async fn there_is_no_plan_for_a_master_whose_list_is_damaged() {
        let mut facts = Facts::nothing_about("cp-1");
        facts.address = Some(IpAddr::from([192, 0, 2, 1]));
        let damaged = "it is no list of masters".to_owned();
        facts.unknown.insert(MASTERS_UNKNOWN.to_owned(), damaged);
        let finding = context_of(&[], &facts).await.expect_err("no plan");
        assert_eq!(finding.code, "P0608");
        let worker = [("ROLE", "worker"), ("MASTER_IP", "192.0.2.9")];
        context_of(&worker, &facts).await.expect("a context");
    }

    #[tokio::test]
    async fn the_tables_have_each_field() {
        let its = context_with(&[]).await;
        let parameters: &[Field] = field_list! { pace: "" => ""; token: "" => ""; };
        let role = [ROLE_FIELDS, parameters].concat();
        for (is, documented) in [
            (&its.host, HOST_FIELDS),
            (&its.cluster, CLUSTER_FIELDS),
            (&its.role, &role[..]),
        ] {
            let is: BTreeSet<&str> = is.keys().map(String::as_str).collect();
            let documented: BTreeSet<&str> = documented.iter().map(|field| field.name).collect();
            assert_eq!(is, documented);
        }
    }

    #[tokio::test]
    async fn each_choice_belongs_to_a_field_and_has_its_value() {
        let its = context_with(&[]).await;
        for (name, words) in &its.choices {
            let (space, field) = name.split_once('.').expect(name);
            let fields = match space {
                "host" => &its.host,
                "role" => &its.role,
                _ => &its.kube,
            };
            let Value::Text(text) = &fields[field] else {
                panic!("{name} is no text");
            };
            assert!(words.contains(text), "{name}: {text}");
        }
        assert_eq!(its.choices["role.pace"], ["slow", "fast"]);
        for name in ["host.cgroup_driver", "kube.KUBE_PROXY_MODE", "role.node"] {
            assert!(its.choices.contains_key(name), "{name}");
        }
    }

    #[tokio::test]
    async fn the_table_of_settings_has_their_types() {
        let its = context_with(&[]).await;
        for key in env::KEYS {
            let value = &its.kube[key.name];
            let fits = match (kube_type(key), value) {
                ("bool", Value::Bool(_))
                | ("integer", Value::Integer(_))
                | ("list of texts", Value::List(_))
                | ("text", Value::Text(_)) => true,
                // An empty setting.
                ("integer" | "secret", Value::Text(text)) => text.is_empty(),
                _ => false,
            };
            assert!(fits, "{}: {value:?}", key.name);
        }
    }

    #[tokio::test]
    async fn settings_of_parameters_are_in_kube_env_and_in_role() {
        let its = context_with(&[("ROLE_PACE", "fast"), ("ROLE_TOKEN", "hunter2")]).await;
        let token = Value::Secret(SecretRef("kube/ROLE_TOKEN".to_owned()));
        assert_eq!(its.role["pace"], Value::from("fast"));
        assert_eq!(its.role["token"], token);
        assert!(!its.kube.contains_key("ROLE_PACE"));
        assert!(its.secrets.contains("kube/ROLE_TOKEN"), "{:?}", its.secrets);
        assert!(!its.secrets.contains("kube/ROLE_PACE"), "{:?}", its.secrets);
        let Value::Map(kube_env) = &its.role["kube_env"] else {
            panic!("it is no map: {:?}", its.role["kube_env"]);
        };
        assert_eq!(kube_env["ROLE_PACE"], Value::from("fast"));
        assert_eq!(kube_env["ROLE_TOKEN"], token);
        assert!(!format!("{its:?}").contains("hunter2"));
    }
}
