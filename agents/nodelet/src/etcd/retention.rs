//! Which backups are kept. Pure.

use std::time::{Duration, SystemTime};

/// A backup as retention sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Aged {
    pub(super) taken: SystemTime,
    /// It was verified, and is of the cluster of this host.
    pub(super) ours: bool,
}

/// The positions of the backups to remove. Those that are not ours stay. Of ours, the newest always stays, and the newest `count` stay
/// unless they are older than `age`. Backups from the future rank last: the clock was wrong when they were taken, and a new backup must
/// not be removed because of them. Age alone does not remove all but the newest at once: if all others are too old, the clock may be
/// wrong now, or the host was off for long.
pub(super) fn expendable(all: &[Aged], count: usize, age: Duration, now: SystemTime) -> Vec<usize> {
    let mut ours: Vec<usize> = (0..all.len()).filter(|at| all[*at].ours).collect();
    ours.sort_by_key(|at| (all[*at].taken > now, std::cmp::Reverse(all[*at].taken)));
    let old = |at: usize| {
        now.duration_since(all[at].taken)
            .is_ok_and(|since| since > age)
    };
    let alone = ours.get(1).is_some_and(|at| old(*at));
    ours.into_iter()
        .enumerate()
        .skip(1)
        .filter(|(rank, at)| *rank >= count || !alone && old(*at))
        .map(|(_, at)| at)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    /// The ages in days of those that stay, from ages in days; a negative one is not ours.
    fn kept(days: &[i64], count: usize, age: u32) -> Vec<i64> {
        let now = SystemTime::UNIX_EPOCH + 10_000 * DAY;
        let all: Vec<Aged> = days
            .iter()
            .map(|days| Aged {
                taken: now - DAY * u32::try_from(days.unsigned_abs()).expect("small"),
                ours: *days >= 0,
            })
            .collect();
        let removed = expendable(&all, count, DAY * age, now);
        (0..days.len())
            .filter(|at| !removed.contains(at))
            .map(|at| days[at])
            .collect()
    }

    #[test]
    fn the_newest_stay_and_never_none() {
        assert_eq!(kept(&[5, 4, 3, 2, 1, 0], 3, 30), [2, 1, 0]);
        // In any order.
        assert_eq!(kept(&[0, 4, 2], 2, 30), [0, 2]);
        assert_eq!(kept(&[40, 20, 10, 5], 7, 15), [10, 5]);
        assert_eq!(kept(&[90], 1, 1), [90]);
        assert_eq!(kept(&[], 1, 1), [0; 0]);
    }

    #[test]
    fn old_backups_are_not_all_removed_at_once() {
        // The clock is two months ahead, or the host was off.
        assert_eq!(kept(&[62, 61, 60, 0], 7, 30), [62, 61, 60, 0]);
        assert_eq!(kept(&[62, 61, 60, 0], 2, 30), [60, 0], "they are too many");
        assert_eq!(kept(&[63, 62, 61, 1, 0], 7, 30), [1, 0], "the next time");
        assert_eq!(kept(&[90, 80], 7, 30), [90, 80]);
    }

    #[test]
    fn foreign_files_are_neither_removed_nor_counted() {
        assert_eq!(kept(&[-99, 3, 2, -1], 1, 30), [-99, 2, -1]);
        assert_eq!(kept(&[-1], 1, 1), [-1]);
    }

    #[test]
    fn those_of_the_future_go_first_and_are_not_old() {
        let now = SystemTime::UNIX_EPOCH + 10 * DAY;
        let all: Vec<Aged> = [now + DAY, now, now + 2 * DAY]
            .into_iter()
            .map(|taken| Aged { taken, ours: true })
            .collect();
        assert_eq!(expendable(&all, 1, DAY, now), [2, 0]);
        assert_eq!(expendable(&all, 2, DAY, now), [0]);
        assert_eq!(expendable(&all, 3, DAY, now), [0; 0]);
    }
}
