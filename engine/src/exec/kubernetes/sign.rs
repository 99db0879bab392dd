//! Signs the certificates of nodes: decides about each open request of their signer, approves or denies it, and signs what was approved with
//! the cluster's authority.
//!
//! Any number of masters may do this at the same time: the API server keeps the first decision and the first certificate.

mod addresses;
mod excess;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crate::host::{
    CertificateRequest, ClusterAccess, ClusterNode, Host, HostResult, ListedRequest, RequestState,
};
use crate::kubernetes::NODE_SIGNER;
use crate::kubernetes::admission::{self, Admission, Admissions, TokenRecord};
use crate::kubernetes::masters;
use crate::kubernetes::node_request::{
    Granted, Known, NodeCertificate, NotedRequest, Requester, Reserved, decide, keeps_address,
    node_of, requester, too_many,
};
use crate::kubernetes::workers::is_still_open;
use crate::model::chain;
use crate::resource::pki::{Authority, CertificateSpec, Usage, certificate_in, certificate_paths};
use crate::resource::{ResourceError, ResourceResult};

pub use crate::kubernetes::admission::LONGEST_LIFE;
use addresses::Claim;
pub use excess::DeletedRequests;

/// The authority that signs.
const AUTHORITY: &str = "cluster";
/// Most requests that one call decides. The others wait for the next call.
const MOST: usize = 100;
/// No further requests are read after this time.
const LONGEST_LIST: Duration = Duration::from_secs(20);
/// So often a request is decided again because another client has changed the record of its node.
const TRIES: usize = 3;

/// What was done about the open requests.
#[derive(Debug, Clone, Default)]
pub struct SigningReport {
    /// The decided requests, in the order of the decisions.
    pub requests: Vec<DecidedRequest>,
    /// Open requests that were left for the next call.
    pub left: usize,
    /// Requests of those who have made too many.
    pub deleted: DeletedRequests,
    /// Whether there are more requests than were read.
    pub has_more: bool,
}

/// What was done about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedRequest {
    /// Its name.
    pub name: String,
    /// The user that made it.
    pub requester: String,
    /// The outcome.
    pub outcome: RequestOutcome,
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestOutcome {
    /// It has its certificate.
    Signed(NodeCertificate),
    /// It was denied, with the reason. One that was approved is deleted instead.
    Denied(String),
    /// Another client has decided about it meanwhile, or deleted it.
    Settled,
    /// It is still open, with the reason.
    Failed(String),
}

/// Decides about all open requests of nodes but those with a name in `skip`, and signs what was approved. Certificates live for `life`, at
/// most [`LONGEST_LIFE`].
///
/// The oldest request of each requester comes first, then the second one of each, and so on: a requester with many requests holds up no
/// other one. A request that could not be decided stops no other one. Of a requester with very many requests some are deleted afterwards.
///
/// # Errors
/// The authority cannot sign, or the API server does not answer.
///
/// # Cancel safety
/// A request that was approved and not signed is signed by the next call.
pub async fn sign_requests(
    host: &dyn Host,
    access: &ClusterAccess,
    life: Duration,
    skip: &BTreeSet<String>,
) -> ResourceResult<SigningReport> {
    let list = host
        .certificate_requests(access, NODE_SIGNER, LONGEST_LIST)
        .await?;
    let (excess, mut open) = excess::split_excess(list.requests);
    open.retain(|request| request.is_open() && !skip.contains(&request.name));
    open.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
    let signer = Signer::new(host, access, life.min(LONGEST_LIFE)).await?;
    let mut report = SigningReport {
        left: open.len().saturating_sub(MOST),
        has_more: list.has_more,
        ..SigningReport::default()
    };
    for (earlier, request) in in_turn(open).into_iter().take(MOST) {
        let outcome = signer.handle_listed(&request, earlier).await;
        report.requests.push(DecidedRequest {
            name: request.name,
            requester: request.requester,
            outcome,
        });
    }
    report.deleted = excess::delete(host, access, excess).await;
    Ok(report)
}

/// The requests, oldest first, in the order in which they are decided: by the number of earlier ones of the same requester, which is
/// returned with each.
fn in_turn(open: Vec<ListedRequest>) -> Vec<(usize, ListedRequest)> {
    let mut before: BTreeMap<String, usize> = BTreeMap::new();
    let numbered = open.into_iter().map(|request| {
        let next = before.entry(request.requester.clone()).or_default();
        let earlier = *next;
        *next += 1;
        (earlier, request)
    });
    let mut numbered: Vec<_> = numbered.collect();
    // Stable: equal numbers stay in the order of their age.
    numbered.sort_by_key(|(earlier, _)| *earlier);
    numbered
}

/// What the API servers' own certificate is for, and the masters that this host knows.
///
/// # Errors
/// This host has no such certificate, it cannot be read, or the list of masters cannot.
pub async fn reserved_for_api_servers(host: &dyn Host) -> ResourceResult<Reserved> {
    let path = certificate_paths("apiserver").certificate;
    let facts = certificate_in(host, &path).await?;
    let facts = facts.ok_or_else(|| ResourceError::Missing {
        what: format!("find the certificate of the API server, {}", path.display()),
    })?;
    Ok(Reserved {
        names: facts.names,
        addresses: facts.addresses,
        masters: masters::read(host)
            .await?
            .into_iter()
            .map(|master| (master.name, master.address))
            .collect(),
    })
}

/// What the decisions of one call need. A decision from the records of the begin is only the first one: records and tokens may end at any
/// time, so they are read again before anything is signed or denied.
struct Signer<'a> {
    host: &'a dyn Host,
    access: &'a ClusterAccess,
    authority: Authority,
    life: Duration,
    now: SystemTime,
    nodes: BTreeMap<String, ClusterNode>,
    admissions: Admissions,
    reserved: Reserved,
}

impl<'a> Signer<'a> {
    async fn new(
        host: &'a dyn Host,
        access: &'a ClusterAccess,
        life: Duration,
    ) -> ResourceResult<Self> {
        let authority = Authority::read(host, AUTHORITY).await?;
        let authority = authority.filter(Authority::can_sign);
        let authority = authority.ok_or_else(|| ResourceError::Missing {
            what: format!("find the key of authority `{AUTHORITY}`, which only masters have"),
        })?;
        let now = host.now();
        let nodes = host.nodes(access).await?;
        let all = admission::admissions(host, access).await?;
        // Once for each call: the reasons of waiting requests name only one of them.
        for damaged in &all.damaged {
            tracing::warn!("{}", chain(&damaged.error()).join(": "));
        }
        Ok(Self {
            host,
            access,
            authority,
            life,
            now,
            nodes,
            admissions: all,
            reserved: reserved_for_api_servers(host).await?,
        })
    }

    /// Reads the request and handles it.
    async fn handle_listed(&self, listed: &ListedRequest, earlier: usize) -> RequestOutcome {
        let found = self.host.certificate_request(self.access, &listed.name);
        match found.await {
            Ok(Some(request)) if request.uid == listed.uid && request.is_open() => {
                self.handle(&request, earlier).await
            }
            Ok(_) => RequestOutcome::Settled,
            Err(error) => RequestOutcome::Failed(chain(&error).join(": ")),
        }
    }

    async fn handle(&self, request: &CertificateRequest, earlier: usize) -> RequestOutcome {
        let error = match self.settle(request, earlier).await {
            Ok(outcome) => return outcome,
            Err(error) => error,
        };
        // Another master may have been faster.
        match is_still_open(self.host, self.access, request).await {
            Ok(false) => RequestOutcome::Settled,
            Ok(true) | Err(_) => RequestOutcome::Failed(chain(&error).join(": ")),
        }
    }

    async fn settle(
        &self,
        request: &CertificateRequest,
        earlier: usize,
    ) -> ResourceResult<RequestOutcome> {
        // First of all: such a request costs the masters nothing but its denial.
        if let Some(reason) = too_many(request, earlier) {
            return self.deny(request, reason).await;
        }
        // Its state changes with its approval.
        let mut request = request.clone();
        for attempt in 0..=TRIES {
            let is_first = attempt == 0;
            let decided = if is_first {
                self.decide_by(&self.admissions, &request, earlier).await?
            } else {
                self.decide(&request, earlier).await?
            };
            let granted = match decided {
                Ok(granted) => granted,
                // The records may be others by now.
                Err(_) if is_first => continue,
                Err(reason) => return self.deny(&request, reason).await,
            };
            if let Some(outcome) = self.grant(&mut request, &granted, earlier).await? {
                return Ok(outcome);
            }
        }
        Ok(RequestOutcome::Failed(
            "the record of its node changes all the time".to_owned(),
        ))
    }

    /// Notes what is granted, approves the request and signs it. `None` if another client has changed a record: then the request is decided
    /// again.
    async fn grant(
        &self,
        request: &mut CertificateRequest,
        granted: &Granted,
        earlier: usize,
    ) -> ResourceResult<Option<RequestOutcome>> {
        let Some(record) = self.usable_record(request, granted).await? else {
            return Ok(None);
        };
        let new_address = granted.address().filter(|address| !record.keeps(*address));
        let Some(address) = new_address else {
            if !self.note(request, granted, &record).await? {
                return Ok(None);
            }
            return self.sign_noted(request, granted, earlier).await.map(Some);
        };
        let claim = self.claim(request, granted, &record, address, earlier);
        match claim.await? {
            Claim::Held(held) => self.sign_held(request, granted, &held, address).await,
            Claim::Refused(reason) => self.deny(request, reason).await.map(Some),
            Claim::Waits(reason) => Ok(Some(RequestOutcome::Failed(reason))),
            Claim::Changed => Ok(None),
        }
    }

    /// Decides by the present records.
    async fn decide(
        &self,
        request: &CertificateRequest,
        pending_before: usize,
    ) -> HostResult<Result<Granted, String>> {
        let all = admission::admissions(self.host, self.access).await?;
        self.decide_by(&all, request, pending_before).await
    }

    async fn decide_by(
        &self,
        all: &Admissions,
        request: &CertificateRequest,
        pending_before: usize,
    ) -> HostResult<Result<Granted, String>> {
        let requester = requester(request);
        let token = self.token(requester.as_ref()).await?;
        let node = requester
            .as_ref()
            .and_then(|its| node_of(its, token.as_ref()));
        // It was admitted, and nothing else is known of it, so its request stays open until the record is mended.
        let mut damaged = all.damaged.iter();
        if let Some(own) = damaged.find(|its| Some(its.node.as_str()) == node) {
            return Err(own.error());
        }
        let known = Known {
            now: self.now,
            token: token.as_ref(),
            admission: node.and_then(|node| all.records.get(node)),
            admissions: &all.records,
            nodes: &self.nodes,
            reserved: &self.reserved,
            pending_before,
        };
        Ok(decide(request, &known))
    }

    async fn token(&self, requester: Option<&Requester>) -> HostResult<Option<TokenRecord>> {
        match requester {
            Some(Requester::Token(id)) => admission::token(self.host, self.access, id).await,
            Some(Requester::Node(_)) | None => Ok(None),
        }
    }

    /// The present record of the node; `None` if it does not allow any more what was granted.
    async fn usable_record(
        &self,
        request: &CertificateRequest,
        granted: &Granted,
    ) -> HostResult<Option<Admission>> {
        let Some(requester) = requester(request) else {
            return Ok(None);
        };
        let node = granted.node.as_str();
        let Some(record) = admission::admission(self.host, self.access, node).await? else {
            return Ok(None);
        };
        let is_used_up = match &requester {
            Requester::Token(id) => record.token_id.as_ref() != Some(id),
            Requester::Node(_) => false,
        };
        let used = record.keys.get(&granted.certificate.kind());
        let is_other_key = match &requester {
            Requester::Token(_) => used.is_some_and(|used| *used != granted.key),
            Requester::Node(_) => false,
        };
        let address = granted.address();
        let is_other_address =
            address.is_some_and(|address| keeps_address(address, &requester, &record).is_err());
        let is_unusable =
            is_used_up || is_other_key || is_other_address || record.removed.is_some();
        Ok((!is_unusable).then_some(record))
    }

    /// Notes in this record what is about to be signed. False if another client has changed it.
    async fn note(
        &self,
        request: &CertificateRequest,
        granted: &Granted,
        record: &Admission,
    ) -> HostResult<bool> {
        let Some(requester) = requester(request) else {
            return Ok(false);
        };
        let asked = NotedRequest {
            requester: &requester,
            request: &request.uid,
            now: self.host.now(),
        };
        match granted.noted_in(record, asked) {
            Some(noted) => admission::put(self.host, self.access, &noted).await,
            None => Ok(true),
        }
    }

    /// Approves and signs. Record and token are read once more in between: the node may have been removed.
    async fn sign_noted(
        &self,
        request: &mut CertificateRequest,
        granted: &Granted,
        earlier: usize,
    ) -> ResourceResult<RequestOutcome> {
        self.approve(request).await?;
        match self.decide(request, earlier).await? {
            Ok(_) => self.sign(request, granted).await,
            Err(reason) => self.deny(request, reason).await,
        }
    }

    /// Approves a request. Of two masters that do so at the same moment, the API server refuses one (409), or its answer is lost: if the request is
    /// approved then, this goes on as if this master had approved it.
    async fn approve(&self, request: &mut CertificateRequest) -> HostResult<()> {
        let reason = "it is from an admitted node";
        let approved = self
            .host
            .approve_certificate_request(self.access, request, reason)
            .await;
        if let Err(error) = approved {
            let looked = self.host.certificate_request(self.access, &request.name);
            let present = looked.await.ok().flatten();
            let is_approved = present
                .is_some_and(|its| its.uid == request.uid && its.state == RequestState::Approved);
            if !is_approved {
                return Err(error);
            }
        }
        request.state = RequestState::Approved;
        Ok(())
    }

    async fn sign(
        &self,
        request: &CertificateRequest,
        granted: &Granted,
    ) -> ResourceResult<RequestOutcome> {
        let spec = node_certificate_spec(&granted.certificate, self.life);
        let signed = self
            .authority
            .sign_request(&spec, &request.request, self.now)
            .map_err(|error| error.at("sign it"))?;
        self.host
            .set_certificate(self.access, request, signed.as_bytes())
            .await?;
        Ok(RequestOutcome::Signed(granted.certificate.clone()))
    }

    /// An approval cannot be taken back, so an approved request is deleted: the API server would keep it, and each master would decide about
    /// it for ever. The node makes a new one.
    async fn deny(
        &self,
        request: &CertificateRequest,
        reason: String,
    ) -> ResourceResult<RequestOutcome> {
        if request.state != RequestState::Approved {
            self.host
                .deny_certificate_request(self.access, request, &reason)
                .await?;
            return Ok(RequestOutcome::Denied(reason));
        }
        self.host
            .delete_certificate_request(self.access, &request.listed())
            .await?;
        self.release_claim_of(request).await;
        Ok(RequestOutcome::Denied(format!(
            "{reason}; it was approved, so it is deleted"
        )))
    }
}

/// What is signed for a node: it depends on the decision only, not on the request.
#[must_use]
pub fn node_certificate_spec(certificate: &NodeCertificate, life: Duration) -> CertificateSpec {
    let (path, common_name, usage) = match certificate {
        NodeCertificate::KubeletClient { node } => (
            "kubelet/apiserver",
            format!("system:node:{node}"),
            Usage::Client,
        ),
        NodeCertificate::KubeletServer { node, .. } => (
            "kubelet/server",
            format!("system:node:{node}"),
            Usage::Server,
        ),
        NodeCertificate::KubeProxy => (
            "kube-proxy/apiserver",
            "system:kube-proxy".to_owned(),
            Usage::Client,
        ),
    };
    let (organizations, dns_names, addresses) = match certificate {
        NodeCertificate::KubeletClient { .. } => (true, Vec::new(), Vec::new()),
        NodeCertificate::KubeletServer { node, address } => {
            (true, vec![node.clone()], vec![*address])
        }
        NodeCertificate::KubeProxy => (false, Vec::new(), Vec::new()),
    };
    CertificateSpec {
        path: path.to_owned(),
        authority: AUTHORITY.to_owned(),
        common_name,
        organizations: organizations
            .then(|| "system:nodes".to_owned())
            .into_iter()
            .collect(),
        usage,
        dns_names,
        addresses,
        life,
        signed_by: crate::resource::pki::SignedBy::Authority,
    }
}

#[cfg(test)]
mod tests;
