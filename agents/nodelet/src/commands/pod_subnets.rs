//! `nodelet pod-subnets`: assigns a pod subnet to each node of the cluster that has none; nodeletd runs it.

use anyhow::Result;
use engine::host::ClusterAccess;
use engine::host::live::LiveHost;
use engine::kubernetes::{SubnetPool, allocate_all};

use crate::cli::PodSubnetsArgs;
use crate::output::exit::Exit;
use crate::output::{error_report, say};

pub(crate) async fn pod_subnets(args: &PodSubnetsArgs) -> Result<Exit> {
    let access = ClusterAccess::with(&args.kubeconfig);
    let pool = SubnetPool {
        network: args.network.trunc(),
        prefix: args.prefix,
    };
    let mut exit = Exit::Ok;
    for (node, result) in allocate_all(&LiveHost::new(), &access, pool).await? {
        match result {
            Ok(subnet) => say(&format!("node {node} has the pod subnet {subnet}\n")),
            Err(error) => {
                let chain = engine::model::chain(&error).join(": ");
                error_report::say(&format!("nodelet: could not {chain}"));
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}
