//! The join file of a further master: the authorities with their keys, and the other keys that all masters of a cluster share.
//!
//! Who can read it can act as the cluster. So it exists only encrypted to the host that joins, and no text of this module shows a key.
//! It has no token: a master signs its own certificates.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::sealed::{MASTER_KIND, MASTER_VERSION};
use super::{
    FileKind, IDENTITY, JOIN_FILE, JoinContent, JoinFileError, JoinKind, LONGEST,
    LONGEST_NODE_NAME, LONGEST_TEXT, Times, are_settings, certificates, is_api_url, is_for,
    is_node_name,
};
use crate::host::Host;
use crate::kubernetes::masters::{self, MasterEntry};

/// The authorities that every master has, by name.
pub const MASTER_AUTHORITIES: [&str; 3] = ["cluster", "etcd", "front-proxy"];
/// Most addresses of nodes in a file. Those of a larger cluster are not compared.
pub const MOST_ADDRESSES: usize = 1000;

/// What a host needs to join a cluster as a master.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MasterJoinFile {
    version: u32,
    kind: String,
    /// The name of the node that the host becomes.
    pub node: String,
    /// When it was made, in seconds since 1970. Files of earlier versions do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<u64>,
    /// Until when it can be used, in seconds since 1970.
    pub expires: u64,
    /// The URL at which all hosts reach the API servers: `MASTER_IP` and `K8S_API_PORT` of the masters.
    pub api: String,
    /// The authorities by name: [`MASTER_AUTHORITIES`], and no others.
    pub authorities: BTreeMap<String, AuthorityPem>,
    /// The private key that signs service-account tokens, as PEM.
    pub service_account_key: String,
    /// The keys that encrypt Secrets, as the file that the API server reads.
    pub encryption_keys: String,
    /// The masters that the cluster has, without the one that joins.
    pub masters: Vec<MasterEntry>,
    /// Addresses of the cluster's workers, at most [`MOST_ADDRESSES`]: the host that joins must have none of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The settings that all masters have in common, by name, at most 64. Files of earlier versions have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// An authority as PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityPem {
    /// Its certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// Leaves out the key.
impl fmt::Debug for AuthorityPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityPem").finish_non_exhaustive()
    }
}

/// Leaves out all keys.
impl fmt::Debug for MasterJoinFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterJoinFile")
            .field("node", &self.node)
            .field("expires", &self.expires)
            .field("api", &self.api)
            .field("masters", &self.masters)
            .field("addresses", &self.addresses)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The masters that this host's join file names, if the file is for a node of one of these names and valid; otherwise none. Cancel safe.
///
/// A plan needs them before the step `join_file` has written them down. That step says what is wrong with a file, so a file that cannot be
/// read or used names none: a plain user can plan, too.
pub async fn masters_to_join(host: &dyn Host, names: &[String]) -> Vec<MasterEntry> {
    let read = async |path: &'static str| {
        let content = host.read(Path::new(path), LONGEST as u64).await;
        content.ok().flatten()
    };
    let Some(sealed) = read(JOIN_FILE).await else {
        return Vec::new();
    };
    let Some(identity) = read(IDENTITY).await else {
        return Vec::new();
    };
    let now = host.now();
    let opened = MasterJoinFile::open(&sealed, &String::from_utf8_lossy(&identity));
    let is_for_this = |file: &MasterJoinFile| {
        let mut names = names.iter();
        names.any(|name| is_for(&file.node, name, file.times(), now).is_ok())
    };
    let usable = opened.ok().filter(is_for_this);
    usable.map(|file| file.masters).unwrap_or_default()
}

impl MasterJoinFile {
    /// An empty one for this node: without keys, it can be neither sealed nor opened.
    #[must_use]
    pub fn new(node: &str, api: &str, expires: u64) -> Self {
        Self {
            version: MASTER_VERSION,
            kind: MASTER_KIND.to_owned(),
            node: node.to_owned(),
            issued: None,
            expires,
            api: api.to_owned(),
            authorities: BTreeMap::new(),
            service_account_key: String::new(),
            encryption_keys: String::new(),
            masters: Vec::new(),
            addresses: Vec::new(),
            settings: BTreeMap::new(),
        }
    }

    fn times(&self) -> Times {
        Times {
            issued: self.issued,
            expires: self.expires,
        }
    }

    /// Whether it is for the master of this name and address, and valid at this time.
    ///
    /// # Errors
    /// It is for another node, or expired, or was made later than now, or another node has the address.
    pub fn check(&self, node: &str, address: IpAddr, now: SystemTime) -> Result<(), JoinFileError> {
        is_for(&self.node, node, self.times(), now)?;
        let taken = |node: String, name: Option<String>| JoinFileError::TakenAddress {
            node,
            name,
            address,
        };
        match self.masters.iter().find(|its| its.address == address) {
            Some(other) => {
                let node = format!("master `{}`", other.name);
                Err(taken(node, Some(other.name.clone())))
            }
            None if self.addresses.contains(&address) => {
                Err(taken("another node".to_owned(), None))
            }
            None => Ok(()),
        }
    }
}

impl JoinContent for MasterJoinFile {
    const KIND: FileKind = FileKind::Join(JoinKind::Master);

    /// Whether keys match certificates is checked where they are used.
    fn usable(&self) -> Result<(), JoinFileError> {
        let refused = |why: &str| Err(JoinFileError::Content(why.to_owned()));
        if !is_node_name(&self.node) || self.node.len() > LONGEST_NODE_NAME {
            return refused("the name of its node is no DNS-1123 name");
        }
        self.times().usable()?;
        if !is_api_url(&self.api) {
            return refused(
                "the URL of the API server does not begin with https://, or is too long",
            );
        }
        if !self
            .authorities
            .keys()
            .map(String::as_str)
            .eq(MASTER_AUTHORITIES)
        {
            return refused("it does not have exactly the authorities of a master");
        }
        let pems = self.authorities.values();
        let texts = pems.flat_map(|its| [&its.certificate, &its.key]);
        let mut texts = texts.chain([&self.service_account_key, &self.encryption_keys]);
        if texts.any(|text| text.is_empty() || text.len() > LONGEST_TEXT) {
            return refused("a key or certificate in it is empty or too long");
        }
        for its in self.authorities.values() {
            if certificates(&its.certificate)? != 1 {
                return refused("an authority in it has no certificate, or several");
            }
        }
        if self.addresses.len() > MOST_ADDRESSES {
            return refused("it names too many addresses of nodes");
        }
        are_settings(&self.settings)?;
        if self.masters.is_empty() {
            return refused("it names no master");
        }
        if self.masters.iter().any(|its| its.name == self.node) {
            return refused("it names the node that joins as a master of the cluster");
        }
        masters::check(&self.masters).map_err(|error| JoinFileError::Content(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
