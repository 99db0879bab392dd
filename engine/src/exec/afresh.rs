//! Whether an apply could begin if everything of ours had been taken off first.
//!
//! A full clean forgets which preconditions were met. Who asks only then learns too late that a port has gone to somebody
//! else meanwhile or that there is swap again, and has turned a node that half worked into none. So all are asked before that can be:
//! what of ours listens on a port will be gone, what else does will not. For the same reason each file that an apply would write is tried
//! (`write_trial`).

use std::collections::BTreeSet;

use super::Runner;
use crate::facts::Facts;
use crate::resource::Spec;

/// Top of the control groups in which kubelet puts pods, by either driver.
const PODS: [&str; 2] = ["kubepods", "kubepods.slice"];

impl Runner<'_> {
    /// The facts of this host without the sockets that what is ours listens on.
    pub(super) async fn facts_without_ours(&self) -> Facts {
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

    /// Names of the control groups that the plan's units, our containers and the node's pods run in.
    async fn control_groups(&self) -> BTreeSet<String> {
        let mut groups: BTreeSet<String> = PODS.map(str::to_owned).into();
        let steps = self.plan.phases.iter().flat_map(|phase| &phase.steps);
        for step in steps {
            match &step.spec {
                Spec::Service(service) => {
                    groups.insert(service.unit.clone());
                }
                Spec::Container(container) => {
                    if let Some(id) = container.id_of_ours(self.host).await {
                        groups.insert(format!("docker-{id}.scope"));
                        groups.insert(id);
                    }
                }
                _ => {}
            }
        }
        groups
    }
}
