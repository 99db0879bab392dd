//! The resolved settings of a node: files over defaults, checked one by one and against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::error::{EnvError, Found};
use super::key::{DefaultValue, Key, Kind};
use super::keys::KEYS;
use super::rules;
use super::value::{SecretText, SettingValue};
use crate::env::source::layers::{Layered, Merge, Setting};
use crate::env::source::place::Source;

/// Every key of the table with its value and the source of the value, and the settings of the role's parameters. It exists only if all
/// settings of the table are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeEnv {
    settings: BTreeMap<&'static str, Setting>,
    of_role: BTreeMap<String, Setting>,
}

impl KubeEnv {
    /// Merges the contents of `/etc/pf9/nodelet/*.yaml` over the defaults, or returns every problem.
    pub fn resolve(files: Vec<(String, Vec<u8>)>) -> Result<Self, Vec<EnvError>> {
        Self::resolve_with_override(files, None)
    }

    /// The same with the content of `/etc/pf9/kube_override.env`, which wins over the files.
    pub fn resolve_with_override(
        files: Vec<(String, Vec<u8>)>,
        override_file: Option<(String, Vec<u8>)>,
    ) -> Result<Self, Vec<EnvError>> {
        let mut merge = Merge::default();
        merge.directory(
            files
                .into_iter()
                .map(|(path, content)| (PathBuf::from(path), content))
                .collect(),
        );
        if let Some((path, content)) = override_file {
            merge.environment(Path::new(&path), &content);
        }
        finish(merge, rules::check)
    }

    /// Reads saved settings that were in force on this host, or returns every problem. New rules do not refuse them: an update of the program
    /// must not leave a running host without settings.
    pub fn resolve_saved(path: &str, content: Vec<u8>) -> Result<Self, Vec<EnvError>> {
        let mut merge = Merge::default();
        merge.directory(vec![(PathBuf::from(path), content)]);
        finish(merge, rules::check_saved)
    }

    /// Takes names and texts without a file: fixtures, and kube.env read back.
    pub fn from_pairs(
        pairs: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Vec<EnvError>> {
        let mut merge = Merge::default();
        merge.pairs(pairs);
        finish(merge, rules::check)
    }

    /// The value of a key of the table, or of a role's parameter that is set; `None` for any other name.
    pub fn get(&self, name: &str) -> Option<&SettingValue> {
        self.setting(name).map(|setting| &setting.value)
    }

    /// The source of a key's value.
    pub fn source_of(&self, name: &str) -> Option<&Source> {
        self.setting(name).map(|setting| &setting.source)
    }

    fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name).or_else(|| self.of_role.get(name))
    }

    /// Every key with its value, sorted by name; also those of the role's parameters that are set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SettingValue)> {
        let mut all: BTreeMap<&str, &SettingValue> = BTreeMap::new();
        for (name, setting) in &self.settings {
            all.insert(name, &setting.value);
        }
        for (name, setting) in &self.of_role {
            all.insert(name, &setting.value);
        }
        all.into_iter()
    }

    /// The settings of the role's parameters, sorted by name: `ROLE_` and the parameter's name in upper case, the text, its source.
    /// The text counts as a secret, because only `role.yaml` says which parameters are secret.
    pub fn role_settings(&self) -> impl Iterator<Item = (&str, &SecretText, &Source)> {
        self.of_role
            .iter()
            .filter_map(|(name, setting)| match &setting.value {
                SettingValue::Secret(text) => Some((name.as_str(), text, &setting.source)),
                _ => None,
            })
    }

    /// The settings that all masters of a cluster have in common, by name. Those without a value are left out.
    #[must_use]
    pub fn shared(&self) -> BTreeMap<String, String> {
        let has_virtual_ip = self.get("MASTER_VIP_ENABLED") == Some(&SettingValue::Bool(true));
        // Without a virtual IP, these mean nothing.
        let of_virtual_ip = ["MASTER_VIP_VROUTER_ID", "MASTER_VIP_PRIORITY"];
        let counts =
            |key: &&Key| key.shared && (has_virtual_ip || !of_virtual_ip.contains(&key.name));
        let shared = KEYS.iter().filter(counts);
        let values = shared.filter_map(|key| {
            let value = self.get(key.name).filter(|value| !value.is_empty())?;
            Some((key.name.to_owned(), value.to_string()))
        });
        values.collect()
    }

    /// The paths that settings name, each once.
    pub fn paths(&self) -> BTreeSet<String> {
        let paths = KEYS.iter().filter(|key| key.kind == Kind::Path);
        paths
            .filter_map(|key| match self.get(key.name)? {
                SettingValue::Text(path) if !path.is_empty() => Some(path.clone()),
                _ => None,
            })
            .collect()
    }

    /// The address of the API inside the cluster: number 1 of SERVICES_CIDR.
    pub fn api_service_ip(&self) -> IpAddr {
        nth(self.services(), 1)
    }

    /// The address of the cluster's DNS: number 10 of SERVICES_CIDR.
    pub fn dns_service_ip(&self) -> IpAddr {
        nth(self.services(), 10)
    }

    fn services(&self) -> IpNet {
        match self.get("SERVICES_CIDR") {
            Some(SettingValue::Cidr(network)) => *network,
            _ => unreachable!("SERVICES_CIDR is a network with a default"),
        }
    }
}

/// The address `index` places after the network's own. `rules.rs` has checked that it is inside the network.
fn nth(network: IpNet, index: u8) -> IpAddr {
    match network.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).wrapping_add(index.into())).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add(index.into())).into(),
    }
}

/// Defaults, derived values, rules between keys.
fn finish(
    mut merge: Merge,
    check: fn(&Layered) -> Vec<EnvError>,
) -> Result<KubeEnv, Vec<EnvError>> {
    if merge.incomplete {
        return Err(merge.problems);
    }
    // A key with a wrong value in any file has no value, even if a later file has a valid one.
    for name in &merge.failed {
        merge.settings.remove(name);
    }
    for key in KEYS {
        if merge.failed.contains(&key.name) || merge.settings.contains_key(key.name) {
            continue;
        }
        match key.default {
            DefaultValue::Value(text) => put_default(&mut merge, key, text),
            DefaultValue::Required => {
                merge.failed.push(key.name);
                merge.problems.push(EnvError::MissingRequired {
                    key: key.name,
                    expected: key.kind.to_string(),
                });
            }
            DefaultValue::Derived(_) => {}
        }
    }
    for key in KEYS {
        if let DefaultValue::Derived(pattern) = key.default
            && !merge.failed.contains(&key.name)
            && !merge.settings.contains_key(key.name)
            && let Some(text) = default_of_workers(key, &merge).or_else(|| fill(pattern, &merge))
        {
            put_default(&mut merge, key, &text);
        }
    }
    merge.problems.extend(check(&merge.settings));
    if merge.problems.is_empty() {
        Ok(KubeEnv {
            settings: merge.settings,
            of_role: merge.of_role,
        })
    } else {
        Err(merge.problems)
    }
}

/// The default of a key on a worker, if it is another than on a master: the masters sign a worker's certificates, for at most this long
/// (`exec::LONGEST_LIFE`).
fn default_of_workers(key: &Key, merge: &Merge) -> Option<String> {
    let setting = |name: &str| merge.settings.get(name);
    let is_worker = matches!(&setting("ROLE")?.value, SettingValue::Text(role) if role == "worker");
    let has_days = setting("CERTIFICATE_DAYS")?.source != Source::Default;
    (key.name == "CERTIFICATE_LIFE" && is_worker && !has_days).then(|| "30d".to_owned())
}

/// Sets a key to its default. Only a derived default can be wrong: it contains values from files.
fn put_default(merge: &mut Merge, key: &'static Key, text: &str) {
    match key.parse(text) {
        Ok(value) => {
            let source = Source::Default;
            merge.settings.insert(key.name, Setting { value, source });
        }
        Err(refusal) => merge.problems.push(EnvError::InvalidValue {
            key: key.name,
            expected: refusal.expected,
            found: Found::text(text),
            help: refusal.help,
            place: None,
        }),
    }
}

/// Fills `${NAME}` with the keys' texts; `None` where one of them failed.
fn fill(pattern: &str, merge: &Merge) -> Option<String> {
    let mut text = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after.split_once('}')?;
        text.push_str(before);
        text.push_str(&merge.settings.get(name)?.value.to_string());
        rest = tail;
    }
    text.push_str(rest);
    Some(text)
}
