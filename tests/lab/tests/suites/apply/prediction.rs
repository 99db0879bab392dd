//! What `diff` predicts is what `apply` does. `cargo xtask soak` has more situations.

use behaviour::Mismatch;
use lab_suites::{FAULTS, SCALED, Watch, predicted_repair, prediction, shared};

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn the_loss_of_a_container_is_predicted() {
    let master = shared();
    master.sh("docker rm --force etcd");
    let fidelity = prediction(&master);
    assert_eq!(fidelity.done, 1, "one step brings it back");
    // Without etcd, only the routes that are there tell whether there have to be any. If another suite has had nodes beside the shared
    // master, this is known after apply.
    let is_open = |miss: &&Mismatch| miss.is_left_open() && miss.step.kind() == Some("node_routes");
    let wrong = fidelity.misses.iter().filter(|miss| !is_open(miss));
    let wrong: Vec<String> = wrong.map(ToString::to_string).collect();
    assert!(
        wrong.is_empty(),
        "these were predicted differently: {wrong:?}"
    );
}

#[test]
#[ignore = "needs a lab: cargo xtask test --only lab"]
fn repairs_are_predicted() {
    let master = shared();
    master.configure(SCALED);
    master.apply(&[]).exits(0);
    let watch = Watch::start(&master);
    for name in ["etcd-removed", "kubelet-config-edited", "proxy-removed"] {
        let fault = FAULTS.iter().find(|fault| fault.name == name);
        let fidelity = predicted_repair(&master, &watch, fault.expect("it is a fault"));
        let misses: Vec<String> = fidelity.misses.iter().map(ToString::to_string).collect();
        println!("{name}: {fidelity:?}");
        assert!(misses.is_empty(), "{name}: {misses:?}");
        assert!(fidelity.done > 0, "{name}: something was done");
    }
    drop(watch);
    master.configure(&[]);
}
