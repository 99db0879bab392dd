//! Requests for certificates: objects `CertificateSigningRequest`, which the API server keeps.
//!
//! A decision is a condition that only the subresource `approval` takes, and a certificate one that only `status` takes. A condition needs
//! the status `True`, and a decision cannot be taken back.
//! Source: <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>.

use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::config::Kubeconfig;
use serde_json::{Value, json};

use super::kubeconfig::{connect_with, if_there, status};
use crate::host::live::LiveHost;
use crate::host::live::blocking::within;
use crate::host::live::error_class::classified;
use crate::host::{
    CertificateRequest, CertificateRequestList, CertificateRequests, ClusterAccess, HostError,
    HostResult, LONGEST_REQUEST, ListedRequest, NewCertificateRequest, RequestState,
};

/// A request may have more than a megabyte, and a whole page is in memory.
pub(super) const PER_PAGE: u32 = 20;
/// A name that no request has: requests are named `nodelet-` and more.
const NO_REQUEST: &str = "nodelet";
/// Most requests that are read of a list. Any node can make requests, and the controller-manager deletes each of them an hour after its decision.
const MOST_READ: usize = 50_000;

#[async_trait::async_trait]
impl CertificateRequests for LiveHost {
    async fn certificate_requests(
        &self,
        access: &ClusterAccess,
        signer: &str,
        limit: Duration,
    ) -> HostResult<CertificateRequestList> {
        let fields = format!("spec.signerName={signer}");
        let mut params = ListParams::default().fields(&fields).limit(PER_PAGE);
        let mut list = CertificateRequestList::default();
        let began = Instant::now();
        loop {
            // Each page has the time of a call.
            let page_params = &params;
            let page = self
                .clusters
                .call(
                    access,
                    "list the requests for certificates",
                    |client| async move { requests(client).list(page_params).await },
                )
                .await?;
            list.requests.extend(
                page.items
                    .into_iter()
                    .map(|object| request(object).listed()),
            );
            let is_full = list.requests.len() >= MOST_READ || began.elapsed() >= limit;
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(_) if is_full => {
                    list.has_more = true;
                    return Ok(list);
                }
                Some(token) => params = params.continue_token(&token),
                None => return Ok(list),
            }
        }
    }

    async fn certificate_request(
        &self,
        access: &ClusterAccess,
        name: &str,
    ) -> HostResult<Option<CertificateRequest>> {
        Ok(self.request_object(access, name).await?.map(request))
    }

    async fn accepts_identity(&self, kubeconfig: &str, timeout: Duration) -> HostResult<bool> {
        let action =
            || "ask the API server whether it accepts the identity of this host".to_owned();
        let asked = async {
            // The text of an error may quote the secret.
            let kubeconfig = Kubeconfig::from_yaml(kubeconfig)
                .map_err(|_| HostError::refused(action(), "the kubeconfig cannot be read"))?;
            let client = connect_with(kubeconfig, &action).await?;
            Ok::<_, HostError>(requests(client).get_opt(NO_REQUEST).await)
        };
        match within(timeout, action, asked).await? {
            Ok(_) => Ok(true),
            Err(error) => match status(&error) {
                Some(401) => Ok(false),
                // It knows who asks. kube reads a 404 as "no such request" only if the answer names that reason.
                Some(403 | 404) => Ok(true),
                _ => Err(classified(action(), error)),
            },
        }
    }

    async fn create_certificate_request(
        &self,
        access: &ClusterAccess,
        new: &NewCertificateRequest,
    ) -> HostResult<bool> {
        let object = object(new);
        let action = format!("create the certificate request {}", new.name);
        self.clusters
            .call(access, action, |client| async move {
                let params = PostParams::default();
                match requests(client).create(&params, &object).await {
                    Ok(_) => Ok(true),
                    Err(error) if status(&error) == Some(409) => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    async fn approve_certificate_request(
        &self,
        access: &ClusterAccess,
        request: &CertificateRequest,
        reason: &str,
    ) -> HostResult<()> {
        self.decide(access, request, Decided::Approved, reason)
            .await
    }

    async fn deny_certificate_request(
        &self,
        access: &ClusterAccess,
        request: &CertificateRequest,
        reason: &str,
    ) -> HostResult<()> {
        self.decide(access, request, Decided::Denied, reason).await
    }

    async fn set_certificate(
        &self,
        access: &ClusterAccess,
        of: &CertificateRequest,
        certificate: &[u8],
    ) -> HostResult<()> {
        let name = of.name.as_str();
        let action = format!("store the certificate of request {name}");
        let missing = || refused(&action, "the request is gone");
        let present = self.same_request_object(access, name, &of.uid).await?;
        let present = present.ok_or_else(missing)?;
        let version = present.metadata.resource_version.clone();
        let known = request(present);
        if known.certificate.is_some() {
            return Err(refused(&action, "it has a certificate already"));
        }
        if known.state != RequestState::Approved {
            return Err(refused(&action, "it is not approved"));
        }
        let patch = json!({
            "metadata": {"uid": of.uid, "resourceVersion": version},
            "status": {"certificate": ByteString(certificate.to_vec())},
        });
        self.clusters
            .call(access, action, |client| async move {
                let patch = Patch::Merge(&patch);
                let params = PatchParams::default();
                requests(client).patch_status(name, &params, &patch).await
            })
            .await
            .map(drop)
    }

    async fn delete_certificate_request(
        &self,
        access: &ClusterAccess,
        of: &ListedRequest,
    ) -> HostResult<()> {
        let name = of.name.as_str();
        let action = format!("delete the certificate request {name}");
        let version = match of.is_open() {
            // Another client may sign it meanwhile. So only the version without a certificate is deleted.
            true => {
                let Some(present) = self.same_request_object(access, &of.name, &of.uid).await?
                else {
                    return Ok(());
                };
                let version = present.metadata.resource_version.clone();
                if request(present).certificate.is_some() {
                    return Err(refused(&action, "it has a certificate already"));
                }
                version
            }
            false => None,
        };
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(of.uid.clone()),
            resource_version: version,
        });
        self.clusters
            .call(access, action, |client| async move {
                if_there(requests(client).delete(name, &params).await).map(drop)
            })
            .await
    }
}

/// A decision about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decided {
    Approved,
    Denied,
}

impl Decided {
    /// The type of its condition.
    fn condition(self) -> &'static str {
        match self {
            Self::Approved => "Approved",
            Self::Denied => "Denied",
        }
    }
}

impl LiveHost {
    async fn request_object(
        &self,
        access: &ClusterAccess,
        name: &str,
    ) -> HostResult<Option<CertificateSigningRequest>> {
        let action = format!("get the certificate request {name}");
        self.clusters
            .call(access, action, |client| async move {
                requests(client).get_opt(name).await
            })
            .await
    }

    /// The present object of this request; `None` if it is gone, or another request has its name.
    async fn same_request_object(
        &self,
        access: &ClusterAccess,
        name: &str,
        uid: &str,
    ) -> HostResult<Option<CertificateSigningRequest>> {
        let present = self.request_object(access, name).await?;
        Ok(present.filter(|its| its.metadata.uid.as_deref() == Some(uid)))
    }

    /// Decides about a pending request. The patch names the uid and the version that were read, so it cannot replace a decision of another
    /// client, and decides about no other request.
    async fn decide(
        &self,
        access: &ClusterAccess,
        of: &CertificateRequest,
        decided: Decided,
        reason: &str,
    ) -> HostResult<()> {
        let name = of.name.as_str();
        let action = match decided {
            Decided::Approved => format!("approve the certificate request {name}"),
            Decided::Denied => format!("deny the certificate request {name}"),
        };
        let Some(present) = self.same_request_object(access, name, &of.uid).await? else {
            return Err(refused(&action, "the request is gone"));
        };
        let version = present.metadata.resource_version.clone();
        match (request(present).state, decided) {
            (RequestState::Approved, Decided::Approved)
            | (RequestState::Denied(_), Decided::Denied) => return Ok(()),
            (RequestState::Pending, Decided::Approved | Decided::Denied) => {}
            (RequestState::Approved, Decided::Denied) => {
                return Err(refused(&action, "it is approved already"));
            }
            (RequestState::Denied(_), Decided::Approved) => {
                return Err(refused(&action, "it is denied already"));
            }
            (RequestState::Failed(_), Decided::Approved | Decided::Denied) => {
                return Err(refused(&action, "a signer has refused it already"));
            }
        }
        let patch = decision(&of.uid, version.as_deref(), decided, reason);
        self.clusters
            .call(access, action, |client| async move {
                let patch = Patch::Merge(&patch);
                let params = PatchParams::default();
                requests(client).patch_approval(name, &params, &patch).await
            })
            .await
            .map(drop)
    }
}

fn requests(client: Client) -> Api<CertificateSigningRequest> {
    Api::all(client)
}

fn refused(action: &str, problem: &str) -> HostError {
    HostError::refused(action.to_owned(), problem.to_owned())
}

/// The patch of a decision about a request without conditions. A merge patch replaces the whole list.
fn decision(uid: &str, version: Option<&str>, decided: Decided, reason: &str) -> Value {
    json!({
        "metadata": {"uid": uid, "resourceVersion": version},
        "status": {"conditions": [{
            "type": decided.condition(),
            "status": "True",
            "reason": "Nodelet",
            "message": reason,
        }]},
    })
}

fn object(new: &NewCertificateRequest) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(new.name.clone()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(new.request.clone()),
            signer_name: new.signer.clone(),
            usages: Some(new.usages.clone()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

pub(super) fn request(object: CertificateSigningRequest) -> CertificateRequest {
    let CertificateSigningRequest {
        metadata,
        spec,
        status,
    } = object;
    let status = status.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let mut request = spec.request.0;
    if request.len() > LONGEST_REQUEST {
        // Not `clear`, which keeps the memory.
        request = Vec::new();
    }
    let certificate = status.certificate.map(|its| its.0);
    CertificateRequest {
        name: metadata.name.unwrap_or_default(),
        uid: metadata.uid.unwrap_or_default(),
        requester: spec.username.unwrap_or_default(),
        groups: spec.groups.unwrap_or_default(),
        signer: spec.signer_name,
        request,
        usages: spec.usages.unwrap_or_default(),
        state: state(&conditions),
        certificate: certificate.filter(|its| !its.is_empty()),
        created: metadata
            .creation_timestamp
            .map(|time| SystemTime::from(time.0)),
    }
}

/// A denial or failure counts before an approval.
fn state(conditions: &[CertificateSigningRequestCondition]) -> RequestState {
    let of = |kind: &str| {
        let mut its = conditions.iter().filter(|one| one.type_ == kind);
        its.find(|one| one.status == "True")
    };
    let why = |its: &CertificateSigningRequestCondition| {
        let parts = [its.message.as_deref(), its.reason.as_deref()];
        let mut parts = parts.into_iter().flatten().filter(|text| !text.is_empty());
        parts.next().unwrap_or_default().to_owned()
    };
    if let Some(denied) = of("Denied") {
        RequestState::Denied(why(denied))
    } else if let Some(failed) = of("Failed") {
        RequestState::Failed(why(failed))
    } else if of("Approved").is_some() {
        RequestState::Approved
    } else {
        RequestState::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: Value) -> CertificateRequest {
        request(serde_json::from_value(value).expect("a request"))
    }

    #[test]
    fn a_request_is_read_with_its_requester_and_state() {
        let object = |conditions: Value| {
            json!({
                "metadata": {"name": "a", "uid": "1", "creationTimestamp": "2026-03-04T03:00:00Z"},
                "spec": {"request": "UEVN", "signerName": "nodelet.pf9.io/node", "usages": ["client auth"],
                    "username": "system:node:w-1", "groups": ["system:nodes"]},
                "status": {"conditions": conditions},
            })
        };
        let read = of(object(json!([])));
        assert_eq!(read.requester, "system:node:w-1");
        assert_eq!(read.groups, ["system:nodes"]);
        assert_eq!(read.request, b"PEM");
        assert_eq!(read.usages, ["client auth"]);
        assert_eq!(read.state, RequestState::Pending);
        assert_eq!(read.certificate, None);
        assert!(read.created.is_some());
        let condition =
            |kind: &str| json!({"type": kind, "status": "True", "message": "why", "reason": "R"});
        for (conditions, state) in [
            (json!([condition("Approved")]), RequestState::Approved),
            (
                json!([condition("Approved"), condition("Denied")]),
                RequestState::Denied("why".to_owned()),
            ),
            (
                json!([condition("Approved"), condition("Failed")]),
                RequestState::Failed("why".to_owned()),
            ),
        ] {
            assert_eq!(of(object(conditions)).state, state);
        }
    }

    #[test]
    fn a_request_that_is_too_long_is_not_read() {
        let object = |length: usize| {
            let mut new = object(&NewCertificateRequest {
                name: "a".to_owned(),
                request: vec![b'x'; length],
                signer: "s".to_owned(),
                usages: Vec::new(),
            });
            new.status = None;
            request(new).request.len()
        };
        assert_eq!(object(LONGEST_REQUEST), LONGEST_REQUEST);
        assert_eq!(object(LONGEST_REQUEST + 1), 0);
    }

    #[test]
    fn a_decision_names_the_request_and_the_version_that_it_is_about() {
        let patch = decision("1", Some("7"), Decided::Denied, "another node");
        assert_eq!(patch["metadata"]["uid"], "1");
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["type"], "Denied");
        assert_eq!(condition["status"], "True");
        assert_eq!(condition["message"], "another node");
    }
}
