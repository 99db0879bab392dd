//! How masters take turns: a snapshot loads etcd, so the backups of several masters do not begin at the same time.
//!
//! The delay follows from the place of this host in the list of masters, which all masters have alike, so it needs no message and no
//! setting. An only master has none.

use std::path::Path;
use std::time::Duration;

use engine::kubernetes::masters::{MASTERS, MasterEntry, parse};

use crate::inputs::identity::Identity;

/// Longest time between two masters.
const STEP: Duration = Duration::from_secs(10 * 60);
/// All delays are within this part of the time between two runs.
const PART: u32 = 4;
/// Bound on the file of masters.
const LIMIT: u64 = 64 * 1024;

/// The place of this host among the masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// How many masters come before it.
    pub(super) before: u32,
    /// How many there are; at least one.
    pub(super) masters: u32,
}

impl Place {
    /// That of an only master.
    pub(super) const ALONE: Self = Self {
        before: 0,
        masters: 1,
    };

    /// The place of the master with this name in the list, which is sorted by name; alone if the list does not have it.
    fn among(masters: &[MasterEntry], node: &str) -> Self {
        let is_own = |master: &MasterEntry| master.name.eq_ignore_ascii_case(node);
        let before = masters.iter().position(is_own);
        let place = before.and_then(|before| {
            Some(Self {
                before: u32::try_from(before).ok()?,
                masters: u32::try_from(masters.len()).ok()?,
            })
        });
        place.unwrap_or(Self::ALONE)
    }

    /// The place of this host. Without a list that can be read, or without a recorded name, it is alone.
    pub(super) fn here() -> Self {
        Self::known().unwrap_or(Self::ALONE)
    }

    fn known() -> Option<Self> {
        let content = daemon::files::read(Path::new(MASTERS), LIMIT).ok()??;
        let masters = parse(&content).ok()?;
        let node = Identity::recorded()?.node_in_etcd().name?;
        Some(Self::among(&masters, &node))
    }

    /// How much later than planned this host begins, if the next run comes `interval` after this one. Whole seconds.
    pub(super) fn delay(self, interval: Duration) -> Duration {
        let step = (interval / PART / self.masters.max(1)).min(STEP);
        Duration::from_secs(step.as_secs()) * self.before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: &[&str]) -> Vec<Place> {
        let entry = |(number, name): (u8, &&str)| MasterEntry {
            name: (*name).to_owned(),
            address: [172, 30, 0, number].into(),
            etcd_id: None,
            voter: true,
        };
        let masters: Vec<MasterEntry> = (11..).zip(names).map(entry).collect();
        let place = |name: &&str| Place::among(&masters, name);
        names.iter().map(place).collect()
    }

    #[test]
    fn masters_begin_one_after_the_other_within_a_part_of_the_interval() {
        let five = places(&["a", "b", "c", "d", "e"]);
        for (interval, step) in [(24 * 60 * 60, 10 * 60), (60 * 60, 3 * 60), (60, 3), (1, 0)] {
            let interval = Duration::from_secs(interval);
            let delays: Vec<u64> = five
                .iter()
                .map(|place| place.delay(interval).as_secs())
                .collect();
            assert_eq!(delays, [0, 1, 2, 3, 4].map(|before| before * step));
            assert!(Duration::from_secs(delays[4]) < interval / PART || step == 0);
        }
    }

    #[test]
    fn an_only_master_and_a_stranger_have_no_delay() {
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(places(&["a"]), [Place::ALONE]);
        assert_eq!(Place::ALONE.delay(day), Duration::ZERO);
        assert_eq!(Place::among(&[], "a"), Place::ALONE);
        assert_eq!(places(&["A", "b"])[1].delay(day), STEP);
    }
}
