//! A step of a replacement is interrupted anywhere: it is recovered, and completed when a step is taken again at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use behaviour::{Bringup, CrashPoint, block_on, differences, sample, try_each};
use engine::exec::{Recording, Runner, failed_phases, overlay_host, restart_set, rotating};
use engine::host::fake::FakeHost;
use engine::model::Outcome;
use engine::resource::pki::{ENCRYPTION, Replacement, Rotation, Stage};
use engine::resource::{NoSecrets, ResourceError};

use super::rotation::{MINUTE, STEPS, applied_host, refusal, runner, take};

#[test]
fn an_encryption_key_step_crashed_at_each_call_is_recovered() {
    cut_anywhere(ENCRYPTION);
}

#[test]
fn a_step_crashed_at_each_call_is_recovered() {
    cut_anywhere("etcd");
}

fn cut_anywhere(authority: &str) {
    let (bringup, host) = applied_host();
    let bare = bringup.bare_host().snapshot();
    for step in STEPS {
        let plan = rotating(&bringup.plan, authority, step).expect("the role has it");
        let whole = host.fork().with_history();
        let events = Recording::default();
        let outcome = block_on(runner(&bringup, &plan, &whole, &events).rotate());
        assert_eq!(outcome.expect("it ends"), Outcome::Converged);
        let shape = Bringup::shape(&whole);
        let points = CrashPoint::all(&whole);
        assert!(points.len() > 5, "{points:?}");
        for point in sample(points, 2) {
            // nodeletd repairs what fails, without knowledge of the rotation, and then restarts the readers of the repaired files.
            let watched = point.host.fork();
            let mut failed = failed_phases(&bringup.check(&watched));
            for _ in 0..2 {
                let set = restart_set(&bringup.plan, &failed);
                let events = Recording::default();
                let its = runner(&bringup, &bringup.plan, &watched, &events);
                let outcome = block_on(its.restart(&set, &[]));
                assert_eq!(outcome.expect("it ends"), Outcome::Converged, "{point:?}");
                failed = failed_phases(&bringup.check(&watched));
            }
            assert!(failed.is_empty(), "{step:?}, {point:?}: {failed:?}");
            // An apply repairs it as well.
            let next = point.host.fork();
            let run = bringup.apply(&next);
            assert_eq!(run.outcome, Outcome::Converged, "{point:?}: {}", run.text());
            let settled = bringup.apply(&next).changes();
            assert_eq!(settled, Vec::<String>::new(), "{step:?}, {point:?}");
            // The same step is taken again.
            let again = point.host.fork();
            if let Some(refused) = refusal(&bringup, &again, authority, step) {
                // Half of it is written. An end that is left open is shown in another way.
                let next = format!("{refused:?}");
                let helps = ["nodelet apply", "there is nothing to finish"];
                let is_named = helps.iter().any(|help| next.contains(help));
                assert!(is_named, "{step:?}, {point:?}: {next}");
            }
            let events = Recording::default();
            let outcome = block_on(runner(&bringup, &plan, &again, &events).rotate());
            assert_eq!(outcome.expect("it ends"), Outcome::Converged, "{point:?}");
            let differs = differences(&shape, &Bringup::shape(&again));
            assert_eq!(differs, Vec::<String>::new(), "{step:?}, {point:?}");
            // A clean takes back all of it.
            let clean = Bringup::clean(&again, true);
            assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
            let left = bringup.not_cleaned(&bare, &again, true);
            assert_eq!(left, Vec::<String>::new(), "{step:?}, {point:?}");
        }
        take(&bringup, &host, authority, step);
        host.with_world_mut(|world| world.advance(10 * MINUTE));
        host.clear_journal();
    }
}

/// Completes an interrupted step as `nodelet certs rotate` does before a step; returns whether it had begun to finish this authority, and
/// `None` if there was none.
fn completed(bringup: &Bringup, host: &FakeHost, authority: &str) -> Option<bool> {
    let events = Recording::default();
    let its = || runner(bringup, &bringup.plan, host, &events);
    let found = block_on(its().interrupted_step()).expect("it can be read")?;
    let outcome = block_on(its().complete_step());
    assert_eq!(outcome.expect("it ends"), Outcome::Converged);
    Some(found.finishes(authority))
}

fn stage(host: &FakeHost, authority: &str) -> Stage {
    let read = block_on(Replacement::read(host, authority)).expect("it can be read");
    read.expect("it is there").stage
}

/// The changes that the completion of an interrupted step is predicted to make.
fn predicted(bringup: &Bringup, host: &FakeHost) -> Vec<String> {
    let events = Recording::default();
    let before = host.snapshot();
    let outcome = block_on(async {
        let overlay = overlay_host(host, &bringup.plan).await;
        let (plan, facts) = (&bringup.plan, &bringup.facts);
        let its = Runner::new(plan, &overlay, facts, &NoSecrets, &events);
        its.predict_completion().await
    });
    assert_eq!(host.snapshot(), before, "a prediction changes nothing");
    let outcome = outcome.expect("it ends");
    let events = events.events();
    behaviour::Run { outcome, events }.changes()
}

/// What each place leaves is the matter of the tests above. Taken again at once, the step goes to its end, and so does the one that comes next.
#[test]
fn an_interrupted_step_is_completed_when_a_step_is_taken_at_once() {
    let (bringup, host) = applied_host();
    let count = || AtomicUsize::new(0);
    let (half_written, changes, continued) = (count(), count(), count());
    for (step, next, after) in [
        (Rotation::Begin, Some(Rotation::Switch), Stage::Begun),
        (Rotation::Switch, Some(Rotation::Finish), Stage::Switched),
        (Rotation::Finish, None, Stage::Settled),
    ] {
        let plan = rotating(&bringup.plan, "etcd", step).expect("the role has it");
        let whole = host.fork().with_history();
        let events = Recording::default();
        let outcome = block_on(runner(&bringup, &plan, &whole, &events).rotate());
        assert_eq!(outcome.expect("it ends"), Outcome::Converged);
        // A prime number, so that the sample is not in step with calls that recur for each file.
        let points = sample(CrashPoint::all(&whole), 7);
        try_each(&points, |point| {
            let again = point.host.fork();
            let refused = refusal(&bringup, &again, "etcd", step);
            let is_half = |error: ResourceError| format!("{error:?}").contains("nodelet apply");
            if refused.is_some_and(is_half) {
                half_written.fetch_add(1, Ordering::Relaxed);
            }
            changes.fetch_add(predicted(&bringup, &again).len(), Ordering::Relaxed);
            let has_finished = completed(&bringup, &again, "etcd");
            let left = predicted(&bringup, &again);
            assert_eq!(left, Vec::<String>::new(), "{step:?}, {point:?}");
            let found = stage(&again, "etcd");
            if step == Rotation::Finish && found == Stage::Settled {
                // Nothing is left to finish, and the command knows that it was this step. A run that has ended was not interrupted.
                assert_ne!(has_finished, Some(false), "{point:?}");
                return Vec::new();
            }
            let at_once = again.fork();
            take(&bringup, &again, "etcd", step);
            assert_eq!(stage(&again, "etcd"), after, "{step:?}, {point:?}");
            let Some(next) = next.filter(|_| found == after) else {
                return Vec::new();
            };
            // The interrupted run has got so far that the completion is the whole step, apart from renewals.
            at_once.with_world_mut(|world| world.advance(10 * MINUTE));
            if step == Rotation::Switch {
                let due = refusal(&bringup, &at_once, "etcd", next).expect("it is refused");
                assert!(due.to_string().contains("are due"), "{point:?}: {due}");
                take(&bringup, &at_once, "etcd", step);
                at_once.with_world_mut(|world| world.advance(10 * MINUTE));
            }
            take(&bringup, &at_once, "etcd", next);
            continued.fetch_add(1, Ordering::Relaxed);
            Vec::new()
        });
        take(&bringup, &host, "etcd", step);
        host.with_world_mut(|world| world.advance(10 * MINUTE));
        host.clear_journal();
    }
    assert!(
        half_written.into_inner() > 0,
        "no authority was half written"
    );
    assert!(changes.into_inner() > 0, "no completion changed anything");
    assert!(continued.into_inner() > 0, "no next step was taken at once");
}

#[test]
fn a_step_that_has_ended_needs_no_completion() {
    let (bringup, host) = applied_host();
    for step in STEPS {
        take(&bringup, &host, "etcd", step);
        host.with_world_mut(|world| world.advance(10 * MINUTE));
        let events = Recording::default();
        let its = runner(&bringup, &bringup.plan, &host, &events);
        let found = block_on(its.interrupted_step()).expect("it can be read");
        assert_eq!(found, None, "{step:?}");
    }
}
