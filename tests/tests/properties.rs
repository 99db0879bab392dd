//! What holds of any plan on any host, tried on generated ones.
//!
//! The same cases every time, unless `NODELET_SOAK=1`: then many more, from a new seed.

use behaviour::{Bringup, CrashPoint, Fidelity, Generated, Run, differences, generated, soaks};
use engine::host::fake::{FakeHost, difference};
use engine::model::Outcome;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::RngSeed;

fn test_config() -> ProptestConfig {
    ProptestConfig {
        cases: if soaks() { 2_000 } else { 40 },
        rng_seed: if soaks() {
            RngSeed::Random
        } else {
            RngSeed::Fixed(9)
        },
        failure_persistence: None,
        max_shrink_iters: 150,
        ..ProptestConfig::default()
    }
}

/// A host after an apply that converged.
fn applied(bringup: &Bringup, host: &FakeHost) -> Result<(FakeHost, Run), TestCaseError> {
    let host = host.fork();
    let run = bringup.apply(&host);
    prop_assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host.clear_journal();
    Ok((host, run))
}

proptest! {
    #![proptest_config(test_config())]

    #[test]
    fn a_second_apply_changes_nothing(made in generated()) {
        let (bringup, host) = made.bring_up();
        let (host, _) = applied(&bringup, &host)?;
        let second = bringup.apply(&host);
        prop_assert_eq!(second.outcome, Outcome::Converged, "{}", second.text());
        prop_assert_eq!(host.mutating_calls(), vec![], "{}", second.text());
    }

    #[test]
    fn a_dry_run_touches_nothing_and_predicts_what_is_done(made in generated()) {
        let (bringup, host) = made.bring_up();
        let before = host.snapshot();
        let predicted = bringup.predict(&host);
        prop_assert_eq!(predicted.outcome, Outcome::Predicted, "{}", predicted.text());
        prop_assert_eq!(host.mutating_calls(), vec![]);
        prop_assert_eq!(difference(&before, &host.snapshot()), Vec::<String>::new());
        let (_, done) = applied(&bringup, &host)?;
        let misses = Fidelity::of(&predicted.events, &done.events).misses;
        prop_assert!(misses.is_empty(), "{misses:#?}");
    }

    #[test]
    fn a_clean_restores_the_host_and_a_purge_removes_kept_data(made in generated()) {
        let (bringup, start) = made.bring_up();
        let (host, _) = applied(&bringup, &start)?;
        for purge in [false, true] {
            let clean = Bringup::clean(&host, purge);
            prop_assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
            let left = bringup.not_cleaned(&start.snapshot(), &host, purge);
            prop_assert_eq!(left, Vec::<String>::new(), "purge {}: {}", purge, clean.text());
        }
    }

    #[test]
    fn the_order_of_independent_phases_makes_no_difference(made in generated()) {
        let (bringup, start) = made.bring_up();
        let (usual, _) = applied(&bringup, &start)?;
        let other = bringup.latest_first();
        let host = start.fork();
        for phase in &other.plan.phases {
            let run = other.apply_phase(&host, phase);
            prop_assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
        }
        let differs = differences(&Bringup::shape(&usual), &Bringup::shape(&host));
        prop_assert_eq!(differs, Vec::<String>::new());
        let settled = bringup.apply(&host).changes();
        prop_assert_eq!(settled, Vec::<String>::new());
    }

    #[test]
    fn a_crash_at_each_call_is_recovered(made in generated(), place in any::<prop::sample::Index>()) {
        let (bringup, start) = made.bring_up();
        let whole = start.fork().with_history();
        let run = bringup.apply(&whole);
        prop_assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
        let mut points = CrashPoint::all(&whole);
        prop_assume!(!points.is_empty());
        let point = points.swap_remove(place.index(points.len()));
        let clean = Bringup::clean(&point.host.fork(), false);
        prop_assert_eq!(clean.outcome, Outcome::Cleaned, "{:?}: {}", point, clean.text());
        let cleaned = point.host.fork();
        let clean = Bringup::clean(&cleaned, true);
        let left = bringup.not_cleaned(&start.snapshot(), &cleaned, true);
        prop_assert_eq!(left, Vec::<String>::new(), "{:?}: {}", point, clean.text());
        let (host, _) = applied(&bringup, &point.host)?;
        let differs = differences(&Bringup::shape(&whole), &Bringup::shape(&host));
        prop_assert_eq!(differs, Vec::<String>::new(), "{:?}", point);
    }

    #[test]
    fn a_phase_that_fails_leaves_the_host_as_before_it(made in generated(), place in any::<prop::sample::Index>()) {
        let (bringup, host) = made.bring_up();
        let phases = &bringup.plan.phases;
        let failing = place.index(phases.len());
        for phase in &phases[..failing] {
            let run = bringup.apply_phase(&host, phase);
            prop_assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
        }
        let before = host.snapshot();
        let run = bringup.with_failing_check(&phases[failing]).apply_phase(&host, &phases[failing]);
        prop_assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
        let left = Bringup::left_behind(&phases[failing], &before, &host);
        prop_assert_eq!(left, Vec::<String>::new(), "{}", run.text());
        applied(&bringup, &host)?;
    }
}

#[test]
fn generated_roles_contain_many_kinds_of_steps() {
    let mut runner = proptest::test_runner::TestRunner::new(test_config());
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let made: Generated = generated().new_tree(&mut runner).expect("a tree").current();
        let (bringup, _) = made.bring_up();
        let steps = bringup.plan.phases.iter().flat_map(|phase| &phase.steps);
        kinds.extend(steps.map(|step| step.spec.kind()));
    }
    let wanted = [
        "certificate",
        "certificate_authority",
        "command",
        "container",
        "directory",
        "env_file",
        "file",
        "image",
        "kernel_module",
        "kubeconfig",
        "manifest",
        "node",
        "packages",
        "service",
        "service_account_key",
        "symlink",
        "sysctl",
        "timer",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), wanted);
}
