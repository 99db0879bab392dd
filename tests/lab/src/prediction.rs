//! What was predicted is compared with what is done.

use std::time::Duration;

use engine::exec::Fidelity;

use lab::Fault;

use crate::master::Master;
use crate::watch::Watch;

/// No repair takes longer.
const REPAIRED: Duration = Duration::from_secs(150);

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

/// Lets a fault happen while nodeletd only looks on, predicts its repair, lets it happen, and compares the two.
#[must_use]
pub fn predicted_repair(master: &Master, watch: &Watch<'_>, fault: &Fault) -> Fidelity {
    let vip = master.vip();
    fault.prepare(master.host(), &vip).expect("it can happen");
    watch.calm(REPAIRED);
    // Longer than a clock may be ahead.
    master.sh("nodelet pause 3d --because 'a suite breaks this host'");
    fault.strike(master.host(), &vip).expect("it happens");
    let predicted = master.nodelet(&["diff", "--repair", "--json"]);
    // A boot leaves nothing to repair, or something.
    let expected = predicted.exited(2) || (fault.boots && predicted.exited(0));
    assert!(expected, "{}: {}", fault.name, predicted.text());
    // With a wrong clock, for one, nobody is content, and no repair comes to its end.
    fault
        .clear(master.host(), &vip)
        .expect("what it brought goes");
    watch.record();
    master.wait_for("nodeletd goes on", "nodelet resume", REPAIRED);
    watch.calm(REPAIRED);
    assert!(
        fault
            .is_whole(master.host(), &vip)
            .expect("the host answers"),
        "{}: it is whole again",
        fault.name
    );
    Fidelity::of(&predicted.record(), &watch.recorded())
}
