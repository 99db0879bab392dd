//! Who signs a certificate. A step that makes certificates is the same for each signer.
//!
//! Two signers are here: an authority whose key is on this host, and the masters of the cluster, which are asked through the API (`api`).
//! `access` has the identities for the requests, and `exchange` one request with its answer. `readmission` says
//! when a host that has joined asks with another token, and `identity` is the node that a worker keeps.
//!
//! Not here: what is signed and why it is signed again (`certificate`), and how masters decide about requests. Start with
//! [`CertificateSigner`], then `api`.

pub(in crate::resource::pki) mod access;
pub(in crate::resource::pki) mod api;
mod exchange;
pub(in crate::resource::pki) mod identity;
pub(in crate::resource::pki) mod readmission;

use async_trait::async_trait;

use crate::host::Host;
use crate::resource::ResourceResult;
use crate::resource::pki::{Authority, CertificateSpec, Issued};

/// Makes certificates with new keys.
#[async_trait]
pub(in crate::resource::pki) trait CertificateSigner: Send + Sync {
    /// A new certificate with a new key. Changes no file of the certificate. A call after one that was interrupted or cancelled continues
    /// with what was begun.
    ///
    /// # Errors
    /// The signer cannot sign, or refuses to.
    async fn sign(&self, spec: &CertificateSpec, host: &dyn Host) -> ResourceResult<Issued>;

    /// Forgets what was needed to get the certificate. Certificate and key are in their files now.
    ///
    /// # Errors
    /// An operation of the host failed.
    async fn stored(&self, spec: &CertificateSpec, host: &dyn Host) -> ResourceResult<()>;
}

#[async_trait]
impl CertificateSigner for Authority {
    async fn sign(&self, spec: &CertificateSpec, host: &dyn Host) -> ResourceResult<Issued> {
        self.issue(spec, host.now())
            .map_err(|error| error.at(format!("issue certificate `{}`", spec.path)))
    }

    async fn stored(&self, _: &CertificateSpec, _: &dyn Host) -> ResourceResult<()> {
        Ok(())
    }
}
