//! Arguments of the commands about other nodes of the cluster: how they join, and what masters do for them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use engine::host::Taint;
use engine::kubernetes::admission::parse_taint;

use crate::cli::role::RoleArgs;

/// The kubeconfig for the API server of this host, which only masters have.
pub(crate) const LOCAL_ADMIN: &str = "/etc/pf9/kube.d/kubeconfigs/local-admin.yaml";
/// Longest validity of a join file: a thief who has it and the key of its host can join.
const LONGEST_VALIDITY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Args)]
pub(crate) struct PodSubnetsArgs {
    /// The cluster's network for pods.
    #[arg(long, value_name = "CIDR")]
    pub(crate) network: ipnet::IpNet,

    /// The prefix length of a node's subnet.
    #[arg(long, value_name = "LENGTH")]
    pub(crate) prefix: u8,

    /// The kubeconfig with which the API server is reached.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct MastersArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    /// The address at which this host's member of etcd answers other members.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: IpAddr,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// Print the public key of this host, for the option `--to` of `nodelet pki issue` and `nodelet pki export` on a master. The first call makes the key.
    Key(PkiKeyArgs),
    /// Admit a node to the cluster of this master, and write the join file for its host.
    ///
    /// The file is encrypted to the host. With it, the host can ask for the certificates of this node and of no other. An earlier join
    /// file of the node is no longer valid.
    Issue(PkiIssueArgs),
    /// Write the join file of another master: the keys of this cluster, encrypted to that host.
    ///
    /// With it, the host can act as the cluster. So copy it to no other host, and remove it when the host has joined. Changes nothing in
    /// the cluster.
    Export(PkiExportArgs),
    /// Decide about all open requests of nodes for certificates, and sign those that are allowed, as nodeletd does on masters.
    ///
    /// Exit codes: 0 each request was signed or denied; 1 a request could not be decided.
    Sign(PkiSignArgs),
}

impl PkiCommand {
    /// Whether JSON was asked for.
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Key(args) => args.json,
            Self::Issue(args) => args.file.role.json,
            Self::Export(args) => args.file.role.json,
            Self::Sign(args) => args.json,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PkiKeyArgs {
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// For which host a join file is, and where it goes: the same for both kinds of join files.
#[derive(Debug, Args)]
pub(crate) struct JoinFileArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,

    #[command(flatten)]
    pub(crate) sealed: SealedFileArgs,
}

/// For which host a file with secrets is, how long it is valid, and where it goes.
#[derive(Debug, Args)]
pub(crate) struct SealedFileArgs {
    /// The public key of the host that gets the file, as `nodelet pki key` prints it there.
    #[arg(long, value_name = "KEY")]
    pub(crate) to: String,

    /// Time in which that host has to take the file, for example 30m; at most 24 hours.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = validity)]
    pub(crate) valid_for: Duration,

    /// Write the file here instead of to standard output. The file is replaced.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PkiIssueArgs {
    #[command(flatten)]
    pub(crate) file: JoinFileArgs,

    /// The name of the node: the host name of its host, in lower case.
    pub(crate) node: String,

    /// Admit the host even if a node of this name is Ready, or was removed a short time ago: the host takes its place. The earlier host
    /// stays accepted until its certificates end, at most 30 days: if it is not trusted, use another name.
    #[arg(long)]
    pub(crate) replace: bool,

    /// A taint that the masters keep on the node, with the effect NoSchedule, PreferNoSchedule or NoExecute. May be repeated, up to 16
    /// times. These take the place of the taints from earlier. Without this option, the node keeps those. `nodelet cluster taint` changes
    /// them later.
    #[arg(long, value_name = "KEY[=VALUE]:EFFECT", value_parser = parse_taint)]
    pub(crate) taint: Vec<Taint>,
}

#[derive(Debug, Args)]
pub(crate) struct PkiExportArgs {
    #[command(flatten)]
    pub(crate) file: JoinFileArgs,

    /// The name of the new master's node: the host name of its host, in lower case.
    pub(crate) node: String,

    /// The number of masters that the cluster is to have in the end: 1, 3 or 5. Without it, a host with which the number becomes even is
    /// refused.
    #[arg(long, value_name = "NUMBER", value_parser = number_of_masters)]
    pub(crate) of: Option<u8>,

    /// Make the file even if a master or a node has this name: the host takes its place.
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PkiSignArgs {
    /// Life of the certificates; at most 30 days.
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = life)]
    pub(crate) life: Duration,

    /// The kubeconfig with which the API server is reached.
    #[arg(long, value_name = "FILE", default_value = LOCAL_ADMIN)]
    pub(crate) kubeconfig: PathBuf,

    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

fn number_of_masters(text: &str) -> Result<u8, String> {
    match text.parse::<u8>() {
        Ok(number @ (1 | 3 | 5)) => Ok(number),
        Ok(_) | Err(_) => Err("a cluster has 1, 3 or 5 masters".to_owned()),
    }
}

/// The time for which a file with secrets is valid, for example `30m`.
fn validity(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(60) || time > LONGEST_VALIDITY {
        return Err("a file for another host is valid from 1 minute to 24 hours".to_owned());
    }
    Ok(time)
}

fn life(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(60) {
        return Err("a certificate lives at least 1 minute".to_owned());
    }
    Ok(time.min(engine::exec::LONGEST_LIFE))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn a_taint_of_a_worker_is_checked_and_may_be_repeated() {
        for (options, is_allowed) in [
            (&[][..], true),
            (
                &["--taint", "gpu=true:NoSchedule", "--taint", "a:NoExecute"],
                true,
            ),
            (&["--taint", "gpu"], false),
            (&["--taint", "node.kubernetes.io/a:NoSchedule"], false),
        ] {
            let words = ["nodelet", "pki", "issue", "w-1", "--to", "age1"];
            let words = words.iter().chain(options);
            assert_eq!(
                Cli::try_parse_from(words).is_ok(),
                is_allowed,
                "{options:?}"
            );
        }
        for (taints, is_allowed) in [
            (&[][..], false),
            (&["gpu=true:NoSchedule", "a:NoExecute"], true),
            (&["--none"], true),
            (&["--none", "a:NoExecute"], false),
            (&["a"], false),
        ] {
            let words = ["nodelet", "cluster", "taint", "w-1"];
            let words = words.iter().chain(taints);
            assert_eq!(Cli::try_parse_from(words).is_ok(), is_allowed, "{taints:?}");
        }
    }
}
