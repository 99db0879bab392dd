//! Signs the certificates of nodes: decides about each open request of their signer, approves or denies it, and signs what was approved with
//! the cluster's authority.
//!
//! Any number of masters may do this at the same time: the API server keeps the first decision and the first certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crate::host::{CertificateRequest, ClusterAccess, ClusterNode, Host, HostResult, RequestState};
use crate::kubernetes::NODE_SIGNER;
use crate::kubernetes::admission::{self, Admission, TokenRecord};
use crate::kubernetes::masters;
use crate::kubernetes::node_request::{
    Granted, Known, NodeCertificate, Requester, Reserved, decide, keeps_address, node_of,
    requester, too_many,
};
use crate::kubernetes::workers::is_still_open;
use crate::model::chain;
use crate::resource::pki::{Authority, CertificateSpec, Usage, certificate_in, certificate_paths};
use crate::resource::{ResourceError, ResourceResult};

pub use crate::kubernetes::admission::LONGEST_LIFE;

/// The authority that signs.
const AUTHORITY: &str = "cluster";
/// Most requests that one call decides. The others wait for the next call.
const MOST: usize = 100;
/// So often a request is decided again because another client has changed the record of its node.
const TRIES: usize = 3;

/// What was done about the open requests.
#[derive(Debug, Default)]
pub struct SigningReport {
    /// The decided requests, in the order of the decisions.
    pub requests: Vec<DecidedRequest>,
    /// Open requests that were left for the next call.
    pub left: usize,
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
    /// It was denied, with the reason.
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
/// other one. A request that could not be decided stops no other one.
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
    let mut open = host.certificate_requests(access, NODE_SIGNER).await?;
    open.retain(|request| request.is_open() && !skip.contains(&request.name));
    open.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
    let signer = Signer::new(host, access, life.min(LONGEST_LIFE)).await?;
    let mut report = SigningReport {
        left: open.len().saturating_sub(MOST),
        ..SigningReport::default()
    };
    for (earlier, request) in in_turn(open).into_iter().take(MOST) {
        let outcome = signer.handle(&request, earlier).await;
        report.requests.push(DecidedRequest {
            name: request.name,
            requester: request.requester,
            outcome,
        });
    }
    Ok(report)
}

/// The requests, oldest first, in the order in which they are decided: by the number of earlier ones of the same requester, which is
/// returned with each.
fn in_turn(open: Vec<CertificateRequest>) -> Vec<(usize, CertificateRequest)> {
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
    admissions: BTreeMap<String, Admission>,
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
        Ok(Self {
            host,
            access,
            authority,
            life,
            now: host.now(),
            nodes: host.nodes(access).await?,
            admissions: admission::admissions(host, access).await?,
            reserved: reserved_for_api_servers(host).await?,
        })
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
        for attempt in 0..=TRIES {
            let is_first = attempt == 0;
            let decided = if is_first {
                self.decide_by(&self.admissions, request, earlier).await?
            } else {
                self.decide(request, earlier).await?
            };
            let granted = match decided {
                Ok(granted) => granted,
                // The records may be others by now.
                Err(_) if is_first => continue,
                Err(reason) => return self.deny(request, reason).await,
            };
            if let Some(before) = self.note(request, &granted).await? {
                return self.sign(request, &granted, &before, earlier).await;
            }
        }
        Ok(RequestOutcome::Failed(
            "the record of its node changes all the time".to_owned(),
        ))
    }

    /// Decides by the present records.
    async fn decide(
        &self,
        request: &CertificateRequest,
        pending_before: usize,
    ) -> HostResult<Result<Granted, String>> {
        let admissions = admission::admissions(self.host, self.access).await?;
        self.decide_by(&admissions, request, pending_before).await
    }

    async fn decide_by(
        &self,
        admissions: &BTreeMap<String, Admission>,
        request: &CertificateRequest,
        pending_before: usize,
    ) -> HostResult<Result<Granted, String>> {
        let requester = requester(request);
        let token = self.token(requester.as_ref()).await?;
        let node = requester
            .as_ref()
            .and_then(|its| node_of(its, token.as_ref()));
        let known = Known {
            now: self.now,
            token: token.as_ref(),
            admission: node.and_then(|node| admissions.get(node)),
            admissions,
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

    /// Notes key and address in the record of the node, before anything is signed. Returns the record from before; `None` if another client
    /// has changed it: then the request is decided again.
    async fn note(
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
        let is_other_address = match &granted.certificate {
            NodeCertificate::KubeletServer { address, .. } => {
                keeps_address(*address, &requester, &record).is_err()
            }
            NodeCertificate::KubeletClient { .. } | NodeCertificate::KubeProxy => false,
        };
        if is_used_up || is_other_key || is_other_address || record.removed.is_some() {
            return Ok(None);
        }
        let is_noted = match granted.noted_in(&record, &requester, self.now) {
            Some(noted) => admission::put(self.host, self.access, &noted).await?,
            None => true,
        };
        Ok(is_noted.then_some(record))
    }

    /// Approves and signs. Record and token are read once more in between: the node may have been removed, or another node may have noted
    /// the same address at the same time. `before` is the record from before the note.
    async fn sign(
        &self,
        request: &CertificateRequest,
        granted: &Granted,
        before: &Admission,
        earlier: usize,
    ) -> ResourceResult<RequestOutcome> {
        let (host, access) = (self.host, self.access);
        host.approve_certificate_request(access, request, "it is from an admitted node")
            .await?;
        let certificate = match self.decide(request, earlier).await? {
            Ok(granted) => granted.certificate,
            Err(reason) => {
                self.forget_address(granted, before).await?;
                // An approval cannot be taken back.
                host.delete_certificate_request(access, request).await?;
                return Ok(RequestOutcome::Denied(format!(
                    "{reason}; it was approved a moment ago, so it is deleted"
                )));
            }
        };
        let spec = node_certificate_spec(&certificate, self.life);
        let signed = self
            .authority
            .sign_request(&spec, &request.request, self.now)
            .map_err(|error| error.at("sign it"))?;
        host.set_certificate(access, request, signed.as_bytes())
            .await?;
        Ok(RequestOutcome::Signed(certificate))
    }

    /// Takes an address that was noted for nothing out of the record again: it would keep another node from it. An address from before
    /// stays, because the node may have a certificate for it.
    async fn forget_address(&self, granted: &Granted, before: &Admission) -> HostResult<()> {
        let NodeCertificate::KubeletServer { node, address } = &granted.certificate else {
            return Ok(());
        };
        let Some(record) = admission::admission(self.host, self.access, node).await? else {
            return Ok(());
        };
        if record.address != Some(*address)
            || before.address == Some(*address)
            || record.removed.is_some()
        {
            return Ok(());
        }
        let without = Admission {
            address: before.address,
            ..record
        };
        if !admission::put(self.host, self.access, &without).await? {
            tracing::debug!("the record of node {node} has changed");
        }
        Ok(())
    }

    /// A request that was approved by hand cannot be denied any more; it is not signed either.
    async fn deny(
        &self,
        request: &CertificateRequest,
        reason: String,
    ) -> ResourceResult<RequestOutcome> {
        if request.state == RequestState::Approved {
            return Ok(RequestOutcome::Failed(format!(
                "it is approved and will not be signed: {reason}; delete it"
            )));
        }
        self.host
            .deny_certificate_request(self.access, request, &reason)
            .await?;
        Ok(RequestOutcome::Denied(reason))
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
