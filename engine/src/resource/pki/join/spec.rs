//! What a script says of joining.

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
