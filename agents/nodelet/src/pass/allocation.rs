//! How the nodes of the cluster get their pod subnets, if this host assigns them.

use std::path::PathBuf;

use engine::host::{ClusterAccess, Host};
use engine::kubernetes::SubnetPool;
use serde::{Deserialize, Serialize};

use super::timeouts::TIMEOUT;

/// Where subnets come from, and how the API server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Allocation {
    pub(crate) pool: SubnetPool,
    pub(crate) kubeconfig: PathBuf,
}

impl Allocation {
    /// The command that allocates.
    pub(crate) fn words(&self) -> Vec<String> {
        let words = [
            "pod-subnets",
            "--network",
            &self.pool.network.to_string(),
            "--prefix",
            &self.pool.prefix.to_string(),
            "--kubeconfig",
            &self.kubeconfig.display().to_string(),
        ];
        words.map(str::to_owned).to_vec()
    }
}

/// Nodes without a pod subnet, as far as the API server reported them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WithoutSubnet {
    /// The first of them.
    pub(crate) named: Vec<String>,
    /// How many there are beside those.
    pub(crate) more: usize,
    /// Why they are not known; empty if they are, or if the API server was not asked.
    pub(crate) unknown: String,
}

/// Maximum number of node names in a report.
const NAMED_NODES: usize = 5;

/// The nodes that have no pod subnet.
pub(super) async fn nodes_without_subnet(host: &dyn Host, kubeconfig: PathBuf) -> WithoutSubnet {
    let access = ClusterAccess { kubeconfig };
    let asked = tokio::time::timeout(TIMEOUT, host.subnet_nodes(&access)).await;
    let unknown = |why: String| WithoutSubnet {
        unknown: why,
        ..WithoutSubnet::default()
    };
    let nodes = match asked {
        Ok(Ok(nodes)) => nodes,
        Ok(Err(error)) => {
            return unknown(format!(
                "could not {}",
                engine::model::chain(&error).join(": ")
            ));
        }
        Err(_) => return unknown("the API server did not answer".to_owned()),
    };
    let without = nodes.into_iter().filter(|node| node.subnets.is_empty());
    let mut named: Vec<String> = without.map(|node| node.name).collect();
    let more = named.len().saturating_sub(NAMED_NODES);
    named.truncate(NAMED_NODES);
    WithoutSubnet {
        named,
        more,
        unknown: String::new(),
    }
}
