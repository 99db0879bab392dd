//! What a script says of joining.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::kubernetes::join_file::JoinKind;
use crate::resource::pki::PkiError;
use crate::resource::pki::join::source::Joining;

/// What a worker takes from its join file: the cluster's authority, recorded and without a key, and a kubeconfig with the token for its
/// first certificates.
///
/// A worker that has a valid certificate of its node needs no join file any more. The recorded authorities are trusted, and no others: a
/// lost or replaced file is restored from the record. They change only by another join file for this node, or by what the masters have
/// published, and only if it has a recorded one, too: so an authority can be replaced with overlap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinFileSpec {
    /// Where the join file is.
    pub path: PathBuf,
    /// The name of this host's node.
    pub node: String,
    /// The address of this host: no other node of the file may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The settings that this host has in common with the masters, by name. Those that the file has, too, have to be the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Whether the masters have to be on a network of this host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_link: bool,
}

impl JoinFileSpec {
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
            kind: JoinKind::Worker,
        }
    }
}
