//! Compaction of any sequence of records: operators and a clean get the same answers as before.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{live as live_on, removal, step};
use crate::host::fake::FakeHost;
use crate::ledger::hash_chain::Chain;
use crate::ledger::live_resource::{
    RUNS_KEPT, compacted, left_by_rollback, live, resources, span_of,
};
use crate::ledger::{History, Ledger, Record, RunId, VERSION};
use crate::model::{Failure, Outcome, PhaseName, STATE, Span, StepId, Verb};
use crate::plan::PlannedStep;
use crate::resource::{Action, Undo};

/// One thing that happens in a run.
#[derive(Debug, Clone)]
enum Operation {
    Intent(usize, usize),
    Undo(usize, usize, bool),
    Receipt(usize, usize),
    Cleanup(usize, Vec<bool>),
    Failed(usize),
    PhaseApplied(usize),
    Reverted(usize, Vec<usize>),
    Cleaned(bool),
    Pruned(usize, usize, bool),
    CleanupDone(usize),
}

const PHASES: [&str; 4] = ["certs", "docker", "etcd", "kubelet"];
const RESOURCES: usize = 6;

fn operation() -> impl Strategy<Value = Operation> {
    let (phase, resource) = (0..PHASES.len(), 0..RESOURCES);
    prop_oneof![
        3 => (phase.clone(), resource.clone()).prop_map(|(p, t)| Operation::Intent(p, t)),
        6 => (phase.clone(), resource.clone(), any::<bool>()).prop_map(|(p, t, k)| Operation::Undo(p, t, k)),
        2 => (phase.clone(), resource.clone()).prop_map(|(p, t)| Operation::Receipt(p, t)),
        2 => (phase.clone(), resource.clone(), any::<bool>()).prop_map(|(p, t, u)| Operation::Pruned(p, t, u)),
        1 => phase.clone().prop_map(Operation::CleanupDone),
        2 => (phase.clone(), vec(any::<bool>(), 1..3)).prop_map(|(p, k)| Operation::Cleanup(p, k)),
        1 => phase.clone().prop_map(Operation::Failed),
        1 => phase.clone().prop_map(Operation::PhaseApplied),
        2 => (phase, vec(resource, 0..3)).prop_map(|(p, l)| Operation::Reverted(p, l)),
        1 => any::<bool>().prop_map(Operation::Cleaned),
    ]
}

/// Runs, each with what happens in it and whether it ends; some empty runs stand for the many that compaction forgets.
fn runs() -> impl Strategy<Value = Vec<(Vec<Operation>, bool)>> {
    let run = prop_oneof![
        3 => (vec(operation(), 0..8), any::<bool>()),
        1 => Just((Vec::new(), true)),
    ];
    (vec(run, 0..12), 0..RUNS_KEPT + 10).prop_map(|(mut runs, empty)| {
        let at = runs.len() / 2;
        let idle = std::iter::repeat_n((Vec::new(), true), empty);
        runs.splice(at..at, idle);
        runs
    })
}

/// The records of these runs, of which the first has the number `first`.
fn records(runs: &[(Vec<Operation>, bool)], first: RunId) -> Vec<Record> {
    let mut records = Vec::new();
    for (run, (deeds, ends)) in (first..).zip(runs) {
        records.push(Record::Run {
            run,
            verb: Verb::Apply,
            role: "pf9-kube 1.20.2".to_owned(),
            digest: run.to_string(),
            cluster_digest: None,
            at: "2026-01-01T00:00:00Z".to_owned(),
        });
        records.extend(deeds.iter().map(|operation| record(run, operation)));
        if *ends {
            records.push(Record::End {
                run,
                outcome: Outcome::Converged,
                changed: deeds.len(),
                unchanged: 0,
                phases: Vec::new(),
                at: "2026-01-01T00:00:01Z".to_owned(),
            });
        }
    }
    records
}

fn record(run: RunId, operation: &Operation) -> Record {
    let phase = |place: &usize| -> PhaseName { PHASES[*place].parse().unwrap() };
    let id = |place: &usize, resource: &usize| {
        StepId::new(&phase(place), "file", &format!("/{resource}"))
    };
    let kept = |keep: &bool| {
        let mut step: PlannedStep = step("/left");
        step.policy.keep = *keep;
        step
    };
    match operation {
        Operation::Intent(place, resource) => Record::Intent {
            run,
            phase: phase(place),
            step: id(place, resource),
            span: Span::new(
                "phases/x.rhai",
                usize::try_from(run).unwrap(),
                *resource + 1,
            ),
            action: Action::Create,
            fields: vec!["content".to_owned()],
        },
        Operation::Undo(place, resource, keep) => Record::Undo {
            run,
            phase: phase(place),
            step: id(place, resource),
            keep: *keep,
            // Of one resource, undos of different runs lead to different states.
            undo: Undo::RestoreSymlink {
                path: format!("/{resource}").into(),
                target: run.to_string(),
            },
        },
        Operation::Receipt(place, resource) => Record::Receipt {
            run,
            phase: phase(place),
            step: id(place, resource),
        },
        Operation::Cleanup(place, keeps) => Record::CleanupSteps {
            run,
            phase: phase(place),
            steps: keeps.iter().map(kept).collect(),
            partial: false,
        },
        Operation::Failed(place) => Record::Failed {
            run,
            phase: phase(place),
            failure: Failure {
                what: "check".to_owned(),
                span: Span::new("phases/x.rhai", 1, 1),
                chain: vec!["refused".to_owned()],
                found: Vec::new(),
                next: String::new(),
            },
        },
        Operation::PhaseApplied(place) => Record::PhaseApplied {
            run,
            phase: phase(place),
        },
        Operation::Reverted(place, left) => Record::Reverted {
            run,
            phase: phase(place),
            resource: None,
            remaining: left
                .iter()
                .map(|resource| format!("file /{resource}"))
                .collect(),
        },
        Operation::Pruned(place, resource, in_use) => Record::Pruned {
            run,
            phase: phase(place),
            step: id(place, resource),
            resource: format!("file /{resource}"),
            in_use: *in_use,
        },
        Operation::CleanupDone(place) => Record::CleanupDone {
            run,
            phase: phase(place),
            step: None,
        },
        Operation::Cleaned(kept) => Record::Cleaned { run, kept: *kept },
    }
}

fn ledger(records: Vec<Record>) -> Vec<Record> {
    let mut all = vec![Record::Header {
        version: VERSION,
        id: None,
    }];
    all.extend(records);
    all
}

/// What a clean uses.
fn live_state(records: &[Record]) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        live(records),
        Ledger::all_cleanup_steps_in(records),
        Ledger::phases_in(records),
    )
}

/// What the next apply uses: which resources are marked as in use, and what rollbacks of each phase left.
fn marks(records: &[Record]) -> impl PartialEq + std::fmt::Debug + use<> {
    let in_use: BTreeMap<String, bool> = resources(records)
        .into_iter()
        .map(|resource| (resource.undo.undo.key(), resource.in_use))
        .collect();
    let left = PHASES.map(|phase| {
        let phase: PhaseName = phase.parse().unwrap();
        left_by_rollback(records, &phase)
    });
    (in_use, left)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(3),
        ..ProptestConfig::default()
    })]

    #[test]
    fn compaction_preserves_live_resources(runs in runs()) {
        let before = ledger(records(&runs, 1));
        let after = compacted(&before);
        prop_assert_eq!(live_state(&after), live_state(&before));
        prop_assert_eq!(marks(&after), marks(&before));
        for live in live(&before) {
            prop_assert_eq!(span_of(&after, &live.step), span_of(&before, &live.step));
        }
        prop_assert_eq!(&compacted(&after), &after, "a second compaction finds nothing to do");
        prop_assert_eq!(
            after.iter().filter_map(Record::run).max(),
            before.iter().filter_map(Record::run).max()
        );
    }

    #[test]
    fn later_records_have_the_same_effect_after_compaction(earlier in runs(), later in runs()) {
        let before = ledger(records(&earlier, 1));
        let later = records(&later, earlier.len() as RunId + 1);
        let plain = [before.clone(), later.clone()].concat();
        let compacted = [compacted(&before), later].concat();
        prop_assert_eq!(live_state(&compacted), live_state(&plain));
        prop_assert_eq!(marks(&compacted), marks(&plain));
    }

    #[test]
    fn the_last_runs_are_unchanged_after_compaction(runs in runs()) {
        let before = ledger(records(&runs, 1));
        let told = |records: &[Record]| {
            let mut runs = History::of(records).runs;
            runs.drain(..runs.len().saturating_sub(RUNS_KEPT));
            runs
        };
        let after = compacted(&before);
        prop_assert_eq!(History::of(&after).runs, told(&before));
        prop_assert!(after.len() <= before.len());
    }

    #[test]
    fn a_ledger_truncated_anywhere_opens_with_its_complete_lines(runs in runs(), place in any::<prop::sample::Index>()) {
        let all = ledger(records(&runs, 1));
        let mut chain = Chain::default();
        let text: String = all.iter().map(|record| chain.next_line(record)).collect();
        let cut = place.index(text.len() + 1);
        let lines = text[..cut].matches('\n').count();
        let host = FakeHost::new();
        host.with_world_mut(|world| world.file(format!("{STATE}/ledger.jsonl"), &text[..cut]));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let told = live_on(&host).await;
            let wanted: Vec<Undo> = live(&all[..lines]).into_iter().map(|live| live.undo).collect();
            prop_assert_eq!(told, wanted);
            let ledger = Ledger::open(&host).await.unwrap();
            ledger.compact().await.unwrap();
            super::note(&ledger, removal("/next")).await;
            drop(ledger);
            Ledger::read(&host).await.unwrap();
            Ok(())
        })?;
    }
}
