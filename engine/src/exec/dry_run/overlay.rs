//! The host for a dry run against a real one: an overlay that knows what the plan brings, and what the ledger says of a
//! cluster that does not answer.

use crate::exec::kubernetes::etcd_data::begins_empty;
use crate::host::fake::key;
use crate::host::overlay::{LedgerHint, LedgerHints, OverlayHost};
use crate::host::{ClusterNode, Host};
use crate::kubernetes::masters;
use crate::ledger::{Digests, Ledger, Reading, Recorded};
use crate::plan::{Plan, PlannedStep};
use crate::resource::{InitialState, NodeSpec, Spec};

/// An overlay above `lower` for a dry run of `plan`. Reads only.
pub async fn overlay_host<'a>(lower: &'a dyn Host, plan: &Plan) -> OverlayHost<'a> {
    let hints = hints(lower, plan).await;
    let mut host = OverlayHost::new(lower)
        .with_hints(hints)
        .with_kubernetes(|rules| {
            // A node registers without a subnet.
            rules.pod_cidr.clear();
            rules.node_name = steps(plan).find_map(|step| match &step.spec {
                Spec::Node(node) => Some(node.name.clone()),
                _ => None,
            });
        });
    for step in steps(plan) {
        if let Spec::Image(image) = &step.spec {
            host = host.with_archive(image.archive.clone(), image.reference.clone());
        }
    }
    host
}

fn steps(plan: &Plan) -> impl Iterator<Item = &PlannedStep> {
    plan.phases
        .iter()
        .filter(|phase| phase.skipped.is_none())
        .flat_map(|phase| &phase.steps)
}

/// What the ledger says of the cluster's nodes and objects, used if the API server does not answer.
async fn hints(lower: &dyn Host, plan: &Plan) -> LedgerHints {
    let planned: Vec<&PlannedStep> = steps(plan).collect();
    let member = steps(plan).find_map(|step| match &step.spec {
        Spec::EtcdMember(member) => Some(member),
        _ => None,
    });
    let own = member.map(|member| member.name.as_str());
    // A file that cannot be read may name others.
    let has_other_masters = match masters::read(lower).await {
        Ok(masters) => masters.iter().any(|master| own != Some(&master.name)),
        Err(_) => true,
    };
    // A cluster of several masters has objects and nodes of which this host knows nothing.
    let is_shared = has_other_masters
        || member.is_some_and(|member| member.initial_state == InitialState::Existing);
    let mut hints = LedgerHints {
        empty: !is_shared && begins_empty(lower, &planned).await,
        ..LedgerHints::default()
    };
    // An unreadable ledger says nothing: the state is then known after apply.
    let records = Ledger::read(lower).await.unwrap_or_default();
    let resources = Ledger::live_resources_in(&records);
    let reading = Reading {
        records: &records,
        digests: Digests {
            plan: &plan.digest(),
            cluster: Some(&plan.cluster_digest()),
        },
        live_steps: resources
            .iter()
            .flat_map(|resource| &resource.steps)
            .collect(),
        has_other_masters,
    };
    for step in steps(plan) {
        if !step.spec.is_of_cluster() {
            continue;
        }
        let as_planned = match reading.of(step) {
            Recorded::Never if is_shared => continue,
            // Until a master's first apply has ended, its own API server has no other nodes.
            Recorded::Never if matches!(step.spec, Spec::NodeRoutes(_)) => has_own_api(plan),
            // An object that the plan removes is absent once it was removed. If no removal is recorded, another client
            // may have made one.
            Recorded::AsPlanned => !step.policy.absent,
            Recorded::Never if !step.policy.absent => false,
            Recorded::Never | Recorded::Open => continue,
        };
        match &step.spec {
            Spec::Node(node) => {
                let remembered = if as_planned {
                    LedgerHint::AsPlanned(planned_node(node))
                } else {
                    LedgerHint::Absent
                };
                hints.nodes.insert(node.name.clone(), remembered);
            }
            Spec::Manifest(manifest) => {
                for object in manifest.known_objects().into_iter().flatten() {
                    if let Ok(key) = key(&object) {
                        let remembered = if as_planned {
                            LedgerHint::AsPlanned(object)
                        } else {
                            LedgerHint::Absent
                        };
                        hints.objects.insert(key, remembered);
                    }
                }
            }
            // A boot takes the routes away, and only the API server knows whether there were any.
            Spec::NodeRoutes(_) => {
                let were_made = resources.iter().any(|one| one.steps.contains(&step.id));
                hints.routes = as_planned && (!were_made || has_routes(lower).await);
            }
            _ => {}
        }
    }
    hints
}

/// Whether this host has an API server of its own, and with it the task to give nodes their subnets.
fn has_own_api(plan: &Plan) -> bool {
    steps(plan).any(|step| matches!(&step.spec, Spec::Node(node) if node.pod_subnets.is_some()))
}

async fn has_routes(lower: &dyn Host) -> bool {
    let routes = lower.node_routes().await;
    routes.is_ok_and(|routes| !routes.is_empty())
}

fn planned_node(node: &NodeSpec) -> ClusterNode {
    ClusterNode {
        labels: node.labels.clone(),
        annotations: node.annotations(),
        taints: node.taints.clone(),
        pod_cidr: Some("known after apply".to_owned()),
        ..ClusterNode::default()
    }
}
