//! A request for a certificate that the masters of the cluster sign. Pure functions of a specification and a key.

use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

use super::issue;
use crate::host::NewCertificateRequest;
use crate::kubernetes::NODE_SIGNER;
use crate::resource::change::content_digest;
use crate::resource::pki::certificate::reissue::list;
use crate::resource::pki::{CertificateSpec, PkiError, Usage};

/// How much of the digest is in a name, in characters.
const DIGEST: usize = 32;

/// The request for this certificate with this key. Its name has a digest of the public key and of what is asked for: the same key and
/// content always give the same name, so a run after an interrupted one finds the request that is there already. `identity` is who asks: a
/// decision about the request of one identity says nothing about the request of another one. It has no secret.
///
/// # Errors
/// The specification cannot be a request.
pub(in crate::resource::pki) fn request(
    spec: &CertificateSpec,
    key: &KeyPair,
    identity: &str,
) -> Result<NewCertificateRequest, PkiError> {
    spec.validate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = issue::subject(&spec.common_name, &spec.organizations);
    params.subject_alt_names = issue::alternative_names(spec)?;
    let pem = params.serialize_request(key)?.pem()?;
    Ok(NewCertificateRequest {
        name: name(spec, key, identity),
        request: pem.into_bytes(),
        signer: NODE_SIGNER.to_owned(),
        usages: usages(spec.usage).map(str::to_owned).to_vec(),
    })
}

/// The usages as Kubernetes names them. A specification with another usage is not valid for a request.
fn usages(usage: Usage) -> [&'static str; 2] {
    match usage {
        Usage::Server => ["digital signature", "server auth"],
        Usage::Client | Usage::Peer => ["digital signature", "client auth"],
    }
}

/// `nodelet-`, the certificate's path and the digest: a name that Kubernetes accepts.
fn name(spec: &CertificateSpec, key: &KeyPair, identity: &str) -> String {
    let (names, addresses) = spec.alternative_names();
    let content = [
        crate::model::hex(&key.subject_public_key_info()),
        spec.common_name.clone(),
        spec.organizations.join("\n"),
        spec.usage.to_string(),
        list(&names),
        list(&addresses),
        identity.to_owned(),
    ];
    // The parts cannot contain this separator: control characters are not valid in them.
    let mut digest = content_digest(content.join("\0").as_bytes());
    digest.truncate(DIGEST);
    let path = spec.path.replace(['/', '_', '.'], "-");
    format!("nodelet-{path}-{digest}")
}
