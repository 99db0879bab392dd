//! Pod subnets: the nodes below are fetched the first time that they are asked for, and so are the claims. A worker may list only the nodes.

use crate::host::overlay::OverlayHost;
use crate::host::{ClusterAccess, ClusterNode, HostResult, PodSubnets, SubnetClaim, SubnetNode};

#[async_trait::async_trait]
impl PodSubnets for OverlayHost<'_> {
    async fn subnet_nodes(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetNode>> {
        self.fetch_subnet_nodes(access).await?;
        self.upper.subnet_nodes(access).await
    }

    async fn subnet_claims(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetClaim>> {
        self.fetch_subnet_claims(access).await?;
        self.upper.subnet_claims(access).await
    }

    async fn claim_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool> {
        self.changes();
        self.fetch_subnet_claims(access).await?;
        self.upper.claim_subnet(access, claim).await
    }

    async fn release_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<()> {
        self.changes();
        self.fetch_subnet_claims(access).await?;
        self.upper.release_subnet(access, claim).await
    }

    async fn assign_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool> {
        self.changes();
        self.fetch_subnet_claims(access).await?;
        self.upper.assign_subnet(access, claim).await
    }
}

impl OverlayHost<'_> {
    /// Fetches the nodes with their subnets.
    async fn fetch_subnet_nodes(&self, access: &ClusterAccess) -> HostResult<()> {
        self.fetch_servers_or_know(access).await?;
        if self.known().subnet_nodes {
            return Ok(());
        }
        let action = "list the pod subnets of all nodes";
        let nodes = self.listed(action, self.lower.subnet_nodes(access)).await?;
        self.upper.with_world_mut(|world| {
            for node in nodes.into_iter().flatten() {
                // What is already known of a node is kept.
                let subnet = node.subnets.first().map(ToString::to_string);
                let entry = world.cluster.nodes.entry(node.name);
                let entry = entry.or_insert_with(|| ClusterNode {
                    pod_cidr: subnet,
                    ..ClusterNode::default()
                });
                entry.uid = node.uid;
                entry.addresses = node.addresses;
                entry.created = node.created;
            }
        });
        self.known().subnet_nodes = true;
        Ok(())
    }

    /// Fetches the nodes, and the claims of subnets.
    async fn fetch_subnet_claims(&self, access: &ClusterAccess) -> HostResult<()> {
        self.fetch_subnet_nodes(access).await?;
        if self.known().subnet_claims {
            return Ok(());
        }
        let action = "list the claims of pod subnets";
        let claims = self.listed(action, self.lower.subnet_claims(access));
        let claims = claims.await?.into_iter().flatten();
        let claims = claims.map(|claim| (claim.subnet, claim));
        self.upper
            .with_world_mut(|world| world.cluster.subnet_claims.extend(claims));
        self.known().subnet_claims = true;
        Ok(())
    }
}
