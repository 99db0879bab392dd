//! A worker follows the masters that replace the authority of the cluster.

use behaviour::{Bringup, block_on};
use engine::exec::{is_worker_behind, show_worker};
use engine::model::Outcome;
use engine::resource::pki::PublishedAuthorities;
use serde_json::json;

const CA: &str = "/etc/pf9/kube.d/ca/cluster/ca.crt";
const TRUST: &str = "/etc/pf9/kube.d/certs/kubelet/server/ca.crt";

#[test]
fn a_worker_takes_a_successor_and_shows_it() {
    let (bringup, host) = Bringup::brought_up("wk-1");
    let text = |path: &str| host.with_world(|world| world.text(path));
    let master = Bringup::of("cp-1");
    let another = master.bare_host();
    assert_eq!(master.apply(&another).outcome, Outcome::Converged);
    let published = PublishedAuthorities {
        current: text(CA).expect("it is there"),
        next: another.with_world(|world| world.text(CA)),
        previous: None,
    };
    let is_behind = || block_on(is_worker_behind(&host)).expect("it answers");
    assert!(!is_behind(), "nothing is published");
    host.with_world_mut(|world| {
        world.object(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": "nodelet-authorities", "namespace": "kube-system" },
            "data": published.data(),
        }));
    });
    assert!(is_behind(), "it does not trust the successor yet");
    block_on(published.keep(&host)).expect("it knows one of them");
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let trusted = text(TRUST).expect("it is there");
    assert_eq!(trusted.matches("BEGIN CERTIFICATE").count(), 2);
    let changes = run.changes();
    assert!(
        changes.iter().any(|id| id.ends_with("pf9-kubelet.service")),
        "kubelet reads its roots when it starts: {changes:?}"
    );
    assert!(is_behind(), "it has not shown it");
    block_on(show_worker(&host)).expect("it is shown");
    assert!(!is_behind());
    assert_eq!(bringup.apply(&host).changes(), [""; 0]);
}
