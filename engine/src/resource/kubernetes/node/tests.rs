//! Cordons and their owners, taints, nodes that are not registered, and drains.

use super::*;
use crate::host::fake::{FakeHost, FaultPlan};
use crate::host::{Cluster as _, Containers as _};
use crate::resource::tests::context;

const KUBECONFIG: &str = "/etc/kubeconfig";
const KUBELET: &str = "pf9-kubelet.service";

fn worker() -> FakeHost {
    let host = FakeHost::new()
        .with_unit(KUBELET, "[Service]\n")
        .with_file(KUBECONFIG, "")
        .with_kubernetes(|rules| rules.remote_api = true);
    host.with_world_mut(|world| world.start_unit(KUBELET))
        .unwrap();
    host
}

fn spec() -> NodeSpec {
    NodeSpec {
        name: "cp-1".to_owned(),
        kubeconfig: KUBECONFIG.into(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        untainted: Vec::new(),
        schedulable: true,
        shared_settings: BTreeMap::new(),
        pod_subnets: None,
    }
}

/// Observes, compares and converges. Gives the fields that were changed, the undos and the note.
async fn apply<R: Resource>(
    resource: &R,
    host: &FakeHost,
) -> ResourceResult<(Vec<String>, Vec<Undo>, Option<String>)> {
    let cx = context(host);
    let observed = resource.observe(&cx).await?;
    let mut receipt = Receipt::default();
    let mut fields = Vec::new();
    if let Some(change) = resource.diff(&observed, false) {
        fields.extend(change.differences.iter().map(|one| one.field.clone()));
        resource.converge(&observed, &cx, &mut receipt).await?;
    }
    Ok((fields, receipt.undos, resource.note(&observed)))
}

async fn drain(host: &FakeHost) -> ResourceResult<()> {
    let drain = DrainSpec {
        node: "cp-1".to_owned(),
        kubeconfig: KUBECONFIG.into(),
        kubelet: Some(KUBELET.to_owned()),
        seconds: 1,
    };
    apply(&drain, host).await.map(drop)
}

async fn node(host: &FakeHost) -> ClusterNode {
    let access = spec().access();
    host.node(&access, "cp-1").await.unwrap().unwrap()
}

async fn is_marked(host: &FakeHost) -> bool {
    node(host).await.annotations.contains_key(SHUT_DOWN)
}

#[tokio::test]
async fn a_cordon_of_an_operator_stays_and_is_reported() {
    let host = worker();
    host.with_world_mut(|world| world.kubectl_cordon("cp-1", true));
    let (fields, _, note) = apply(&spec(), &host).await.unwrap();
    assert_eq!(fields, [""; 0]);
    let note = note.expect("a note");
    assert!(
        note.starts_with("node cp-1 is cordoned by an operator with kubectl-cordon"),
        "{note}"
    );
    // A converge for another difference does not change the cordon, and neither does its undo.
    let labelled = NodeSpec {
        labels: BTreeMap::from([("tier".to_owned(), "one".to_owned())]),
        ..spec()
    };
    let (fields, undos, _) = apply(&labelled, &host).await.unwrap();
    assert_eq!(fields, ["label tier"]);
    assert!(node(&host).await.unschedulable);
    assert!(crate::resource::revert(&undos, &host).await.is_empty());
    assert!(node(&host).await.unschedulable);
}

#[tokio::test]
async fn shared_settings_are_published_and_taken_back() {
    let host = worker();
    let publishing = |router: &str| NodeSpec {
        shared_settings: BTreeMap::from([("ROUTER".to_owned(), router.to_owned())]),
        ..spec()
    };
    let field = format!("annotation {SHARED_SETTINGS}");
    let published = async || node(&host).await.annotations.get(SHARED_SETTINGS).cloned();
    let before = published().await;
    let (fields, undos, _) = apply(&publishing("51"), &host).await.unwrap();
    assert_eq!(fields, [field.as_str()]);
    assert_eq!(published().await.as_deref(), Some(r#"{"ROUTER":"51"}"#));
    assert_eq!(apply(&publishing("51"), &host).await.unwrap().0, [""; 0]);
    let (fields, later, _) = apply(&publishing("52"), &host).await.unwrap();
    assert_eq!(fields, [field.as_str()]);
    assert!(crate::resource::revert(&later, &host).await.is_empty());
    assert_eq!(published().await.as_deref(), Some(r#"{"ROUTER":"51"}"#));
    assert!(crate::resource::revert(&undos, &host).await.is_empty());
    assert_eq!(published().await, before);
}

#[tokio::test]
async fn a_taint_that_comes_between_observation_and_change_is_not_lost() {
    let host = worker();
    let taint = |key: &str| Taint {
        key: key.to_owned(),
        value: String::new(),
        effect: "NoSchedule".to_owned(),
    };
    let tainted = NodeSpec {
        taints: vec![taint("ours")],
        ..spec()
    };
    let cx = context(&host);
    let seen = tainted.observe(&cx).await.unwrap();
    let change = tainted.diff(&seen, false);
    assert!(change.is_some(), "the taint is missing");
    let theirs = json!({ "spec": { "taints": [{ "key": "theirs", "effect": "NoSchedule" }] } });
    let access = spec().access();
    host.patch_node(&access, "cp-1", &theirs).await.unwrap();
    let mut receipt = Receipt::default();
    let refused = tainted.converge(&seen, &cx, &mut receipt).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(node(&host).await.taints, [taint("theirs")]);
    apply(&tainted, &host).await.unwrap();
    assert_eq!(node(&host).await.taints, [taint("ours"), taint("theirs")]);
}

#[tokio::test]
async fn a_cordon_of_a_drain_is_lifted() {
    let host = worker();
    drain(&host).await.unwrap();
    assert!(node(&host).await.unschedulable && is_marked(&host).await);
    let (fields, undos, note) = apply(&spec(), &host).await.unwrap();
    assert_eq!(fields, ["cordoned", "annotation KubeStackShutDown"]);
    assert_eq!(note, None);
    assert!(!node(&host).await.unschedulable && !is_marked(&host).await);
    assert_eq!(apply(&spec(), &host).await.unwrap().0, [""; 0]);
    // After the revert, the cordon is ours again.
    assert!(crate::resource::revert(&undos, &host).await.is_empty());
    assert!(node(&host).await.unschedulable && is_marked(&host).await);
}

#[tokio::test]
async fn a_drain_leaves_the_cordon_of_an_operator_to_the_operator() {
    let host = worker();
    host.with_world_mut(|world| world.kubectl_cordon("cp-1", true));
    drain(&host).await.unwrap();
    assert!(!is_marked(&host).await);
    assert_eq!(apply(&spec(), &host).await.unwrap().0, [""; 0]);
    assert!(node(&host).await.unschedulable);
}

/// Its tries come several times a second, so they must cost the API server and the ledger nothing.
#[tokio::test]
async fn a_node_that_waits_for_its_subnet_is_not_patched() {
    let host = worker();
    host.with_world_mut(|world| {
        let node = world.cluster.nodes.get_mut("cp-1");
        node.expect("it is registered").pod_cidr = None;
    });
    host.clear_journal();
    let cx = context(&host);
    let seen = spec().observe(&cx).await.unwrap();
    let mut receipt = Receipt::default();
    let waits = spec().converge(&seen, &cx, &mut receipt).await;
    let waits = waits.expect_err("no component has set the subnet");
    assert!(waits.to_string().contains("no component has set it"));
    let missing = spec().converge(&None, &cx, &mut receipt).await;
    let missing = missing.expect_err("it is not registered").to_string();
    assert!(missing.contains("`nodelet clean --purge`"), "{missing}");
    assert_eq!(receipt.undos, []);
    assert_eq!(host.mutating_calls(), []);
}

#[tokio::test]
async fn a_node_that_is_not_registered_is_unknown_and_waits_for_kubelet() {
    let host = worker();
    let cx = context(&host);
    let seen = spec().observe(&cx).await.unwrap();
    assert!(!spec().is_unknown(&seen));
    host.with_world_mut(|world| world.remove_node("cp-1"));
    let seen = spec().observe(&cx).await.unwrap();
    assert!(spec().is_unknown(&seen));
    assert!(
        spec().diff(&seen, false).is_some(),
        "it is to be registered"
    );
    let note = spec().note(&seen).expect("a note");
    assert!(note.contains("has not registered node cp-1"), "{note}");
}

#[tokio::test]
async fn a_leftover_mark_does_not_claim_a_later_cordon() {
    let host = worker();
    drain(&host).await.unwrap();
    host.with_world_mut(|world| {
        world.kubectl_cordon("cp-1", false);
        world.kubectl_cordon("cp-1", true);
    });
    let (fields, _, note) = apply(&spec(), &host).await.unwrap();
    assert_eq!(fields, ["annotation KubeStackShutDown"]);
    assert!(note.is_some_and(|note| note.contains("by an operator")));
    assert!(node(&host).await.unschedulable);
}

#[tokio::test]
async fn an_operator_keeps_a_cordon_of_ours_with_an_annotation() {
    let host = worker();
    drain(&host).await.unwrap();
    let keep = json!({ "metadata": { "annotations": { USER_CORDON: "true" } } });
    let access = spec().access();
    host.patch_node(&access, "cp-1", &keep).await.unwrap();
    apply(&spec(), &host).await.unwrap();
    assert!(node(&host).await.unschedulable && !is_marked(&host).await);
}

/// The node may have pods, whether or not it was cordoned before.
#[tokio::test]
async fn a_drain_that_cannot_ask_for_the_node_has_failed() {
    let host = worker();
    host.with_world_mut(|world| world.kubectl_cordon("cp-1", true));
    host.set_faults(FaultPlan::none().fail("node", "cp-1").times(1));
    let error = drain(&host).await.expect_err("it was not asked");
    assert!(matches!(error, ResourceError::Host(_)), "{error}");
    drain(&host).await.expect("it is asked for again");
}

/// Of a repeated clean: kubelet is stopped, and the containers have ended.
#[tokio::test]
async fn a_drain_does_not_wait_for_a_deleted_pod_without_a_running_container() {
    let host = worker().with_docker().with_image("app:1");
    host.with_world_mut(|world| world.tenants_pod("web", "app", "app:1"));
    let uids = running_pods(&host).await.expect("docker answers");
    assert_eq!(uids.len(), 1, "{uids:?}");
    let pod = |uid: String| {
        let name = format!("shop/{uid}");
        let reason = "it is being deleted".to_owned();
        (uid, RemainingPod { name, reason })
    };
    let ended = "has-ended".to_owned();
    let all: BTreeMap<_, _> = uids.iter().cloned().chain([ended]).map(pod).collect();
    host.with_world_mut(|world| world.kubernetes.deleted_pods = all);
    // A kubelet that runs may still unmount the volumes of the pod, and reports its end.
    let error = drain(&host).await.expect_err("kubelet runs").to_string();
    assert!(error.contains("has-ended"), "{error}");
    host.with_world_mut(|world| world.stop_unit(KUBELET));
    host.set_faults(FaultPlan::none().fail("unit", KUBELET).times(1));
    let error = drain(&host).await.expect_err("kubelet may run").to_string();
    assert!(error.contains("has-ended"), "{error}");
    let error = drain(&host).await.expect_err("one runs").to_string();
    assert!(!error.contains("has-ended"), "{error}");
    for uid in &uids {
        assert!(error.contains(uid), "{error}");
    }
    for name in ["k8s_app_web_tenant", "k8s_POD_web_tenant"] {
        let ended = host.stop_container(name, Duration::ZERO).await;
        ended.expect("docker ends it");
    }
    drain(&host).await.expect("both have ended");
}

#[tokio::test]
async fn a_drain_names_the_pods_that_stay_and_why() {
    let host = worker().with_kubernetes(|rules| {
        let pods = (0..12).map(|number| RemainingPod {
            name: format!("shop/web-{number}"),
            reason: "a budget".to_owned(),
        });
        rules.unevictable = pods.collect();
    });
    let error = drain(&host).await.expect_err("pods are left").to_string();
    assert!(
        error.contains("shop/web-0 (a budget), shop/web-1"),
        "{error}"
    );
    assert!(
        error.ends_with("shop/web-9 (a budget) and 2 more"),
        "{error}"
    );
    // Each drain lists the pods again, also on a node that was drained before.
    drain(&host).await.expect_err("pods are left still");
    host.with_world_mut(|world| world.kubernetes.unevictable.clear());
    drain(&host).await.unwrap();
}
