//! `nodelet cluster remove` removes a worker or another master (`master`) from the cluster, and `taint` changes the taints of a worker. `nodelet
//! workers` labels and taints workers, ends their tokens, and deletes the nodes of workers that have left or were removed, which nodeletd runs.
//! `masters` keeps the list of masters, `trust` takes the authorities on a worker, and `other_settings` warns where masters differ.

mod master;
mod masters;
mod other_settings;
mod trust;

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use engine::host::live::LiveHost;
use engine::host::{ClusterAccess, Host, RemainingPod};
use engine::kubernetes::admission::{check_taints, set_taints};
use engine::kubernetes::join_file::is_node_name;
use engine::kubernetes::workers::{
    Care, LEFT, Removal, care_for_workers, keep_taints_of, remove_worker,
};
use engine::model::chain;

use super::pki::made_file::nodes;
use super::run::only_root;
use crate::cli::{ClusterCommand, ClusterRemoveArgs, ClusterTaintArgs, LOCAL_ADMIN, WorkersArgs};
use crate::output::exit::{Exit, WrongArguments};
use crate::output::{error_report, say};
pub(crate) use masters::{apply_with_list, joining_address, masters, phases_without_list};
pub(crate) use other_settings::warn_of_other_settings;
pub(crate) use trust::trust;

/// Maximum number of remaining pods that a message names.
const NAMED: usize = 10;

pub(crate) async fn cluster(command: &ClusterCommand) -> Result<Exit> {
    match command {
        ClusterCommand::Remove(args) => remove(args).await,
        ClusterCommand::Taint(args) => taint(args).await,
        ClusterCommand::Status(args) => super::cluster_status::status(args).await,
    }
}

async fn remove(args: &ClusterRemoveArgs) -> Result<Exit> {
    let name = args.node.as_str();
    if !may_be_named(name) {
        let text = format!(
            "remove a host from the cluster: {name:?} is neither a name that a node can have nor an address"
        );
        return Err(WrongArguments(text).into());
    }
    only_root("remove a host from the cluster")?;
    let kubeconfig = Path::new(LOCAL_ADMIN);
    if !kubeconfig.exists() {
        bail!("remove {name}: run this on a master; this host has no {LOCAL_ADMIN}");
    }
    let access = ClusterAccess::with(kubeconfig);
    let (text, exit) = remove_host(&LiveHost::new(), &access, args).await?;
    say(&text);
    Ok(exit)
}

/// Removes a worker or a master. Returns what to tell, and the exit code.
async fn remove_host(
    host: &dyn Host,
    access: &ClusterAccess,
    args: &ClusterRemoveArgs,
) -> Result<(String, Exit)> {
    let name = args.node.as_str();
    // A master that cannot read the cluster does not know what has this name.
    nodes("remove", name, host, access).await?;
    if let Some(told) = master::remove(host, access, args).await? {
        return Ok(told);
    }
    let removal = match is_node_name(name) {
        true => remove_worker(host, access, name, args.within, args.force)
            .await
            .with_context(|| format!("remove worker {name}"))?,
        false => Removal::Unknown,
    };
    outcome(name, &removal)
}

async fn taint(args: &ClusterTaintArgs) -> Result<Exit> {
    let name = args.node.as_str();
    // Before the question who runs it, as the parser does.
    if !is_node_name(name) {
        let text = format!("taint a worker: {name:?} is no name that a node can have");
        return Err(WrongArguments(text).into());
    }
    if let Err(why) = check_taints(&args.taints) {
        return Err(WrongArguments(format!("taint worker {name}: {why}")).into());
    }
    only_root("taint a worker")?;
    let kubeconfig = Path::new(LOCAL_ADMIN);
    if !kubeconfig.exists() {
        bail!("taint worker {name}: run this on a master; this host has no {LOCAL_ADMIN}");
    }
    let access = ClusterAccess::with(kubeconfig);
    let host = LiveHost::new();
    let is_noted = set_taints(&host, &access, name, &args.taints).await;
    if !is_noted.with_context(|| format!("taint worker {name}"))? {
        bail!(
            "taint worker {name}: no master has admitted this node (`nodelet pki issue`), or it was removed; `kubectl taint node {name}` taints other nodes"
        );
    }
    let tainted = keep_taints_of(&host, &access, name).await;
    tainted.with_context(|| {
        format!(
            "taint worker {name}: its record of admission is changed, and its node may not be; run the command again"
        )
    })?;
    let named: Vec<String> = args.taints.iter().map(ToString::to_string).collect();
    say(&match named.as_slice() {
        [] => format!("the masters keep no taints on worker {name}\n"),
        named => format!(
            "the masters keep these taints on worker {name}: {}\n",
            named.join(", ")
        ),
    });
    Ok(Exit::Ok)
}

/// Whether a node or a member of etcd can be named so. An id of a member looks like the name of a node.
fn may_be_named(name: &str) -> bool {
    is_node_name(name) || name.parse::<IpAddr>().is_ok()
}

/// What to tell about a removal, and the exit code.
fn outcome(name: &str, removal: &Removal) -> Result<(String, Exit)> {
    Ok(match removal {
        Removal::Removed { left } => {
            let text = format!(
                "worker {name} is removed\n{}if its host still has the role, run `nodelet clean --purge` there: masters delete a node that its kubelet registers again\n",
                ended_with_node(left)
            );
            (text, Exit::Ok)
        }
        Removal::WithoutNode => {
            let text = format!(
                "worker {name} has no node; its join file and its admission are no longer valid\n"
            );
            (text, Exit::Ok)
        }
        Removal::Before => (format!("worker {name} was removed before\n"), Exit::Ok),
        Removal::PodsLeft(left) => {
            let text = format!(
                "node {name} is cordoned and gets no certificates any more, but these pods are left: {}\nrun the command again, or with --force\n",
                named(left)
            );
            (text, Exit::Pending)
        }
        Removal::Master => bail!("remove worker {name}: it is a master"),
        Removal::NotAdmitted => bail!(
            "remove worker {name}: no master has admitted this node (`nodelet pki issue`); `kubectl delete node {name}` deletes it"
        ),
        Removal::Unknown => bail!(
            "remove {name}: the cluster has no such node, and etcd no member of this name, address or id (`nodelet etcd members`)"
        ),
    })
}

/// A line about the pods that were left on a node that is deleted; nothing if there were none.
fn ended_with_node(left: &[RemainingPod]) -> String {
    match left {
        [] => String::new(),
        left => format!("these pods were left and end with it: {}\n", named(left)),
    }
}

/// The remaining pods, each with its reason.
fn named(left: &[RemainingPod]) -> String {
    let first = left.iter().take(NAMED);
    let first = first.map(|pod| format!("{} ({})", pod.name, pod.reason));
    let mut text = first.collect::<Vec<_>>().join(", ");
    if left.len() > NAMED {
        text += &format!(" and {} more", left.len() - NAMED);
    }
    text
}

pub(crate) async fn workers(args: &WorkersArgs) -> Result<Exit> {
    let access = ClusterAccess::with(&args.kubeconfig);
    let mut exit = Exit::Ok;
    for (node, result) in care_for_workers(&LiveHost::new(), &access).await? {
        match result {
            Ok(Care::Taint) => say(&format!(
                "node {node} has the taints of its record of admission\n"
            )),
            Ok(Care::Label) => say(&format!("node {node} is labelled as a worker\n")),
            Ok(Care::Delete) => say(&format!("node {node} is deleted: its worker has left\n")),
            Ok(Care::DeleteRemoved) => say(&format!(
                "node {node} is deleted: it was removed from the cluster, and its host still has a certificate; `nodelet clean --purge` there ends its repairs\n"
            )),
            Ok(Care::Unmark) => say(&format!("worker {node} has come back\n")),
            Ok(Care::UnmarkUnreadable) => error_report::say(&format!(
                "nodelet: warning: the annotation {LEFT} of node {node} was no time, and is removed"
            )),
            Ok(Care::EndToken) => say(&format!(
                "worker {node} uses its own certificate, and its token has ended\n"
            )),
            Ok(Care::Forget) => say(&format!(
                "the record of worker {node}, which was removed, is deleted: its certificates have ended\n"
            )),
            Err(error) => {
                let why = chain(&error).join(": ");
                error_report::say(&format!("nodelet: could not {why}"));
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use engine::host::fake::FakeHost;
    use engine::kubernetes::masters::MASTERS;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::output::exit;

    #[test]
    fn nodes_and_members_can_be_named() {
        for name in ["m-1", "91bc3c398fb3c146", "172.30.0.13", "fd00::13"] {
            assert!(may_be_named(name), "{name}");
        }
        for name in ["", "M 1", "fd00::13/64", "../m-1"] {
            assert!(!may_be_named(name), "{name}");
        }
    }

    /// The parser looks at each argument alone.
    #[tokio::test]
    async fn arguments_that_are_wrong_end_with_64() {
        let tainted = |node: &str, taints: &[&str]| {
            let words = [&["nodelet", "cluster", "taint", node][..], taints].concat();
            Cli::try_parse_from(words).expect("the parser takes them")
        };
        let many: Vec<String> = (0..17).map(|key| format!("k-{key}:NoSchedule")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (cli, says) in [
            (tainted("W_1", &["a:NoSchedule"]), "no name that a node"),
            (tainted("w-1", &["a:NoSchedule", "a:NoSchedule"]), "twice"),
            (tainted("w-1", &many), "too many"),
            (
                Cli::parse_from(["nodelet", "cluster", "remove", "W_1"]),
                "neither a name",
            ),
        ] {
            let Command::Cluster(command) = &cli.command else {
                panic!("it is another command");
            };
            let error = cluster(command).await.expect_err("it is refused");
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(exit::of(&error), Exit::Usage, "{error}");
        }
    }

    /// Two of three masters are down, so that no API server can read.
    #[tokio::test]
    async fn without_a_quorum_a_removal_names_it_and_the_next_step() {
        let masters = r#"{"version":1,"masters":[{"name":"m-1","address":"172.30.0.11","voter":true},{"name":"m-2","address":"172.30.0.12","voter":true},{"name":"m-3","address":"172.30.0.13","voter":true}]}"#;
        let host = FakeHost::new()
            .with_file("/etc/kubeconfig", "")
            .with_file(MASTERS, masters);
        let access = ClusterAccess::with(Path::new("/etc/kubeconfig"));
        let cli = Cli::parse_from(["nodelet", "cluster", "remove", "w-1"]);
        let Command::Cluster(ClusterCommand::Remove(args)) = &cli.command else {
            panic!("it is another command");
        };
        let error = remove_host(&host, &access, args).await;
        let said = chain(error.expect_err("nothing answers").as_ref()).join(": ");
        assert!(
            said.starts_with("remove `w-1`: this master cannot read"),
            "{said}"
        );
        for part in [
            "`nodelet check`",
            "on another master: list the nodes: ",
            ": etcd has no quorum",
            "m-2: ",
        ] {
            assert!(said.contains(part), "{said}");
        }
        // Then it is known what has the name.
        host.with_world_mut(|world| {
            for last in [11, 12, 13] {
                let address = format!("172.30.0.{last}");
                world
                    .etcd
                    .voter(&format!("m-{}", last - 10), &address, last);
            }
        });
        let host = host.with_kubernetes(|rules| rules.remote_api = true);
        let error = remove_host(&host, &access, args).await;
        let said = error.expect_err("there is none").to_string();
        assert!(said.contains("has no such node"), "{said}");
    }

    #[test]
    fn each_end_of_a_removal_has_its_exit_code() {
        let pods = |count: usize| {
            let pod = |number| RemainingPod {
                name: format!("shop/web-{number}"),
                reason: "a budget".to_owned(),
            };
            (0..count).map(pod).collect::<Vec<_>>()
        };
        for (removal, code, said) in [
            (
                Removal::Removed { left: Vec::new() },
                Some(0),
                "nodelet clean",
            ),
            (
                Removal::Removed { left: pods(1) },
                Some(0),
                "shop/web-0 (a budget)",
            ),
            (Removal::WithoutNode, Some(0), "has no node"),
            (Removal::Before, Some(0), "was removed before"),
            (Removal::PodsLeft(pods(12)), Some(2), "and 2 more"),
            (Removal::Master, None, "it is a master"),
            (Removal::NotAdmitted, None, "kubectl delete node w-1"),
            (Removal::Unknown, None, "has no such node"),
        ] {
            let (text, exit) = match outcome("w-1", &removal) {
                Ok((text, exit)) => (text, Some(exit.code())),
                Err(error) => (error.to_string(), None),
            };
            assert_eq!(exit, code, "{removal:?}");
            assert!(text.contains(said), "{text}");
        }
    }
}
