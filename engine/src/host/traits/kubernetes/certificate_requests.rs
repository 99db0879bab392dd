//! Requests for certificates, as the API server keeps them (`CertificateSigningRequest` of `certificates.k8s.io/v1`).

use std::time::{Duration, SystemTime};

use crate::host::{ClusterAccess, HostResult};

/// Longest request that is read, in bytes of PEM. One with a 4,096-bit RSA key and a few names has less than 3 KiB.
pub const LONGEST_REQUEST: usize = 16 * 1024;

/// What was decided about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestState {
    /// Nothing yet.
    Pending,
    /// It may be signed.
    Approved,
    /// It must not be signed, with the reason.
    Denied(String),
    /// A signer could not sign it, with the reason.
    Failed(String),
}

/// A request for a certificate. The API server sets `requester` and `groups`, and no client can change them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Its name.
    pub name: String,
    /// Its uid: a request that is made again under the same name is another request.
    pub uid: String,
    /// The user that made it, as the API server authenticated that user.
    pub requester: String,
    /// The groups of that user.
    pub groups: Vec<String>,
    /// The signer that it is for.
    pub signer: String,
    /// The certification request (PKCS #10) as PEM. Empty if it has more than [`LONGEST_REQUEST`] bytes.
    pub request: Vec<u8>,
    /// The usages it asks for, as Kubernetes names them: `digital signature`, `client auth`, …
    pub usages: Vec<String>,
    /// What was decided.
    pub state: RequestState,
    /// The certificate with its chain as PEM, once it was signed.
    pub certificate: Option<Vec<u8>>,
    /// When it was made.
    pub created: Option<SystemTime>,
}

impl CertificateRequest {
    /// Whether it waits for a decision or for its certificate.
    #[must_use]
    pub fn is_open(&self) -> bool {
        is_open(&self.state, self.certificate.is_some())
    }

    /// What a list says of it.
    #[must_use]
    pub fn listed(&self) -> ListedRequest {
        ListedRequest {
            name: self.name.clone(),
            uid: self.uid.clone(),
            requester: self.requester.clone(),
            created: self.created,
            state: self.state.clone(),
            has_certificate: self.certificate.is_some(),
        }
    }
}

fn is_open(state: &RequestState, has_certificate: bool) -> bool {
    match state {
        RequestState::Pending | RequestState::Approved => !has_certificate,
        RequestState::Denied(_) | RequestState::Failed(_) => false,
    }
}

/// What a list says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRequest {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The user that made it.
    pub requester: String,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// What was decided.
    pub state: RequestState,
    /// Whether it was signed.
    pub has_certificate: bool,
}

impl ListedRequest {
    /// Whether it waits for a decision or for its certificate.
    #[must_use]
    pub fn is_open(&self) -> bool {
        is_open(&self.state, self.has_certificate)
    }
}

/// The requests for a signer, as far as they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateRequestList {
    /// In the order of their names.
    pub requests: Vec<ListedRequest>,
    /// Whether there are more than were read.
    pub has_more: bool,
}

/// A request to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCertificateRequest {
    /// Its name.
    pub name: String,
    /// The certification request (PKCS #10) as PEM.
    pub request: Vec<u8>,
    /// The signer that it is for.
    pub signer: String,
    /// The usages it asks for, as Kubernetes names them.
    pub usages: Vec<String>,
}

/// Calls on the API server, each with the implementation's own deadline (10 s).
#[async_trait::async_trait]
pub trait CertificateRequests {
    /// The requests for this signer, in all states. After `limit` no further page is read: then, and if the list is very long, only its beginning
    /// is returned, and `has_more` is true. Cancel safe.
    async fn certificate_requests(
        &self,
        access: &ClusterAccess,
        signer: &str,
        limit: Duration,
    ) -> HostResult<CertificateRequestList>;

    /// The request of this name; `None` if there is none. Cancel safe.
    async fn certificate_request(
        &self,
        access: &ClusterAccess,
        name: &str,
    ) -> HostResult<Option<CertificateRequest>>;

    /// Whether the API server of this kubeconfig knows who asks, when it is asked for a request that is not there. False only if it answers that it
    /// does not (status 401). The kubeconfig is a text, because the host has no file with it yet; it has a secret. Has this deadline, with the
    /// connection. Cancel safe.
    async fn accepts_identity(&self, kubeconfig: &str, timeout: Duration) -> HostResult<bool>;

    /// Makes a request. False if a request of this name exists already.
    async fn create_certificate_request(
        &self,
        access: &ClusterAccess,
        new: &NewCertificateRequest,
    ) -> HostResult<bool>;

    /// Approves a pending request. Fine if it is approved already; an error if it was denied, has failed or is gone. A request that was made
    /// again under the same name is another one, here and in the calls below: then this one is gone.
    async fn approve_certificate_request(
        &self,
        access: &ClusterAccess,
        request: &CertificateRequest,
        reason: &str,
    ) -> HostResult<()>;

    /// Denies a pending request. Fine if it is denied already; an error if it was approved, has failed or is gone.
    async fn deny_certificate_request(
        &self,
        access: &ClusterAccess,
        request: &CertificateRequest,
        reason: &str,
    ) -> HostResult<()>;

    /// Gives an approved request its certificate (PEM, the chain after it). An error if it has one already, was not approved or is gone.
    async fn set_certificate(
        &self,
        access: &ClusterAccess,
        request: &CertificateRequest,
        certificate: &[u8],
    ) -> HostResult<()>;

    /// Deletes a request. Fine if it is gone; an error if it was open and has got a certificate since, or changes meanwhile.
    async fn delete_certificate_request(
        &self,
        access: &ClusterAccess,
        request: &ListedRequest,
    ) -> HostResult<()>;
}
