//! What `diff` predicts is what `apply` does. `cargo xtask soak` has more situations.

use lab_suites::{prediction, shared};

#[test]
fn a_lost_container_is_foretold() {
    let Some(master) = shared() else { return };
    master.sh("docker rm --force etcd");
    let fidelity = prediction(&master);
    assert_eq!(fidelity.done, 1, "one step brings it back");
    assert!(
        fidelity.misses.is_empty(),
        "these were told otherwise: {:?}",
        fidelity
            .misses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    );
}
