//! Compares predictions with what was done.

use std::time::Duration;

use behaviour::Fidelity;
use engine::exec::Event;
use engine::model::{PhaseName, Verb};

use lab::Fault;

use crate::master::Node;
use crate::run::Run;
use crate::watch::{Watch, restarted};

/// The fault that kills nodeletd in the middle of a repair.
const KILLED: &str = "nodeletd-killed";
/// Time limit of a repair.
const REPAIRED: Duration = Duration::from_secs(300);

/// Predicts an apply, makes it, and compares the two.
#[must_use]
pub fn prediction(master: &Node) -> Fidelity {
    let predicted = master.nodelet(&["diff", "--json"]);
    assert!(
        predicted.exited(0) || predicted.exited(2),
        "{}",
        predicted.text()
    );
    let done = master.apply(&[]).exits(0);
    Fidelity::of(&predicted.record(), &done.record())
}

/// Causes a fault while nodeletd is paused, predicts the repair, lets nodeletd make it, and compares the two.
#[must_use]
pub fn predicted_repair(master: &Node, watch: &Watch<'_>, fault: &Fault) -> Fidelity {
    if fault.name == KILLED {
        return after_a_kill(master, watch, fault);
    }
    let (predicted, done) = trial(master, watch, fault);
    let fidelity = Fidelity::of(&predicted, &done);
    explain(&fidelity, &predicted);
    fidelity
}

/// Causes a fault, and gives what is predicted and what is done.
fn trial(master: &Node, watch: &Watch<'_>, fault: &Fault) -> (Vec<Event>, Vec<Event>) {
    let vip = master.vip();
    pause(master, watch, fault);
    master.cause(fault);
    // After a boot, or when the disk has room again, some failures disappear by themselves, so the prediction waits for them. For
    // other faults it is made at once, because other programs may end what hangs.
    let waits = fault.boots || !fault.frees.is_empty();
    let predicted = if waits {
        run_at_rest(master, watch)
    } else {
        predict(master)
    };
    // A boot may leave something to repair, or nothing.
    let expected = predicted.exited(2) || (fault.boots && predicted.exited(0));
    assert!(expected, "{}: {}", fault.name, predicted.text());
    watch.record();
    master.wait_for("nodeletd is resumed", "nodelet resume", REPAIRED);
    if !fault.clears.is_empty() {
        // With a wrong clock, for example, conditions do not hold before the fault is cleared; and clearing it ends what is
        // running.
        wait_until_repaired(master, watch, fault);
        watch.until("its repair has ended", REPAIRED, || {
            has_ended(&watch.recorded())
        });
        // Clearing the fault breaks something again, so the events are read before.
        let done = watch.recorded();
        fault
            .clear(master.host(), &vip)
            .expect("the fault is cleared");
        watch.wait_until_healthy(REPAIRED);
        return (predicted.record(), done);
    }
    watch.wait_until_healthy(REPAIRED);
    wait_until_repaired(master, watch, fault);
    (predicted.record(), watch.recorded())
}

/// Prints why a step was predicted to change that did not.
fn explain(fidelity: &Fidelity, predicted: &[Event]) {
    for miss in &fidelity.misses {
        let of_miss = |event: &&Event| matches!(event, Event::StepChanging { step, .. } if *step == miss.step);
        for event in predicted.iter().filter(of_miss) {
            println!("{miss}: {event:?}");
        }
    }
}

fn predict(master: &Node) -> Run {
    master.nodelet_as_by_nodeletd(&["diff", "--repair", "--json"])
}

/// A prediction that is the same two passes later: a fault makes other things fail after a while, and some recover by themselves.
fn run_at_rest(master: &Node, watch: &Watch<'_>) -> Run {
    let mut before = predict(master);
    for _ in 0..20 {
        watch.passes(2, REPAIRED);
        let now = predict(master);
        if begun(&now.record()) == begun(&before.record()) {
            return now;
        }
        before = now;
    }
    panic!("the failures do not settle: {}", before.text());
}

/// The phases that a run touches, in their order.
fn begun(events: &[Event]) -> Vec<PhaseName> {
    let phases = events.iter().filter_map(|event| match event {
        Event::PhaseStarted { phase, .. } => Some(phase.clone()),
        _ => None,
    });
    phases.collect()
}

/// Whether the repair has ended, both its stop and its restart.
fn has_ended(events: &[Event]) -> bool {
    let restarts = |event: &Event| {
        matches!(
            event,
            Event::RunStarted {
                verb: Verb::Restart,
                ..
            }
        )
    };
    let mut after = events.iter().skip_while(|event| !restarts(event));
    after.any(|event| matches!(event, Event::RunFinished { .. }))
}

/// Causes a fault from which a host recovers without a repair: no repair is predicted, and none is made.
pub fn no_repair(master: &Node, watch: &Watch<'_>, fault: &Fault) {
    pause(master, watch, fault);
    master.cause(fault);
    wait_until_repaired(master, watch, fault);
    let predicted = master.nodelet(&["diff", "--repair", "--json"]).exits(0);
    let none = matches!(
        predicted.record().as_slice(),
        [
            Event::RunStarted { phases, .. },
            Event::RunFinished { changed: 0, .. }
        ] if phases.is_empty()
    );
    assert!(none, "{}", predicted.text());
    watch.record();
    master.wait_for("nodeletd is resumed", "nodelet resume", REPAIRED);
    watch.wait_until_healthy(REPAIRED);
    let restarted = restarted(&watch.recorded());
    assert!(restarted.is_empty(), "{}: {restarted:?}", fault.name);
}

/// The repair of what a killed repair has left. It is made by hand, because nodeletd would begin it before it could be predicted.
fn after_a_kill(master: &Node, watch: &Watch<'_>, fault: &Fault) -> Fidelity {
    let predicted = crate::poll(REPAIRED, || {
        watch.wait_until_healthy(REPAIRED);
        master.cause(fault);
        master.sh("systemctl stop pf9-nodeletd");
        let predicted = master.nodelet(&["diff", "--repair", "--json"]);
        if predicted.exited(0) {
            // On a busy machine the kill may come after the end of the repair.
            master.sh("systemctl start pf9-nodeletd");
            return None;
        }
        Some(predicted)
    });
    let predicted = predicted.expect("something is left to be repaired");
    assert!(predicted.exited(2), "{}", predicted.text());
    let done = master.nodelet(&["repair", "--json"]).exits(0);
    master.sh("systemctl start pf9-nodeletd");
    watch.wait_until_healthy(REPAIRED);
    Fidelity::of(&predicted.record(), &done.record())
}

/// Prepares the host for a fault, and pauses nodeletd.
fn pause(master: &Node, watch: &Watch<'_>, fault: &Fault) {
    fault
        .prepare(master.host(), &master.vip())
        .expect("it can happen");
    watch.wait_until_healthy(REPAIRED);
    // Longer than the clock of a fault is ahead.
    master.sh("nodelet pause 3d --because 'a suite breaks this host'");
    // A repair may have begun just before, for example after a restart of the controller-manager. It would not see what is broken now.
    watch.until("no repair runs", REPAIRED, || watch.is_idle());
    // A pass that has begun judges some checks before the fault and others after it.
    watch.passes(1, REPAIRED);
}

fn wait_until_repaired(master: &Node, watch: &Watch<'_>, fault: &Fault) {
    watch.until(fault.name, REPAIRED, || {
        fault
            .is_whole(master.host(), &master.vip())
            .unwrap_or(false)
    });
}
