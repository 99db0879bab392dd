//! Arguments of the commands that a master has about the other hosts of its cluster.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use engine::host::Taint;
use engine::kubernetes::admission::parse_taint;

use crate::cli::role::RoleArgs;

/// Longest time for the pods of a worker to end.
const LONGEST_EVICTION: Duration = Duration::from_secs(3600);

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Remove a worker or another master from the cluster of this master (docs/clusters.md).
    ///
    /// Its pods are evicted, and its node is deleted. A worker gets no certificates any more. A master leaves etcd, and keeps the keys of the cluster. Run `nodelet clean` on the host of the worker
    /// first, if it still runs: if its kubelet registers the node again, masters delete it again.
    ///
    /// Exit codes: 0 the host is removed; 1 the command failed or was refused; 2 pods are left, and the node stays.
    Remove(ClusterRemoveArgs),
    /// Change the taints that the masters keep on the node of a worker (docs/clusters.md).
    ///
    /// They take the place of those that `nodelet pki issue --taint` or an earlier call named. Other taints of the node stay as they are.
    Taint(ClusterTaintArgs),
    /// Show the state of the cluster as this master sees it: nodes, virtual IP, etcd members, versions, certificates, the newest backups.
    ///
    /// Changes nothing, and takes at most 15 seconds. What does not answer is shown as unknown, with the reason.
    ///
    /// Exit codes: 0 all is well; 1 something is unknown, and there is no known problem; 2 there are problems.
    Status(ClusterStatusArgs),
}

impl ClusterCommand {
    /// Whether JSON was asked for.
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Remove(_) | Self::Taint(_) => false,
            Self::Status(args) => args.role.json,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ClusterStatusArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// Write metrics in Prometheus' text format.
    #[arg(long, conflicts_with = "json")]
    pub(crate) metrics: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterRemoveArgs {
    /// The name of the node; or the address or the id of a member of etcd, as `nodelet etcd members` prints it.
    pub(crate) node: String,

    /// Time in which its pods have to end, for example 5m; at most 1 hour. Less if its kubelet does not report: about half a minute after that is seen.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = eviction)]
    pub(crate) within: Duration,

    /// Delete the node even if pods are left on it. They end without regard to disruption budgets.
    #[arg(long)]
    pub(crate) force: bool,

    /// Remove a master although etcd loses its quorum: the cluster then accepts no writes until enough members work again.
    #[arg(long)]
    pub(crate) accept_quorum_loss: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterTaintArgs {
    /// The name of the node.
    pub(crate) node: String,

    /// All taints that the masters are to keep on it, at most 16, with the effect NoSchedule, PreferNoSchedule or NoExecute.
    #[arg(
        value_name = "KEY[=VALUE]:EFFECT",
        value_parser = parse_taint,
        required_unless_present = "none"
    )]
    pub(crate) taints: Vec<Taint>,

    /// Keep no taints on it.
    #[arg(long, conflicts_with = "taints")]
    pub(crate) none: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WorkersArgs {
    /// The kubeconfig with which the API server is reached.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
}

/// The time of an eviction, for example `5m`.
fn eviction(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) || time > LONGEST_EVICTION {
        return Err("an eviction takes from 1 second to 1 hour".to_owned());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eviction_has_a_limit() {
        for (text, is_allowed) in [("1s", true), ("1h", true), ("61m", false), ("0s", false)] {
            assert_eq!(eviction(text).is_ok(), is_allowed, "{text}");
        }
    }
}
