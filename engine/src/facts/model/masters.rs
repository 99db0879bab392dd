//! The masters of the cluster, as a file on each master lists them.
//!
//! Not here: how the file is read, written and kept up to date (`kubernetes::masters`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::env::is_dns_name;

/// The file with the masters of the cluster (mode 0600).
pub const MASTERS: &str = "/var/opt/pf9/nodelet/masters.json";

/// What to do if the file is damaged. Nothing of it is used.
pub(crate) const MASTERS_REMEDY: &str = "`nodelet masters --address ADDRESS`, with the address of this host, writes it again from etcd; if etcd does not run on this host, copy the file of another master; if this is the only master, remove the file";
/// The key in [`Facts::unknown`](super::Facts::unknown) for a file that cannot be read, or was lost beside other masters.
pub const MASTERS_UNKNOWN: &str = "masters";
/// Bound on the file, in bytes.
pub(crate) const MASTERS_BYTES: u64 = 64 << 10;
/// Most masters of a cluster.
pub const MOST_MASTERS: usize = 5;
/// The format of the file. A file of a newer format is refused.
const VERSION: u32 = 1;

/// A master of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MasterEntry {
    /// The name of its node, which is that of its etcd member.
    pub name: String,
    /// The address at which other masters reach it.
    pub address: IpAddr,
    /// The id of its etcd member, in hexadecimal digits; `None` if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hexadecimal")]
    pub etcd_id: Option<u64>,
    /// Whether its etcd member votes. A learner does not.
    pub voter: bool,
}

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    masters: Vec<MasterEntry>,
}

/// The only key that a file of any version has.
#[derive(Debug, Deserialize)]
struct Header {
    version: u32,
}

/// Why a list cannot be that of a cluster's masters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MastersError {
    /// It is not in the format of the file.
    #[error("it is no list of masters: {0}")]
    Format(String),
    /// A newer nodelet wrote it.
    #[error("its format version is {0}, this nodelet supports {VERSION}")]
    Version(u32),
    /// It has too many masters.
    #[error("it has {0} masters; a cluster has at most {MOST_MASTERS}")]
    TooMany(usize),
    /// The name of a master is not the name of a node.
    #[error("`{}` is not the name of a node", .0.escape_debug())]
    Name(String),
    /// The address of a master is not one of a host.
    #[error("master {0} has the address {1}, at which no other host can reach it")]
    Address(String, IpAddr),
    /// Two masters have the same name.
    #[error("two masters have the name {0}")]
    SameName(String),
    /// Two masters have the same address.
    #[error("two masters have the address {0}")]
    SameAddress(IpAddr),
}

/// The masters that the text of the file lists, sorted by name.
///
/// # Errors
/// The text is not such a file, or its masters cannot be those of a cluster.
pub(crate) fn masters_from(text: &str) -> Result<Vec<MasterEntry>, MastersError> {
    let wrong = |error: serde_json::Error| MastersError::Format(error.to_string());
    let header: Header = serde_json::from_str(text).map_err(wrong)?;
    if header.version != VERSION {
        return Err(MastersError::Version(header.version));
    }
    let document: Document = serde_json::from_str(text).map_err(wrong)?;
    checked_masters(document.masters)
}

/// The text of the file for these masters.
///
/// # Errors
/// They cannot be the masters of a cluster.
pub(crate) fn masters_text(masters: &[MasterEntry]) -> Result<String, MastersError> {
    let document = Document {
        version: VERSION,
        masters: checked_masters(masters.to_vec())?,
    };
    let text = serde_json::to_string_pretty(&document);
    text.map(|text| text + "\n")
        .map_err(|error| MastersError::Format(error.to_string()))
}

/// The same masters, sorted by name.
pub(crate) fn checked_masters(
    mut masters: Vec<MasterEntry>,
) -> Result<Vec<MasterEntry>, MastersError> {
    if masters.len() > MOST_MASTERS {
        return Err(MastersError::TooMany(masters.len()));
    }
    let mut addresses = BTreeSet::new();
    masters.sort();
    for (at, master) in masters.iter().enumerate() {
        let (name, address) = (&master.name, master.address);
        if !is_dns_name(name) {
            return Err(MastersError::Name(name.clone()));
        }
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            return Err(MastersError::Address(name.clone(), address));
        }
        if masters.get(at + 1).is_some_and(|next| next.name == *name) {
            return Err(MastersError::SameName(name.clone()));
        }
        if !addresses.insert(address) {
            return Err(MastersError::SameAddress(address));
        }
    }
    Ok(masters)
}

/// An id as etcd prints it: hexadecimal digits.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "serde calls it with a reference")]
    pub(super) fn serialize<S: Serializer>(id: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => to.serialize_str(&format!("{id:x}")),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let id = text.map(|text| u64::from_str_radix(&text, 16));
        id.transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(name: &str, address: &str) -> MasterEntry {
        MasterEntry {
            name: name.to_owned(),
            address: address.parse().unwrap(),
            etcd_id: Some(u64::MAX),
            voter: true,
        }
    }

    #[test]
    fn a_list_is_read_as_it_was_written_and_sorted() {
        let learner = MasterEntry {
            etcd_id: None,
            voter: false,
            ..master("cp-1", "172.30.0.11")
        };
        let masters = [master("cp-2", "fd00::12"), learner];
        let text = masters_text(&masters).unwrap();
        assert!(text.contains("\"ffffffffffffffff\""), "{text}");
        let [second, first] = masters;
        assert_eq!(masters_from(&text), Ok(vec![first, second]));
    }

    #[test]
    fn lists_that_no_cluster_has_are_refused() {
        let six: Vec<MasterEntry> = (1..7)
            .map(|n| master(&format!("cp-{n}"), &format!("172.30.0.1{n}")))
            .collect();
        let pair =
            |name: &str, address: &str| vec![master("a", "172.30.0.11"), master(name, address)];
        for (masters, says) in [
            (six, "at most 5"),
            (pair("a", "172.30.0.12"), "two masters have the name a"),
            (
                pair("b", "172.30.0.11"),
                "two masters have the address 172.30.0.11",
            ),
            (pair("b\n}", "172.30.0.12"), "is not the name of a node"),
            (pair("b", "127.0.0.1"), "no other host can reach it"),
        ] {
            let error = masters_text(&masters).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn texts_of_another_format_are_refused() {
        for (text, says) in [
            ("", "no list of masters"),
            (r#"{"version":2,"members":[]}"#, "format version is 2"),
            (r#"{"version":1,"masters":[],"more":1}"#, "unknown field"),
            (
                r#"{"version":1,"masters":[{"name":"a","address":"172.30.0.11","etcd_id":"xyz","voter":true}]}"#,
                "invalid digit",
            ),
        ] {
            let error = masters_from(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
