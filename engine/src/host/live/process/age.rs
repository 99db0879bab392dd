//! When a process or a unit began, by clocks that cannot be set.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

/// When a process began, by the clock as it is now. `said` is the time that was recorded then. A time in the future was recorded before the
/// clock was set back, and everything recorded since then would seem to be older. Such a time is replaced by one from the process's own
/// age, if that can be read; to about 20 ms.
pub(in crate::host::live) fn began(said: SystemTime, pid: i64) -> SystemTime {
    or_ago(said, || age(pid))
}

/// The same for something that began this long after boot, by the clock that stops while the host sleeps (`CLOCK_MONOTONIC`).
pub(in crate::host::live) fn began_after_boot(said: SystemTime, monotonic: Duration) -> SystemTime {
    or_ago(said, || passed_since(monotonic))
}

/// How much time has passed since this long after boot, by the same clock (`CLOCK_MONOTONIC`).
pub(in crate::host::live) fn passed_since(monotonic: Duration) -> Option<Duration> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?);
    now.checked_sub(monotonic)
}

fn or_ago(said: SystemTime, age: impl FnOnce() -> Option<Duration>) -> SystemTime {
    let now = SystemTime::now();
    if said <= now {
        return said;
    }
    age().and_then(|age| now.checked_sub(age)).unwrap_or(said)
}

/// How long a process has run; to about 20 ms.
pub(in crate::host::live) fn age(pid: i64) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    let began = Duration::from_millis(start_ticks(&stat)? * 1000 / ticks.max(1));
    let up = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    up.checked_sub(began)
}

/// `starttime`, the 22nd word, in ticks since boot (proc_pid_stat(5)). The second is the program's name, which may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_in_the_future_is_detected_by_age() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("it starts");
        let (pid, now) = (i64::from(child.id()), SystemTime::now());
        let (earlier, later) = (
            now - Duration::from_secs(5),
            now + Duration::from_secs(7200),
        );
        assert_eq!(
            began(earlier, pid),
            earlier,
            "the time that the engine tells counts"
        );
        let told = began(later, pid);
        child.kill().expect("it ends");
        child.wait().expect("it has ended");
        let apart = told
            .duration_since(now)
            .unwrap_or_else(|error| error.duration());
        assert!(apart < Duration::from_secs(30), "{apart:?}");
        assert_eq!(began(later, -1), later, "there is no such process");
    }

    #[test]
    fn a_unit_start_in_the_future_is_detected_by_uptime() {
        let up = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock"));
        let now = SystemTime::now();
        let (ago, later) = (Duration::from_secs(1), now + Duration::from_secs(7200));
        let told = began_after_boot(later, up.saturating_sub(ago));
        assert!(told <= now && told > now - ago * 30, "{told:?}");
        assert_eq!(began_after_boot(now - ago, Duration::ZERO), now - ago);
        let passed = passed_since(up.saturating_sub(ago)).expect("a clock");
        assert!(passed >= ago.min(up) && passed < ago * 30, "{passed:?}");
        assert_eq!(passed_since(Duration::MAX), None);
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) S (b)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(start_ticks(stat), Some(4711));
        assert_eq!(start_ticks("7 (cut"), None);
    }
}
