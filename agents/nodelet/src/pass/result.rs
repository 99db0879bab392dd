//! What a status pass gives to nodeletd: `nodelet pass` prints it as JSON. How it is made is in `pass` itself.

use engine::exec::PhaseHealth;
use engine::model::PhaseName;
use serde::{Deserialize, Serialize};

use super::allocation::WithoutSubnet;
use super::desired::Desired;
use super::watch_list::WatchList;

/// What nodeletd has to know after a pass.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pass {
    pub(crate) desired: Desired,
    /// Why the settings in use are the last good ones and not those that stand in the files; empty if they are.
    pub(crate) settings_problems: Vec<String>,
    /// Why the role in use is the last good one and not the one that is installed; empty if it is that one.
    #[serde(default)]
    pub(crate) role_problems: Vec<String>,
    /// The release of the installed role, if it is another version than the last good one and comes into force only when the host has its
    /// name again.
    #[serde(default)]
    pub(crate) pending_release: Option<String>,
    /// Why this host may not be worked on with these settings.
    pub(crate) refused: Option<String>,
    /// What fails is restarted by the last good settings and role although `refused` is set, because only the host's name is wrong. Nothing
    /// else is changed.
    #[serde(default)]
    pub(crate) restarts_only: bool,
    /// Why nothing may be changed before the ledger is recovered; empty if the ledger is good.
    #[serde(default)]
    pub(crate) ledger_lost: String,
    /// What is wrong with other data that a clean needs, such as saved contents of files; empty if nothing is.
    #[serde(default)]
    pub(crate) ledger_problem: String,
    /// Digest of the plan.
    pub(crate) digest: String,
    /// Conditions of all phases, in the plan's order.
    pub(crate) health: Vec<PhaseHealth>,
    /// Phases with a condition that does not hold.
    pub(crate) failed: Vec<PhaseName>,
    /// The same phases. A nodeletd from before the present names may run beside a new `nodelet pass` until it is restarted: this name and
    /// those that are renamed below stay in the JSON until the first release.
    #[serde(default)]
    pub(crate) restart_set: Vec<PhaseName>,
    /// Components with a certificate that is good and due for renewal, in the order in which they are renewed.
    pub(crate) due: Vec<String>,
    /// What the role has on the host: nodeletd watches it.
    #[serde(rename = "interests")]
    pub(crate) watch_list: WatchList,
    /// Whether anything of ours is on this host that a clean would remove.
    #[serde(rename = "stands")]
    pub(crate) installed: bool,
    /// Whether anything of the role's own runs, if that is known; looked at only if the role is to be down.
    #[serde(default)]
    pub(crate) runs: Option<bool>,
    /// Backups are enabled, but their directory has no verified backup of this cluster.
    #[serde(default)]
    pub(crate) lacks_backup: bool,
    /// Phases with damage that no restart of them repairs: a lost key, a refused token, a damaged package. Nothing is restarted because
    /// of it.
    #[serde(default)]
    pub(crate) damaged: Vec<PhaseName>,
    /// Nodes of the cluster without a pod subnet. Filled only if this host may not change anything, and so assigns no subnets.
    #[serde(default)]
    pub(crate) without_subnet: WithoutSubnet,
}

impl Pass {
    /// Why nothing may be changed, not even if a phase fails: the settings do not allow changes to the host, or the ledger is lost.
    pub(crate) fn prevents_changes(&self) -> Option<String> {
        if !self.ledger_lost.is_empty() {
            return Some(self.ledger_lost.clone());
        }
        let refused = self.refused.as_ref().filter(|_| !self.restarts_only);
        refused.map(|why| format!("could not {why}"))
    }

    /// Whether commands that change the host use the last good settings, and the last good role if the installed one cannot be used or the
    /// host has a wrong name.
    pub(crate) fn uses_last_good(&self) -> bool {
        !self.settings_problems.is_empty() || !self.role_problems.is_empty() || self.restarts_only
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_lost_ledger_prevents_a_restart_and_a_wrong_name_does_not() {
        let pass = serde_json::json!({
            "desired": Desired::default(), "settings_problems": [], "refused": null, "digest": "d", "health": [], "failed": [],
            "due": [], "interests": WatchList::default(), "stands": true,
        });
        let mut pass: Pass = serde_json::from_value(pass).expect("it is read");
        assert_eq!(pass.prevents_changes(), None);
        pass.refused = Some("use another name".to_owned());
        let why = pass.prevents_changes();
        assert_eq!(why.as_deref(), Some("could not use another name"));
        pass.restarts_only = true;
        assert_eq!(pass.prevents_changes(), None);
        pass.ledger_lost = "could not read the ledger".to_owned();
        let why = pass.prevents_changes();
        assert_eq!(why.as_deref(), Some("could not read the ledger"));
    }

    #[test]
    fn versions_of_nodelet_from_before_the_present_names_read_and_write_a_pass() {
        let before = serde_json::json!({
            "desired": Desired::default(), "settings_problems": [], "refused": null, "digest": "d", "health": [], "failed": ["etcd"],
            "restart_set": ["etcd", "kubelet"], "due": [], "interests": WatchList::default(), "stands": true,
        });
        let pass: Pass = serde_json::from_value(before.clone()).expect("it is read");
        assert!(pass.installed);
        assert_eq!(pass.failed.len(), 1);
        let now = serde_json::to_value(&pass).expect("it is written");
        for key in before.as_object().expect("an object").keys() {
            assert!(now.get(key).is_some(), "{key}");
        }
        // What such a nodeletd starts while the settings are broken.
        let words = ["nodelet", "repair", "--role", "pf9-kube", "--settled"];
        assert!(crate::cli::Cli::try_parse_from(words).is_ok());
    }
}
