//! Whether another host runs the API server of the cluster: then the cluster exists, and etcd must not begin another one.

use std::path::Path;
use std::time::Duration;

use crate::host::{Host, HttpsRequest};
use crate::kubernetes::masters::host_address;
use crate::model::chain;
use crate::resource::ResourceResult;

/// The authority of API servers.
pub(super) const AUTHORITY: &str = "/etc/pf9/kube.d/ca/cluster/ca.crt";

/// What shows that an API server answers at this URL; `None` if nothing does, or if the address is this host's own. Every answer over TLS
/// counts, also a refusal and that of a server of another authority. A connection that is refused or reset does not: so does a load
/// balancer without servers.
pub(super) async fn answers(
    api: &str,
    timeout: Duration,
    host: &dyn Host,
) -> ResourceResult<Option<String>> {
    if is_own(api, host).await? {
        return Ok(None);
    }
    // A bare host has no authority: then it trusts no server, and the failed handshake is the answer.
    let authority = Path::new(AUTHORITY);
    let has_authority = host.entry(authority).await?.is_some();
    let request = HttpsRequest {
        url: format!("{api}/version"),
        ca: has_authority.then(|| authority.to_owned()),
        client: None,
        timeout,
    };
    Ok(match host.https_get(&request).await {
        Ok(answer) => Some(format!("HTTP status {}", answer.status)),
        Err(error) if error.is_answer() => Some(chain(&error).join(": ")),
        Err(_) => None,
    })
}

/// Whether a URL leads to an address of this host.
async fn is_own(url: &str, host: &dyn Host) -> ResourceResult<bool> {
    let Some(address) = host_address(url) else {
        return Ok(false);
    };
    let links = host.links().await?;
    let mut own = links.iter().flat_map(|link| &link.addresses);
    Ok(address.is_loopback() || own.any(|(its, _)| *its == address))
}
