//! What nodes show, and what a step waits for. `claims` has who makes a successor, and what that forbids.

mod claims;

use super::*;
use crate::exec::kubernetes::rotate::published;
use crate::host::Cluster as _;
use crate::host::fake::FakeHost;
use crate::kubernetes::masters::MASTERS;
use crate::resource::pki::{AuthoritySpec, EncryptionKeysSpec};
use crate::resource::{Context, NoSecrets, Outputs, Receipt, Resource};

const KUBECONFIG: &str = "/etc/kubeconfig";
const OF: &str = "encryption";
/// The file of masters if there is one master.
const ONE: &str =
    r#"{"version":1,"masters":[{"name":"m-1","address":"172.30.0.11","voter":true}]}"#;

/// The first of three masters, whose members of etcd all work.
fn host() -> FakeHost {
    let masters = r#"{"version":1,"masters":[{"name":"m-1","address":"172.30.0.11","voter":true},{"name":"m-2","address":"172.30.0.12","voter":true},{"name":"m-3","address":"172.30.0.13","voter":true}]}"#;
    let host = FakeHost::new()
        .with_file(MASTERS, masters)
        .with_file(KUBECONFIG, "")
        .with_kubernetes(|rules| rules.remote_api = true);
    host.with_world_mut(|world| {
        for number in 1..=3_u64 {
            let (name, address) = (format!("m-{number}"), format!("172.30.0.1{number}"));
            world.etcd.voter(&name, &address, 10 + number);
            let labels = [(MASTER_LABEL.to_owned(), String::new())].into();
            let node = ClusterNode {
                labels,
                ..ClusterNode::default()
            };
            world.node(&name, node);
        }
    });
    host
}

/// The only master of a cluster without workers.
fn only_master() -> FakeHost {
    let host = host();
    host.with_world_mut(|world| {
        world.file_with_mode(MASTERS, ONE, 0o600);
        world.etcd.members.truncate(1);
        world.cluster.nodes.retain(|name, _| name == "m-1");
    });
    host
}

fn access() -> ClusterAccess {
    ClusterAccess::with(KUBECONFIG.as_ref())
}

async fn rollout(host: &FakeHost, own: &str) -> Rollout {
    let read = Rollout::read(host, &access(), OF, own).await;
    read.expect("it is known").expect("there are several")
}

async fn refusal(host: &FakeHost, of: &str, own: &str) -> ResourceError {
    let read = Rollout::read(host, &access(), of, own).await;
    read.expect_err("it is refused")
}

/// What a node shows, as a text of its annotation.
async fn annotate(host: &FakeHost, node: &str, text: &str) {
    let patch = json!({ "metadata": { "annotations": { annotation(OF): text } } });
    let patched = host.patch_node(&access(), node, &patch).await;
    patched.expect("it is there");
}

fn replacement(text: &str) -> Replacement {
    text.parse().expect("it can be read")
}

/// Makes the encryption keys of a host, or takes a step with them.
async fn keys(host: &FakeHost, rotation: Option<Rotation>) {
    let spec = EncryptionKeysSpec {
        rotation,
        successor: None,
    };
    converge(host, &spec).await;
}

async fn converge<R: Resource>(host: &FakeHost, spec: &R) {
    let outputs = Outputs::default();
    let cx = Context {
        host,
        outputs: &outputs,
        secrets: &NoSecrets,
        absent: false,
        cancel: None,
    };
    let observed = spec.observe(&cx).await.expect("it can be read");
    let converged = spec.converge(&observed, &cx, &mut Receipt::default()).await;
    converged.expect("it is written");
}

#[test]
fn a_step_waits_for_the_step_before() {
    let settled = replacement("settled 1-a -");
    let begun = replacement("begun 1-a 2-b");
    let switched = replacement("switched 2-b 1-a");
    let over = replacement("settled 2-b -");
    let other = replacement("begun 1-a 2-c");
    let all = [
        None,
        Some(&settled),
        Some(&begun),
        Some(&switched),
        Some(&over),
        Some(&other),
    ];
    for (step, present, enough) in [
        // Nothing shown, settled, begun, switched, over, another successor.
        (
            Rotation::Begin,
            &settled,
            [true, true, false, false, false, false],
        ),
        (
            Rotation::Switch,
            &begun,
            [false, false, true, true, false, false],
        ),
        (
            Rotation::Switch,
            &switched,
            [false, false, true, true, true, false],
        ),
        (
            Rotation::Finish,
            &switched,
            [false, false, false, true, true, false],
        ),
    ] {
        let is = all.map(|its| is_enough(step, present, its));
        assert_eq!(is, enough, "{step:?} at {present}");
    }
}

/// The file of masters may be missing or old, so without etcd's answer no host is known to be the only master.
#[tokio::test]
async fn without_an_answer_of_etcd_no_host_is_the_only_master() {
    let host = FakeHost::new().with_file(KUBECONFIG, "");
    for list in [None, Some(ONE)] {
        if let Some(list) = list {
            host.with_world_mut(|world| world.file_with_mode(MASTERS, list, 0o600));
        }
        for of in [OF, "etcd", "cluster"] {
            let error = refusal(&host, of, "m-1").await.to_string();
            assert!(error.contains("does not tell which"), "{error}");
        }
    }
    host.with_world_mut(|world| world.file_with_mode(MASTERS, "garbage", 0o600));
    let error = refusal(&host, OF, "m-1").await;
    assert!(error.to_string().contains(MASTERS), "{error}");
    let ResourceError::Unmet { next, .. } = &error else {
        panic!("{error}")
    };
    assert!(
        !next.contains("move"),
        "the file is not to be moved: {next}"
    );
}

/// A single master publishes its authority as several do, and waits for the workers.
#[tokio::test]
async fn the_only_master_waits_for_its_workers() {
    let host = only_master();
    let read = async |of: &str| {
        let read = Rollout::read(&host, &access(), of, "m-1").await;
        read.expect("it is known").expect("it has a node")
    };
    assert!(read("cluster").await.workers().is_empty());
    let worker = ClusterNode {
        uid: "u-1".to_owned(),
        ..ClusterNode::default()
    };
    host.with_world_mut(|world| world.node("w-1", worker));
    let its = read("etcd").await;
    assert!(its.workers().is_empty(), "workers do not trust it");
    assert!(its.is_alone());
    let spec = |rotation| AuthoritySpec {
        name: "cluster".to_owned(),
        common_name: "kubernetes".to_owned(),
        years: 10,
        rotation,
        successor: None,
    };
    converge(&host, &spec(None)).await;
    converge(&host, &spec(Some(Rotation::Begin))).await;
    let mut its = read("cluster").await;
    let present = its.show(&host, &access()).await.expect("it is shown");
    let done = its.publish(&host, &access(), &present).await;
    done.expect("it is published");
    let found = published(&host, &access()).await.expect("it answers");
    let found = found.and_then(|its| its.replacement());
    assert_eq!(found.as_ref(), Some(&present));
    let refused = its.check(Rotation::Switch, &present, false);
    let refused = refused.expect_err("w-1 does not trust it").to_string();
    assert!(refused.contains("w-1 has not shown"), "{refused}");
    let text = format!("{present} u-1");
    let patch = json!({ "metadata": { "annotations": { annotation("cluster"): text } } });
    let patched = host.patch_node(&access(), "w-1", &patch).await;
    patched.expect("it is there");
    let its = read("cluster").await;
    its.check(Rotation::Switch, &present, false)
        .expect("w-1 trusts it");
    // A worker that joins later has to know that the predecessor is not trusted any more.
    host.with_world_mut(|world| world.cluster.nodes.retain(|name, _| name == "m-1"));
    for step in [Rotation::Switch, Rotation::Finish] {
        converge(&host, &spec(Some(step))).await;
        let mut its = read("cluster").await;
        let present = its.show(&host, &access()).await.expect("it is shown");
        let done = its.publish(&host, &access(), &present).await;
        done.expect("it is published");
        let found = published(&host, &access()).await.expect("it answers");
        let found = found.and_then(|its| its.replacement());
        assert_eq!(found, Some(present), "{step:?}");
    }
}

/// A successor was published at once, and its master was lost before another one took it.
#[tokio::test]
async fn a_worker_with_an_abandoned_successor_does_not_hold_up_the_next_one() {
    let host = host();
    let worker = ClusterNode {
        uid: "u-1".to_owned(),
        ..ClusterNode::default()
    };
    host.with_world_mut(|world| world.node("w-1", worker));
    let present = replacement("settled a -");
    for (text, is_enough) in [
        ("settled a - u-1", true),
        ("begun a b u-1", true),
        ("begun b c u-1", false),
        ("switched b a u-1", false),
        ("settled b - u-1", false),
    ] {
        let patch = json!({ "metadata": { "annotations": { annotation("cluster"): text } } });
        let patched = host.patch_node(&access(), "w-1", &patch).await;
        patched.expect("it is there");
        let read = Rollout::read(&host, &access(), "cluster", "m-1").await;
        let its = read.expect("it is known").expect("there are several");
        let checked = its.check(Rotation::Begin, &present, false);
        assert_eq!(checked.is_ok(), is_enough, "{text}");
    }
    let text = "begun a b c";
    let patch = json!({ "metadata": { "annotations": { annotation("cluster"): text } } });
    let patched = host.patch_node(&access(), "m-2", &patch).await;
    patched.expect("it is there");
    let read = Rollout::read(&host, &access(), "cluster", "m-1").await;
    let its = read.expect("it is known").expect("there are several");
    its.check(Rotation::Begin, &present, false)
        .expect_err("a master still has it");
}

/// Each message names the node on which something is to be done.
#[tokio::test]
async fn a_master_that_is_behind_is_told_to_take_part() {
    let host = host();
    let missing = async |present: &str, shown: &str| {
        annotate(&host, "m-2", &format!("{shown} c")).await;
        let its = rollout(&host, "m-1").await;
        let missing = its.missing(Rotation::Begin, &replacement(present));
        let [missing] = missing.try_into().expect("one master");
        missing
    };
    for (present, shown, at, next) in [
        ("settled 1-a -", "begun 1-a 2-b", "m-1", "begin --from"),
        ("settled 1-a -", "switched 2-b 1-a", "m-1", "begin --from"),
        ("settled 2-b -", "begun 1-a 2-b", "m-2", "encryption switch"),
        (
            "settled 2-b -",
            "switched 2-b 1-a",
            "m-2",
            "encryption finish",
        ),
        ("settled 2-b -", "settled 1-a -", "m-2", "begin --from"),
        ("settled 3-c -", "begun 1-a 2-b", "m-2", "two were made"),
    ] {
        let missing = missing(present, shown).await;
        assert_eq!((missing.node.as_str(), missing.at.as_str()), ("m-2", at));
        assert!(missing.next.contains(next), "{shown}: {}", missing.next);
        let waits_for_it = next.starts_with("encryption ");
        let or_lost = missing.next.contains("cluster remove m-2`");
        assert_eq!(or_lost, waits_for_it, "{shown}: {}", missing.next);
    }
    annotate(&host, "m-2", "switched 2-b 1-a c").await;
    let its = rollout(&host, "m-1").await;
    let refused = its.check(Rotation::Begin, &replacement("settled 1-a -"), false);
    let Err(ResourceError::Unmet { next, .. }) = refused else {
        panic!("it is refused")
    };
    assert!(next.starts_with("on m-1: "), "{next}");
}

/// The last `switch` was interrupted before it was published, so no worker can follow.
#[tokio::test]
async fn a_step_that_waits_for_a_worker_has_a_way_forward() {
    let host = host();
    host.with_world_mut(|world| world.node("w-1", ClusterNode::default()));
    let read = Rollout::read(&host, &access(), "cluster", "m-1").await;
    let its = read.expect("it is known").expect("there are several");
    let missing = its.missing(Rotation::Finish, &replacement("switched b a"));
    let its = missing.iter().find(|its| its.node == "w-1");
    let next = &its.expect("it is missing").next;
    assert!(
        next.contains("if it does not, take the last step of a master again"),
        "{next}"
    );
}

/// `finish` converged and was shown, and the API server failed before the end was published.
#[tokio::test]
async fn an_end_that_was_not_published_is_published_later() {
    let host = host();
    let spec = |rotation| AuthoritySpec {
        name: "cluster".to_owned(),
        common_name: "kubernetes".to_owned(),
        years: 10,
        rotation,
        successor: None,
    };
    let read = async || {
        let read = Rollout::read(&host, &access(), "cluster", "m-1").await;
        read.expect("it is known").expect("there are several")
    };
    let all_show = async |present: &Replacement| {
        for (node, id) in [("m-2", "c"), ("m-3", "d")] {
            let text = format!("{present} {id}");
            let patch = json!({ "metadata": { "annotations": { annotation("cluster"): text } } });
            let patched = host.patch_node(&access(), node, &patch).await;
            patched.expect("it is there");
        }
    };
    converge(&host, &spec(None)).await;
    for step in [Rotation::Begin, Rotation::Switch] {
        converge(&host, &spec(Some(step))).await;
        let present = read().await.show(&host, &access()).await;
        let present = present.expect("it is shown");
        all_show(&present).await;
        let done = read().await.publish(&host, &access(), &present).await;
        done.expect("it is published");
    }
    converge(&host, &spec(Some(Rotation::Finish))).await;
    let present = read().await.show(&host, &access()).await;
    let present = present.expect("it is shown");
    let is_left = async || {
        let left = read().await;
        let left = left.has_to_publish_end(&host, &access(), &present).await;
        left.expect("it answers")
    };
    assert!(!is_left().await, "the others have not finished");
    all_show(&present).await;
    assert!(!read().await.has_to_show_end(&present));
    assert!(is_left().await);
    let done = read().await.publish(&host, &access(), &present).await;
    done.expect("it is published");
    assert!(!is_left().await);
}

#[tokio::test]
async fn a_successor_that_no_other_master_shows_is_refused() {
    let host = host();
    let refused = |its: &Rollout| {
        its.check_received("2-b")
            .err()
            .map(|error| error.to_string())
    };
    annotate(&host, "m-1", "begun 1-a 2-b b").await;
    annotate(&host, "m-2", "begun 1-a 2-c c").await;
    let said = refused(&rollout(&host, "m-1").await).expect("only this host shows it");
    assert!(said.contains("no other master shows"), "{said}");
    for text in ["begun 1-a 2-b c", "switched 2-b 1-a c", "settled 2-b - c"] {
        annotate(&host, "m-2", text).await;
        assert_eq!(refused(&rollout(&host, "m-1").await), None, "{text}");
    }
    annotate(&host, "m-2", "begun 1-a 2-b ff").await;
    assert!(
        refused(&rollout(&host, "m-1").await).is_some(),
        "of another member"
    );
}

#[tokio::test]
async fn it_is_refused_while_the_masters_are_not_known() {
    let silent = host();
    silent.with_world_mut(|world| world.etcd.states.clear());
    let down = host();
    down.with_world_mut(|world| world.kubernetes.remote_api = false);
    for host in [silent, down] {
        let error = refusal(&host, OF, "m-1").await;
        assert!(error.to_string().contains("does not tell which"), "{error}");
        let ResourceError::Unmet { next, .. } = &error else {
            panic!("{error}")
        };
        assert!(next.contains("run `nodelet apply`"), "{next}");
    }
    let stranger = refusal(&host(), OF, "m-9").await.to_string();
    assert!(stranger.contains("no member `m-9`"), "{stranger}");
    let joining = host();
    joining.with_world_mut(|world| {
        world.etcd.members[2].name = String::new();
    });
    let error = refusal(&joining, OF, "m-1").await.to_string();
    assert!(error.contains("a master is joining"), "{error}");
}

#[tokio::test]
async fn workers_take_part_in_their_authority_only() {
    let host = host();
    host.with_world_mut(|world| {
        let node = ClusterNode {
            uid: "u-1".to_owned(),
            ..ClusterNode::default()
        };
        world.node("w-1", node);
    });
    let read = Rollout::read(&host, &access(), "etcd", "m-1").await;
    let read = read.expect("it is known").expect("there are several");
    assert_eq!(read.workers().len(), 0);
    let present = replacement("switched b a");
    let annotate = async |node: &str, text: &str| {
        let patch = json!({ "metadata": { "annotations": { annotation("cluster"): text } } });
        let patched = host.patch_node(&access(), node, &patch).await;
        patched.expect("it is there");
    };
    for (node, id) in [("m-2", "c"), ("m-3", "d")] {
        annotate(node, &format!("switched b a {id}")).await;
    }
    for (text, is_enough) in [
        ("begun a b u-1", false),
        ("switched b a u-2", false),
        ("switched b a u-1", true),
        ("settled b - u-1", true),
    ] {
        annotate("w-1", text).await;
        let read = Rollout::read(&host, &access(), "cluster", "m-1").await;
        let read = read.expect("it is known").expect("there are several");
        assert!(read.masters_use_successor(&present), "workers follow");
        let checked = read.check(Rotation::Finish, &present, false);
        assert_eq!(checked.is_ok(), is_enough, "{text}");
    }
}

#[tokio::test]
async fn the_authorities_are_published_when_all_masters_are_so_far() {
    use Stage::{Begun, Settled, Switched};
    let host = host();
    let spec = |rotation| AuthoritySpec {
        name: "cluster".to_owned(),
        common_name: "kubernetes".to_owned(),
        years: 10,
        rotation,
        successor: None,
    };
    converge(&host, &spec(None)).await;
    let mut stages = Vec::new();
    for step in [Rotation::Begin, Rotation::Switch, Rotation::Finish] {
        converge(&host, &spec(Some(step))).await;
        for all in [false, true] {
            let read = Rollout::read(&host, &access(), "cluster", "m-1").await;
            let mut its = read.expect("it is known").expect("there are several");
            let present = its.show(&host, &access()).await.expect("it is shown");
            if all {
                for (node, id) in [("m-2", "c"), ("m-3", "d")] {
                    let text = format!("{present} {id}");
                    let patch =
                        json!({ "metadata": { "annotations": { annotation("cluster"): text } } });
                    let patched = host.patch_node(&access(), node, &patch).await;
                    patched.expect("it is there");
                }
                let read = Rollout::read(&host, &access(), "cluster", "m-1").await;
                its = read.expect("it is known").expect("there are several");
            }
            let done = its.publish(&host, &access(), &present).await;
            done.expect("it is published");
            let its = published(&host, &access()).await.expect("it answers");
            let its = its.and_then(|its| its.replacement());
            stages.push(its.expect("it can be used").stage);
            assert_eq!(
                stages.last() == Some(&present.stage),
                all || step == Rotation::Begin
            );
        }
    }
    assert_eq!(stages, [Begun, Begun, Begun, Switched, Switched, Settled]);
}

#[tokio::test]
async fn a_node_counts_only_with_its_present_member() {
    let host = host();
    let present = replacement("begun 1-a 2-b");
    annotate(&host, "m-2", "begun 1-a 2-b c").await;
    annotate(&host, "m-3", "begun 1-a 2-b ff").await;
    let its = rollout(&host, "m-1").await;
    let missing = its.missing(Rotation::Switch, &present);
    let names: Vec<&str> = missing.iter().map(|its| its.node.as_str()).collect();
    assert_eq!(names, ["m-3"]);
    let error = its.check(Rotation::Switch, &present, false);
    let error = error.expect_err("m-3 is missing").to_string();
    assert!(error.contains("m-3 has not shown"), "{error}");
    for damaged in ["", "d", "begun 1-a d", "begun 1-a 2-b", "begun 1-a 2-b d d"] {
        annotate(&host, "m-3", damaged).await;
        let its = rollout(&host, "m-1").await;
        assert_eq!(its.nodes()["m-3"], None, "{damaged}");
    }
    annotate(&host, "m-3", "begun 1-a 2-b d").await;
    let its = rollout(&host, "m-1").await;
    its.check(Rotation::Switch, &present, false)
        .expect("all have begun");
    // The Node of a master that left etcd is still there.
    host.with_world_mut(|world| {
        world.etcd.members.pop();
    });
    let its = rollout(&host, "m-1").await;
    assert_eq!(its.missing(Rotation::Switch, &present).len(), 1);
}

#[tokio::test]
async fn a_master_shows_how_far_it_is() {
    let host = host();
    keys(&host, None).await;
    keys(&host, Some(Rotation::Begin)).await;
    let mut its = rollout(&host, "m-1").await;
    let begun = its.show(&host, &access()).await.expect("it is shown");
    assert_eq!(begun.stage, Stage::Begun);
    let its = rollout(&host, "m-2").await;
    assert_eq!(its.nodes()["m-1"], Some(begun.clone()));
    let key = host.with_world(|world| world.text("/etc/pf9/kube.d/encryption/config.yaml"));
    let key = key.expect("it is there");
    let shown = begun.to_string();
    let secrets = key
        .lines()
        .filter_map(|line| line.trim().strip_prefix("secret: "));
    assert!(secrets.into_iter().all(|secret| !shown.contains(secret)));
    // The last step was interrupted before it was shown.
    keys(&host, Some(Rotation::Switch)).await;
    let mut its = rollout(&host, "m-1").await;
    its.show(&host, &access()).await.expect("it is shown");
    keys(&host, Some(Rotation::Finish)).await;
    let present = Replacement::read(&host, OF).await;
    let present = present.expect("it can be read").expect("there is a key");
    let mut its = rollout(&host, "m-1").await;
    assert!(its.has_to_show_end(&present));
    its.show(&host, &access()).await.expect("it is shown");
    assert!(!its.has_to_show_end(&present));
    assert!(!its.is_over(&present), "the others have not finished");
    for (node, id) in [("m-2", "c"), ("m-3", "d")] {
        annotate(&host, node, &format!("{present} {id}")).await;
    }
    assert!(rollout(&host, "m-1").await.is_over(&present));
}

#[tokio::test]
async fn an_authority_is_shown_by_its_digests() {
    let host = host();
    let spec = AuthoritySpec {
        name: "etcd".to_owned(),
        common_name: "etcd".to_owned(),
        years: 10,
        rotation: None,
        successor: None,
    };
    converge(&host, &spec).await;
    let read = Rollout::read(&host, &access(), "etcd", "m-1").await;
    let mut its = read.expect("it is known").expect("there are several");
    let shown = its.show(&host, &access()).await.expect("it is shown");
    assert_eq!((shown.stage, shown.uses.len()), (Stage::Settled, 64));
    assert_eq!(shown.beside, None);
}
