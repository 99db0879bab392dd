//! Checks whether an apply could begin after a full clean.
//!
//! A full clean also forgets which preconditions were met. If they were checked only after the clean, it would be too
//! late: another process may have taken a port, or swap may be on again, and a node that half worked would not work at
//! all. So all of them are checked before the clean. Sockets of the role are left out, because the clean closes them;
//! other sockets are not. For the same reason each file that an apply would write is tried (`write_trial`).

use std::collections::BTreeSet;

use crate::exec::Runner;
use crate::facts::Facts;
use crate::resource::{PodsSpec, Spec};

impl Runner<'_> {
    /// The facts of this host without the listening sockets of the role.
    pub(in crate::exec) async fn facts_without_ours(&self) -> Facts {
        let ours = self.control_groups().await;
        let mut facts = self.facts.clone();
        if let Some(listening) = &mut facts.listening {
            listening.retain(|one| {
                let group = one.cgroup.as_deref().unwrap_or_default();
                !group.split('/').any(|part| ours.contains(part))
            });
        }
        facts
    }

    /// Names of the control groups of the plan's units, of the role's containers and of the node's pods.
    async fn control_groups(&self) -> BTreeSet<String> {
        let mut groups: BTreeSet<String> = PodsSpec::CONTROL_GROUPS.map(str::to_owned).into();
        let steps = self.plan.phases.iter().flat_map(|phase| &phase.steps);
        for step in steps {
            match &step.spec {
                Spec::Service(service) => {
                    groups.insert(service.unit.clone());
                }
                Spec::Container(container) => {
                    groups.extend(container.control_groups(self.host).await);
                }
                _ => {}
            }
        }
        groups
    }
}
