//! What a script says of joining as a master.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::kubernetes::join_file::JoinKind;
use crate::resource::pki::PkiError;
use crate::resource::pki::join::source::Joining;

/// What a further master takes from its join file: the records of the authorities, of the service-account key and of the encryption keys,
/// each with a copy, and the list of the masters. The steps that make these keys find the records, and write the files from the copies.
///
/// A host that has the key of authority `cluster` has joined, or is the first master, and needs no join file: what is wrong with a file is
/// a note then, and so is a file that is left. A key or authority that is there and differs from the one in the file is never replaced: on a
/// host that has not joined, that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinMasterSpec {
    /// Where the join file is.
    pub path: PathBuf,
    /// The name of this host's node.
    pub node: String,
    /// The address of this host: no other master may have it.
    pub address: IpAddr,
    /// The URL at which this host's settings expect the cluster's API servers: it has to be that of the other masters.
    pub api: String,
    /// The settings that this host has in common with the other masters, by name. Those that the file has, too, have to be the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Whether the other masters have to be on a network of this host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_link: bool,
}

impl JoinMasterSpec {
    /// Checks the specification.
    ///
    /// # Errors
    /// The invalid field, and why it is invalid.
    pub fn validate(&self) -> Result<(), PkiError> {
        self.joining().validate()
    }

    pub(super) fn joining(&self) -> Joining<'_> {
        Joining {
            path: &self.path,
            node: &self.node,
            kind: JoinKind::Master,
        }
    }
}
