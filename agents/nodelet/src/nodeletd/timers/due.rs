//! When a timer is due, from its schedule and the record of its runs. Pure.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use engine::model::doubled;
use engine::schedule::Schedule;
use serde::{Deserialize, Serialize};

use super::calendar::next_due;
use super::spread::Place;

/// Pause after the first failure; doubled with each further one.
const PAUSE: Duration = Duration::from_secs(60);
/// Longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// A recorded run may lie so far in the future, because the clock was set back since, and still counts.
const SKEW: TimeDelta = TimeDelta::hours(1);

/// What is remembered of a timer's runs. Times are seconds since 1970.
///
/// The counters are not `Retries`: a pause here is counted from the recorded time of the last run, because it must hold after a boot, too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Runs {
    /// When the last successful run began.
    pub(crate) last_good: Option<i64>,
    /// When the last run began, or ended if it has.
    pub(crate) last: Option<i64>,
    /// Runs since the last good one that failed or were killed.
    pub(crate) failures: u32,
    /// Runs in a row that were interrupted by a change, a pause or a shutdown.
    pub(crate) preempted: u32,
    /// Why the last one failed; empty if it did not.
    pub(crate) reason: String,
    /// The reason of the run before, while a run is under way.
    #[serde(skip_serializing_if = "String::is_empty")]
    before: String,
}

impl Runs {
    /// A run begins. It counts as failed until it is over, so that a run during which the host crashes has failed.
    pub(super) fn begin(&mut self, now: DateTime<Utc>) {
        self.last = Some(now.timestamp());
        self.failures = self.failures.saturating_add(1);
        self.before = std::mem::replace(&mut self.reason, "it did not finish".to_owned());
    }

    /// The run was successful.
    pub(super) fn good(&mut self, began: DateTime<Utc>, now: DateTime<Utc>) {
        *self = Self {
            last_good: Some(began.timestamp()),
            last: Some(now.timestamp()),
            ..Self::default()
        };
    }

    pub(super) fn failed(&mut self, now: DateTime<Utc>, reason: String) {
        self.last = Some(now.timestamp());
        self.preempted = 0;
        self.reason = reason;
        self.before.clear();
    }

    /// The run was interrupted, which is no failure: the failures are as before it.
    pub(super) fn preempted(&mut self, now: DateTime<Utc>) {
        self.last = Some(now.timestamp());
        self.failures = self.failures.saturating_sub(1);
        self.preempted = self.preempted.saturating_add(1);
        self.reason = std::mem::take(&mut self.before);
    }
}

/// When the timer is due; a time that is not later than `now` means now.
///
/// A timer without a successful run is due at once. One run makes up for any number of missed ones. After a failure the timer is due
/// again after a pause that doubles from a minute to an hour. A time of the schedule is delayed by the `place` of this host among the masters.
pub(super) fn due<Z: TimeZone>(
    schedule: &Schedule,
    zone: &Z,
    runs: &Runs,
    place: Place,
    now: DateTime<Utc>,
) -> DateTime<Utc> {
    let time = |seconds: i64| DateTime::from_timestamp(seconds, 0);
    let planned = match runs.last_good.and_then(time) {
        None => now,
        // The clock was ahead at that run. The schedule cannot be counted from a time in the future, and counted from now it would be
        // later at each check.
        Some(good) if good - now > SKEW => now,
        Some(good) => match next_due(schedule, zone, good) {
            None => now,
            Some(planned) => planned + delay(schedule, zone, place, planned),
        },
    };
    match runs.last.and_then(time) {
        Some(last) if last <= now => planned.max(last + pause(runs.failures)),
        _ => planned,
    }
}

/// How much later than `planned`, a time of the schedule, this host begins.
fn delay<Z: TimeZone>(
    schedule: &Schedule,
    zone: &Z,
    place: Place,
    planned: DateTime<Utc>,
) -> Duration {
    let after = next_due(schedule, zone, planned);
    let interval = after.and_then(|after| (after - planned).to_std().ok());
    interval.map_or(Duration::ZERO, |interval| place.delay(interval))
}

fn pause(failures: u32) -> Duration {
    match failures {
        // It may just have been interrupted by a change that is still under way.
        0 => Duration::from_secs(10),
        _ => doubled(failures, PAUSE, LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-03-{text}:00Z").parse().expect("a time")
    }

    fn next(runs: &Runs, now: &str) -> String {
        let schedule = "0 3 * * *".parse().expect("a schedule");
        let due = due(&schedule, &Utc, runs, Place::ALONE, at(now));
        if due <= at(now) {
            "now".to_owned()
        } else {
            due.format("%dT%H:%M").to_string()
        }
    }

    fn good(began: &str) -> Runs {
        let mut runs = Runs::default();
        runs.begin(at(began));
        runs.good(at(began), at(began));
        runs
    }

    #[test]
    fn missed_runs_are_made_up_once() {
        assert_eq!(next(&Runs::default(), "10T12:00"), "now", "it never ran");
        assert_eq!(next(&good("10T03:00"), "10T12:00"), "11T03:00");
        assert_eq!(next(&good("10T03:00"), "11T03:00"), "now");
        // The host was off for a week.
        let mut runs = good("10T03:00");
        assert_eq!(next(&runs, "17T12:00"), "now");
        runs.begin(at("17T12:00"));
        runs.good(at("17T12:00"), at("17T12:00"));
        assert_eq!(next(&runs, "17T12:05"), "18T03:00");
    }

    #[test]
    fn failures_are_tried_again_after_growing_pauses() {
        let mut runs = good("10T03:00");
        let mut pauses = Vec::new();
        let mut now = at("11T03:00");
        for _ in 0..8 {
            runs.begin(now);
            runs.failed(now, "no room".to_owned());
            let schedule = "0 3 * * *".parse().expect("a schedule");
            let again = due(&schedule, &Utc, &runs, Place::ALONE, now);
            pauses.push((again - now).num_minutes());
            now = again;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        runs.begin(now);
        runs.good(now, now);
        assert_eq!((runs.failures, runs.reason.as_str()), (0, ""));
    }

    #[test]
    fn a_killed_run_failed_and_a_preempted_run_did_not() {
        let mut runs = good("10T03:00");
        runs.begin(at("11T03:00"));
        assert_eq!(runs.failures, 1);
        assert_eq!(next(&runs, "11T03:00"), "11T03:01");
        let mut runs = good("10T03:00");
        runs.begin(at("11T03:00"));
        runs.preempted(at("11T03:00"));
        assert_eq!((runs.failures, runs.reason.as_str()), (0, ""));
        assert_eq!(next(&runs, "11T03:01"), "now");
        runs.begin(at("11T03:01"));
        runs.failed(at("11T03:01"), "no room".to_owned());
        runs.begin(at("11T03:02"));
        runs.preempted(at("11T03:02"));
        assert_eq!((runs.failures, runs.reason.as_str()), (1, "no room"));
    }

    #[test]
    fn a_run_in_the_future_delays_no_timer() {
        assert_eq!(next(&good("20T03:00"), "10T12:00"), "now");
        // If the clock was a little ahead, no run is lost, and none is added.
        let runs = good("10T03:10");
        assert_eq!(next(&runs, "10T02:55"), "11T03:00");
        assert_eq!(next(&runs, "11T03:00"), "now");
        // A run that fails then is tried again after a pause.
        let mut runs = good("20T03:00");
        runs.begin(at("10T12:00"));
        runs.failed(at("10T12:00"), "no room".to_owned());
        assert_eq!(next(&runs, "10T12:00"), "10T12:01");
        assert_eq!(next(&runs, "10T12:01"), "now");
    }

    #[test]
    fn each_of_several_masters_has_a_delay_of_its_own() {
        let due = |schedule: &str, before, last: &str, now: &str| {
            let schedule = schedule.parse().expect("a schedule");
            let place = Place { before, masters: 3 };
            let due = due(&schedule, &Utc, &good(last), place, at(now));
            due.format("%dT%H:%M:%S").to_string()
        };
        let daily = |before| due("0 3 * * *", before, "10T03:10", "10T12:00");
        assert_eq!(
            [0, 1, 2].map(daily),
            ["11T03:00:00", "11T03:10:00", "11T03:20:00"]
        );
        let often = |before| due("*/6 * * * *", before, "10T03:00", "10T03:01");
        assert_eq!(
            [0, 1, 2].map(often),
            ["10T03:06:00", "10T03:06:30", "10T03:07:00"]
        );
        // The first backup and one that was missed are not delayed further.
        let missed = due("0 3 * * *", 2, "10T03:20", "11T03:30");
        assert_eq!(missed, "11T03:20:00");
    }

    #[test]
    fn repeated_preemptions_are_counted() {
        let mut runs = good("10T03:00");
        for times in 1..4 {
            runs.begin(at("11T03:00"));
            runs.preempted(at("11T03:00"));
            assert_eq!(runs.preempted, times);
        }
        runs.begin(at("11T04:00"));
        runs.good(at("11T04:00"), at("11T04:00"));
        assert_eq!(runs.preempted, 0);
    }
}
