//! The settings that all masters have in common, as each master publishes its own with its node. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::host::ClusterNode;
use crate::kubernetes::{MASTER_LABEL, SHARED_SETTINGS};

/// Longest text of published settings that is read, in bytes.
const LONGEST: usize = 16 * 1024;

/// A setting of which masters have different values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlike {
    /// Its name.
    pub name: String,
    /// The name of each master with its value; `None` if it has none.
    pub values: Vec<(String, Option<String>)>,
}

/// What this node has published; empty if it is not a master's, if it has published nothing, or if that is damaged.
#[must_use]
pub fn published(node: &ClusterNode) -> BTreeMap<String, String> {
    let text = node.annotations.get(SHARED_SETTINGS);
    let text = text.filter(|text| text.len() <= LONGEST);
    let is_master = node.labels.contains_key(MASTER_LABEL);
    let settings = text.filter(|_| is_master);
    let settings = settings.and_then(|text| serde_json::from_str(text).ok());
    settings.unwrap_or_default()
}

/// The settings that these masters do not have alike, by name. A master that has published nothing is left out.
#[must_use]
pub fn unlike<'m>(
    masters: impl IntoIterator<Item = (&'m str, &'m BTreeMap<String, String>)>,
) -> Vec<Unlike> {
    let masters = masters.into_iter().filter(|(_, its)| !its.is_empty());
    let masters: Vec<_> = masters.collect();
    let names: BTreeSet<&String> = masters.iter().flat_map(|(_, its)| its.keys()).collect();
    let all = names.into_iter().map(|name| Unlike {
        name: name.clone(),
        values: masters
            .iter()
            .map(|(master, its)| ((*master).to_owned(), its.get(name).cloned()))
            .collect(),
    });
    let differ = |one: &Unlike| {
        let mut pairs = one.values.windows(2);
        pairs.any(|two| !is_same(two[0].1.as_deref(), two[1].1.as_deref()))
    };
    all.filter(differ).collect()
}

impl Unlike {
    /// The value of this master, and the masters with another one.
    #[must_use]
    pub fn beside(&self, master: &str) -> (Option<&str>, Vec<(&str, Option<&str>)>) {
        let values = || {
            let values = self.values.iter();
            values.map(|(name, value)| (name.as_str(), value.as_deref()))
        };
        let own = values().find(|(name, _)| *name == master);
        let own = own.and_then(|(_, value)| value);
        let others = values().filter(|(name, value)| *name != master && !is_same(*value, own));
        (own, others.collect())
    }
}

/// Whether these are the same. A join compares values in the same way.
fn is_same(one: Option<&str>, other: Option<&str>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
