//! The limits of status passes under version 2 of control groups, in a virtual machine of its own: the unchanged nodeletd and
//! nodelet, on a kernel that runs nothing else. `cargo xtask test` runs it.

use std::path::Path;
use std::time::{Duration, Instant};

use lab::{Machine, Micro};

/// The test takes less than a third of that, and more if other programs use the same processors.
const LIMIT: Duration = Duration::from_secs(150);
/// How much more than its limit a group may get: periods at both ends are incomplete, and an emulated machine may be late.
const MARGIN: f64 = 1.15;
const UNIT: &str = "0::/system.slice/pf9-nodeletd.service";

/// The results that the machine printed, in order.
struct MicroResults(Vec<String>);

impl MicroResults {
    fn in_console(console: &str) -> Self {
        let lines = console
            .lines()
            .filter_map(|line| line.strip_prefix("micro: "));
        Self(lines.map(str::to_owned).collect())
    }

    /// Every value of this name.
    fn all(&self, name: &str) -> Vec<&str> {
        let of_name = |line: &'_ String| line.starts_with(&format!("{name}="));
        let lines = self.0.iter().filter(|line| of_name(line));
        lines.map(|line| &line[name.len() + 1..]).collect()
    }

    /// The shares of one CPU that were measured under this limit: `NAME=LIMIT wall=MICROSECONDS used=MICROSECONDS`.
    fn shares(&self, name: &str, limit: u32) -> Vec<f64> {
        let prefix = format!("{limit} wall=");
        let lines = self.all(name).into_iter();
        let pairs = lines.filter_map(|line| line.strip_prefix(&prefix)?.split_once(" used="));
        let number = |text: &str| text.parse::<f64>().expect("it is a number");
        pairs
            .map(|(wall, used)| 100.0 * number(used) / number(wall))
            .collect()
    }

    /// In how many periods the group had used up this limit.
    fn throttled(&self, limit: u32) -> u32 {
        let prefix = format!("{limit} periods=");
        let lines = self.all("throttled").into_iter();
        let mut periods = lines.filter_map(|line| line.strip_prefix(&prefix));
        let number = periods.next().expect("it was measured");
        number.parse().expect("it is a number")
    }

    #[track_caller]
    fn is(&self, name: &str, value: &str) {
        assert_eq!(self.all(name), [value], "{name}; {:#?}", self.0);
    }
}

#[test]
#[ignore = "`cargo xtask test --only micro` runs it, with what it needs"]
fn passes_are_limited_by_version_2() {
    let micro = Micro::from_environment().expect("the step gives it");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut machine = Machine::new().expect("it has a shell");
    for mount in [
        "/proc",
        "/sys",
        "/run",
        "/tmp",
        "/var/opt/pf9",
        "/etc/pf9/nodelet",
    ] {
        machine.directory(mount);
    }
    machine.file("/init", 0o755, include_bytes!("init.sh"));
    machine.file("/check.sh", 0o644, include_bytes!("check.sh"));
    machine.file("/role/role.yaml", 0o644, include_bytes!("role/role.yaml"));
    let phase = include_bytes!("role/phases/limits.rhai");
    machine.file("/role/phases/limits.rhai", 0o644, phase);
    let programs = [
        (micro.nodelet.as_path(), "/opt/nodelet"),
        (&micro.nodelet.with_file_name("nodeletd"), "/opt/nodeletd"),
    ];
    machine
        .programs(&programs, directory)
        .expect("they are built");

    let began = Instant::now();
    let console = machine
        .run(&micro.kernel, directory, LIMIT)
        .expect("it runs to its end");
    let results = MicroResults::in_console(&console);
    println!(
        "{:#?}\nin {:.1} s",
        results.0,
        began.elapsed().as_secs_f64()
    );
    assert_eq!(results.all("end"), ["well"], "{console}");

    // The delegation worked although nothing was prepared for it.
    assert_eq!(results.all("handed_down"), ["[]", "[]", "[]"]);
    results.is("check_group", &format!("{UNIT}/pf9-kube-status"));
    results.is("memory.max", "268435456");

    for percent in [75, 40] {
        let shares = results.shares("limit", percent);
        assert_eq!(shares.len(), 3, "{:#?}", results.0);
        let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
        let limit = f64::from(percent);
        assert!(
            least <= limit * MARGIN,
            "not held to {limit} %: {shares:.1?}"
        );
        // Otherwise the check did not need more, and the test proves nothing. Its share does not tell: an emulated machine whose processor is
        // taken away begins a period late.
        let throttled = results.throttled(percent);
        assert!(throttled > 0, "the check did not need more: {shares:.1?}");
    }
    let outside = results.shares("outside", 100);
    assert!(
        outside[0] > 85.0,
        "what is outside is limited too: {outside:.1?}"
    );
    // The timeout of a check, and the time until its end is noticed.
    for time in results.all("check_ended_after") {
        let time: u64 = time.parse().expect("a time");
        assert!(time < 15_000_000, "a check ran for {time} µs");
    }
    assert_eq!(results.all("check_ended_after").len(), 2);

    // The kernel ended the check, and no other program did: its exit status and the group's count say so.
    results.is("hog_status", "137");
    results.is("oom_kill", "1");
    results.is("daemon_lives", "yes");
    // What a phase starts is in the daemon's group, and not in the group of passes.
    results.is("phase_group", &format!("{UNIT}/supervisor"));
    results.is("daemon_group", &format!("{UNIT}/supervisor"));
}
