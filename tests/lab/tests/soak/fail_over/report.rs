//! The figures of the trials, for people and for the page.

use std::fmt::Write as _;
use std::time::Duration;

use super::trials::{KINDS, Kind, Outcome};

/// Longest time until the virtual IP answers again after a host or an API server was killed, and longest time without a good answer while two
/// masters serve. More fails the soak.
const LONGEST: Duration = Duration::from_secs(10);
/// Nine of ten trials should take no longer.
const NINE_OF_TEN: Duration = Duration::from_secs(5);

/// What became of the writes of a client.
pub(crate) struct Writes<'a> {
    pub(crate) what: &'a str,
    pub(crate) acknowledged: usize,
    pub(crate) failed: u64,
    pub(crate) lost: usize,
}

/// The times until the virtual IP answered again, of all kinds with a target.
fn judged(tried: &[(&Kind, Vec<Outcome>)]) -> Vec<Duration> {
    let judged = tried.iter().filter(|(kind, _)| kind.median.is_some());
    judged.flat_map(|(_, outcomes)| times(outcomes)).collect()
}

/// The longest time without a good answer in the trials in which other masters serve.
fn silent(tried: &[(&Kind, Vec<Outcome>)]) -> Option<Duration> {
    let served = tried.iter().filter(|(kind, _)| kind.others_serve);
    let gaps = served.flat_map(|(_, outcomes)| outcomes.iter().map(|outcome| outcome.gap));
    gaps.max()
}

/// The tables.
pub(crate) fn tables(tried: &[(&Kind, Vec<Outcome>)], writes: &[Writes<'_>]) -> String {
    let mut text = "| what happens | trials | first good answer: median | slowest | target for the median | | longest time between two good answers | all whole again: slowest | first good answers, in the order of the trials |\n\
         |---|---:|---:|---:|---:|---|---:|---:|---|\n"
        .to_owned();
    for (kind, outcomes) in tried {
        let _ = writeln!(text, "{}", line(kind.name, kind.median, outcomes));
    }
    let silent = silent(tried);
    let judged = judged(tried);
    let quick = judged.iter().filter(|time| **time <= NINE_OF_TEN).count();
    let _ = write!(
        text,
        "\n| of trials with a killed host or API server | number | target | |\n|---|---:|---:|---|\n\
         | first good answer within {} s | {quick} of {} | ≥ 90 % | {} |\n\
         | the slowest | {} | ≤ {} | {} |\n\
         | longest time between two good answers, in all trials in which other masters serve | {} | ≤ {} | {} |\n",
        NINE_OF_TEN.as_secs(),
        judged.len(),
        verdict(quick * 10 >= judged.len() * 9),
        seconds(judged.iter().copied().max()),
        seconds(Some(LONGEST)),
        verdict(judged.iter().all(|time| *time <= LONGEST)),
        seconds(silent),
        seconds(Some(LONGEST)),
        verdict(silent.is_some_and(|longest| longest <= LONGEST)),
    );
    text.push_str("\n| writes | acknowledged | attempts that failed and were made again | lost |\n|---|---:|---:|---:|\n");
    for one in writes {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            one.what, one.acknowledged, one.failed, one.lost
        );
    }
    text
}

/// The targets that were missed.
pub(crate) fn missed(tried: &[(&Kind, Vec<Outcome>)]) -> Vec<String> {
    let mut missed: Vec<String> = tried
        .iter()
        .filter_map(|(kind, outcomes)| {
            let (target, median) = (kind.median?, median(&times(outcomes))?);
            let text = || format!("{}: median {}", kind.name, seconds(Some(median)));
            (median > target).then(text)
        })
        .collect();
    let judged = judged(tried);
    let quick = judged.iter().filter(|time| **time <= NINE_OF_TEN).count();
    if quick * 10 < judged.len() * 9 {
        let limit = NINE_OF_TEN.as_secs();
        missed.push(format!("{quick} of {} within {limit} s", judged.len()));
    }
    if let Some(slowest) = judged.into_iter().max()
        && slowest > LONGEST
    {
        missed.push(format!("the slowest: {}", seconds(Some(slowest))));
    }
    if let Some(longest) = silent(tried)
        && longest > LONGEST
    {
        missed.push(format!("no good answer for {}", seconds(Some(longest))));
    }
    missed
}

fn line(name: &str, target: Option<Duration>, outcomes: &[Outcome]) -> String {
    let times = times(outcomes);
    let most = |of: fn(&Outcome) -> Duration| outcomes.iter().map(of).max();
    let all: Vec<String> = times.iter().map(|time| seconds(Some(*time))).collect();
    let all = if all.is_empty() {
        "—".to_owned()
    } else {
        all.join(", ")
    };
    let median = median(&times);
    let (limit, verdict) = match target {
        Some(target) => (
            format!("≤ {}", seconds(Some(target))),
            verdict(median.is_some_and(|median| median <= target)),
        ),
        None => ("no target".to_owned(), "—"),
    };
    format!(
        "| {name} | {} | {} | {} | {limit} | {verdict} | {} | {} | {all} |",
        outcomes.len(),
        seconds(median),
        seconds(times.iter().copied().max()),
        seconds(most(|outcome| outcome.gap)),
        seconds(most(|outcome| outcome.whole)),
    )
}

fn times(outcomes: &[Outcome]) -> Vec<Duration> {
    outcomes.iter().filter_map(|outcome| outcome.back).collect()
}

fn median(times: &[Duration]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let (low, high) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
    Some((sorted[low] + sorted[high]) / 2)
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("—".to_owned(), |time| {
        format!("{:.1} s", time.as_secs_f64())
    })
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**missed**" }
}

#[test]
fn a_line_has_median_and_slowest_of_its_trials() {
    let outcome = |back: Option<u64>| Outcome {
        back: back.map(Duration::from_millis),
        gap: Duration::from_millis(900),
        whole: Duration::from_secs(31),
    };
    let target = Some(Duration::from_secs(2));
    let trials = [Some(4000), Some(1000), Some(1500)].map(outcome);
    assert_eq!(
        line("x", target, &trials),
        "| x | 3 | 1.5 s | 4.0 s | ≤ 2.0 s | met | 0.9 s | 31.0 s | 4.0 s, 1.0 s, 1.5 s |"
    );
    assert_eq!(
        line("x", target, &trials[..2]),
        "| x | 2 | 2.5 s | 4.0 s | ≤ 2.0 s | **missed** | 0.9 s | 31.0 s | 4.0 s, 1.0 s |"
    );
    assert_eq!(
        line("x", None, &[outcome(None)]),
        "| x | 1 | — | — | no target | — | 0.9 s | 31.0 s | — |"
    );
}

/// The time without a good answer counts, also if the first one comes soon. All masters that are killed at once are exempt.
#[test]
fn a_long_gap_is_a_missed_target_while_other_masters_serve() {
    let tried = |kind| {
        let gap = |ms| Outcome {
            back: None,
            gap: Duration::from_millis(ms),
            whole: Duration::from_secs(31),
        };
        (kind, vec![gap(900), gap(10_100), gap(900)])
    };
    for kind in KINDS {
        let missed = missed(&[tried(kind)]);
        let expected: &[&str] = match kind.others_serve {
            true => &["no good answer for 10.1 s"],
            false => &[],
        };
        assert_eq!(missed, expected, "{}", kind.name);
    }
    let exempt = KINDS.iter().filter(|kind| !kind.others_serve);
    let exempt: Vec<&str> = exempt.map(|kind| kind.name).collect();
    assert_eq!(exempt, ["all hosts are killed at once and started"]);
}
