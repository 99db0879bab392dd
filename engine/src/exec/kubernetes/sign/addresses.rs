//! How masters sign for an address that a node does not have yet, so that never two nodes have certificates for it: see
//! `kubernetes::admission` about claims.

use std::net::IpAddr;

use super::{RequestOutcome, Signer, TRIES};
use crate::host::{CertificateRequest, HostResult};
use crate::kubernetes::admission::{self, Admission};
use crate::kubernetes::node_request::Granted;
use crate::model::chain;
use crate::resource::ResourceResult;

/// How the claim of a node to an address ended.
#[derive(Debug)]
pub(super) enum Claim {
    /// The node has it, in this record. It is safe to sign if this version of the record can be replaced.
    Held(Box<Admission>),
    /// The request is refused by the records from after the claim, with the reason.
    Refused(String),
    /// Another node goes first, or a damaged record may have the address, with the reason. The request stays open.
    Waits(String),
    /// Another client has changed a record meanwhile.
    Changed,
}

impl Signer<'_> {
    /// Claims an address for the node of this record.
    pub(super) async fn claim(
        &self,
        request: &CertificateRequest,
        granted: &Granted,
        record: &Admission,
        address: IpAddr,
        earlier: usize,
    ) -> ResourceResult<Claim> {
        let (host, access) = (self.host, self.access);
        if let Some(claiming) = record.claiming(address, host.now())
            && !admission::put(host, access, &claiming).await?
        {
            return Ok(Claim::Changed);
        }
        // Read after the claim is written: of two masters, one sees the claim of the other one.
        let all = admission::admissions(host, access).await?;
        if let Err(reason) = self.decide_by(&all, request, earlier).await? {
            return Ok(Claim::Refused(reason));
        }
        let own = all.records.get(&granted.node);
        let Some(own) = own.filter(|own| own.claiming(address, host.now()).is_none()) else {
            return Ok(Claim::Changed);
        };
        let behind = match own.competitors(address, &all, host.now()) {
            Ok(behind) => behind,
            Err(reason) => return Ok(Claim::Waits(reason)),
        };
        for other in behind {
            if !admission::put(host, access, &other.without_claim()).await? {
                return Ok(Claim::Changed);
            }
        }
        Ok(Claim::Held(Box::new(own.clone())))
    }

    /// Approves and signs for an address that the node has claimed in this record. `None` if the record has changed: the claim may be lost.
    pub(super) async fn sign_held(
        &self,
        request: &mut CertificateRequest,
        granted: &Granted,
        held: &Admission,
        address: IpAddr,
    ) -> ResourceResult<Option<RequestOutcome>> {
        self.approve(request).await?;
        if !self.note(request, granted, held).await? {
            return Ok(None);
        }
        let outcome = self.sign(request, granted).await?;
        let node = granted.node.as_str();
        // The certificate is there. Until this is noted, the claim keeps other nodes away.
        if let Err(error) = self.keep_address(node, address, &request.uid).await {
            let problem = chain(&error).join(": ");
            tracing::warn!("note the address of node {node}: {problem}");
        }
        Ok(Some(outcome))
    }

    /// Notes that the node has a certificate for this address, unless its claim is not that of this request any more: another master has
    /// noted it, or the node was admitted anew and claims another address.
    async fn keep_address(&self, node: &str, address: IpAddr, request: &str) -> HostResult<()> {
        for _ in 0..=TRIES {
            let record = admission::admission(self.host, self.access, node).await?;
            let is_its_own = |record: &Admission| {
                let claim = record.claim.as_ref();
                let of = claim.and_then(|claim| claim.request.as_deref());
                record.removed.is_none() && of == Some(request)
            };
            let Some(record) = record.filter(is_its_own) else {
                return Ok(());
            };
            let signed = record.signed(address);
            if admission::put(self.host, self.access, &signed).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Ends the claim that was being signed for this request, which is gone without a certificate. Otherwise the claim would last as long as
    /// a certificate.
    pub(super) async fn release_claim_of(&self, request: &CertificateRequest) {
        if let Err(error) = self.try_to_release_claim_of(request).await {
            let (name, problem) = (&request.name, chain(&error).join(": "));
            tracing::warn!("end the claim of request {name}: {problem}");
        }
    }

    async fn try_to_release_claim_of(&self, request: &CertificateRequest) -> HostResult<()> {
        for _ in 0..=TRIES {
            let all = admission::admissions(self.host, self.access).await?;
            let mut records = all.records.values();
            let its = records.find(|record| {
                let claim = record.claim.as_ref();
                claim.is_some_and(|claim| claim.request.as_ref() == Some(&request.uid))
            });
            let Some(its) = its else {
                return Ok(());
            };
            if admission::put(self.host, self.access, &its.without_claim()).await? {
                return Ok(());
            }
        }
        Ok(())
    }
}
