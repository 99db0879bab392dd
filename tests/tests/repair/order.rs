//! What depends on a resource ends before it and starts after it: a stop goes backwards, and a failed repair starts again forwards.

use behaviour::{Bringup, Scripts, block_on};
use engine::exec::{Event, Recording, Runner};
use engine::host::fake::{FakeHost, FaultPlan};
use engine::model::{Outcome, PhaseName, StepId};
use engine::resource::{MaskedSecrets, Spec};

/// Two units in one phase and one in the next, on a host where all run.
fn applied_host() -> (Bringup, FakeHost) {
    let bringup = Bringup::of_scripts(
        &Scripts::default()
            .phase(
                "base",
                r#"phase("base").about("Runs two units.").nodes(["master"]);
                   file("/etc/base").content("x");
                   service("first").started();
                   service("second").started();"#,
            )
            .phase(
                "top",
                r#"phase("top").about("Runs a unit.").nodes(["master"]).requires(["base"]);
                   service("third").started();"#,
            ),
    );
    let host = FakeHost::new()
        .with_unit("first.service", "[Service]\n")
        .with_unit("second.service", "[Service]\n")
        .with_unit("third.service", "[Service]\n");
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    (bringup, host)
}

/// The steps of units, in the order of the plan.
fn units(bringup: &Bringup) -> Vec<StepId> {
    let steps = bringup.plan.phases.iter().flat_map(|phase| &phase.steps);
    let units = steps.filter(|step| matches!(step.spec, Spec::Service(_)));
    let units: Vec<StepId> = units.map(|step| step.id.clone()).collect();
    assert_eq!(units.len(), 3, "{units:?}");
    units
}

fn stopped(events: &[Event]) -> Vec<StepId> {
    let stopped = events.iter().filter_map(|event| match event {
        Event::StepStopped { step, .. } => Some(step.clone()),
        _ => None,
    });
    stopped.collect()
}

fn backwards(mut steps: Vec<StepId>) -> Vec<StepId> {
    steps.reverse();
    steps
}

#[test]
fn a_stop_goes_backwards_through_phases_and_steps() {
    let (bringup, host) = applied_host();
    let stop = bringup.stop(&host);
    assert_eq!(stop.outcome, Outcome::Stopped, "{}", stop.text());
    assert_eq!(stopped(&stop.events), backwards(units(&bringup)));
}

#[test]
fn a_failed_repair_starts_again_what_it_stopped_last() {
    let (bringup, host) = applied_host();
    host.with_world_mut(|world| world.file("/etc/base", "edited"));
    host.set_faults(FaultPlan::none().fail("write", "/etc/base"));
    let recording = Recording::default();
    let runner = Runner::new(
        &bringup.plan,
        &host,
        &bringup.facts,
        &MaskedSecrets,
        &recording,
    );
    let phases: Vec<PhaseName> = bringup
        .plan
        .phases
        .iter()
        .map(|phase| phase.name.clone())
        .collect();
    let outcome = block_on(runner.restart(&phases, &[])).expect("it is written down");
    let events = recording.events();
    assert_eq!(outcome, Outcome::Failed, "{events:#?}");
    assert_eq!(stopped(&events), backwards(units(&bringup)));
    let started = events.iter().filter_map(|event| match event {
        Event::StepStartedAgain { step, .. } => Some(step.clone()),
        _ => None,
    });
    assert_eq!(started.collect::<Vec<_>>(), units(&bringup));
}
