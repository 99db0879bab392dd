//! Members of etcd: asked below until they are changed above. A change fetches all members with their states first.

use std::time::Duration;

use crate::host::overlay::OverlayHost;
use crate::host::{EtcdKey, EtcdLock, EtcdMember, EtcdMembers, EtcdStatus, HostResult};

#[async_trait::async_trait]
impl EtcdMembers for OverlayHost<'_> {
    async fn member_list(&self, endpoints: &[String]) -> HostResult<Vec<EtcdMember>> {
        if self.known().members {
            return self.upper.member_list(endpoints).await;
        }
        self.lower.member_list(endpoints).await
    }

    async fn member_add_learner(&self, endpoints: &[String], peer_url: &str) -> HostResult<u64> {
        self.fetch_members(endpoints).await?;
        self.upper.member_add_learner(endpoints, peer_url).await
    }

    async fn member_promote(&self, endpoints: &[String], id: u64) -> HostResult<()> {
        self.fetch_members(endpoints).await?;
        self.upper.member_promote(endpoints, id).await
    }

    async fn member_remove(&self, endpoints: &[String], id: u64) -> HostResult<()> {
        self.fetch_members(endpoints).await?;
        self.upper.member_remove(endpoints, id).await
    }

    async fn take_lock(
        &self,
        endpoints: &[String],
        key: &str,
        holder: &str,
        life: Duration,
    ) -> HostResult<EtcdLock> {
        self.fetch_members(endpoints).await?;
        self.upper.take_lock(endpoints, key, holder, life).await
    }

    async fn release_lock(&self, endpoints: &[String], lease: u64) -> HostResult<()> {
        self.fetch_members(endpoints).await?;
        self.upper.release_lock(endpoints, lease).await
    }

    async fn get_key(&self, endpoints: &[String], key: &str) -> HostResult<Option<EtcdKey>> {
        if self.known().members {
            let above = self.upper.get_key(endpoints, key).await?;
            if above.is_some() {
                return Ok(above);
            }
        }
        self.lower.get_key(endpoints, key).await
    }

    async fn put_key(&self, endpoints: &[String], key: &str, value: &str) -> HostResult<u64> {
        self.fetch_members(endpoints).await?;
        self.upper.put_key(endpoints, key, value).await
    }

    async fn member_status(&self, endpoint: &str) -> HostResult<EtcdStatus> {
        if self.known().members {
            return self.upper.member_status(endpoint).await;
        }
        self.lower.member_status(endpoint).await
    }
}

impl OverlayHost<'_> {
    /// Fetches the members and their states before the first change above.
    async fn fetch_members(&self, endpoints: &[String]) -> HostResult<()> {
        self.changes();
        if self.known().members {
            return Ok(());
        }
        let members = self.lower.member_list(endpoints).await?;
        let mut states = Vec::new();
        for url in members.iter().flat_map(|member| &member.client_urls) {
            // A member that does not answer below does not answer above.
            if let Ok(status) = self.lower.member_status(url).await {
                states.push((url.clone(), status));
            }
        }
        self.known().members = true;
        self.upper.with_world_mut(|world| {
            world.etcd.members = members;
            world.etcd.states = states.into_iter().collect();
        });
        Ok(())
    }
}
