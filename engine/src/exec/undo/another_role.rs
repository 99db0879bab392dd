//! Finds another role than that of the plan on the host, and what of it a run would remove. `nodelet` asks before it changes
//! anything: otherwise a wrong `--role` would take the host's own role off.

use crate::exec::undo::orphans::{OrphanStep, orphans};
use crate::exec::{Runner, Selection};
use crate::ledger::Ledger;
use crate::model::StepId;
use crate::resource::ResourceResult;

/// Another role than that of the plan is on the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the role {installed_role} is on this host, and {planned} is another role; name the role of this host, or replace it: \
     `nodelet apply --replace-role` removes {}",
    what(removed, installed_role)
)]
pub struct AnotherRole {
    /// The role on the host and its version, according to the ledger.
    pub installed_role: String,
    /// The role of the plan and its version.
    pub planned: String,
    /// The steps of the role on the host that the plan does not have, in the order in which they are removed. Steps that have
    /// only directories are left out: a directory is removed together with the last file in it.
    pub removed: Vec<StepId>,
}

impl AnotherRole {
    /// The message of a command that does not replace a role: `--role` is wrong or missing.
    #[must_use]
    pub fn mismatch_message(&self) -> String {
        format!(
            "this host has the role {}, and {} is another role; use `--role {}`",
            self.installed_role,
            self.planned,
            name(&self.installed_role)
        )
    }
}

impl Runner<'_> {
    /// The role on the host, if it differs from the role of the plan. Another version of the same role does not count. Only reads.
    ///
    /// Lists what a run over all phases would remove.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn another_role(&self) -> ResourceResult<Option<AnotherRole>> {
        let records = Ledger::read(self.host).await?;
        let Some(installed_role) = Ledger::installed_role_in(&records) else {
            return Ok(None);
        };
        if name(&installed_role) == name(&self.plan.role) {
            return Ok(None);
        }
        let mut removed = Vec::new();
        for orphan in orphans(self.host, self.plan, &Selection::default()).await? {
            let steps = orphan.steps.into_iter();
            let steps = steps.filter(|step: &OrphanStep| !step.is_directories());
            removed.extend(steps.map(|step| step.id));
            removed.extend(orphan.cleanup.into_iter().map(|step| step.id));
        }
        Ok(Some(AnotherRole {
            installed_role,
            planned: self.plan.role.clone(),
            removed,
        }))
    }
}

/// What a run removes, in one phrase.
fn what(removed: &[StepId], installed_role: &str) -> String {
    match removed.len() {
        0 => format!("nothing of {installed_role}"),
        1 => format!("1 step that only {installed_role} has"),
        number => format!("{number} steps that only {installed_role} has"),
    }
}

/// The name in a role with its version: a name has no blanks.
pub(in crate::exec) fn name(role: &str) -> &str {
    role.split_once(' ').map_or(role, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_version_is_no_other_role() {
        assert_eq!(name("pf9-kube 1.20.2"), name("pf9-kube 1.21.0 rc 1"));
        assert_ne!(name("pf9-kube 1.20.2"), name("pf9-kube-2 1.20.2"));
    }

    #[test]
    fn removals_are_counted() {
        let step = StepId::new(&"etcd".parse().expect("a name"), "file", "/etc/a");
        for (removed, expect) in [
            (Vec::new(), "removes nothing of a 1"),
            (vec![step.clone()], "removes 1 step that only a 1 has"),
            (
                vec![step.clone(), step],
                "removes 2 steps that only a 1 has",
            ),
        ] {
            let another = AnotherRole {
                installed_role: "a 1".to_owned(),
                planned: "b 1".to_owned(),
                removed,
            };
            assert_eq!(
                another.mismatch_message(),
                "this host has the role a 1, and b 1 is another role; use `--role a`"
            );
            let message = another.to_string();
            assert!(message.contains("a 1 is on this host, and b 1 is another role"));
            assert!(message.ends_with(expect), "{message}");
        }
    }
}
