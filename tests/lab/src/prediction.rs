//! What was predicted is compared with what is done.

use engine::exec::Fidelity;

use crate::master::Master;

/// Predicts an apply, makes it, and compares the two.
#[must_use]
pub fn prediction(master: &Master) -> Fidelity {
    let predicted = master.nodelet(&["diff", "--json"]);
    assert!(
        predicted.exited(0) || predicted.exited(2),
        "{}",
        predicted.text()
    );
    let done = master.apply(&[]).exits(0);
    Fidelity::of(&predicted.record(), &done.record())
}
