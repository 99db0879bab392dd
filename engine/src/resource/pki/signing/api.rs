//! The masters of the cluster as a signer: this host makes a key, sends a request for it to the API server, and waits until a master has
//! signed it.
//!
//! The key is stored before the request is sent, and the request is named by the key and by its content. So after an interruption the
//! next run continues with the same key and the same request. The key is kept apart from the present key of the certificate, which stays
//! in use until the new certificate is there. The request is also named by who asks, so a decision about one token is not one about the
//! next. A request that was denied stays, and is not sent again while it is there. A node may not delete requests; the cluster removes old
//! ones itself (the controller-manager's `csrcleaner`, after an hour, pending ones after a day).
//!
//! If the cluster lastingly refuses one identity of this host, the next one is tried (`access`). A host that was admitted again asks with its
//! token first (`readmission`).

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rcgen::KeyPair;
use tokio_util::sync::CancellationToken;

use super::CertificateSigner;
use super::access::NodeAccess;
use super::exchange::{Answer, Exchange, Refusal};
use super::readmission;
use crate::host::Host;
use crate::resource::change::Differences;
use crate::resource::files::file::PRIVATE;
use crate::resource::pki::certificate::facts::{Certificate, show};
use crate::resource::pki::certificate::reissue::{Reading, reissue};
use crate::resource::pki::certificate::request::request;
use crate::resource::pki::stored::{Content, Stored};
use crate::resource::pki::{
    Authority, CertificateSpec, Issued, PrivateKey, certificate_paths, keys, request_key,
    request_kubeconfig,
};
use crate::resource::{Action, Receipt, ResourceError, ResourceResult};

/// Largest certificate with its chain that is accepted, in bytes.
const LARGEST: usize = 32 * 1024;

/// The masters, with the authorities that this host trusts.
pub(in crate::resource::pki) struct ApiSigner<'a> {
    authority: &'a Authority,
    wait: Duration,
    cancel: Option<&'a CancellationToken>,
}

#[async_trait]
impl CertificateSigner for ApiSigner<'_> {
    async fn sign(&self, spec: &CertificateSpec, host: &dyn Host) -> ResourceResult<Issued> {
        let until = host.elapsed() + self.wait;
        let mut refusals: Vec<Refusal> = Vec::new();
        let token_first = readmission::is_open(host, &spec.path).await?;
        for access in NodeAccess::candidates(host, self.authority, token_first).await? {
            match self.sign_as(&access, spec, until, host).await? {
                Ok(issued) => return Ok(issued),
                Err(refusal) if refusals.contains(&refusal) => {}
                Err(refusal) => refusals.push(refusal),
            }
        }
        // Each of them names a step that helps. That of the last one is about the token, which usually comes last.
        let next = refusals.last().map(|its| its.next.clone());
        let what: Vec<String> = refusals.into_iter().map(|its| its.what).collect();
        Err(ResourceError::Unmet {
            what: format!(
                "get certificate `{}` signed: {}",
                spec.path,
                what.join("; then ")
            ),
            next: next.unwrap_or_default(),
        })
    }

    async fn stored(&self, spec: &CertificateSpec, host: &dyn Host) -> ResourceResult<()> {
        // First: after an interruption, a token would be refused for the key of another request.
        readmission::signed(host, &spec.path).await?;
        if host.entry(&request_kubeconfig()).await?.is_some() {
            host.remove(&request_kubeconfig()).await?;
        }
        Ok(host.remove(&request_key(&spec.path)).await?)
    }
}

impl<'a> ApiSigner<'a> {
    /// Waits so long for each signature, and no longer than until `cancel` asks the run to end.
    pub(in crate::resource::pki) fn new(
        authority: &'a Authority,
        wait: Duration,
        cancel: Option<&'a CancellationToken>,
    ) -> Self {
        Self {
            authority,
            wait,
            cancel,
        }
    }

    /// Asks as this identity; the inner error is the refusal of the cluster.
    async fn sign_as(
        &self,
        access: &NodeAccess,
        spec: &CertificateSpec,
        until: Duration,
        host: &dyn Host,
    ) -> ResourceResult<Result<Issued, Refusal>> {
        let mut has_new_key = false;
        loop {
            let key = pending_key(spec, host).await?;
            let request = request(spec, &key, access.identity())
                .map_err(|error| error.at(format!("ask for certificate `{}`", spec.path)))?;
            let exchange = Exchange {
                host,
                access,
                path: &spec.path,
                request: &request,
                wait: self.wait,
                cancel: self.cancel,
            };
            match exchange.certificate(until).await? {
                Answer::Signed(pem) if self.is_of_predecessor(&pem) => {
                    // It was signed before the switch. A new key makes a new request.
                    host.remove(&request_key(&spec.path)).await?;
                    if has_new_key {
                        return Err(by_predecessor(&spec.path, &request.name));
                    }
                    has_new_key = true;
                }
                Answer::Signed(pem) => {
                    let issued = self.accept(spec, &key, pem, &request.name, host);
                    return issued.map(Ok);
                }
                // A new key gives another name.
                Answer::OfAnother(_) if !has_new_key => {
                    host.remove(&request_key(&spec.path)).await?;
                    has_new_key = true;
                }
                Answer::OfAnother(refusal) | Answer::Refused(refusal) => {
                    return Ok(Err(refusal));
                }
            }
        }
    }

    /// Whether the predecessor of the authority has signed this certificate: with the end of the replacement, nothing would trust it.
    fn is_of_predecessor(&self, pem: &[u8]) -> bool {
        let leaf = Certificate::parse("", pem).ok();
        let predecessor = self.authority.predecessor();
        leaf.zip(predecessor)
            .is_some_and(|(leaf, predecessor)| leaf.is_signed_by(predecessor))
    }

    /// The certificate, if it is the one that was asked for: this host's key, what the script says, an authority that is trusted here.
    fn accept(
        &self,
        spec: &CertificateSpec,
        key: &KeyPair,
        pem: Vec<u8>,
        name: &str,
        host: &dyn Host,
    ) -> ResourceResult<Issued> {
        let key = PrivateKey::from(key);
        let reading = Reading::of(
            host.now(),
            [
                &Content::Bytes(pem.clone()),
                &Content::Bytes(key.expose_pem().as_bytes().to_vec()),
                &Content::Missing,
            ],
            Some(self.authority),
            spec.signed_by,
        );
        if let Some(error) = outside_of_validity(spec, &pem, name, host.now()) {
            return Err(error);
        }
        let mut problems = Differences::default();
        if pem.len() > LARGEST {
            problems.note("size", pem.len(), format!("at most {LARGEST} bytes"));
        }
        reissue(spec, &reading, &mut problems);
        let certificate = String::from_utf8(pem).ok();
        match (problems.into_change(Action::Change), certificate) {
            (None, Some(certificate)) => Ok(Issued { certificate, key }),
            (problems, _) => {
                let differences = problems
                    .map(|change| change.differences)
                    .unwrap_or_default();
                let named: Vec<String> = differences
                    .iter()
                    .map(|its| format!("{} is {}, not {}", its.field, its.before, its.after))
                    .collect();
                Err(ResourceError::Unmet {
                    what: format!(
                        "use the certificate that was signed for request {name} of certificate `{}`: {}",
                        spec.path,
                        if named.is_empty() {
                            "it is no PEM".to_owned()
                        } else {
                            named.join("; ")
                        }
                    ),
                    next: format!(
                        "look at it on a master (`kubectl get csr {name} -o yaml`); if its signer is right now, delete it \
                         (`kubectl delete csr {name}`): then this host asks again"
                    ),
                })
            }
        }
    }
}

/// An error if the certificate is not valid now by the clock of this host: usually it was made a moment ago, so the clock is wrong.
fn outside_of_validity(
    spec: &CertificateSpec,
    pem: &[u8],
    name: &str,
    now: SystemTime,
) -> Option<ResourceError> {
    let its = Certificate::parse(&spec.path, pem).ok()?.facts;
    (!its.is_valid_at(now)).then(|| ResourceError::Unmet {
        what: format!(
            "use the certificate that was signed for request {name} of certificate `{}`: it is valid from {} until {}, and the clock of this host says {}",
            spec.path,
            show(its.not_before),
            show(its.not_after),
            show(now)
        ),
        next: format!(
            "set the clock of this host if it is wrong (`timedatectl`), then apply again; if it is right, set the clocks of the masters, and delete the \
             request there (`kubectl delete csr {name}`): then this host asks again"
        ),
    })
}

fn by_predecessor(path: &str, name: &str) -> ResourceError {
    ResourceError::Awaited {
        what: format!(
            "get certificate `{path}` signed: request {name} was signed by the predecessor of the authority; the next try asks again"
        ),
        next: "take the step `switch` on each master (`nodelet certs rollout cluster` on a master)"
            .to_owned(),
    }
}

/// The key of the request that is not answered yet, or a new one. It is the state of this program, as its ledger is: it is not part of a
/// step, so a rollback does not remove it. Nothing uses it before its certificate is there.
async fn pending_key(spec: &CertificateSpec, host: &dyn Host) -> ResourceResult<KeyPair> {
    let (stored, content) = Stored::read(host, &request_key(&spec.path)).await?;
    if let Some(Ok(key)) = content.parse(keys::parse) {
        let path = certificate_paths(&spec.path).certificate;
        let (_, present) = Stored::read(host, &path).await?;
        let present = present.parse(|pem| Certificate::parse("", pem));
        // After an interruption, the key of the present certificate may still be here. A renewed certificate has a new key.
        let is_used = matches!(present, Some(Ok(leaf)) if leaf.public_key == keys::public(&key));
        if !is_used {
            return Ok(key);
        }
    }
    let key = keys::generate()
        .map_err(|error| error.at(format!("make a key for certificate `{}`", spec.path)))?;
    let pem = PrivateKey::from(&key);
    let mut not_part_of_the_step = Receipt::default();
    stored
        .put(
            host,
            pem.expose_pem().as_bytes(),
            PRIVATE,
            &mut not_part_of_the_step,
        )
        .await?;
    Ok(key)
}
