//! Thousands of tunnels of one host, through the real ingress to an echo server behind it.

use lab::Host;
use lab::package::{COMMS, enrol};
use lab_suites::{Image, Planes, sh, until};
use serde_json::Value;

/// What the limit of open files allows with a margin: each tunnel has two.
const IDLE: u64 = 5000;
const ACTIVE: u64 = 1000;
/// For how long the active ones exchange messages.
const SECONDS: u64 = 60;
/// Tunnels whose client does not read: some, and more than there are large buffers.
const STALLED: [u64; 2] = [50, 6000];
/// Most tunnels at a time: the stalled ones, and the one beside them.
const MOST: u64 = STALLED[1] + 1;
/// Most memory of pf9-comms with them, in KiB. It follows from the sizes of buffers (`agents/comms/src/tunnel/buffer.rs`), all full at the same time:
///
/// - 512 large buffers of 64 and as much that TLS has encrypted of them, and 32 large buffers that each of two threads keeps;
/// - for each tunnel 25 as an idle one has, three small buffers of 16 (one for each direction, one with what was read ahead), 16 that TLS has encrypted, and a record that
///   arrives and its plain text, 18 each;
/// - 64 MiB for the program, and for what its allocator does not give back.
const MOST_MEMORY: u64 =
    2 * 512 * 64 + 2 * 32 * 64 + MOST * (25 + 3 * 16 + 16 + 2 * 18) + 64 * 1024;
const CYCLES: u64 = 10_000;
/// Most growth of pf9-comms from the end of a first round of cycles to the end of the second, in KiB.
const GROWTH: i64 = 2048;
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
            "mkdir -p /etc/pf9; printf '%s\\n' 'plane: {{host: plane.lab}}' 'connections: 9000' 'listeners:' \
             '- {{name: echo, port: {PORT}, users: all, connections: 9000}}' > /etc/pf9/comms.yaml"
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
    sh(
        &host,
        &format!(
            "systemd-run --quiet --unit=hold --property=LimitNOFILE=20000 --property=StandardOutput=file:/run/hold.out \
             --property=StandardError=file:/run/hold.err --property=RemainAfterExit=yes traffic hold {PORT} {IDLE} {ACTIVE} {SECONDS}"
        ),
    );
    let said = |word: &str| {
        format!(
            "cat /run/hold.err >&2; ! systemctl is-failed hold && grep -q '^{word}' /run/hold.out"
        )
    };
    until(&host, "idle tunnels are open", &said("idle"));
    let idle = Usage::of(&host);
    until(&host, "all tunnels are open", &said("open"));
    let all = Usage::of(&host);
    assert!(all.open >= IDLE + ACTIVE, "{all:?}");
    for _ in 0..3 {
        // Each wait has a minute.
        if sh(&host, "cat /run/hold.out").contains("all idle tunnels answer") {
            break;
        }
        sh(
            &host,
            "for i in $(seq 60); do grep -q answer /run/hold.out && break; sleep 1; done",
        );
    }
    until(
        &host,
        "idle tunnels answer again",
        &said("all idle tunnels answer"),
    );
    println!("{}", sh(&host, "cat /run/hold.out"));
    println!(
        "pf9-comms: {} KiB alone, {} KiB with {IDLE} idle tunnels ({:.1} KiB each), {} KiB with all",
        alone.memory,
        idle.memory,
        (idle.memory - alone.memory) as f64 / IDLE as f64,
        all.memory
    );

    for stalled in STALLED {
        let report = sh(&host, &traffic("slow", &format!("{PORT} {stalled} 20")));
        let peak = sh(
            &host,
            "awk '/^VmHWM:/ {print $2}' /proc/$(systemctl show --value --property MainPID pf9-comms)/status",
        );
        println!("beside {stalled} stalled tunnels: {report}; most memory so far: {peak} KiB");
        // Each line begins with a number. `traffic` fails if a message takes as long as its time limit.
        let mut numbers = report.lines().map(|line| {
            let first = line.split_whitespace().next();
            first.and_then(|its| its.parse::<u64>().ok())
        });
        let (messages, open) = (numbers.next().flatten(), numbers.next().flatten());
        assert!(messages > Some(0), "{report}");
        assert_eq!(open, Some(stalled), "{report}");
        let peak: u64 = peak.parse().expect("a number");
        assert!(
            peak < MOST_MEMORY,
            "{peak} KiB, more than {MOST_MEMORY} KiB"
        );
        until(
            &host,
            "all tunnels have ended",
            &format!("{COMMS} status --json | grep -q '\"open\": 0,'"),
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
        after.memory - before.memory < GROWTH,
        "{before:?} {after:?}"
    );
}

fn traffic(what: &str, arguments: &str) -> String {
    format!("prlimit --nofile=20000 traffic {what} {arguments}")
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
        let status = sh(host, &format!("{COMMS} status --json"));
        let status: Value = serde_json::from_str(&status).expect("JSON");
        Self {
            memory: numbers.next().expect("its memory"),
            files: u64::try_from(numbers.next().expect("its files")).expect("a number"),
            open: status["listeners"][0]["open"].as_u64().expect("a number"),
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
