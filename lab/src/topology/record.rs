//! The record of a lab on disk: `<cache>/labs/<name>.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::host::Image;
use crate::cache::Cache;

/// The label on every container, volume and network of a lab; its value is the lab's name.
pub(crate) const LABEL: &str = "nodelet.lab";

/// A directory of the machine that every host of a lab sees read-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// On the machine.
    pub source: PathBuf,
    /// In the host.
    pub target: PathBuf,
}

/// One host in the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostState {
    pub(crate) name: String,
    pub(crate) container: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) image: Image,
    /// It came to a lab that was there already. Missing for the hosts that a lab was created with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) added: bool,
}

/// What the user chose for a host's settings, in all calls of `up` together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choices {
    /// The API server has the lab's virtual address.
    pub vip: bool,
    /// Settings by name.
    pub settings: BTreeMap<String, String>,
}

/// The record of a lab, `<cache>/labs/<name>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) version: u32,
    pub(super) name: String,
    pub(super) network: String,
    pub(super) subnet: Ipv4Addr,
    pub(super) hosts: Vec<HostState>,
    pub(super) mounts: Vec<Mount>,
    /// By host. Missing in a lab without choices.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) choices: BTreeMap<String, Choices>,
    /// False until every host has started. If a creation was interrupted, this is false, and the next creation replaces the lab.
    pub(super) ready: bool,
}

/// The file of a lab's record.
pub(super) fn file(cache: &Cache, name: &str) -> PathBuf {
    cache.root().join("labs").join(format!("{name}.json"))
}

/// The names of all labs, also of those that an interrupted `up` left half-built.
pub fn names(cache: &Cache) -> BTreeSet<String> {
    let entries = fs::read_dir(cache.root().join("labs"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".json")
                .map(str::to_owned)
        })
        .collect()
}
