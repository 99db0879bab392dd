//! What a script says of an authority.

use serde::{Deserialize, Serialize};

use crate::resource::pki::stage::Rotation;
use crate::resource::pki::{PkiError, SentSuccessor, validate};

/// A certificate authority. It is made if none exists and none is recorded. It is replaced, step by step, only if an operator requests
/// it ([`Rotation`]). A lost or replaced file is restored from the recorded copy; without an intact copy, it is an error with a remedy. A
/// certificate without its key (as on a worker) is left as it is. A key without a certificate gets one, unless certificates on the host
/// show that an authority was lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthoritySpec {
    /// `cluster`, `etcd` or `front-proxy`.
    pub name: String,
    /// Common name of its certificate.
    pub common_name: String,
    /// How long it is valid.
    pub years: u32,
    /// The step of its replacement to carry out; never set in a plan that was made by a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// The file with the successor that another master has made, for [`Rotation::Begin`]. Without it, this host makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<SentSuccessor>,
}

impl AuthoritySpec {
    /// Checks the specification.
    ///
    /// # Errors
    /// The invalid field, and why it is invalid.
    pub fn validate(&self) -> Result<(), PkiError> {
        validate::component("name", &self.name)?;
        validate::name("common_name", &self.common_name)?;
        validate::years("years", self.years)
    }
}
