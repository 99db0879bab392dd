//! Thousands of tunnels of one host, through the real ingress to an echo server behind it. `full_amounts` has all services and all paths.

mod full_amounts;

use std::time::{Duration, Instant};

use comms::config::MOST_CONNECTIONS;
use comms::tunnel::most_memory;
use lab::Host;
use lab::package::{COMMS, enrol};
use lab_suites::{Image, Planes, poll, sh, until};
use serde_json::Value;

/// What the limit of open files allows with a margin: each tunnel has two.
const IDLE: u64 = 5000;
const ACTIVE: u64 = 1000;
/// For how long the active ones exchange messages.
const SECONDS: u64 = 60;
/// Tunnels whose client does not read: some, and more than there are large buffers.
const STALLED: [u64; 2] = [50, 6000];
/// For how long another tunnel exchanges messages beside them, in seconds.
const BESIDE: u64 = 20;
/// Time limit for what a client says next: 6000 tunnels fill their buffers before.
const SAID: Duration = Duration::from_secs(300);
/// Targets for a message beside stalled tunnels whose buffers are full, in microseconds: the median, and beside [`STALLED`]`[0]` also the 99th percentile.
const MEDIAN: u64 = 1_000_000;
const LATE: u64 = 1_000_000;
/// Most tunnels at a time: the stalled ones, and the one beside them.
const MOST: u64 = STALLED[1] + 1;
/// Most memory of pf9-comms with them, in KiB.
const MOST_MEMORY: u64 = most_memory(MOST as usize) as u64 / 1024;
/// For how long tunnels may be open whose program has gone. All hosts of a lab have one kernel, and when its memory for TCP is short (tcp_mem in tcp(7)), it drops what arrives, resets
/// included. A tunnel then ends when pf9-comms sends again what was not acknowledged; the kernel waits for up to two minutes before that.
const ENDED: Duration = Duration::from_secs(180);
const CYCLES: u64 = 10_000;
/// Most growth of pf9-comms from the end of a first round of cycles to the end of the second, in KiB.
const GROWTH: i64 = 2048;
/// Most tasks more at that time: some end a moment after their tunnel.
const MORE_TASKS: u64 = 10;
/// The service, and its port on the host.
const PORT: u16 = 7000;

#[test]
#[ignore = "cargo xtask soak runs it"]
fn thousands_of_tunnels_are_carried_and_leave_nothing() {
    let planes = Planes::create("tunnels", &[("host-1", Image::NoDocker)], &[]);
    let (server, host) = (planes.server(), planes.host("host-1"));
    planes.put_example(&server, "traffic");
    planes.put_example(&host, "traffic");
    sh(
        &server,
        r#"printf '%s\n' 'ingress:' '  connections: 8000' '  connections_per_host: 8000' '  services: [{name: echo, backend: "127.0.0.1:7000"}]' >> /etc/pf9/plane.yaml
           systemd-run --quiet --unit=echo --property=LimitNOFILE=20000 traffic serve 127.0.0.1:7000
           systemctl restart pf9-plane"#,
    );
    until(
        &server,
        "HAProxy knows the service",
        "grep -q 'backend echo' /var/lib/pf9-plane/ingress/haproxy.cfg",
    );
    sh(
        &host,
        &format!(
            "mkdir -p /etc/pf9; printf '%s\\n' 'plane: {{host: plane.lab}}' 'connections: {MOST_CONNECTIONS}' 'listeners:' \
             '- {{name: echo, port: {PORT}, users: all, connections: {MOST_CONNECTIONS}}}' > /etc/pf9/comms.yaml"
        ),
    );
    enrol(&host, &server).expect("it is enrolled");
    until(
        &host,
        "a tunnel is carried",
        &traffic("cycles", &format!("{PORT} 1")),
    );

    cycles_leave_nothing(&host);
    let alone = Usage::of(&host);
    begin(
        &host,
        "hold",
        &format!("hold {PORT} {IDLE} {ACTIVE} {SECONDS}"),
    );
    says(&host, "hold", "^idle");
    let idle = Usage::of(&host);
    says(&host, "hold", "^open");
    let all = Usage::of(&host);
    assert!(all.open >= IDLE + ACTIVE, "{all:?}");
    says(&host, "hold", "all idle tunnels answer");
    println!("{}", sh(&host, "cat /run/hold.out"));
    println!(
        "pf9-comms: {} KiB alone, {} KiB with {IDLE} idle tunnels ({:.1} KiB each), {} KiB with all",
        alone.memory,
        idle.memory,
        (idle.memory - alone.memory) as f64 / IDLE as f64,
        all.memory
    );

    for stalled in STALLED {
        let unit = format!("slow-{stalled}");
        begin(&host, &unit, &format!("slow {PORT} {stalled} {BESIDE}"));
        says(&host, &unit, "stalled tunnels are open");
        let report = sh(&host, &format!("cat /run/{unit}.out"));
        let peak = sh(
            &host,
            "awk '/^VmHWM:/ {print $2}' /proc/$(systemctl show --value --property MainPID pf9-comms)/status",
        );
        println!("beside {stalled} stalled tunnels: {report}; most memory so far: {peak} KiB");
        // `traffic` fails if a message takes as long as its time limit. It ends the first line when the buffers are full.
        let lines: Vec<&str> = report.lines().collect();
        let [_, full, open] = lines[..] else {
            panic!("three lines: {report}")
        };
        assert_eq!(number_after(open, ""), Some(stalled), "{report}");
        let median = number_after(full, "median ");
        assert!(median.is_some_and(|its| its <= MEDIAN), "{report}");
        let late = number_after(full, "99th percentile ");
        assert!(
            stalled > STALLED[0] || late.is_some_and(|its| its <= LATE),
            "{report}"
        );
        let peak: u64 = peak.parse().expect("a number");
        assert!(
            peak < MOST_MEMORY,
            "{peak} KiB, more than {MOST_MEMORY} KiB"
        );
        let began = Instant::now();
        let ended = poll(ENDED, || (open_of(&status(&host)) == 0).then_some(()));
        println!("all have ended after {:.0?}", began.elapsed());
        assert!(
            ended.is_some(),
            "{} tunnels are open",
            open_of(&status(&host))
        );
    }
    let restarts = sh(
        &host,
        "systemctl show --value --property NRestarts pf9-comms",
    );
    assert_eq!(restarts, "0");
}

/// Opens and closes tunnels, twice as many times as [`CYCLES`]. Comes before there were many tunnels at a time: in the memory that those leave free, what a cycle keeps would not
/// show for a long time.
fn cycles_leave_nothing(host: &Host) {
    sh(host, &traffic("cycles", &format!("{PORT} {CYCLES}")));
    let before = settled(host);
    sh(host, &traffic("cycles", &format!("{PORT} {CYCLES}")));
    let after = settled(host);
    println!("after {CYCLES} cycles: {before:?}; after {CYCLES} more: {after:?}");
    assert_eq!((before.open, after.open), (0, 0));
    assert!(after.files <= before.files, "{before:?} {after:?}");
    assert!(
        before.tasks > 0 && after.tasks <= before.tasks + MORE_TASKS,
        "{before:?} {after:?}"
    );
    assert!(
        after.memory - before.memory < GROWTH,
        "{before:?} {after:?}"
    );
}

/// Starts a client in the background, as this unit.
fn begin(host: &Host, unit: &str, arguments: &str) {
    sh(
        host,
        &format!(
            "systemd-run --quiet --unit={unit} --property=LimitNOFILE=20000 --property=StandardOutput=file:/run/{unit}.out \
             --property=StandardError=file:/run/{unit}.err --property=RemainAfterExit=yes traffic {arguments}"
        ),
    );
}

/// Waits until that client has said a line with these words. It must not fail before. The host looks by itself: a command from outside costs more than what is measured.
#[track_caller]
fn says(host: &Host, unit: &str, words: &str) {
    let look = || {
        let found = sh(
            host,
            &format!(
                "for i in $(seq 150); do
                     if [ -s /run/{unit}.err ]; then cat /run/{unit}.err >&2; exit 1; fi
                     if grep -q '{words}' /run/{unit}.out; then echo yes; break; fi
                     sleep 0.2
                 done"
            ),
        );
        (found == "yes").then_some(())
    };
    let said = poll(SAID, look);
    assert!(
        said.is_some(),
        "{unit}: not within {} s: {words}",
        SAID.as_secs()
    );
}

/// The number that follows these words.
fn number_after(line: &str, words: &str) -> Option<u64> {
    let (_, after) = line.split_once(words)?;
    after.split_whitespace().next()?.parse().ok()
}

fn traffic(what: &str, arguments: &str) -> String {
    format!("prlimit --nofile=20000 traffic {what} {arguments}")
}

/// What pf9-comms says of itself.
fn status(host: &Host) -> Value {
    let said = sh(host, &format!("{COMMS} status --json"));
    serde_json::from_str(&said).expect("JSON")
}

/// Open tunnels of its listener.
fn open_of(status: &Value) -> u64 {
    status["listeners"][0]["open"].as_u64().expect("a number")
}

/// What pf9-comms uses.
#[derive(Debug)]
struct Usage {
    /// Its share of the memory (PSS), in KiB.
    memory: i64,
    /// Its open files.
    files: u64,
    /// Its open tunnels.
    open: u64,
    /// Its tasks that have not ended.
    tasks: u64,
}

impl Usage {
    fn of(host: &Host) -> Self {
        let said = sh(
            host,
            "pid=$(systemctl show --value --property MainPID pf9-comms)
             awk '/^Pss:/ {print $2}' /proc/$pid/smaps_rollup; ls /proc/$pid/fd | wc -l",
        );
        let mut numbers = said
            .lines()
            .map(|line| line.trim().parse().expect("a number"));
        let status = status(host);
        Self {
            memory: numbers.next().expect("its memory"),
            files: u64::try_from(numbers.next().expect("its files")).expect("a number"),
            open: open_of(&status),
            tasks: status["tasks"].as_u64().expect("a number"),
        }
    }
}

/// When no tunnel is open any more, and spare connections have ended.
fn settled(host: &Host) -> Usage {
    until(
        host,
        "all tunnels have ended",
        &format!(
            "{COMMS} status --json | grep -q '\"open\": 0,' && {COMMS} status --json | grep -q '\"spares\": 0,'"
        ),
    );
    Usage::of(host)
}
