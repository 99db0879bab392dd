//! The facts that a plan is made from: gathered on this host, or read from a facts file.
//!
//! Here the facts get the address and the name with which the host was set up. How facts are gathered is in `engine::facts`. Start with
//! [`gather_facts`].

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use engine::env::KubeEnv;
use engine::facts::{self, FactQuery, Facts, MASTERS_UNKNOWN};
use engine::host::Files as _;
use engine::host::live::LiveHost;

use crate::cli::RoleArgs;
use crate::inputs::identity::{Changed, Identity};
use crate::inputs::lost_masters::masters_without_list;

/// Bound on a facts file.
const LIMIT: u64 = 1024 * 1024;
/// Timeout of gathering the facts of this host.
const LEARN: Duration = Duration::from_secs(30);

/// Gathers the facts of this host. Its address is the recorded one as long as one of its links has that, so a plan by an operator and one
/// by nodeletd are the same. A host that has no list of the masters asks its etcd, and one that is to join knows them
/// from its join file.
pub(crate) async fn gather_facts(host: &LiveHost, query: &FactQuery) -> Result<Facts> {
    let gathering = facts::gather_with(host, query);
    let mut facts = tokio::time::timeout(LEARN, gathering)
        .await
        .context("learn about this host within 30s")?
        .context("learn about this host")?;
    let recorded = Identity::recorded();
    if let Some(address_of_link) = recorded.and_then(|recorded| recorded.address_in_use(&facts)) {
        facts.address = Some(address_of_link);
    }
    if facts.masters.is_empty() && !facts.unknown.contains_key(MASTERS_UNKNOWN) {
        match masters_without_list(host, facts.address, &node_names(&facts)).await {
            Ok(masters) => facts.masters = masters,
            Err(why) => {
                facts.unknown.insert(MASTERS_UNKNOWN.to_owned(), why);
            }
        }
    }
    Ok(facts)
}

/// The names that this host's node can have: settings decide which one it has (`USE_HOSTNAME`).
fn node_names(facts: &Facts) -> Vec<String> {
    let address = facts.address.map(|address| address.to_string());
    let names = [facts.hostname.to_lowercase()];
    names.into_iter().chain(address).collect()
}

/// The name of the host in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlannedName {
    /// The one that the host has now.
    Present,
    /// The one of the set-up, if the host has another name now.
    Recorded,
}

impl PlannedName {
    /// A plan with the last good settings has the recorded name: while the host's name is wrong, nodelet starts what is down as it was.
    pub(super) fn by(args: &RoleArgs) -> Self {
        match args.merged_settings {
            true => Self::Recorded,
            false => Self::Present,
        }
    }
}

/// The facts of this host for a plan with these settings and this name, and the change of the host's name since its set-up, if the plan has
/// the recorded name because of it.
pub(super) async fn facts_for(
    name: PlannedName,
    settings: &KubeEnv,
    host: &LiveHost,
    query: &FactQuery,
) -> Result<(Facts, Option<Changed>)> {
    let facts = gather_facts(host, query).await?;
    Ok(with_planned_name(name, Identity::recorded, settings, facts))
}

/// The same for facts that are gathered already; `recorded` reads the identity of the set-up.
fn with_planned_name(
    name: PlannedName,
    recorded: impl FnOnce() -> Option<Identity>,
    settings: &KubeEnv,
    facts: Facts,
) -> (Facts, Option<Changed>) {
    let recorded = match name {
        PlannedName::Recorded => recorded(),
        PlannedName::Present => None,
    };
    match recorded {
        Some(recorded) => recorded.with_recorded_name(settings, facts),
        None => (facts, None),
    }
}

pub(super) async fn read_facts(path: &Path, host: &LiveHost) -> Result<Facts> {
    let content = host
        .read(path, LIMIT)
        .await
        .context("read facts")?
        .with_context(|| format!("read facts: {} is not there", path.display()))?;
    let text = String::from_utf8(content)
        .with_context(|| format!("read facts: {} is not text", path.display()))?;
    Facts::from_yaml(&text).with_context(|| format!("read facts from {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments with the last good settings, or with those of the operator.
    fn arguments(merged_settings: bool) -> RoleArgs {
        RoleArgs {
            role: "r".to_owned(),
            config: "/nowhere".into(),
            json: false,
            merged_settings,
        }
    }

    #[test]
    fn a_node_is_named_after_its_host_or_its_address() {
        let mut facts = Facts::nothing_about("M-1");
        assert_eq!(node_names(&facts), ["m-1"]);
        facts.address = "10.0.0.1".parse().ok();
        assert_eq!(node_names(&facts), ["m-1", "10.0.0.1"]);
    }

    #[test]
    fn only_the_last_good_settings_are_planned_with_the_name_of_the_set_up() {
        let pairs = [("ROLE", "none"), ("MASTER_IP", "10.0.0.1")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = KubeEnv::from_pairs(pairs).expect("good settings");
        let at_set_up = Identity::of(&settings, &Facts::nothing_about("m-1"));
        let known_as = |merged_settings: bool, recorded: Option<&Identity>, host: &str| {
            let name = PlannedName::by(&arguments(merged_settings));
            let facts = Facts::nothing_about(host);
            let (facts, renamed) = with_planned_name(name, || recorded.cloned(), &settings, facts);
            (facts.hostname, renamed.is_some())
        };
        let known = |name: &str, renamed: bool| (name.to_owned(), renamed);
        let recorded = Some(&at_set_up);
        assert_eq!(known_as(true, recorded, "m-2"), known("m-1", true));
        assert_eq!(known_as(true, recorded, "m-1"), known("m-1", false));
        assert_eq!(known_as(true, None, "m-2"), known("m-2", false));
        // The settings of the operator are refused instead.
        assert_eq!(known_as(false, recorded, "m-2"), known("m-2", false));
    }
}
