//! The join file: what a host needs to join a cluster, encrypted to that host.
//!
//! A master writes it for one host (`nodelet pki issue`), and only that host can read it: it is an age file
//! (<https://age-encryption.org/v1>) for the host's own X25519 identity. age also authenticates the content, so a file that was changed on
//! its way is refused. age does not tell who made a file: a program that knows the host's public key can make one. So the way of the
//! file from the master to the host decides which cluster the host joins, as the file names the cluster's authorities.
//!
//! This file has the join file of a worker, and the checks that all kinds share. `master` has the join file of a further master, `successor`
//! what a master gets while an authority or an encryption key is replaced, `sealed` the encryption of all of them, and `error` what can be
//! wrong with them.

mod error;
mod master;
mod sealed;
mod successor;
mod token;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use x509_parser::pem::Pem;

use crate::env::is_dns_name;
use crate::facts::MOST_MASTERS;

pub use error::JoinFileError;
pub use master::{
    AuthorityPem, MASTER_AUTHORITIES, MOST_ADDRESSES, MasterJoinFile, masters_to_join,
};
pub use sealed::{
    FileKind, JoinContent, JoinKind, LONGEST, MASTER_VERSION, SUCCESSOR_VERSION, VERSION,
    new_identity, public_key,
};
pub use successor::SuccessorFile;
pub use token::{Token, is_token_id};

/// This host's age identity (mode 0600). It is made once and kept.
pub const IDENTITY: &str = "/var/opt/pf9/nodelet/age.key";
/// The begin of the extension of the identity's file while it is made. It has the identity as well.
pub const UNFINISHED_IDENTITY: &str = "new-";
/// Where a host looks for its join file.
pub const JOIN_FILE: &str = "/etc/pf9/nodelet/join.age";

/// Most API servers in a file.
const MOST_SERVERS: usize = 16;
/// Longest text of a key or certificate, in bytes: an RSA key of 8192 bits is shorter.
const LONGEST_TEXT: usize = 8 * 1024;
/// Longest URL of an API server.
const LONGEST_URL: usize = 300;
/// Most settings in a file.
const MOST_SETTINGS: usize = 64;
/// Longest name or value of a setting in it, in bytes.
const LONGEST_SETTING: usize = 256;
/// Room for addresses with their nodes in a file, in bytes: its other content has less than half of what is left of the longest file.
const ROOM_FOR_ADDRESSES: usize = 24 * 1024;

/// What a host needs to join a cluster as a worker.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinFile {
    /// The format: [`VERSION`].
    pub version: u32,
    /// The name of the node that the host becomes.
    pub node: String,
    /// The URLs of the API servers: `https://…`, the one to try first comes first.
    pub api: Vec<String>,
    /// The certificates of the cluster's authority as PEM: the current one, and a predecessor or successor during a rotation.
    pub authorities: String,
    /// The token with which the host asks for its first certificates.
    pub token: Token,
    /// When the file was made, in seconds since 1970. Files of earlier versions do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<u64>,
    /// Until when the token is valid, in seconds since 1970.
    pub expires: u64,
    /// The addresses of the masters. Files of earlier versions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masters: Vec<IpAddr>,
    /// Addresses of other nodes, each with its node: the host that joins must have none of them. Files of earlier versions have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<IpAddr, String>,
    /// The settings that all masters have in common, by name, at most 64. Files of earlier versions have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// Leaves out the token.
impl fmt::Debug for JoinFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinFile")
            .field("node", &self.node)
            .field("api", &self.api)
            .field("token", &self.token)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl JoinFile {
    /// A file for this node that names one API server, and neither masters nor settings nor other nodes.
    #[must_use]
    pub fn new(node: &str, api: &str, authorities: &str, token: Token, expires: u64) -> Self {
        Self {
            version: VERSION,
            node: node.to_owned(),
            api: vec![api.to_owned()],
            authorities: authorities.to_owned(),
            token,
            issued: None,
            expires,
            masters: Vec::new(),
            addresses: BTreeMap::new(),
            settings: BTreeMap::new(),
        }
    }

    /// Adds addresses of other nodes as long as there is room. Those of a larger cluster are not compared.
    pub fn add_addresses<'n>(&mut self, nodes: impl IntoIterator<Item = (&'n str, IpAddr)>) {
        let length = |address: IpAddr, node: &str| address.to_string().len() + node.len() + 6;
        let mut room = ROOM_FOR_ADDRESSES;
        for (address, node) in &self.addresses {
            room = room.saturating_sub(length(*address, node));
        }
        for (node, address) in nodes {
            let Some(left) = room.checked_sub(length(address, node)) else {
                return;
            };
            room = left;
            let entry = self.addresses.entry(address);
            entry.or_insert_with(|| node.to_owned());
        }
    }

    /// Whether it is for this node and valid at this time.
    ///
    /// # Errors
    /// It is for another node, expired, or was made later than now.
    pub fn check(&self, node: &str, now: SystemTime) -> Result<(), JoinFileError> {
        is_for(&self.node, node, self.times(), now)
    }

    fn times(&self) -> Times {
        Times {
            issued: self.issued,
            expires: self.expires,
        }
    }

    /// Whether no other node has this address, as far as the file knows.
    ///
    /// # Errors
    /// Another node has it.
    pub fn check_address(&self, address: IpAddr) -> Result<(), JoinFileError> {
        let is_same = |its: &IpAddr| its.to_canonical() == address.to_canonical();
        let kind = match self.masters.iter().any(is_same) {
            true => "master",
            false => "node",
        };
        let found = self.addresses.iter().find(|(its, _)| is_same(its));
        let name = found.map(|(_, name)| name.clone());
        let node = match &name {
            Some(name) => format!("{kind} `{name}`"),
            None if kind == "master" => "a master".to_owned(),
            None => return Ok(()),
        };
        Err(JoinFileError::TakenAddress {
            node,
            name,
            address,
        })
    }
}

impl JoinContent for JoinFile {
    const KIND: FileKind = FileKind::Join(JoinKind::Worker);

    fn usable(&self) -> Result<(), JoinFileError> {
        let refused = |why: &str| Err(JoinFileError::Content(why.to_owned()));
        if !is_node_name(&self.node) {
            return refused("the name of its node is no DNS-1123 name");
        }
        if self.api.is_empty() || self.api.len() > MOST_SERVERS {
            return refused("it names no API server, or too many");
        }
        if !self.api.iter().all(|url| is_api_url(url)) {
            return refused(
                "the URL of an API server does not begin with https://, or is too long",
            );
        }
        self.times().usable()?;
        if certificates(&self.authorities)? == 0 {
            return refused("it has no authority");
        }
        if self.masters.len() > MOST_MASTERS {
            return refused("it names too many masters");
        }
        if !self.addresses.values().all(|node| is_node_name(node)) {
            return refused("the name of another node is no DNS-1123 name");
        }
        are_settings(&self.settings)
    }
}

/// Checks the number and the size of settings.
fn are_settings(settings: &BTreeMap<String, String>) -> Result<(), JoinFileError> {
    let is_long = |text: &String| text.len() > LONGEST_SETTING;
    let mut all = settings.iter();
    if settings.len() > MOST_SETTINGS || all.any(|(name, its)| is_long(name) || is_long(its)) {
        return Err(JoinFileError::Content(
            "its settings are too many or too long".to_owned(),
        ));
    }
    Ok(())
}

/// Whether a file for the node `meant` with these times is for `node`, and valid.
fn is_for(meant: &str, node: &str, times: Times, now: SystemTime) -> Result<(), JoinFileError> {
    if meant != node {
        return Err(JoinFileError::OtherNode {
            meant: meant.to_owned(),
            node: node.to_owned(),
        });
    }
    times.include(now)
}

/// How far the clock of a host may be behind that of the master which made the file.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// When a file was made, and until when it can be used, in seconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Times {
    issued: Option<u64>,
    expires: u64,
}

impl Times {
    /// Whether `now` is between them.
    fn include(self, now: SystemTime) -> Result<(), JoinFileError> {
        self.usable()?;
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let show = |time| humantime::format_rfc3339_seconds(time).to_string();
        let issued = self.issued.map(time);
        // A host without a clock may be before 1970.
        let clock = show(now.max(SystemTime::UNIX_EPOCH));
        if let Some(issued) = issued
            && now + TOLERANCE < issued
        {
            let issued = show(issued);
            return Err(JoinFileError::NotYet { issued, clock });
        }
        let until = time(self.expires);
        if now < until {
            return Ok(());
        }
        let made = issued.map(|issued| format!(" (it was made at {})", show(issued)));
        Err(JoinFileError::Expired {
            until: show(until),
            made: made.unwrap_or_default(),
            clock,
        })
    }

    /// Whether both are times that can be shown: `humantime` writes no later year.
    fn usable(self) -> Result<(), JoinFileError> {
        let is_time = |seconds| seconds <= 253_402_300_799;
        if !is_time(self.expires) || !self.issued.is_none_or(is_time) {
            return Err(JoinFileError::Content(
                "its expiry or the time at which it was made is no time".to_owned(),
            ));
        }
        Ok(())
    }
}

/// The number of certificates in some PEM text that has nothing else.
fn certificates(pem: &str) -> Result<usize, JoinFileError> {
    let refused = |why: &str| Err(JoinFileError::Content(why.to_owned()));
    let mut number = 0;
    for section in Pem::iter_from_buffer(pem.as_bytes()) {
        let Ok(section) = section else {
            return refused("its authorities are no PEM");
        };
        if section.label != "CERTIFICATE" || section.parse_x509().is_err() {
            return refused("its authorities are no certificates");
        }
        number += 1;
    }
    Ok(number)
}

/// Longest name of a node that can join. A host name is no longer, and objects of the cluster are named after the node.
pub const LONGEST_NODE_NAME: usize = 63;

/// Whether a node can have this name: a DNS-1123 subdomain of at most 253 characters, as Kubernetes asks for.
#[must_use]
pub fn is_node_name(name: &str) -> bool {
    is_dns_name(name)
}

fn is_api_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte);
    !rest.is_empty() && url.len() <= LONGEST_URL && rest.bytes().all(plain)
}

#[cfg(test)]
mod tests;
