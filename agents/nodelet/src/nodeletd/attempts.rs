//! Attempts in a row that did not lead to a healthy host: how many there were, when the next may come, and whether it may take
//! everything off. Remembered over restarts of the daemon and of the host.
//!
//! A full clean is the last thing to do to a host. So it is this daemon that must have seen a repair fail before it, in its own life:
//! what was counted before a boot, by an older program or about another plan, is no reason. Nor is it made again where the last one
//! was in vain: it would take a host down again and again for what it cannot mend, a masked unit for one.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::plan::PhaseName;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::decide::backoff;

/// What is remembered. A lost file costs a pause between attempts, and puts off the full clean.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Attempts {
    /// In a row, the one that is on included.
    count: u32,
    /// Whether one is on, and counts.
    is_on: bool,
    /// Digest of the plan that they were about.
    digest: String,
    /// Since the host was last known to be well: what merely cannot be told for a while shortens no pause.
    tries: u32,
    /// The phases that failed when the last one began.
    phases: BTreeSet<PhaseName>,
    /// When the last one ended, seconds since 1970.
    ended: Option<i64>,
    /// How much longer the pause after it is, as a share: hosts that failed together do not try together.
    jitter: f64,
    /// The last full clean in this row that came to its end.
    clean: Option<Clean>,
    /// The same as `ended`, on a clock that is never set back or forward.
    #[serde(skip)]
    last: Option<Instant>,
    /// Whether one has ended in this daemon's life.
    #[serde(skip)]
    tried_here: bool,
}

/// A full clean that has come to its end, with the plan that stands beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Clean {
    /// The number of the attempt.
    attempt: u32,
    /// The phases that failed before it.
    before: BTreeSet<PhaseName>,
    /// The phases that failed after it, up to the next attempt.
    after: BTreeSet<PhaseName>,
    /// Whether the next attempt has begun.
    is_judged: bool,
}

impl Clean {
    /// What failed before it and after it.
    fn stayed(&self) -> impl Iterator<Item = &PhaseName> {
        self.before.intersection(&self.after)
    }

    /// Whether these phases fail for what it did not mend: all that stayed is among them, and nothing that it did mend.
    fn was_in_vain_for(&self, failed: &[PhaseName]) -> bool {
        let fails = |phase: &PhaseName| failed.contains(phase);
        self.stayed().next().is_some()
            && self.stayed().all(fails)
            && failed.iter().all(|phase| self.after.contains(phase))
    }
}

impl Attempts {
    /// Longest share by which a pause is longer.
    const JITTER: f64 = 0.2;

    /// Goes on after a start of the daemon, at `wall` seconds since 1970. A time that makes no sense costs a pause, and nothing else.
    /// An attempt that power or a kill cut short says nothing of whether it would have helped, and does not count.
    pub(super) fn go_on(&mut self, wall: i64, now: Instant) {
        if std::mem::take(&mut self.is_on) {
            self.count = self.count.saturating_sub(1);
        }
        let ago = self.ended.map(|ended| wall.saturating_sub(ended));
        self.last = ago
            .and_then(|ago| u64::try_from(ago).ok())
            .and_then(|ago| now.checked_sub(Duration::from_secs(ago)));
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Takes note of the plan. Gives whether it is another than the one that was counted about, which is forgotten then.
    pub(super) fn are_about(&mut self, digest: &str) -> bool {
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

    /// All is well, or somebody has given new hope.
    pub(super) fn forget(&mut self) {
        *self = Self {
            digest: std::mem::take(&mut self.digest),
            ..Self::default()
        };
    }

    /// Nothing fails, but not all is known: the next failure is not in a row with those before.
    pub(super) fn break_the_row(&mut self) {
        self.count = 0;
        self.tried_here = false;
    }

    /// One begins, for phases that fail. Where the full clean would be due and is not made, it does not count: the clean comes when it may.
    pub(super) fn begin(&mut self, phases: &[PhaseName], counts: bool) {
        if let Some(clean) = &mut self.clean {
            clean.is_judged = true;
        }
        self.phases = phases.iter().cloned().collect();
        self.tries = self.tries.saturating_add(1);
        self.is_on = counts;
        if counts {
            self.count = self.count.saturating_add(1);
        }
    }

    /// One has ended, and touched the host.
    pub(super) fn end(&mut self, wall: i64, now: Instant) {
        self.is_on = false;
        self.ended = Some(wall);
        self.last = Some(now);
        self.jitter = rand::random::<f64>() * Self::JITTER;
        self.tried_here = true;
    }

    /// The one that has ended was a full clean. What it was worth the next passes say.
    pub(super) fn has_cleaned(&mut self) {
        self.clean = Some(Clean {
            attempt: self.count,
            before: self.phases.clone(),
            ..Clean::default()
        });
    }

    /// A pass has seen these phases fail. Gives whether that says something of the last full clean that was not known.
    pub(super) fn see(&mut self, failed: &[PhaseName]) -> bool {
        let Some(clean) = self.clean.as_mut().filter(|clean| !clean.is_judged) else {
            return false;
        };
        let known = clean.after.len();
        clean.after.extend(failed.iter().cloned());
        clean.after.len() > known
    }

    /// The one that is on was cut short, and says nothing of whether it would have helped: what is counted is as `before` it, but the
    /// next one waits as it would have.
    pub(super) fn cut_short(&mut self, before: &Self, wall: i64, now: Instant) {
        self.end(wall, now);
        self.count = before.count;
        self.tried_here = before.tried_here;
    }

    /// What is left of the pause before the next one, for phases that fail; none if the last one's end is not known. What fails
    /// now and did not then waits for no more than a moment: the others' failures are none of its own.
    pub(super) fn pause_left(
        &self,
        phases: &[PhaseName],
        interval: Duration,
        now: Instant,
    ) -> Duration {
        let Some(last) = self.last else {
            return Duration::ZERO;
        };
        // The file may say anything.
        let longer = 1.0 + self.jitter.clamp(0.0, Self::JITTER);
        let another = phases.iter().all(|phase| !self.phases.contains(phase));
        let tries = if another {
            self.tries.min(2)
        } else {
            self.tries
        };
        let pause = backoff(tries, interval).mul_f64(longer);
        pause.saturating_sub(now.saturating_duration_since(last))
    }

    /// Whether the next one is the one that takes everything off, of which there is one in `every`, for phases that fail. Where the last
    /// one was in vain for them, it is an attempt like any other.
    pub(super) fn clean_is_due(&self, every: u32, failed: &[PhaseName]) -> bool {
        self.is_turn_of_clean(every) && self.vain_clean(failed).is_none()
    }

    /// Whether the next one would take everything off if a clean was never in vain.
    pub(super) fn is_turn_of_clean(&self, every: u32) -> bool {
        self.count.saturating_add(1).is_multiple_of(every)
    }

    /// That the last full clean was in vain for phases that fail, and is not repeated; a sentence for people.
    pub(super) fn vain_clean(&self, failed: &[PhaseName]) -> Option<String> {
        let clean = self.clean.as_ref()?;
        if !clean.was_in_vain_for(failed) {
            return None;
        }
        let stayed: Vec<&str> = clean.stayed().map(PhaseName::as_str).collect();
        Some(format!(
            "the full clean of attempt {} did not mend {}, so it is not repeated before other phases fail or the plan changes; \
             repairs go on; see why with `nodelet check` and remove the cause",
            clean.attempt,
            stayed.join(", ")
        ))
    }

    /// Whether this daemon has tried in vain since it saw the host well.
    pub(super) fn tried_here(&self) -> bool {
        self.tried_here
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
    fn what_was_counted_before_is_no_reason_to_clean() {
        let kept = serde_json::to_string(&after(9)).expect("JSON");
        let mut attempts: Attempts = serde_json::from_str(&kept).expect("read back");
        attempts.go_on(1001, Instant::now());
        assert!(attempts.clean_is_due(10, &etcd()) && !attempts.tried_here());
        // The repair in its place leaves the turn to the clean.
        attempts.begin(&etcd(), false);
        attempts.end(1002, Instant::now());
        assert!(attempts.clean_is_due(10, &etcd()) && attempts.tried_here());
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
    fn a_clean_that_was_in_vain_is_not_repeated_for_the_same_failure() {
        // The apply after a clean ends at the phase that fails, so what comes after it fails, too.
        let (before, after) = (phases(&["keepalived"]), phases(&["keepalived", "proxy"]));
        let attempts = cleaned(&before, &after);
        assert_eq!(attempts.count(), 19, "they are counted all the same");
        for (failed, due) in [
            (&["keepalived"][..], false),
            (&["keepalived", "proxy"], false),
            (&["keepalived", "etcd"], true),
            (&["proxy"], true),
            (&["etcd"], true),
        ] {
            let failed = phases(failed);
            assert_eq!(attempts.clean_is_due(10, &failed), due, "{failed:?}");
            assert_eq!(attempts.vain_clean(&failed).is_none(), due, "{failed:?}");
        }
        let told = attempts.vain_clean(&before).expect("it is told");
        assert!(
            told.contains("attempt 10 did not mend keepalived"),
            "{told}"
        );
        // What it has mended, and fails again, is another matter.
        let helped = cleaned(&phases(&["etcd"]), &phases(&["proxy"]));
        for failed in [["etcd"], ["proxy"]] {
            assert!(helped.clean_is_due(10, &phases(&failed)));
        }
    }

    #[test]
    fn a_clean_that_was_in_vain_is_remembered_over_a_start_and_forgotten_with_its_plan() {
        let failed = phases(&["keepalived"]);
        let mut attempts = cleaned(&failed, &failed);
        let kept = serde_json::to_string(&attempts).expect("JSON");
        let mut again: Attempts = serde_json::from_str(&kept).expect("read back");
        again.go_on(1001, Instant::now());
        assert!(!again.clean_is_due(10, &failed));
        let mut older: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
        let fields = older.as_object_mut().expect("an object");
        assert!(fields.remove("clean").is_some());
        let older: Attempts = serde_json::from_value(older).expect("an older file is read");
        assert!(older.clean_is_due(10, &failed) && older.count() == 19);
        assert!(!attempts.see(&phases(&["etcd"])), "it is judged already");
        attempts.are_about("another");
        assert_eq!(attempts.vain_clean(&failed), None);
    }

    #[test]
    fn what_was_cut_short_does_not_count() {
        let mut attempts = after(4);
        for _ in 0..10 {
            attempts.begin(&etcd(), true);
            assert_eq!(attempts.count(), 5, "while it is on");
            let kept = serde_json::to_string(&attempts).expect("JSON");
            attempts = serde_json::from_str(&kept).expect("read back");
            attempts.go_on(1001, Instant::now());
            assert_eq!(attempts.count(), 4);
        }
    }

    #[test]
    fn what_was_killed_is_not_counted_and_waited_for() {
        let mut attempts = after(9);
        attempts.tried_here = false;
        for killed in 1..4 {
            let before = attempts.clone();
            attempts.begin(&etcd(), true);
            attempts.cut_short(&before, 1000, Instant::now());
            assert_eq!(attempts.count(), 9);
            assert!(!attempts.tried_here() && !attempts.is_on);
            let left = attempts.pause_left(&etcd(), MINUTE, Instant::now());
            let least = backoff(9 + killed, MINUTE) - Duration::from_secs(1);
            assert!(left > least, "{left:?}");
        }
    }

    #[test]
    fn another_plan_is_another_matter() {
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
        assert!(!lost.are_about("plan"), "the first is not another");
    }

    #[test]
    fn what_is_not_known_breaks_the_row_and_shortens_no_pause() {
        let mut attempts = after(5);
        attempts.break_the_row();
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
            attempts.go_on(wall, Instant::now());
            let left = attempts.pause_left(&etcd(), MINUTE, Instant::now());
            assert_eq!(!left.is_zero(), waits, "at {wall}: {left:?}");
        }
        let garbage: Attempts =
            serde_json::from_str(r#"{"tries":4294967295,"jitter":1e300,"ended":0}"#).expect("read");
        assert!(garbage.pause_left(&etcd(), MINUTE, Instant::now()) <= MINUTE * 6);
    }
}
