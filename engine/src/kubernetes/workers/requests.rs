//! The open requests of a node that was removed. Masters would deny them, too, but a worker should not wait for its certificate meanwhile.

use std::time::Duration;

use crate::host::{
    CertificateRequest, ClusterAccess, Host, HostResult, ListedRequest, RequestState,
};
use crate::kubernetes::node_request::{Requester, requester, user_of_node, user_of_token};
use crate::kubernetes::{NODE_SIGNER, shown};

/// No further requests are read after this time.
const LONGEST_LIST: Duration = Duration::from_secs(30);

/// Settles the open requests of a node that was removed: pending ones are denied, approved ones deleted. `token_id` is that of its earlier
/// token. Returns their number.
///
/// # Errors
/// The API server does not answer or refuses.
pub(super) async fn refuse_requests_of(
    host: &dyn Host,
    access: &ClusterAccess,
    node: &str,
    token_id: Option<&str>,
) -> HostResult<usize> {
    let reason = format!("node `{}` was removed from the cluster", shown(node));
    let mut settled = 0;
    let users = [Some(user_of_node(node)), token_id.map(user_of_token)];
    // Of more than can be read, the masters deny the rest.
    let list = host
        .certificate_requests(access, NODE_SIGNER, LONGEST_LIST)
        .await?;
    let is_candidate =
        |its: &ListedRequest| its.is_open() && users.contains(&Some(its.requester.clone()));
    for listed in list.requests.into_iter().filter(is_candidate) {
        let found = host.certificate_request(access, &listed.name).await?;
        let Some(request) = found.filter(|its| its.uid == listed.uid) else {
            continue;
        };
        let is_its_own = match requester(&request) {
            Some(Requester::Node(its)) => its == node,
            Some(Requester::Token(id)) => Some(id.as_str()) == token_id,
            None => false,
        };
        if !(is_its_own && request.is_open()) {
            continue;
        }
        let answer = match request.state {
            RequestState::Approved => {
                let listed = request.listed();
                host.delete_certificate_request(access, &listed).await
            }
            RequestState::Pending | RequestState::Denied(_) | RequestState::Failed(_) => {
                host.deny_certificate_request(access, &request, &reason)
                    .await
            }
        };
        match answer {
            Ok(()) => settled += 1,
            Err(error) if is_still_open(host, access, &request).await? => return Err(error),
            // A master was faster.
            Err(_) => {}
        }
    }
    Ok(settled)
}

/// Whether the request is there and not settled yet. Another one of its name does not count. Cancel safe.
///
/// # Errors
/// The API server does not answer or refuses.
pub(crate) async fn is_still_open(
    host: &dyn Host,
    access: &ClusterAccess,
    request: &CertificateRequest,
) -> HostResult<bool> {
    let present = host.certificate_request(access, &request.name).await?;
    Ok(present.is_some_and(|present| present.uid == request.uid && present.is_open()))
}
