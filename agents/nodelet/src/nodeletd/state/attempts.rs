//! Attempts in a row that did not lead to a healthy host: how many there were, when the next may come, and whether it may be a full
//! clean. Kept over restarts of the daemon and of the host.
//!
//! A full clean is the last resort. So a repair must have failed since this daemon started: attempts that were counted before a boot, by
//! an older program or for another plan are not enough. A full clean is not repeated if the last one did not help: otherwise a fault that
//! it cannot fix, for example a masked unit, would take the host down again and again.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::model::PhaseName;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::nodeletd::state::retry::{Retries, backoff};

/// Longest text of a failure that is kept, in bytes.
const LONGEST_FAILURE: usize = 4096;

/// The saved state. If the file is lost, the next attempt does not wait, and the full clean comes later.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::nodeletd) struct Attempts {
    /// Attempts in a row, including the current one.
    count: u32,
    /// Whether an attempt is under way that counts.
    is_on: bool,
    /// Digest of the plan for which the attempts were made.
    digest: String,
    /// Attempts since the host was last known to be healthy. Results that are unknown for a while do not reset it: they shorten no pause.
    tries: Retries,
    /// The phases that failed when the last one began.
    phases: BTreeSet<PhaseName>,
    /// When the last one ended, seconds since 1970.
    ended: Option<i64>,
    /// Jitter: by which share the next pause is longer, so that hosts that failed together do not retry together.
    jitter: f64,
    /// The last full clean in this row that finished.
    clean: Option<Clean>,
    /// Why the last one failed; empty if it did not.
    failure: String,
    /// Whether an attempt has ended since this daemon started and since it last saw no failure.
    #[serde(skip)]
    repaired_since_start: bool,
}

/// A full clean that finished, for the plan in [`Attempts::digest`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Clean {
    /// The number of the attempt.
    attempt: u32,
    /// The phases that failed before it.
    before: BTreeSet<PhaseName>,
    /// The phases that failed after it, up to the next attempt.
    after: BTreeSet<PhaseName>,
    /// Whether the next attempt has begun, so that `after` is complete.
    is_judged: bool,
}

impl Clean {
    /// The phases that failed both before and after it.
    fn unrepaired(&self) -> impl Iterator<Item = &PhaseName> {
        self.before.intersection(&self.after)
    }

    /// Whether the clean did not help these failed phases: they include all that failed before and after it, and none that did not fail
    /// after it.
    fn did_not_help(&self, failed: &[PhaseName]) -> bool {
        let fails = |phase: &PhaseName| failed.contains(phase);
        self.unrepaired().next().is_some()
            && self.unrepaired().all(fails)
            && failed.iter().all(|phase| self.after.contains(phase))
    }
}

impl Attempts {
    /// Largest jitter, as a share of the pause.
    const JITTER: f64 = 0.2;

    /// Restores the state after a start of the daemon, at `wall` seconds since 1970. If the saved time is implausible, the next attempt
    /// does not wait. An attempt that a power cut or a kill interrupted does not count: it is unknown whether it would have helped.
    pub(in crate::nodeletd) fn restore(&mut self, wall: i64, now: Instant) {
        if std::mem::take(&mut self.is_on) {
            self.count = self.count.saturating_sub(1);
        }
        let ago = self.ended.map(|ended| wall.saturating_sub(ended));
        self.tries.ended = ago
            .and_then(|ago| u64::try_from(ago).ok())
            .and_then(|ago| now.checked_sub(Duration::from_secs(ago)));
    }

    pub(in crate::nodeletd) fn count(&self) -> u32 {
        self.count
    }

    /// Records the plan. If the counted attempts were made for another plan, forgets them and returns true.
    pub(in crate::nodeletd) fn are_about(&mut self, digest: &str) -> bool {
        if self.digest == digest {
            return false;
        }
        let another = !self.digest.is_empty();
        if another {
            self.forget();
        }
        digest.clone_into(&mut self.digest);
        another
    }

    /// Forgets the attempts: the host is healthy, or something has changed that may help.
    pub(in crate::nodeletd) fn forget(&mut self) {
        *self = Self {
            digest: std::mem::take(&mut self.digest),
            ..Self::default()
        };
    }

    /// Nothing fails, but not every result is known: the next failure begins a new row.
    pub(in crate::nodeletd) fn reset_streak(&mut self) {
        self.count = 0;
        self.repaired_since_start = false;
        self.failure.clear();
    }

    /// Why the attempt that has ended failed; empty if it did not. A long text is cut.
    pub(in crate::nodeletd) fn failed_because(&mut self, failure: &str) {
        let end = failure.floor_char_boundary(LONGEST_FAILURE);
        failure[..end].clone_into(&mut self.failure);
    }

    /// Why the last attempt failed; empty if it did not, or if nothing has failed since.
    pub(in crate::nodeletd) fn failure(&self) -> &str {
        &self.failure
    }

    /// An attempt for these failed phases begins. A repair in place of a full clean that is due does not count, so the clean stays due.
    pub(in crate::nodeletd) fn begin(&mut self, phases: &[PhaseName], counts: bool) {
        if let Some(clean) = &mut self.clean {
            clean.is_judged = true;
        }
        self.phases = phases.iter().cloned().collect();
        self.tries.count = self.tries.count.saturating_add(1);
        self.is_on = counts;
        if counts {
            self.count = self.count.saturating_add(1);
        }
    }

    /// An attempt has ended that changed the host.
    pub(in crate::nodeletd) fn end(&mut self, wall: i64, now: Instant) {
        self.is_on = false;
        self.ended = Some(wall);
        self.tries.ended = Some(now);
        self.jitter = rand::random::<f64>() * Self::JITTER;
        self.repaired_since_start = true;
    }

    /// The attempt that has ended was a full clean. The next passes show whether it helped.
    pub(in crate::nodeletd) fn has_cleaned(&mut self) {
        self.clean = Some(Clean {
            attempt: self.count,
            before: self.phases.clone(),
            ..Clean::default()
        });
    }

    /// A pass has seen these phases fail. Returns whether one of them was not yet known to fail after the last full clean.
    pub(in crate::nodeletd) fn see(&mut self, failed: &[PhaseName]) -> bool {
        let Some(clean) = self.clean.as_mut().filter(|clean| !clean.is_judged) else {
            return false;
        };
        let known = clean.after.len();
        clean.after.extend(failed.iter().cloned());
        clean.after.len() > known
    }

    /// The current attempt was interrupted, so it is unknown whether it would have helped: the count is as `before` it, but the usual pause
    /// follows.
    pub(in crate::nodeletd) fn discard_interrupted(
        &mut self,
        before: &Self,
        wall: i64,
        now: Instant,
    ) {
        self.end(wall, now);
        self.count = before.count;
        self.repaired_since_start = before.repaired_since_start;
    }

    /// Rest of the pause before the next attempt for these failed phases; zero if the end of the last attempt is not known. If none of
    /// them failed at the last attempt, the pause is at most that after two attempts: the earlier failures were of other phases.
    pub(in crate::nodeletd) fn pause_left(
        &self,
        phases: &[PhaseName],
        interval: Duration,
        now: Instant,
    ) -> Duration {
        // The file may contain any value.
        let longer = 1.0 + self.jitter.clamp(0.0, Self::JITTER);
        let another = phases.iter().all(|phase| !self.phases.contains(phase));
        let most = if another { 2 } else { u32::MAX };
        let pause = backoff(self.tries.count.min(most), interval).mul_f64(longer);
        self.tries.left(pause, now)
    }

    /// Whether the next attempt for these failed phases is a full clean, which is one attempt in `every`. If the last full clean did not
    /// help them, it is a repair.
    pub(in crate::nodeletd) fn clean_is_due(&self, every: u32, failed: &[PhaseName]) -> bool {
        self.is_turn_of_clean(every) && self.useless_clean(failed).is_none()
    }

    /// Whether it is the turn of a full clean, without regard to whether the last one helped.
    pub(in crate::nodeletd) fn is_turn_of_clean(&self, every: u32) -> bool {
        self.count.saturating_add(1).is_multiple_of(every)
    }

    /// A message for people if the last full clean did not help these failed phases, and is therefore not repeated.
    pub(in crate::nodeletd) fn useless_clean(&self, failed: &[PhaseName]) -> Option<String> {
        let clean = self.clean.as_ref()?;
        if !clean.did_not_help(failed) {
            return None;
        }
        let unrepaired: Vec<&str> = clean.unrepaired().map(PhaseName::as_str).collect();
        Some(format!(
            "the full clean of attempt {} did not repair {}, so it is not repeated before other phases fail or the plan changes; \
             repairs continue; see why with `nodelet check` and remove the cause",
            clean.attempt,
            unrepaired.join(", ")
        ))
    }

    /// Whether an attempt has ended since this daemon started and since it last saw no failure.
    pub(in crate::nodeletd) fn repaired_since_start(&self) -> bool {
        self.repaired_since_start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn etcd() -> [PhaseName; 1] {
        ["etcd".parse().expect("a name")]
    }

    fn after(count: u32) -> Attempts {
        let mut attempts = Attempts::default();
        attempts.are_about("plan");
        for _ in 0..count {
            attempts.begin(&etcd(), true);
            attempts.end(1000, Instant::now());
        }
        attempts
    }

    #[test]
    fn one_in_ten_is_the_full_clean() {
        let due: Vec<u32> = (0..25)
            .filter(|count| after(*count).clean_is_due(10, &etcd()))
            .collect();
        assert_eq!(due, [9, 19]);
        let full = Attempts {
            count: u32::MAX,
            ..Attempts::default()
        };
        assert!(!full.clean_is_due(10, &etcd()), "it does not wrap around");
    }

    #[test]
    fn earlier_attempts_do_not_cause_a_full_clean() {
        let kept = serde_json::to_string(&after(9)).expect("JSON");
        let mut attempts: Attempts = serde_json::from_str(&kept).expect("read back");
        attempts.restore(1001, Instant::now());
        assert!(attempts.clean_is_due(10, &etcd()) && !attempts.repaired_since_start());
        // The repair in its place does not count, so the clean stays due.
        attempts.begin(&etcd(), false);
        attempts.end(1002, Instant::now());
        assert!(attempts.clean_is_due(10, &etcd()) && attempts.repaired_since_start());
        assert_eq!(attempts.count(), 9);
    }

    /// Ten attempts, of which the last is a full clean, and what fails after it.
    fn cleaned(before: &[PhaseName], after: &[PhaseName]) -> Attempts {
        let mut attempts = Attempts::default();
        attempts.are_about("plan");
        for _ in 0..10 {
            attempts.begin(before, true);
            attempts.end(1000, Instant::now());
        }
        attempts.has_cleaned();
        attempts.see(after);
        for _ in 0..9 {
            attempts.begin(after, true);
            attempts.end(1000, Instant::now());
        }
        attempts
    }

    fn phases(names: &[&str]) -> Vec<PhaseName> {
        let names = names.iter().map(|name| name.parse().expect("a name"));
        names.collect()
    }

    #[test]
    fn a_useless_full_clean_is_not_repeated_for_the_same_failure() {
        // The apply after a clean ends at the phase that fails, so what comes after it fails, too.
        let (before, after) = (phases(&["keepalived"]), phases(&["keepalived", "proxy"]));
        let attempts = cleaned(&before, &after);
        assert_eq!(attempts.count(), 19, "repairs are counted as well");
        for (failed, due) in [
            (&["keepalived"][..], false),
            (&["keepalived", "proxy"], false),
            (&["keepalived", "etcd"], true),
            (&["proxy"], true),
            (&["etcd"], true),
        ] {
            let failed = phases(failed);
            assert_eq!(attempts.clean_is_due(10, &failed), due, "{failed:?}");
            assert_eq!(attempts.useless_clean(&failed).is_none(), due, "{failed:?}");
        }
        let message = attempts.useless_clean(&before).expect("there is a message");
        assert!(
            message.contains("attempt 10 did not repair keepalived"),
            "{message}"
        );
        // A phase that the clean has fixed, and that fails again, is a new failure.
        let helped = cleaned(&phases(&["etcd"]), &phases(&["proxy"]));
        for failed in [["etcd"], ["proxy"]] {
            assert!(helped.clean_is_due(10, &phases(&failed)));
        }
    }

    #[test]
    fn a_useless_full_clean_is_remembered_until_the_plan_changes() {
        let failed = phases(&["keepalived"]);
        let mut attempts = cleaned(&failed, &failed);
        let kept = serde_json::to_string(&attempts).expect("JSON");
        let mut again: Attempts = serde_json::from_str(&kept).expect("read back");
        again.restore(1001, Instant::now());
        assert!(!again.clean_is_due(10, &failed));
        let mut older: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
        let fields = older.as_object_mut().expect("an object");
        assert!(fields.remove("clean").is_some());
        let older: Attempts = serde_json::from_value(older).expect("an older file is read");
        assert!(older.clean_is_due(10, &failed) && older.count() == 19);
        assert!(!attempts.see(&phases(&["etcd"])), "it is judged already");
        attempts.are_about("another");
        assert_eq!(attempts.useless_clean(&failed), None);
    }

    #[test]
    fn interrupted_commands_do_not_count() {
        let mut attempts = after(4);
        for _ in 0..10 {
            attempts.begin(&etcd(), true);
            assert_eq!(attempts.count(), 5, "while it is on");
            let kept = serde_json::to_string(&attempts).expect("JSON");
            attempts = serde_json::from_str(&kept).expect("read back");
            attempts.restore(1001, Instant::now());
            assert_eq!(attempts.count(), 4);
        }
    }

    #[test]
    fn killed_commands_are_not_counted_and_retried_after_a_pause() {
        let mut attempts = after(9);
        attempts.repaired_since_start = false;
        for killed in 1..4 {
            let before = attempts.clone();
            attempts.begin(&etcd(), true);
            attempts.discard_interrupted(&before, 1000, Instant::now());
            assert_eq!(attempts.count(), 9);
            assert!(!attempts.repaired_since_start() && !attempts.is_on);
            let left = attempts.pause_left(&etcd(), MINUTE, Instant::now());
            let least = backoff(9 + killed, MINUTE) - Duration::from_secs(1);
            assert!(left > least, "{left:?}");
        }
    }

    #[test]
    fn a_new_plan_resets_the_attempts() {
        let mut attempts = after(9);
        assert!(!attempts.are_about("plan"));
        assert_eq!(attempts.count(), 9);
        assert!(attempts.are_about("another"));
        assert_eq!(attempts.count(), 0);
        assert!(
            attempts
                .pause_left(&etcd(), MINUTE, Instant::now())
                .is_zero()
        );
        let mut lost = Attempts::default();
        assert!(!lost.are_about("plan"), "the first plan is no change");
    }

    #[test]
    fn unknown_results_reset_the_row_and_keep_the_pause() {
        let mut attempts = after(5);
        attempts.reset_streak();
        assert!(!attempts.clean_is_due(10, &etcd()) && attempts.count() == 0);
        let left = attempts.pause_left(&etcd(), MINUTE, Instant::now());
        assert!(
            left > backoff(5, MINUTE) - Duration::from_secs(1),
            "{left:?}"
        );
        let kubelet = ["kubelet".parse().expect("a name")];
        let left = attempts.pause_left(&kubelet, MINUTE, Instant::now());
        assert!(
            !left.is_zero() && left <= Duration::from_secs(12),
            "it is another failure: {left:?}"
        );
        attempts.forget();
        assert!(
            attempts
                .pause_left(&etcd(), MINUTE, Instant::now())
                .is_zero()
        );
    }

    #[test]
    fn pauses_go_on_after_a_start_and_survive_a_clock_that_was_set() {
        for (wall, waits) in [(1001, true), (1400, false), (-5, false), (i64::MIN, false)] {
            let mut attempts = after(5);
            attempts.restore(wall, Instant::now());
            let left = attempts.pause_left(&etcd(), MINUTE, Instant::now());
            assert_eq!(!left.is_zero(), waits, "at {wall}: {left:?}");
        }
        let garbage: Attempts =
            serde_json::from_str(r#"{"tries":4294967295,"jitter":1e300,"ended":0}"#).expect("read");
        assert!(garbage.pause_left(&etcd(), MINUTE, Instant::now()) <= MINUTE * 6);
    }
}
