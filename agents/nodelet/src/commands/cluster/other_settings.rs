//! Warns of settings that all masters have in common, and that this host has differently from what other masters have published.
//!
//! An operator changes such a setting on one master after the other, so a difference is no reason to refuse an apply.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::host::{ClusterAccess, Host};
use engine::kubernetes::masters::settings::{published, unlike};
use engine::kubernetes::shown;
use engine::plan::Plan;
use engine::resource::{NodeSpec, Spec};

use crate::output::error_report;

/// Time for the question to the API server.
const ASK: Duration = Duration::from_secs(2);

/// Warns before an apply or a prediction. If the API server does not answer, nothing is known and nothing is said. Cancel safe.
pub(crate) async fn warn_of_other_settings(plan: &Plan, host: &dyn Host) {
    let Some(node) = own_node(plan) else {
        return;
    };
    for warning in warnings(node, host).await {
        error_report::say(&format!("nodelet: warning: {warning}"));
    }
}

/// The node with which this host publishes its settings; `None` on a host that is no master.
fn own_node(plan: &Plan) -> Option<&NodeSpec> {
    let phases = plan.phases.iter().filter(|phase| phase.skipped.is_none());
    let mut steps = phases.flat_map(|phase| &phase.steps);
    steps.find_map(|step| match &step.spec {
        Spec::Node(node) if !node.shared_settings.is_empty() => Some(node),
        _ => None,
    })
}

/// A warning for each setting that another master has published with another value.
async fn warnings(node: &NodeSpec, host: &dyn Host) -> Vec<String> {
    let access = ClusterAccess::with(&node.kubeconfig);
    let Ok(Ok(nodes)) = tokio::time::timeout(ASK, host.nodes(&access)).await else {
        return Vec::new();
    };
    let own = node.name.as_str();
    let mut masters: BTreeMap<&str, BTreeMap<String, String>> = nodes
        .iter()
        .map(|(name, its)| (name.as_str(), published(its)))
        .collect();
    // What this host has published is what it had before.
    masters.insert(own, node.shared_settings.clone());
    let differing = unlike(masters.iter().map(|(name, its)| (*name, its)));
    let warning = |name: &str, here: Option<&str>, others: &[(&str, Option<&str>)]| {
        let here = here.map_or_else(|| "not set".to_owned(), shown);
        let each = others.iter().map(|(master, value)| {
            let value = value.map_or_else(|| "none".to_owned(), shown);
            format!("{} has {value}", shown(master))
        });
        format!(
            "{name} is {here} on this host, and all masters should have it in common: {}; if you change it, set it alike on all masters, and run \
             `nodelet apply` on one after the other; otherwise set it as on the others",
            each.collect::<Vec<_>>().join(", ")
        )
    };
    let warnings = differing.iter().filter_map(|setting| {
        let (here, others) = setting.beside(own);
        (!others.is_empty()).then(|| warning(&shown(&setting.name), here, &others))
    });
    warnings.collect()
}

#[cfg(test)]
mod tests {
    use engine::host::ClusterNode;
    use engine::host::fake::{FakeHost, FaultPlan};
    use engine::kubernetes::workers::WORKER_LABEL;
    use engine::kubernetes::{MASTER_LABEL, SHARED_SETTINGS};

    use super::*;

    const KUBECONFIG: &str = "/etc/kubeconfig";

    /// The first of these nodes with its settings as they are to be.
    fn spec(router: &str) -> NodeSpec {
        let settings = [("CLUSTER_ID", "0A"), ("MASTER_VIP_VROUTER_ID", router)];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        NodeSpec {
            name: "cp-1".to_owned(),
            kubeconfig: KUBECONFIG.into(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            untainted: Vec::new(),
            schedulable: true,
            shared_settings: BTreeMap::from(settings),
            pod_subnets: None,
        }
    }

    /// A cluster whose nodes have published these router ids.
    fn cluster(nodes: &[(&str, &str, &str)]) -> FakeHost {
        let host = FakeHost::new()
            .with_file(KUBECONFIG, "")
            .with_kubernetes(|rules| rules.remote_api = true);
        host.with_world_mut(|world| {
            for (name, label, router) in nodes {
                let text = format!(r#"{{"CLUSTER_ID":"0a","MASTER_VIP_VROUTER_ID":"{router}"}}"#);
                let node = ClusterNode {
                    annotations: BTreeMap::from([(SHARED_SETTINGS.to_owned(), text)]),
                    labels: BTreeMap::from([((*label).to_owned(), String::new())]),
                    ..ClusterNode::default()
                };
                world.node(name, node);
            }
        });
        host
    }

    #[tokio::test]
    async fn another_value_than_other_masters_have_is_named() {
        let host = cluster(&[
            ("cp-1", MASTER_LABEL, "51"),
            ("cp-2", MASTER_LABEL, "51"),
            ("cp-3", MASTER_LABEL, "52"),
            // A worker says nothing about masters.
            ("w-1", WORKER_LABEL, "77"),
        ]);
        let [warning] = <[String; 1]>::try_from(warnings(&spec("52"), &host).await)
            .expect("only the router id differs");
        let begin = "MASTER_VIP_VROUTER_ID is 52 on this host, and all masters should have it in common: cp-2 has 51; if you change it";
        assert!(warning.starts_with(begin), "{warning}");
        assert!(warning.contains("`nodelet apply`"), "{warning}");
    }

    #[tokio::test]
    async fn the_same_values_are_no_reason_to_warn() {
        // Its own annotation is from before.
        let host = cluster(&[("cp-1", MASTER_LABEL, "51"), ("cp-2", MASTER_LABEL, "52")]);
        assert_eq!(warnings(&spec("52"), &host).await, [""; 0]);
        let alone = cluster(&[("cp-1", MASTER_LABEL, "51")]);
        assert_eq!(warnings(&spec("52"), &alone).await, [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_is_no_reason_to_warn() {
        let host = cluster(&[("cp-2", MASTER_LABEL, "51")]);
        assert_eq!(warnings(&spec("52"), &host).await.len(), 1);
        host.set_faults(FaultPlan::none().stall("nodes", "*"));
        let begun = tokio::time::Instant::now();
        assert_eq!(warnings(&spec("52"), &host).await, [""; 0]);
        assert!(begun.elapsed() <= Duration::from_secs(3));
    }
}
