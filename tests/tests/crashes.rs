//! The program ends between any two of its calls, or within a write of a file, while the host goes on. A new program starts on this
//! host: an apply converges, and a clean restores the host as it was at the start.
//!
//! All phases are interrupted everywhere; the whole role at a sample of the places, and everywhere with `NODELET_SOAK=1`.

use std::collections::BTreeSet;

use behaviour::{Bringup, CrashPoint, Run, differences, sample, soaks, try_each};
use engine::host::fake::{FakeHost, WorldSnapshot};
use engine::ledger::Record;
use engine::model::Outcome;
use engine::plan::PlannedPhase;

/// The cases whose phases are tried; together they have every phase of the role.
const CASES: &[&str] = &["cp-1", "wk-1", "cp-1-vip", "cp-2-nodocker"];

/// A phase, or the whole role, on a host with files and firewall rules of another owner.
struct Work<'a> {
    name: String,
    bringup: &'a Bringup,
    /// `None` for the whole role.
    phase: Option<PlannedPhase>,
    /// The host before the role came.
    start: WorldSnapshot,
    /// The host right before this work.
    before: FakeHost,
}

impl Work<'_> {
    fn apply(&self, host: &FakeHost) -> Run {
        match &self.phase {
            Some(phase) => self.bringup.apply_phase(host, phase),
            None => self.bringup.apply(host),
        }
    }

    /// Runs a new program on a host where this was interrupted; gives what is wrong afterwards.
    fn after(&self, point: &CrashPoint, shape: &[String]) -> Vec<String> {
        let mut problems = Vec::new();
        let host = point.host.fork();
        let next = self.apply(&host);
        if next.outcome != Outcome::Converged {
            problems.push(format!("the next apply: {}", next.text()));
        } else {
            let found = Bringup::shape(&host);
            let differs = differences(shape, &found);
            if !differs.is_empty() {
                problems.push(format!("another end: {}", differs.join("; ")));
            }
            host.clear_journal();
            let second = self.apply(&host);
            if host.mutations() > 0 {
                problems.push(format!(
                    "not settled: {:?}, {}",
                    host.mutating_calls(),
                    second.text()
                ));
            }
        }
        problems.extend(self.cleaned(&point.host));
        self.named(&point.place, problems)
    }

    /// What the interrupted run did in the phase and a failing next run has not taken back.
    fn returned(&self, point: &CrashPoint, doomed: &Bringup) -> Option<String> {
        let phase = self.phase.as_ref()?;
        let ended = |record: &Record| matches!(record, Record::End { .. });
        let records = Bringup::records(&point.host);
        let before = Bringup::records(&self.before).len();
        if records.iter().skip(before).any(ended) {
            // It was interrupted after its end: the phase has converged.
            return None;
        }
        let host = point.host.fork();
        let run = doomed.apply_phase(&host, phase);
        let mut left = Bringup::left_behind(phase, &self.before.snapshot(), &host);
        // The phase cni takes back what kubelet's plugins leave.
        left.retain(|line| !line.to_lowercase().contains("cni"));
        (run.outcome != Outcome::Failed || !left.is_empty())
            .then(|| format!("a failing apply leaves {left:#?}\n{}", run.text()))
    }

    fn cleaned(&self, host: &FakeHost) -> Option<String> {
        let host = host.fork();
        let clean = Bringup::clean(&host, false);
        let left = self.bringup.not_cleaned(&self.start, &host, false);
        (clean.outcome != Outcome::Cleaned || !left.is_empty())
            .then(|| format!("clean leaves {left:#?}\n{}", clean.text()))
    }

    fn named(&self, place: &str, problems: Vec<String>) -> Vec<String> {
        problems
            .into_iter()
            .map(|problem| format!("{}, {place}: {problem}", self.name))
            .collect()
    }
}

#[test]
fn a_phase_crashed_at_each_call_converges_or_is_rolled_back() {
    for_each_phase(|work| {
        let whole = work.before.fork().with_history();
        let run = work.apply(&whole);
        assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
        let shape = Bringup::shape(&whole);
        try_each(&CrashPoint::all(&whole), |point| work.after(point, &shape));
    });
}

#[test]
fn a_rollback_crashed_at_each_call_is_continued_by_the_next_run() {
    for_each_phase(|work| {
        let Some(phase) = &work.phase else { return };
        let whole = work.before.fork();
        let _ = work.apply(&whole);
        let shape = Bringup::shape(&whole);
        let forward = whole.mutations();

        let doomed = Bringup::with_failing_check(work.bringup, phase);
        let failing = work.before.fork().with_history();
        let run = doomed.apply_phase(&failing, phase);
        assert_eq!(run.outcome, Outcome::Failed, "{}", run.text());
        // Until its check fails, the run does what was interrupted above.
        let all = CrashPoint::all(&failing);
        let points: Vec<&CrashPoint> = sample(all.iter().collect(), 2);
        try_each(&points, |point| {
            let left = work.returned(point, &doomed);
            work.named(&point.place, left.into_iter().collect())
        });
        let points: Vec<&CrashPoint> = sample(all.iter().skip(forward).collect(), 2);
        try_each(&points, |point| work.after(point, &shape));
    });
}

#[test]
fn a_role_crashed_at_each_call_converges_or_is_rolled_back() {
    let cases = if soaks() { CASES } else { &CASES[..2] };
    for case in cases {
        let bringup = Bringup::without_pods(case);
        let before = bringup.populated_host();
        let work = Work {
            name: (*case).to_owned(),
            bringup: &bringup,
            phase: None,
            start: before.snapshot(),
            before,
        };
        let whole = work.before.fork().with_history();
        let run = work.apply(&whole);
        assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
        let shape = Bringup::shape(&whole);
        // A prime number, so that the sample is not in step with calls that recur for each step.
        let points = sample(CrashPoint::all(&whole), 13);
        try_each(&points, |point| work.after(point, &shape));
    }
}

#[test]
fn a_stop_or_clean_crashed_at_each_call_is_finished_by_the_next_clean() {
    let cases = if soaks() { CASES } else { &CASES[..2] };
    for case in cases {
        let bringup = Bringup::without_pods(case);
        let before = bringup.populated_host();
        let start = before.snapshot();
        let run = bringup.apply(&before);
        assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
        let work = Work {
            name: (*case).to_owned(),
            bringup: &bringup,
            phase: None,
            start,
            before,
        };
        let (stopped, cleaned) = (
            work.before.fork().with_history(),
            work.before.fork().with_history(),
        );
        let _ = bringup.stop(&stopped);
        let _ = Bringup::clean(&cleaned, false);
        let points = [CrashPoint::all(&stopped), CrashPoint::all(&cleaned)].concat_all();
        try_each(&points, |point| {
            let mut problems: Vec<String> = work.cleaned(&point.host).into_iter().collect();
            if soaks() {
                let next = work.apply(&point.host);
                if next.outcome != Outcome::Converged {
                    problems.push(format!("the next apply: {}", next.text()));
                }
            }
            work.named(&point.place, problems)
        });
    }
}

/// Joins lists.
trait ConcatAll<T> {
    fn concat_all(self) -> Vec<T>;
}

impl<T, const N: usize> ConcatAll<T> for [Vec<T>; N] {
    fn concat_all(self) -> Vec<T> {
        self.into_iter().flatten().collect()
    }
}

/// Calls `attempt` for every phase of every case, with the world right before it. A phase that does the same in two cases is tried
/// once.
fn for_each_phase(attempt: impl Fn(&Work<'_>)) {
    let mut tried = BTreeSet::new();
    for case in CASES {
        let bringup = Bringup::without_pods(case);
        let host = bringup.populated_host();
        let start = host.snapshot();
        for phase in bringup.plan.phases.iter().filter(|p| p.skipped.is_none()) {
            let work = Work {
                name: format!("{case}, {}", phase.name),
                bringup: &bringup,
                phase: Some(phase.clone()),
                start: start.clone(),
                before: host.fork(),
            };
            let run = work.apply(&host);
            assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
            let calls: Vec<(&str, String)> = host
                .mutating_calls()
                .iter()
                .map(|call| (call.name, call.argument.clone()))
                .collect();
            host.clear_journal();
            if tried.insert((phase.name.clone(), calls)) {
                attempt(&work);
            }
        }
    }
}
