//! Warns of settings that all masters have in common, and that this host has differently from what other masters have published. And of the one that
//! only one master may have, if a further master gets it.
//!
//! An operator changes such a setting on one master after the other, so a difference is no reason to refuse an apply.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::env::{MAX_ENV_BYTES, parse};
use engine::host::{ClusterAccess, Host};
use engine::kubernetes::masters::settings::{published, unlike};
use engine::kubernetes::{masters, shown};
use engine::plan::Plan;
use engine::resource::{InitialState, NodeSpec, Spec};

use crate::output::error_report;

/// Time for the question to the API server.
const ASK: Duration = Duration::from_secs(2);
/// The setting that is `new` on exactly one master.
const INITIAL_STATE: &str = "ETCD_INITIAL_CLUSTER_STATE";

/// Warns before an apply or a prediction. If the API server does not answer, nothing is known and nothing is said. Cancel safe.
pub(crate) async fn warn_of_other_settings(plan: &Plan, host: &dyn Host) {
    if let Some(warning) = second_new(plan, host).await {
        error_report::say(&format!("nodelet: warning: {warning}"));
    }
    let Some(node) = own_node(plan) else {
        return;
    };
    for warning in warnings(node, host).await {
        error_report::say(&format!("nodelet: warning: {warning}"));
    }
}

/// The specifications of all steps of this host.
fn specs(plan: &Plan) -> impl Iterator<Item = &Spec> {
    let phases = plan.phases.iter().filter(|phase| phase.skipped.is_none());
    phases.flat_map(|phase| &phase.steps).map(|step| &step.spec)
}

/// A warning if this host, which was to join other masters and knows some, gets the setting of the master that begins the cluster. Only the change
/// tells: the master that has begun the cluster keeps the setting, also when it joins the others after the loss of its disk.
async fn second_new(plan: &Plan, host: &dyn Host) -> Option<String> {
    let member = specs(plan).find_map(|spec| match spec {
        Spec::EtcdMember(member) => Some(member),
        _ => None,
    })?;
    let file = specs(plan).find_map(|spec| match spec {
        Spec::EnvFile(file) if file.values.contains_key(INITIAL_STATE) => Some(&file.path),
        _ => None,
    })?;
    let content = host.read(file, MAX_ENV_BYTES as u64).await.ok()??;
    let before = parse(file, &content).ok()?;
    let before = before.iter().find(|its| its.name == INITIAL_STATE)?;
    let changed = (InitialState::of(&before.value), member.initial_state);
    let is_second = changed == (Some(InitialState::Existing), InitialState::New);
    let known = masters::read(host).await.ok()?;
    let others = known.iter().filter(|its| its.name != member.name);
    let others: Vec<String> = others.map(|its| shown(&its.name)).collect();
    (is_second && !others.is_empty()).then(|| {
        format!(
            "{INITIAL_STATE} becomes new on this host, where it was existing: exactly one master has new, the one that begins the cluster; this host \
             begins none as long as it knows other masters ({}); set it to existing again, unless no other master has new",
            others.join(", ")
        )
    })
}

/// The node with which this host publishes its settings; `None` on a host that is no master.
fn own_node(plan: &Plan) -> Option<&NodeSpec> {
    specs(plan).find_map(|spec| match spec {
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
    use engine::kubernetes::masters::MASTERS;
    use engine::kubernetes::workers::WORKER_LABEL;
    use engine::kubernetes::{MASTER_LABEL, SHARED_SETTINGS};

    use super::*;
    use crate::pass::tests::plan_of_master;

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
    async fn a_further_master_that_is_set_to_begin_the_cluster_is_named() {
        const ALONE: &str =
            r#"{"version":1,"masters":[{"name":"cp-1","address":"172.30.0.11","voter":true}]}"#;
        const THREE: &str = r#"{"version":1,"masters":[{"name":"cp-1","address":"172.30.0.11","voter":true},{"name":"cp-2","address":"172.30.0.12","voter":true},{"name":"cp-3","address":"172.30.0.13","voter":true}]}"#;
        // The state in this plan is `new`.
        let plan = plan_of_master().await;
        let warning = async |before: &str, listed: &str| {
            let kube_env = format!("export {INITIAL_STATE}=\"{before}\"\n");
            let host = FakeHost::new()
                .with_file("/etc/pf9/kube.env", kube_env)
                .with_file(MASTERS, listed);
            second_new(&plan, &host).await
        };
        let said = warning("existing", THREE).await.expect("it is the second");
        for part in [
            "becomes new on this host",
            "cp-2, cp-3",
            "set it to existing",
        ] {
            assert!(said.contains(part), "{said}");
        }
        // The master that has begun the cluster, and one that is alone.
        assert_eq!(warning("new", THREE).await, None);
        assert_eq!(warning("existing", ALONE).await, None);
        assert_eq!(second_new(&plan, &FakeHost::new()).await, None);
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
