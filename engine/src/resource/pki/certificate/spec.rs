//! What a script says of a certificate.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::resource::pki::{PkiError, validate};

/// Name of the authority that signs through the API.
pub(in crate::resource::pki) const CLUSTER: &str = "cluster";

/// Shortest wait for a signature: a master notices a request within seconds.
const SHORTEST_WAIT: Duration = Duration::from_secs(10);

/// A certificate, its key, and the certificate of the authority that its peers trust.
///
/// If anything is wrong with it, it is issued again with a new key; only wrong modes and a wrong `ca.crt` are repaired
/// without a new key. A valid certificate past three fifths of its life is due: its change is an
/// [`Action::Renew`](crate::resource::Action::Renew), which does not have to be made at once. The key is written first: a crash
/// before the certificate leaves a pair that does not match, and the next observation finds that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateSpec {
    /// Directory below `certs`, for example `etcd/peer`.
    pub path: String,
    /// Name of the authority that signs it.
    pub authority: String,
    /// Common name: the user, in Kubernetes.
    pub common_name: String,
    /// Organizations: groups, in Kubernetes. At most one.
    pub organizations: Vec<String>,
    /// What it is for.
    pub usage: Usage,
    /// Names it is valid for. A name that is an IP address is added to the addresses, because peers verify it as an address.
    pub dns_names: Vec<String>,
    /// Addresses it is valid for.
    pub addresses: Vec<IpAddr>,
    /// How long it is valid, at most until its authority ends. Applies when it is issued: a change of this alone
    /// issues nothing. If the masters sign it, they decide.
    #[serde(with = "validate::life_in_text")]
    pub life: Duration,
    /// Who signs it.
    #[serde(default, skip_serializing_if = "SignedBy::is_here")]
    pub signed_by: SignedBy,
}

/// Who signs a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignedBy {
    /// The authority's key on this host.
    #[default]
    Authority,
    /// The masters of the cluster, asked through the API. Only for authority `cluster`.
    Api {
        /// How long to wait for the signature.
        #[serde(with = "validate::life_in_text")]
        wait: Duration,
    },
}

impl SignedBy {
    fn is_here(&self) -> bool {
        *self == Self::Authority
    }
}

/// What a certificate is for (its extended key usage).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Usage {
    /// To be a TLS server.
    Server,
    /// To be a TLS client.
    Client,
    /// Both, as etcd members are to each other.
    Peer,
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Peer => "server and client",
        })
    }
}

impl CertificateSpec {
    /// Checks the specification.
    ///
    /// # Errors
    /// The invalid field, and why it is invalid.
    pub fn validate(&self) -> Result<(), PkiError> {
        validate::path("path", &self.path)?;
        validate::component("authority", &self.authority)?;
        validate::name("common_name", &self.common_name)?;
        for organization in &self.organizations {
            validate::name("organizations", organization)?;
        }
        let all = self.organizations.join(", ");
        let one = self.organizations.len() <= 1;
        validate::check(one, "organizations", &all, "rcgen writes at most one")?;
        for name in self.alternative_names().0 {
            validate::dns_name("dns_names", &name)?;
        }
        validate::life("valid_for", self.life)?;
        let SignedBy::Api { wait } = self.signed_by else {
            return Ok(());
        };
        validate::check(
            self.authority == CLUSTER,
            "authority",
            &self.authority,
            "through the API, only authority `cluster` signs",
        )?;
        validate::check(
            self.usage != Usage::Peer,
            "usage",
            &self.usage.to_string(),
            "through the API, only `server` or `client` is signed",
        )?;
        validate::check(
            wait >= SHORTEST_WAIT,
            "timeout",
            &validate::life_text(wait),
            "too little is left to wait for a signature; use at least 30s",
        )
    }

    /// Names and addresses without repetition, names in lower case.
    pub(in crate::resource::pki) fn alternative_names(
        &self,
    ) -> (BTreeSet<String>, BTreeSet<IpAddr>) {
        let mut names = BTreeSet::new();
        let mut addresses: BTreeSet<IpAddr> = self.addresses.iter().copied().collect();
        for name in &self.dns_names {
            match name.parse() {
                Ok(address) => {
                    addresses.insert(address);
                }
                Err(_) => {
                    names.insert(name.to_ascii_lowercase());
                }
            }
        }
        (names, addresses)
    }
}
