//! Whether the keys of the cluster may be exported: not while a master replaces one of them, because the host that gets them would not take part.
//!
//! What this host has is not the whole truth: it may not have begun yet. So this asks what the others show (`rollout`) and who makes a
//! successor (`claim`). Not here: what this host has (`resource::pki::export_keys`).

use super::claim::{claim_of, name};
use super::rollout::shown;
use crate::exec::kubernetes::quorum::endpoints;
use crate::host::{ClusterAccess, Host};
use crate::kubernetes::masters;
use crate::resource::pki::Stage;
use crate::resource::{ResourceError, ResourceResult};

/// Refuses the export of keys while one of `all` is replaced on any master: authorities and the encryption keys. Reads only. Cancel safe.
///
/// # Errors
/// One is replaced, it is not known which masters there are, or the API server does not answer.
pub async fn check_export(
    host: &dyn Host,
    access: &ClusterAccess,
    all: &[&str],
) -> ResourceResult<()> {
    let listed = masters::read(host).await?;
    let members = host.member_list(&endpoints(&listed)).await?;
    let nodes = host.nodes(access).await?;
    for of in all {
        let takes_part = |node: &&String| {
            let its = shown(of, node, &members, &nodes);
            its.is_some_and(|its| its.stage != Stage::Settled)
        };
        let why = if let Some(node) = nodes.keys().find(takes_part) {
            format!("master {node} takes part in its replacement")
        } else if claim_of(host, access, of).await?.is_some() {
            format!(
                "a master has claimed its replacement (ConfigMap {})",
                name(of)
            )
        } else {
            continue;
        };
        return Err(ResourceError::Unmet {
            what: format!("export `{of}`: {why}, and another master would not take part in that"),
            next: format!(
                "finish the replacement on each master (`nodelet certs rollout {of}`); if the host of one is lost, `nodelet cluster remove NODE` on another master; if all that are left have finished, take `nodelet certs rotate {of} finish` again on one of them, which ends the claim; only if none has begun: `kubectl -n kube-system delete configmap {}`",
                name(of)
            ),
        });
    }
    Ok(())
}
