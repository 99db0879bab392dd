//! The host that a dry run against a real one plays on: an overlay that knows what the plan brings, and what our own
//! records say of a cluster that does not answer.

use std::collections::BTreeMap;

use crate::host::fake::{KubernetesRules, key};
use crate::host::overlay::{Memory, OverlayHost, Remembered};
use crate::host::{ClusterNode, Host};
use crate::ledger::{Ledger, Record};
use crate::plan::{Plan, PlannedStep};
use crate::resource::{NodeSpec, Spec};

use super::{Outcome, Verb};

/// An overlay above `lower` for a dry run of `plan`. Reads, and nothing else.
pub async fn overlay_host<'a>(lower: &'a dyn Host, plan: &Plan) -> OverlayHost<'a> {
    let memory = memory(lower, plan).await;
    let mut host = OverlayHost::new(lower)
        .with_memory(memory)
        .with_kubernetes(|rules| {
            // Which subnet the node will get is the controller-manager's to decide: known after apply.
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

/// What is remembered of the cluster's nodes and objects, for when its API server does not answer.
async fn memory(lower: &dyn Host, plan: &Plan) -> Memory {
    let mut memory = Memory {
        empty: begins_empty(lower, plan).await,
        ..Memory::default()
    };
    // An unreadable ledger remembers nothing: then it is known after apply.
    let records = Ledger::read(lower).await.unwrap_or_default();
    let digest = plan.digest();
    let all = steps(plan).count();
    for step in steps(plan) {
        let Some(as_planned) = brought_about(&records, step, &digest, all) else {
            continue;
        };
        match &step.spec {
            Spec::Node(node) => {
                let remembered = if as_planned {
                    Remembered::AsPlanned(planned_node(node))
                } else {
                    Remembered::Never
                };
                memory.nodes.insert(node.name.clone(), remembered);
            }
            Spec::Manifest(manifest) => {
                for object in manifest.known_objects().into_iter().flatten() {
                    if let Ok(key) = key(&object) {
                        let remembered = if as_planned {
                            Remembered::AsPlanned(object)
                        } else {
                            Remembered::Never
                        };
                        memory.objects.insert(key, remembered);
                    }
                }
            }
            _ => {}
        }
    }
    memory
}

/// Whether etcd will find no data on this host.
async fn begins_empty(lower: &dyn Host, plan: &Plan) -> bool {
    let etcd = KubernetesRules::default().etcd_container;
    for step in steps(plan) {
        let Spec::Container(container) = &step.spec else {
            continue;
        };
        if container.name != etcd {
            continue;
        }
        for mount in container.mounts.iter().filter(|mount| !mount.read_only) {
            match lower.entry(&mount.source.join("member")).await {
                Ok(None) => {}
                // Data, or a directory that we may not look into.
                Ok(Some(_)) | Err(_) => return false,
            }
        }
        return true;
    }
    false
}

/// `Some(true)`: this very plan brought the step about. `Some(false)`: no run ever did. `None`: it cannot be told.
fn brought_about(records: &[Record], step: &PlannedStep, digest: &str, all: usize) -> Option<bool> {
    let mut plans = BTreeMap::new();
    let mut state: Option<&str> = None;
    let mut runs = 0;
    for record in records {
        match record {
            Record::Run {
                run,
                digest,
                verb: Verb::Apply,
                ..
            } => {
                plans.insert(*run, digest.as_str());
                runs += 1;
            }
            Record::Receipt { run, step: id, .. } if *id == step.id => {
                state = plans.get(run).copied();
            }
            // A run of all phases saw every step as planned, also those that it had no need to change.
            Record::End {
                run,
                outcome: Outcome::Converged,
                changed,
                unchanged,
                ..
            } if changed + unchanged == all && plans.get(run) == Some(&digest) => {
                state = Some(digest);
            }
            Record::Reverted { phase, .. } if step.id.phase() == Some(phase.as_str()) => {
                state = None;
            }
            Record::Withdrawn { step: id, .. } if *id == step.id => state = None,
            Record::Cleaned { .. } => state = None,
            _ => {}
        }
    }
    match state {
        Some(by) => (by == digest).then_some(true),
        // Compaction drops old runs; then it cannot be told what they did.
        None => (runs > 0 && records.iter().any(begins)).then_some(false),
    }
}

/// Whether all that was done since the host was bare comes after this record or is told by it.
fn begins(record: &Record) -> bool {
    matches!(record, Record::Run { run: 1, .. } | Record::Cleaned { .. })
}

fn planned_node(node: &NodeSpec) -> ClusterNode {
    ClusterNode {
        labels: node.labels.clone(),
        taints: node.taints.clone(),
        pod_cidr: Some(
            node.pod_cidr
                .clone()
                .unwrap_or_else(|| "known after apply".to_owned()),
        ),
        ..ClusterNode::default()
    }
}
