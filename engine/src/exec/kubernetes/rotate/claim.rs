//! Which master makes a successor: at most one does.
//!
//! The claim is a ConfigMap that names the master, because the API server creates it for one client only. It is there until every master has
//! finished. The other masters take the successor from a file. The claim also has the id of what is replaced: so a claim that an interrupted
//! command has left is told from one of the next replacement.

use super::rollout::Rollout;
use crate::host::{ClusterAccess, ConfigMap, Host, HostResult};
use crate::kubernetes::masters::exported;
use crate::kubernetes::shown;
use crate::resource::pki::{Replacement, Rotation, Stage};
use crate::resource::{ResourceError, ResourceResult};

const NAMESPACE: &str = "kube-system";
/// The entry with the name of the master's node.
const MASTER: &str = "master";
/// The entry with the id of what is replaced.
const REPLACES: &str = "replaces";

impl Rollout {
    /// Claims for this host that it makes the successor of what it has at `present`. Fine if it has claimed it before. A claim that was left is
    /// taken over.
    ///
    /// # Errors
    /// Another master has claimed it, a host may still join with the keys that are to be replaced, or the API server does not answer or refuses.
    ///
    /// # Cancel safety
    /// The claim is made or not; the next call goes on.
    pub async fn claim(
        &self,
        host: &dyn Host,
        access: &ClusterAccess,
        present: &Replacement,
    ) -> ResourceResult<()> {
        let found = self.claimable(host, access, present).await?;
        let data = [(MASTER, self.own()), (REPLACES, present.uses.as_str())];
        let data = data.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let new = ConfigMap {
            namespace: NAMESPACE.to_owned(),
            name: name(self.of()),
            data: data.into(),
            version: found.map(|found| found.version).unwrap_or_default(),
            ..ConfigMap::default()
        };
        if host.put_config_map(access, &new).await? {
            // Asked again: an export that has seen no claim has noted its host before.
            let awaited = self.no_host_is_awaited(host, access).await;
            if awaited.is_err()
                && let Some(own) = claim_of(host, access, self.of()).await?
            {
                host.delete_config_map(access, &own).await?;
            }
            return awaited;
        }
        let other = claim_of(host, access, self.of()).await?;
        Err(self.claimed(other.as_ref()))
    }

    /// Whether this host could claim that it makes the successor. Changes nothing.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn check_claim(
        &self,
        host: &dyn Host,
        access: &ClusterAccess,
        present: &Replacement,
    ) -> ResourceResult<()> {
        self.claimable(host, access, present).await.map(drop)
    }

    /// A host that joined with the earlier keys would not take part in the replacement.
    async fn no_host_is_awaited(
        &self,
        host: &dyn Host,
        access: &ClusterAccess,
    ) -> ResourceResult<()> {
        let of = self.of();
        let awaited = exported::awaited(host, access, &self.members()).await?;
        let Some((node, until)) = awaited.first_key_value() else {
            return Ok(());
        };
        Err(ResourceError::Unmet {
            what: format!(
                "replace `{of}`: {} may join with the present keys until {} (`nodelet pki export`)",
                shown(node),
                humantime::format_rfc3339_seconds(*until)
            ),
            next: exported::next_step(&shown(node)),
        })
    }

    /// Whether every master has finished, and the claim of that replacement is still there: the last step was interrupted.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn has_to_end_claim(
        &self,
        host: &dyn Host,
        access: &ClusterAccess,
        present: &Replacement,
    ) -> ResourceResult<bool> {
        if !self.is_over(present) {
            return Ok(false);
        }
        let found = claim_of(host, access, self.of()).await?;
        Ok(found.is_some_and(|found| is_of_earlier(&found, present)))
    }

    /// Ends the claim of the replacement that has led to `present`. Fine if there is none. That of the next replacement stays.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    ///
    /// # Cancel safety
    /// The claim is ended or not; the next call goes on.
    pub async fn end_claim(
        &self,
        host: &dyn Host,
        access: &ClusterAccess,
        present: &Replacement,
    ) -> ResourceResult<()> {
        let found = claim_of(host, access, self.of()).await?;
        if let Some(found) = found.filter(|found| is_of_earlier(found, present)) {
            // If it changed since, it is another claim.
            host.delete_config_map(access, &found).await?;
        }
        Ok(())
    }

    /// The claim that this host may take over, if there is one.
    async fn claimable(
        &self,
        host: &dyn Host,
        access: &ClusterAccess,
        present: &Replacement,
    ) -> ResourceResult<Option<ConfigMap>> {
        let Some(found) = claim_of(host, access, self.of()).await? else {
            self.no_host_is_awaited(host, access).await?;
            return Ok(None);
        };
        let is_own = found.data.get(MASTER).map(String::as_str) == Some(self.own());
        let is_left = || {
            let mut missing = self.missing_masters(Rotation::Begin, present);
            is_of_earlier(&found, present) && missing.next().is_none()
        };
        if is_own || is_left() {
            return Ok(Some(found));
        }
        Err(self.claimed(Some(&found)))
    }

    fn claimed(&self, claim: Option<&ConfigMap>) -> ResourceError {
        let of = self.of();
        let master = claim.and_then(|map| map.data.get(MASTER));
        let master = shown(master.map_or("another one", String::as_str));
        let name = name(of);
        ResourceError::Unmet {
            what: format!("replace `{of}`: master {master} makes its successor"),
            next: format!(
                "run `nodelet certs send {of} --to KEY` there and `nodelet certs rotate {of} begin --from FILE` here; only if no master has a successor (`nodelet certs rollout {of}` on each, also on {master}): `kubectl -n {NAMESPACE} delete configmap {name}`"
            ),
        }
    }
}

/// The claim for a replacement, if there is one. Cancel safe.
///
/// # Errors
/// The API server does not answer or refuses.
pub(super) async fn claim_of(
    host: &dyn Host,
    access: &ClusterAccess,
    of: &str,
) -> HostResult<Option<ConfigMap>> {
    host.config_map(access, NAMESPACE, &name(of)).await
}

/// The name of the ConfigMap.
pub(super) fn name(of: &str) -> String {
    format!("nodelet-rotation-{of}")
}

/// Whether a claim is of a replacement that has ended on this host.
fn is_of_earlier(claim: &ConfigMap, present: &Replacement) -> bool {
    let replaces = claim.data.get(REPLACES);
    present.stage == Stage::Settled && replaces.is_some_and(|replaces| *replaces != present.uses)
}
