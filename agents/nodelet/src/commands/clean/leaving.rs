//! The node of a worker that leaves its cluster with a clean, and the mark by which the masters delete it.

use anyhow::Result;
use engine::host::{ClusterAccess, Host};
use engine::kubernetes::workers::mark_as_left;
use engine::plan::Plan;
use engine::resource::pki::kept_node;
use engine::resource::{DrainSpec, all_containers_have_ended};

use crate::commands::drain::drain_steps;

/// The node of a worker that leaves its cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) node: String,
    /// `None` if this host has no access to the cluster.
    pub(super) access: Option<ClusterAccess>,
    /// Whether containers of the role and its pods may be on this host. After a clean, they are those of another program.
    pub(super) may_have_containers: bool,
}

impl Leaving {
    /// The node of a worker; `None` if this host is none. `recorded` is the node's name at the set-up. If it is not known, the role's drain or
    /// the kept identity names the node. So it works without settings and role, and after an earlier clean, too.
    pub(super) async fn of(
        plan: Option<&Plan>,
        recorded: Option<String>,
        host: &dyn Host,
    ) -> Option<Self> {
        if let Some(drain) = plan.and_then(node_to_leave) {
            let is_there = host.entry(&drain.kubeconfig).await.ok().flatten().is_some();
            return Some(Self {
                node: recorded.unwrap_or_else(|| drain.node.clone()),
                access: is_there.then(|| ClusterAccess::with(&drain.kubeconfig)),
                may_have_containers: true,
            });
        }
        match kept_node(host).await {
            // The certificate may be a copy of another worker's, and that one stays.
            Ok(kept) => kept.map(|kept| Self {
                node: recorded.unwrap_or(kept.name),
                access: kept.kubeconfig.as_deref().map(ClusterAccess::with),
                may_have_containers: true,
            }),
            Err(error) => {
                tracing::warn!(
                    error = engine::model::chain(&error).join(": "),
                    "the identity of this host cannot be read: if it was a worker, `nodelet cluster remove NODE` on a master removes its node"
                );
                None
            }
        }
    }

    /// Marks the node as [`Leaving::mark`] does. Fails if a container of the role or of a pod still runs on this host.
    pub(super) async fn mark_without_containers(&self, host: &dyn Host) -> Result<Option<String>> {
        if self.may_have_containers {
            all_containers_have_ended(host).await.map_err(|error| {
                let node = &self.node;
                anyhow::Error::from(error).context(format!(
                    "leave the cluster: node {node} is not marked as left, so the masters keep it"
                ))
            })?;
        }
        Ok(self.mark(host).await)
    }

    /// Marks the node, so that the masters delete it: a worker may not delete its own node. Returns a warning if they do not know that it
    /// leaves; the clean continues. A mark comes after the stop: a report of kubelet after it says that the worker has come back.
    async fn mark(&self, host: &dyn Host) -> Option<String> {
        let node = &self.node;
        let why = match &self.access {
            None => "this host has no kubeconfig of its node".to_owned(),
            Some(access) => match mark_as_left(host, access, node, host.now()).await {
                Ok(()) => return None,
                Err(error) => engine::model::chain(&error).join(": "),
            },
        };
        Some(format!(
            "the masters do not know that this worker leaves: {why}; `nodelet cluster remove {node}` on a master removes its node"
        ))
    }

    /// What a purge leaves in the cluster.
    pub(super) fn after_purge(&self) -> String {
        let node = &self.node;
        format!(
            "unless node {node} was removed, the cluster still admits it: if this host is not to join it again, run `nodelet cluster remove {node}` on a master"
        )
    }
}

/// The node of a worker, as its drain names it. A master's node is in the data of etcd.
fn node_to_leave(plan: &Plan) -> Option<&DrainSpec> {
    let mut drains = plan.phases.iter().flat_map(drain_steps);
    drains.next_back().filter(|_| plan.node == "worker")
}

#[cfg(test)]
mod tests {
    use engine::host::fake::FakeHost;
    use engine::host::{Cluster as _, ClusterNode};
    use engine::kubernetes::workers::LEFT;
    use engine::model::PhaseName;
    use engine::plan::{PlannedPhase, PlannedStep};
    use engine::resource::Spec;

    use super::*;

    fn access() -> ClusterAccess {
        ClusterAccess::with("/etc/kubeconfig".as_ref())
    }

    impl Leaving {
        pub(in crate::commands::clean) fn of_node(name: &str) -> Self {
            Self {
                node: name.to_owned(),
                access: Some(access()),
                may_have_containers: true,
            }
        }
    }

    #[tokio::test]
    async fn a_worker_that_cannot_mark_its_node_names_the_command_of_the_masters() {
        let host = FakeHost::new().with_file("/etc/kubeconfig", "");
        for access in [None, Some(access())] {
            let leaving = Leaving {
                node: "w-1".to_owned(),
                access,
                may_have_containers: true,
            };
            let warning = leaving.mark(&host).await.expect("no master knows of it");
            assert!(warning.contains("nodelet cluster remove w-1"), "{warning}");
            let text = leaving.after_purge();
            assert!(text.contains("nodelet cluster remove w-1"), "{text}");
        }
        let host = host.with_kubernetes(|rules| rules.remote_api = true);
        let leaving = Leaving::of_node("w-1");
        assert_eq!(
            leaving.mark(&host).await,
            None,
            "the cluster has no such node"
        );
    }

    #[tokio::test]
    async fn a_host_that_never_was_a_worker_leaves_nothing() {
        let recorded = Some("cp-1".to_owned());
        for recorded in [None, recorded] {
            assert_eq!(Leaving::of(None, recorded, &FakeHost::new()).await, None);
        }
    }

    /// The plan of a worker whose drain names this node.
    fn plan_with_drain_of(node: &str) -> Plan {
        let name: PhaseName = "drain".parse().expect("a name");
        let drain = Spec::Drain(DrainSpec {
            node: node.to_owned(),
            kubeconfig: "/etc/kubeconfig".into(),
            kubelet: None,
            seconds: 1,
        });
        let phase = PlannedPhase {
            on_stop: vec![PlannedStep::bare(&name, drain)],
            ..PlannedPhase::bare(name)
        };
        Plan {
            node: "worker".to_owned(),
            ..Plan::bare(vec![phase])
        }
    }

    /// The cluster knows the node by the name of the set-up. A node of the new name is another one, if there is one.
    #[tokio::test]
    async fn a_worker_whose_host_was_renamed_marks_the_node_of_its_set_up() {
        let host = FakeHost::new()
            .with_file("/etc/kubeconfig", "")
            .with_kubernetes(|rules| rules.remote_api = true);
        for node in ["w-1", "w-2"] {
            host.with_world_mut(|world| world.node(node, ClusterNode::default()));
        }
        let plan = plan_with_drain_of("w-2");
        let leaving = Leaving::of(Some(&plan), Some("w-1".to_owned()), &host).await;
        let leaving = leaving.expect("it is a worker");
        assert_eq!(leaving.mark(&host).await, None);
        let nodes = host.nodes(&access()).await.expect("it answers");
        let has_left = |node: &str| nodes[node].annotations.contains_key(LEFT);
        assert!(has_left("w-1") && !has_left("w-2"), "{nodes:?}");
        let text = leaving.after_purge();
        assert!(text.contains("nodelet cluster remove w-1`"), "{text}");
        // A lost record says nothing.
        let leaving = Leaving::of(Some(&plan), None, &host).await;
        assert_eq!(leaving, Some(Leaving::of_node("w-2")));
    }
}
