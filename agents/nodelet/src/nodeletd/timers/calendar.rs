//! Converts the times of a schedule, which are local wall-clock times, to instants. Pure.
//!
//! The zone is that of the host (`/etc/localtime`, read again when it changes; UTC without it). If the clock is put
//! forward, a time in the gap is due later by the size of the jump: 02:30 becomes 03:30, on that day only. If it is put back,
//! a time that comes twice is due only the first time. So no run is left out and none is made twice; a schedule of every few
//! minutes pauses for the hour that is repeated.

use chrono::{DateTime, Duration, LocalResult, NaiveDateTime, TimeZone, Utc};
use engine::schedule::Schedule;

/// In hours: more than any time zone ever jumped at once, a change across the date line (24 hours) included.
const JUMP: i64 = 26;
/// Most times of a schedule that are tried: one a minute, for longer than a jump.
const MOST: usize = 4000;

/// The first instant after `after` at which `schedule` is due in `zone`.
pub(super) fn next_due<Z: TimeZone>(
    schedule: &Schedule,
    zone: &Z,
    after: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let local = after.with_timezone(zone).naive_local();
    // A time that the clock showed before it was put back or forward may still become due.
    let mut at = local - Duration::hours(JUMP);
    let mut soonest: Option<DateTime<Utc>> = None;
    for _ in 0..MOST {
        let Some(next) = schedule.next_after(at) else {
            break;
        };
        at = next;
        let due = instant(zone, next);
        if due > after && soonest.is_none_or(|soonest| due < soonest) {
            soonest = Some(due);
        }
        // A later wall-clock time is an earlier instant only across a jump.
        if soonest.is_some() && next > local + Duration::hours(JUMP) {
            break;
        }
        if soonest.is_some_and(|soonest| {
            next > soonest.with_timezone(zone).naive_local() + Duration::hours(3)
        }) {
            break;
        }
    }
    soonest
}

/// The instant at which a wall clock of `zone` shows `time`, or would show it without the jump.
fn instant<Z: TimeZone>(zone: &Z, time: NaiveDateTime) -> DateTime<Utc> {
    match zone.from_local_datetime(&time) {
        LocalResult::Single(there) | LocalResult::Ambiguous(there, _) => there.with_timezone(&Utc),
        // As if the clock had not been put forward: with the offset that it had a day before.
        LocalResult::None => {
            let before = zone.offset_from_utc_datetime(&(time - Duration::days(1)));
            let before: chrono::FixedOffset = chrono::Offset::fix(&before);
            (time - before).and_utc()
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;

    /// The next three times after `after` (with its offset), in `zone`.
    fn three(expression: &str, zone: &str, after: &str) -> Vec<String> {
        let schedule: Schedule = expression.parse().expect("a schedule");
        let zone: Tz = zone.parse().expect("a zone");
        let mut at: DateTime<Utc> = DateTime::parse_from_rfc3339(after)
            .expect("a time")
            .with_timezone(&Utc);
        let mut all = Vec::new();
        for _ in 0..3 {
            at = next_due(&schedule, &zone, at).expect("it comes");
            all.push(at.with_timezone(&zone).format("%d %H:%M %z").to_string());
        }
        all
    }

    #[test]
    fn daily_schedules_use_the_time_zone_of_the_host() {
        let daily = three("0 3 * * *", "America/New_York", "2026-01-10T12:00:00Z");
        assert_eq!(
            daily,
            ["11 03:00 -0500", "12 03:00 -0500", "13 03:00 -0500"]
        );
        let utc = three("0 3 * * *", "UTC", "2026-01-10T03:00:00Z");
        assert_eq!(utc, ["11 03:00 +0000", "12 03:00 +0000", "13 03:00 +0000"]);
    }

    #[test]
    fn a_time_that_is_jumped_over_is_due_as_much_later() {
        // Berlin, 29 March 2026: after 01:59 comes 03:00.
        let in_it = three("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+01:00");
        assert_eq!(
            in_it,
            ["29 03:30 +0200", "30 02:30 +0200", "31 02:30 +0200"]
        );
        let quarters = three("*/15 2 * * *", "Europe/Berlin", "2026-03-29T00:30:00Z");
        assert_eq!(
            quarters,
            ["29 03:00 +0200", "29 03:15 +0200", "29 03:30 +0200"]
        );
        // Times that are due anyhow are not due twice.
        let all_day = three("30 * * * *", "Europe/Berlin", "2026-03-29T01:45:00+01:00");
        assert_eq!(
            all_day,
            ["29 03:30 +0200", "29 04:30 +0200", "29 05:30 +0200"]
        );
        // Lord Howe Island jumps by half an hour.
        let half = three(
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T12:00:00+10:30",
        );
        assert_eq!(half[0], "04 02:45 +1100");
        // Samoa left out a whole day, 30 December 2011: what was due then is due a day later.
        let day = three("0 12 30 12 *", "Pacific/Apia", "2011-12-29T12:00:00-10:00");
        assert_eq!(day[0], "31 12:00 +1400");
    }

    #[test]
    fn a_time_that_comes_twice_is_due_once() {
        // Berlin, 25 October 2026: after 02:59 summer time comes 02:00.
        let nightly = three("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00+02:00");
        assert_eq!(
            nightly,
            ["25 02:30 +0200", "26 02:30 +0100", "27 02:30 +0100"]
        );
        let hourly = three("30 * * * *", "Europe/Berlin", "2026-10-25T01:45:00+02:00");
        assert_eq!(
            hourly,
            ["25 02:30 +0200", "25 03:30 +0100", "25 04:30 +0100"]
        );
    }

    #[test]
    fn rare_times_come_too() {
        let rare = three("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z");
        assert_eq!(rare, ["29 00:00 +0000"; 3]);
    }
}
