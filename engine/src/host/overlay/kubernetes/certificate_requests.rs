//! Requests for certificates: read below, and kept above when they are made or decided.
//!
//! No master answers a request that exists only here, so what would be signed is not known before an apply.

use std::time::Duration;

use crate::host::overlay::OverlayHost;
use crate::host::{
    CertificateRequest, CertificateRequestList, CertificateRequests, ClusterAccess, HostError,
    HostResult, ListedRequest, NewCertificateRequest,
};

#[async_trait::async_trait]
impl CertificateRequests for OverlayHost<'_> {
    async fn certificate_requests(
        &self,
        access: &ClusterAccess,
        signer: &str,
        limit: Duration,
    ) -> HostResult<CertificateRequestList> {
        self.fetch_servers_or_know(access).await?;
        let asked = match self.silence("list the requests for certificates") {
            Some(silent) => Err(silent),
            None => self.lower.certificate_requests(access, signer, limit).await,
        };
        let mut list = match asked {
            Ok(found) => {
                self.answered();
                found
            }
            Err(error) => {
                self.empty_or(error)?;
                CertificateRequestList::default()
            }
        };
        // What is known here may have been changed here.
        let here = self
            .upper
            .certificate_requests(access, signer, limit)
            .await?;
        let known = self.known().requests.clone();
        list.requests.retain(|its| !known.contains(&its.name));
        list.requests.extend(here.requests);
        list.requests
            .sort_by(|one, other| one.name.cmp(&other.name));
        Ok(list)
    }

    async fn certificate_request(
        &self,
        access: &ClusterAccess,
        name: &str,
    ) -> HostResult<Option<CertificateRequest>> {
        self.fetch_request(access, name).await?;
        self.upper.certificate_request(access, name).await
    }

    async fn accepts_identity(&self, kubeconfig: &str, timeout: Duration) -> HostResult<bool> {
        self.lower.accepts_identity(kubeconfig, timeout).await
    }

    async fn create_certificate_request(
        &self,
        access: &ClusterAccess,
        new: &NewCertificateRequest,
    ) -> HostResult<bool> {
        self.changes();
        self.fetch_request(access, &new.name).await?;
        self.upper.create_certificate_request(access, new).await
    }

    async fn approve_certificate_request(
        &self,
        access: &ClusterAccess,
        request: &CertificateRequest,
        reason: &str,
    ) -> HostResult<()> {
        self.changes();
        self.fetch_request(access, &request.name).await?;
        self.upper
            .approve_certificate_request(access, request, reason)
            .await
    }

    async fn deny_certificate_request(
        &self,
        access: &ClusterAccess,
        request: &CertificateRequest,
        reason: &str,
    ) -> HostResult<()> {
        self.changes();
        self.fetch_request(access, &request.name).await?;
        self.upper
            .deny_certificate_request(access, request, reason)
            .await
    }

    async fn set_certificate(
        &self,
        access: &ClusterAccess,
        request: &CertificateRequest,
        certificate: &[u8],
    ) -> HostResult<()> {
        self.changes();
        self.fetch_request(access, &request.name).await?;
        self.upper
            .set_certificate(access, request, certificate)
            .await
    }

    async fn delete_certificate_request(
        &self,
        access: &ClusterAccess,
        request: &ListedRequest,
    ) -> HostResult<()> {
        self.changes();
        self.fetch_request(access, &request.name).await?;
        self.upper.delete_certificate_request(access, request).await
    }
}

impl OverlayHost<'_> {
    async fn fetch_request(&self, access: &ClusterAccess, name: &str) -> HostResult<()> {
        self.fetch_servers_or_know(access).await?;
        if self.known().requests.contains(name) {
            return Ok(());
        }
        let asked = match self.silence(&format!("get the certificate request {name}")) {
            Some(silent) => Err(silent),
            None => self.lower.certificate_request(access, name).await,
        };
        match asked {
            Ok(found) => {
                self.answered();
                found.into_iter().for_each(|request| self.know(request));
            }
            Err(error) => self.empty_or(error)?,
        }
        self.known().requests.insert(name.to_owned());
        Ok(())
    }

    /// Takes a request over from below, unless it is known here already.
    fn know(&self, request: CertificateRequest) {
        let name = request.name.clone();
        if self.known().requests.insert(name.clone()) {
            self.upper
                .with_world_mut(|world| world.cluster.requests.insert(name, request));
        }
    }

    /// A cluster without data begins without requests.
    fn empty_or(&self, error: HostError) -> HostResult<()> {
        if self.hints.empty { Ok(()) } else { Err(error) }
    }
}
