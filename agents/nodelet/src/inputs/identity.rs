//! What a host may not change while a role is on it: its cluster, its role, the node's name and address, and its networks.
//!
//! Recorded after the first run that was not refused, and removed with the role's last data. Every command that changes the host compares
//! its settings with the record first, so a changed one is refused before anything is touched. If the record was lost, a status pass
//! writes it again.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context as _, Result};
use engine::env::KubeEnv;
use engine::exec::RecordedNode;
use engine::facts::Facts;
use engine::ledger::Ledger;
use engine::model::STATE;
use engine::planner;
use serde::{Deserialize, Serialize};

/// Settings that cannot change in place, with the way out for each.
const FIXED: &[(&str, &str)] = &[
    ("ROLE", "remove the role first: `nodelet clean`"),
    (
        "CLUSTER_ID",
        "remove all data of the cluster from this host: `nodelet clean --purge`",
    ),
    (
        "CONTAINERS_CIDR",
        "create the cluster again, because pods would lose their addresses: `nodelet clean --purge`",
    ),
    (
        "SERVICES_CIDR",
        "create the cluster again, because Services would lose their addresses: `nodelet clean --purge`",
    ),
    (
        "NODE_CIDR_MASK_SIZE",
        "create the cluster again, because nodes have their subnets already: `nodelet clean --purge`",
    ),
    (
        "CLUSTER_DNS_DOMAIN",
        "create the cluster again, because certificates and pods have it in their names: `nodelet clean --purge`",
    ),
    (
        "ETCD_DATA_DIR",
        "run `nodelet clean`, move the directory, and apply, because etcd's data would be left behind otherwise",
    ),
    (
        "DOCKER_ROOT",
        "run `nodelet clean` first, because containers and images would be left behind otherwise",
    ),
    (
        "KUBE_PROXY_MODE",
        "run `nodelet clean` first, which keeps the cluster's data, because kernel rules of the other mode would continue to route",
    ),
];
/// Settings that may change after a clean: what a clean keeps, the cluster's data and authorities, does not depend on them.
const ENDED_BY_CLEAN: &[&str] = &["ROLE", "ETCD_DATA_DIR", "DOCKER_ROOT", "KUBE_PROXY_MODE"];
/// Bound on the file.
const LIMIT: u64 = 64 * 1024;

/// The values of the fixed settings, and the node's name and address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Only in the file: the id of the ledger beside it, by which a file of another host is recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ledger: Option<String>,
    /// The node's name: the host's, or its address. The file always contains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// The node's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    settings: BTreeMap<String, String>,
}

/// A setting that may not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "use {name}={wanted} on this host: it was set up with {name}={current}; set it back, or {way_out}"
)]
pub(crate) struct Changed {
    name: String,
    current: String,
    wanted: String,
    way_out: String,
}

fn path() -> PathBuf {
    PathBuf::from(STATE).join("identity.json")
}

/// The id of the ledger in this directory, if it can be read: from `ledger.tip` or, if that is lost, from the ledger's first line.
fn ledger_id(state: &Path) -> Option<String> {
    let tip = daemon::files::read(&state.join("ledger.tip"), LIMIT);
    let named = tip.ok().flatten().and_then(|tip| Ledger::id_in_tip(&tip));
    named.or_else(|| {
        let line = daemon::files::first_line(&state.join("ledger.jsonl"), LIMIT);
        Ledger::id_in_header(&line.ok()??)
    })
}

/// What an operator has to do about a record that cannot be read. A status pass replaces a file, but not a directory.
fn next_step(path: &Path) -> &'static str {
    match path.is_file() {
        true => "the next status pass writes it again",
        false => "move it away, and a status pass writes it again",
    }
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<Error>();
    cause.is_some_and(|cause| cause.kind() == ErrorKind::PermissionDenied)
}

impl Identity {
    /// The warning when the identity cannot be written.
    pub(crate) const NOT_NOTED: &str = "the fixed settings of this host are not recorded, so changes of them will not be refused; a status pass tries again";

    pub(crate) fn of(settings: &KubeEnv, facts: &Facts) -> Self {
        let text = |name: &str| settings.get(name).map(ToString::to_string);
        let values = FIXED
            .iter()
            .filter_map(|(name, _)| Some(((*name).to_owned(), text(name)?)));
        Self {
            ledger: None,
            node: planner::node_name(settings, facts),
            address: facts.address,
            settings: values.collect(),
        }
    }

    /// The recorded identity; `None` on a host without a role. A file that cannot be read or understood counts as lost: it only serves to
    /// refuse changes, and no run may be refused because we lost a file.
    pub(crate) fn recorded() -> Option<Self> {
        Self::recorded_at(&path(), ledger_id(Path::new(STATE)).as_deref())
    }

    fn recorded_at(path: &Path, ledger: Option<&str>) -> Option<Self> {
        let next = next_step(path);
        let lost = |error: &anyhow::Error| {
            // A command reads the file several times, and warns once.
            static WARNED: Once = Once::new();
            WARNED.call_once(|| {
                tracing::warn!(
                    "{} cannot be read and counts as lost: {error:#}; {next}",
                    path.display()
                );
            });
        };
        let content = match daemon::files::read(path, LIMIT) {
            // For a user who may not read it, the command goes on without it.
            Err(error) if is_forbidden(&error) => return None,
            read => read.inspect_err(lost).ok()??,
        };
        let identity = serde_json::from_slice::<Self>(&content).context("understand it");
        let mut identity = identity.inspect_err(lost).ok()?;
        if identity.node.is_none() {
            lost(&anyhow::anyhow!("it does not have the node's name"));
            return None;
        }
        let its = identity.ledger.take();
        if its.is_some() && ledger.is_some() && its.as_deref() != ledger {
            lost(&anyhow::anyhow!(
                "it is the file of another host, or of an earlier ledger of this one"
            ));
            return None;
        }
        Some(identity)
    }

    /// The same without the address, if it is not known whether the host was set up with that address.
    pub(crate) fn without_address(&self) -> Self {
        Self {
            address: None,
            ..self.clone()
        }
    }

    /// The name that the cluster knows this host's node by.
    pub(crate) fn node_name(&self) -> Option<String> {
        self.node.as_ref().map(|node| node.to_lowercase())
    }

    /// What identifies this host's member of etcd.
    pub(crate) fn node_in_etcd(&self) -> RecordedNode {
        RecordedNode {
            name: self.node_name(),
            address: self.address,
            data: self.settings.get("ETCD_DATA_DIR").map(PathBuf::from),
        }
    }

    /// The kind of node (ROLE) that the host was set up as.
    pub(crate) fn node_kind(&self) -> Option<&str> {
        self.settings.get("ROLE").map(String::as_str)
    }

    /// The recorded address, if one of the host's links still has it. A default route or an address that was added later changes nothing.
    pub(crate) fn address_in_use(&self, facts: &Facts) -> Option<IpAddr> {
        self.address.filter(|address| facts.has_address(*address))
    }

    /// The facts with the recorded name, and the change of the name, if `settings` name the node after its host and the host has another
    /// name now. Otherwise the facts as they are.
    pub(crate) fn with_recorded_name(
        &self,
        settings: &KubeEnv,
        mut facts: Facts,
    ) -> (Facts, Option<Changed>) {
        let now = Self::of(settings, &facts);
        let is_named_after_host = now.node.as_ref() == Some(&facts.hostname.to_lowercase());
        let renamed = self.renamed_by(&now).filter(|_| is_named_after_host);
        if let (true, Some(name)) = (renamed.is_some(), &self.node) {
            facts.hostname.clone_from(name);
        }
        (facts, renamed)
    }

    /// The record that a status pass writes for a host whose identity is `observed`, if the record was lost, or has no address. The
    /// address is recorded only if every check holds (`well`): then it is the one that the host was set up with.
    pub(crate) fn renewed(recorded: Option<&Self>, observed: &Self, well: bool) -> Option<Self> {
        match recorded {
            Some(recorded) if recorded.address.is_some() || !well => None,
            None if !well => Some(observed.without_address()),
            _ => Some(observed.clone()),
        }
    }

    /// All differences of `wanted` from this identity: the address, the node's name, then the settings.
    pub(crate) fn changes_by(&self, wanted: &Self) -> Vec<Changed> {
        let of_node = [self.address_changed_by(wanted), self.renamed_by(wanted)];
        let of_settings = FIXED
            .iter()
            .filter_map(|(name, way_out)| self.setting_changed_by(wanted, name, way_out));
        of_node.into_iter().flatten().chain(of_settings).collect()
    }

    /// The first of them.
    pub(crate) fn changed_by(&self, wanted: &Self) -> Option<Changed> {
        self.changes_by(wanted).into_iter().next()
    }

    fn address_changed_by(&self, wanted: &Self) -> Option<Changed> {
        let (current, wanted) = (self.address?, wanted.address?);
        (current != wanted).then(|| Changed {
            name: "the address".to_owned(),
            current: current.to_string(),
            wanted: wanted.to_string(),
            way_out: "run `nodelet clean` first, which keeps the cluster's data, and on a worker use another join file (`nodelet pki issue NODE` on a master), because certificates, etcd and other hosts have the old address, which no interface has any more (`ip address`)".to_owned(),
        })
    }

    /// The change of the node's name. Names are compared without regard to case.
    pub(crate) fn renamed_by(&self, wanted: &Self) -> Option<Changed> {
        let (current, wanted) = (self.node.as_ref()?, wanted.node.as_ref()?);
        (!current.eq_ignore_ascii_case(wanted)).then(|| Changed {
            name: "the node name".to_owned(),
            current: current.clone(),
            wanted: wanted.clone(),
            way_out: "create the node again with the new name: `nodelet clean --purge`; the host's name (`hostnamectl`) and USE_HOSTNAME decide the node's name".to_owned(),
        })
    }

    fn setting_changed_by(&self, wanted: &Self, name: &str, way_out: &str) -> Option<Changed> {
        let current = self.settings.get(name)?;
        let wanted = wanted.settings.get(name)?;
        // Identifiers are compared without regard to case. A host that was set up without an id may get one: nothing on the host
        // depends on it.
        let same = name == "CLUSTER_ID" && current.is_empty()
            || current == wanted
            || name == "CLUSTER_ID" && current.eq_ignore_ascii_case(wanted);
        (!same).then(|| Changed {
            name: name.to_owned(),
            current: current.clone(),
            wanted: wanted.clone(),
            way_out: way_out.to_owned(),
        })
    }

    /// After a clean that kept the cluster's data: keeps only what the host is still bound to.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn release() -> Result<()> {
        let Some(mut identity) = Self::recorded() else {
            return Ok(());
        };
        // The clean has removed everything that had the address in its configuration.
        identity.address = None;
        identity
            .settings
            .retain(|name, _| !ENDED_BY_CLEAN.contains(&name.as_str()));
        identity.write()
    }

    pub(crate) fn write(&self) -> Result<()> {
        std::fs::create_dir_all(STATE).with_context(|| format!("make {STATE}"))?;
        let mut file = self.clone();
        file.ledger = ledger_id(Path::new(STATE));
        daemon::files::replace(&path(), &serde_json::to_vec_pretty(&file)?, 0o600)
    }

    pub(crate) fn forget() -> Result<()> {
        daemon::files::removed(std::fs::remove_file(path()))
            .with_context(|| format!("remove {}", path().display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "172.30.0.11";

    fn identity(node: &str, pairs: &[(&str, &str)]) -> Identity {
        Identity {
            ledger: None,
            node: Some(node.to_owned()),
            address: ADDRESS.parse().ok(),
            settings: pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn refused(current: &Identity, wanted: &Identity) -> String {
        let changed = current.changed_by(wanted);
        changed
            .map(|changed| changed.to_string())
            .unwrap_or_default()
    }

    /// The identity of a host with this name, address and `USE_HOSTNAME`.
    fn identity_of(host: &str, address: &str, use_hostname: &str) -> Identity {
        let pairs = [
            ("ROLE", "master"),
            ("MASTER_IP", ADDRESS),
            ("USE_HOSTNAME", use_hostname),
        ];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let facts = Facts {
            address: address.parse().ok(),
            ..Facts::nothing_about(host)
        };
        Identity::of(&KubeEnv::from_pairs(pairs).expect("good settings"), &facts)
    }

    #[test]
    fn changes_of_fixed_settings_are_refused_with_a_next_step() {
        let current = identity(
            "m",
            &[("ROLE", "master"), ("CONTAINERS_CIDR", "10.20.0.0/16")],
        );
        assert_eq!(current.changed_by(&current), None);
        let wanted = identity(
            "m",
            &[("ROLE", "master"), ("CONTAINERS_CIDR", "10.30.0.0/16")],
        );
        let refused = refused(&current, &wanted);
        assert!(
            refused.contains("CONTAINERS_CIDR=10.30.0.0/16"),
            "{refused}"
        );
        assert!(
            refused.contains("was set up with CONTAINERS_CIDR=10.20.0.0/16"),
            "{refused}"
        );
        assert!(refused.contains("nodelet clean --purge"), "{refused}");
        let renamed = identity("n", &[]);
        assert!(current.changed_by(&renamed).is_some());
        // Each change is named, not only the first one.
        let wanted = identity(
            "n",
            &[("ROLE", "worker"), ("CONTAINERS_CIDR", "10.30.0.0/16")],
        );
        let changes = current.changes_by(&wanted);
        let names: Vec<&str> = changes.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["the node name", "ROLE", "CONTAINERS_CIDR"]);
    }

    #[test]
    fn a_changed_node_name_or_address_is_refused_with_a_next_step() {
        let current = identity_of("m-1", ADDRESS, "true");
        assert_eq!(refused(&current, &identity_of("M-1", ADDRESS, "true")), "");
        let by_address = refused(&current, &identity_of("m-1", ADDRESS, "false"));
        for part in [
            ADDRESS,
            "was set up with the node name=m-1",
            "USE_HOSTNAME",
            "set it back, or create the node again",
            "clean --purge",
        ] {
            assert!(by_address.contains(part), "{by_address}");
        }
        let moved = refused(&current, &identity_of("m-1", "10.8.0.2", "true"));
        for part in ["10.8.0.2", ADDRESS, "clean` first", "pki issue NODE"] {
            assert!(moved.contains(part), "{moved}");
        }
        // Without an address nothing is planned, and planning reports why.
        assert_eq!(refused(&current, &identity_of("m-1", "", "true")), "");
        // If the node is named after its address, the host's name may change.
        let current = identity_of("m-1", ADDRESS, "false");
        assert_eq!(refused(&current, &identity_of("m-2", ADDRESS, "false")), "");
    }

    /// A way out completes `set it back, or …`.
    #[test]
    fn each_way_out_says_what_to_do() {
        for (name, way_out) in FIXED {
            let does = ["run ", "create ", "remove "];
            assert!(does.iter().any(|verb| way_out.starts_with(verb)), "{name}");
        }
    }

    #[test]
    fn the_last_good_settings_are_planned_with_the_recorded_name() {
        let recorded = identity_of("m-1", ADDRESS, "true");
        let with = |recorded: &Identity, host: &str, use_hostname: &str| {
            let pairs = [
                ("ROLE", "master"),
                ("MASTER_IP", ADDRESS),
                ("USE_HOSTNAME", use_hostname),
            ];
            let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let settings = KubeEnv::from_pairs(pairs).expect("good settings");
            let facts = Facts {
                address: ADDRESS.parse().ok(),
                ..Facts::nothing_about(host)
            };
            let (facts, renamed) = recorded.with_recorded_name(&settings, facts);
            // Commands that use these facts are not refused.
            let planned = Identity::of(&settings, &facts);
            assert_eq!(recorded.changed_by(&planned), None, "{host}");
            (facts.hostname, renamed.map(|renamed| renamed.to_string()))
        };
        assert_eq!(with(&recorded, "m-1", "true"), ("m-1".to_owned(), None));
        let (name, renamed) = with(&recorded, "m-2", "true");
        assert_eq!(name, "m-1");
        let renamed = renamed.expect("it is reported");
        assert!(renamed.contains("the node name=m-2"), "{renamed}");
        // A node that is named after its address does not depend on the host's name.
        let by_address = identity_of("m-1", ADDRESS, "false");
        assert_eq!(with(&by_address, "m-2", "false"), ("m-2".to_owned(), None));
        // If the settings change the node's name, the host keeps the name that it has.
        let pairs = [
            ("ROLE", "master"),
            ("MASTER_IP", ADDRESS),
            ("USE_HOSTNAME", "false"),
        ];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = KubeEnv::from_pairs(pairs).expect("good settings");
        let facts = Facts {
            address: ADDRESS.parse().ok(),
            ..Facts::nothing_about("m-2")
        };
        let (facts, renamed) = recorded.with_recorded_name(&settings, facts);
        assert_eq!((facts.hostname.as_str(), renamed), ("m-2", None));
    }

    /// A clean without a plan has nothing else by which it finds the member.
    #[test]
    fn the_recorded_identity_tells_the_member_of_etcd() {
        let node = identity("M-1", &[("ETCD_DATA_DIR", "/data")]).node_in_etcd();
        assert_eq!(node.name.as_deref(), Some("m-1"));
        assert_eq!(node.address, ADDRESS.parse().ok());
        assert_eq!(node.data.as_deref(), Some(Path::new("/data")));
    }

    #[test]
    fn a_setting_that_is_not_recorded_is_no_change() {
        let current = identity("m", &[]);
        assert_eq!(
            current.changed_by(&identity("m", &[("ROLE", "master")])),
            None
        );
    }

    #[test]
    fn a_record_without_an_address_is_completed_on_a_healthy_host() {
        let now = identity_of("m-1", ADDRESS, "true");
        let without = now.without_address();
        assert_eq!(Identity::renewed(Some(&without), &now, false), None);
        assert_eq!(
            Identity::renewed(Some(&without), &now, true).as_ref(),
            Some(&now)
        );
        assert_eq!(Identity::renewed(Some(&now), &now, true), None);
    }

    #[test]
    fn a_lost_identity_is_written_with_the_address_of_a_healthy_host() {
        let now = identity_of("m-1", ADDRESS, "true");
        assert_eq!(Identity::renewed(None, &now, true).as_ref(), Some(&now));
        let unsure = Identity::renewed(None, &now, false).expect("what is fixed is fixed");
        assert_eq!(unsure.address, None);
        let otherwise = identity_of("m-1", "10.8.0.2", "true");
        assert_eq!(refused(&unsure, &otherwise), "");
        assert_ne!(refused(&unsure, &identity_of("m-2", ADDRESS, "true")), "");
    }

    #[test]
    fn the_address_that_a_link_still_has_goes_on() {
        let current = identity_of("m-1", ADDRESS, "true");
        let facts = |addresses: &[&str]| Facts {
            links: Some(vec![engine::facts::LinkFacts {
                name: "eth0".to_owned(),
                up: true,
                addresses: addresses
                    .iter()
                    .map(|net| net.parse().expect("an address"))
                    .collect(),
            }]),
            address: "10.8.0.2".parse().ok(),
            ..Facts::nothing_about("m-1")
        };
        let held = current.address_in_use(&facts(&["10.8.0.2/24", "172.30.0.11/24"]));
        assert_eq!(held, ADDRESS.parse().ok());
        assert_eq!(current.address_in_use(&facts(&["10.8.0.2/24"])), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_counts_as_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("directory")).expect("it is made");
        std::fs::write(at("large"), " ".repeat(65 * 1024)).expect("it is written");
        std::fs::write(at("garbage"), "{").expect("it is written");
        let whole = serde_json::to_vec(&identity_of("m-1", ADDRESS, "true")).expect("JSON");
        std::fs::write(at("whole"), whole).expect("it is written");
        let nameless = r#"{"host": "m-1", "settings": {"ROLE": "master"}}"#;
        std::fs::write(at("nameless"), nameless).expect("it is written");
        for name in ["directory", "large", "garbage", "nameless", "nowhere"] {
            assert_eq!(Identity::recorded_at(&at(name), None), None, "{name}");
        }
        // A pass replaces a file, but not a directory.
        assert!(!next_step(&at("garbage")).contains("move it away"));
        assert!(next_step(&at("directory")).contains("move it away"));
        assert!(Identity::recorded_at(&at("whole"), None).is_some());
        // A file that was written beside another ledger is not this host's.
        let mut file = identity("cp-1", &[("ROLE", "master")]);
        file.ledger = Some("ours".to_owned());
        let text = serde_json::to_vec(&file).expect("JSON");
        std::fs::write(at("whole"), text).expect("it is written");
        file.ledger = None;
        for (ledger, recorded) in [
            (Some("ours"), Some(&file)),
            (None, Some(&file)),
            (Some("another"), None),
        ] {
            let read = Identity::recorded_at(&at("whole"), ledger);
            assert_eq!(read.as_ref(), recorded, "{ledger:?}");
        }
    }

    #[test]
    fn without_the_tip_the_ledger_identifies_its_host() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let id = || ledger_id(directory.path());
        assert_eq!(id(), None);
        let header = r#"{"r":"header","version":4,"id":"of the ledger"}"#;
        std::fs::write(at("ledger.jsonl"), format!("{header}\nthe next line\n"))
            .expect("it is written");
        assert_eq!(id().as_deref(), Some("of the ledger"));
        for lost in ["", "{", "7"] {
            std::fs::write(at("ledger.tip"), lost).expect("it is written");
            assert_eq!(id().as_deref(), Some("of the ledger"), "{lost}");
        }
        let tip = r#"{"id":"of the tip","run":1}"#;
        std::fs::write(at("ledger.tip"), tip).expect("it is written");
        assert_eq!(id().as_deref(), Some("of the tip"));
        std::fs::remove_file(at("ledger.tip")).expect("it is removed");
        std::fs::write(at("ledger.jsonl"), "x".repeat(65 * 1024)).expect("it is written");
        assert_eq!(id(), None);
    }

    #[test]
    fn every_fixed_setting_is_one() {
        for (name, _) in FIXED {
            assert!(
                engine::env::KEYS.iter().any(|key| key.name == *name),
                "{name}"
            );
        }
    }
}
