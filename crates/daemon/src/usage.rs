//! What this process uses of the machine. Sources: proc(5), getrusage(2).

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// Usage since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of this process.
    pub cpu: Duration,
    /// CPU time of its children that have ended and were waited for.
    pub children_cpu: Duration,
    /// Largest resident memory of one of those children, in bytes.
    pub children_peak: u64,
    /// Resident memory now, in bytes.
    pub resident: u64,
    /// Open file descriptors now.
    pub descriptors: u64,
}

/// Measures the usage. A value that cannot be read is zero.
#[must_use]
pub fn now() -> Usage {
    let cpu = |who| {
        getrusage(who).map_or(Duration::ZERO, |usage| {
            let micros =
                usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            Duration::from_micros(micros.try_into().unwrap_or(0))
        })
    };
    Usage {
        cpu: cpu(UsageWho::RUSAGE_SELF),
        children_cpu: cpu(UsageWho::RUSAGE_CHILDREN),
        // In kilobytes, as getrusage(2) has it.
        children_peak: getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| {
            u64::try_from(usage.max_rss()).unwrap_or(0) * 1024
        }),
        resident: std::fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|text| resident(&text))
            .unwrap_or(0),
        // The listing itself has one open.
        descriptors: std::fs::read_dir("/proc/self/fd")
            .map_or(0, |entries| (entries.count() as u64).saturating_sub(1)),
    }
}

fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_something() {
        let usage = now();
        assert!(usage.resident > 100_000, "{usage:?}");
        assert!(usage.descriptors >= 3, "{usage:?}");
    }

    #[test]
    fn the_resident_size_is_in_bytes() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t   1024 kB\n"), Some(1_048_576));
        assert_eq!(resident("VmRSS: many"), None);
    }
}
