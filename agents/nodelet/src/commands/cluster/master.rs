//! The removal of a master by `nodelet cluster remove`.

use anyhow::{Context as _, Result, bail};
use engine::exec::{ACCEPT_QUORUM_LOSS, MasterRemoval, MasterToRemove, remove_master};
use engine::host::{ClusterAccess, Host};

use super::{ended_with_node, named};
use crate::cli::ClusterRemoveArgs;
use crate::output::exit::Exit;

/// Removes a master. `None` if nothing of this name is a master. Returns what to tell, and the exit code.
pub(super) async fn remove(
    host: &dyn Host,
    access: &ClusterAccess,
    args: &ClusterRemoveArgs,
) -> Result<Option<(String, Exit)>> {
    let name = args.node.as_str();
    let master = MasterToRemove {
        name,
        within: args.within,
        force: args.force,
        accepts_quorum_loss: args.accept_quorum_loss,
    };
    let removal = remove_master(host, access, &master).await;
    // It may be a worker.
    let removal = removal.with_context(|| format!("remove {name}"))?;
    outcome(name, &removal)
}

fn outcome(name: &str, removal: &MasterRemoval) -> Result<Option<(String, Exit)>> {
    Ok(Some(match removal {
        MasterRemoval::Removed { voters, left } => {
            let mut text = format!("master {name} is removed\n{}", ended_with_node(left));
            if voters % 2 == 0 {
                text += &format!(
                    "etcd has {voters} members with a vote: an even number survives no more failures than one member less; add or remove a master\n"
                );
            }
            text += "if its host still has the role, run `nodelet clean --purge` there\n";
            (text, Exit::Ok)
        }
        MasterRemoval::PodsLeft(left) => {
            let text = format!(
                "node {name} is cordoned and is still a member of etcd, because these pods are left: {}\nrun the command again, or with --force\n",
                named(left)
            );
            (text, Exit::Pending)
        }
        MasterRemoval::Refused(lost) => bail!(
            "remove master {name}: {lost}; bring the other members up first (`nodelet etcd members`), or use {ACCEPT_QUORUM_LOSS}"
        ),
        MasterRemoval::ThisHost => {
            bail!("remove master {name}: it is this host; run the command on another master")
        }
        MasterRemoval::NoMember => bail!(
            "remove master {name}: this host was removed from etcd meanwhile; run the command on a master of the cluster if {name} is still to be removed; otherwise `kubectl uncordon` its node there"
        ),
        MasterRemoval::Before => (format!("master {name} was removed before\n"), Exit::Ok),
        MasterRemoval::Unknown => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use engine::host::RemainingPod;
    use engine::kubernetes::etcd_members::QuorumLoss;

    use super::*;

    #[test]
    fn each_end_of_a_removal_has_its_exit_code() {
        let pod = RemainingPod {
            name: "shop/web".to_owned(),
            reason: "a budget".to_owned(),
        };
        let lost = QuorumLoss {
            member: "m-2".to_owned(),
            voters: 2,
            working: Vec::new(),
            broken: vec!["m-3: it is down".to_owned()],
        };
        let removed = |voters| MasterRemoval::Removed {
            voters,
            left: Vec::new(),
        };
        for (removal, code, said) in [
            (removed(3), Some(0), "nodelet clean --purge"),
            (removed(2), Some(0), "even number"),
            (MasterRemoval::Before, Some(0), "was removed before"),
            (
                MasterRemoval::PodsLeft(vec![pod]),
                Some(2),
                "shop/web (a budget)",
            ),
            (MasterRemoval::Refused(lost), None, "--accept-quorum-loss"),
            (MasterRemoval::ThisHost, None, "another master"),
            (MasterRemoval::NoMember, None, "was removed from etcd"),
        ] {
            let (text, exit) = match outcome("m-2", &removal) {
                Ok(told) => told
                    .map(|(text, exit)| (text, Some(exit.code())))
                    .expect("it is told"),
                Err(error) => (error.to_string(), None),
            };
            assert_eq!(exit, code, "{removal:?}");
            assert!(text.contains(said), "{text}");
        }
        let unknown = outcome("m-2", &MasterRemoval::Unknown).expect("no error");
        assert!(unknown.is_none());
    }
}
