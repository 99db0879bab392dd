//! What the unit of pf9-comms promises. Whether each supported systemd knows its settings is a test of nodelet's.

use comms::config::MOST_CONNECTIONS;

const UNIT: &str = include_str!("../pf9-comms.service");

/// A setting that is gone would show on a loaded or attacked host only.
#[test]
fn each_setting_has_a_reason() {
    for (line, reason) in [
        (
            "Type=notify",
            "units after it start when its ports are open",
        ),
        ("User=pf9", "it needs no privilege"),
        ("CapabilityBoundingSet=", "it needs no privilege"),
        ("NoNewPrivileges=yes", "nor does what it starts"),
        ("Restart=always", "a daemon that ends is started again"),
        ("StartLimitIntervalSec=0", "as often as needed"),
        ("WatchdogSec=90s", "a daemon that hangs is killed"),
        ("ProtectSystem=strict", "it writes no file"),
        ("UMask=0077", "and if it did, only for itself"),
        (
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
            "netlink tells the users of connections",
        ),
        ("LimitNOFILE=20000", "each connection has two descriptors"),
    ] {
        let count = UNIT.lines().filter(|its| *its == line).count();
        assert_eq!(count, 1, "{line}: {reason}");
    }
}

/// The kernel kills a daemon that needs more, with all its connections.
#[test]
fn the_most_connections_have_memory_and_descriptors() {
    let value = |name: &str| UNIT.lines().find_map(|line| line.strip_prefix(name));
    let gibibytes = value("MemoryMax=").and_then(|limit| limit.strip_suffix('G'));
    let gibibytes: usize = gibibytes.expect("a limit").parse().expect("GiB");
    let most = comms::tunnel::most_memory(MOST_CONNECTIONS);
    // A tenth is left.
    assert!(most < (gibibytes << 30) / 10 * 9, "{most} bytes");
    let files = value("LimitNOFILE=").expect("a limit").parse::<usize>();
    assert!(MOST_CONNECTIONS * 2 < files.expect("a number") / 10 * 9);
}

/// systemd kills what has not ended by itself.
#[test]
fn open_connections_have_time_to_end() {
    let limit = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let limit = limit.and_then(|limit| limit.strip_suffix('s'));
    let limit: u64 = limit.expect("a time").parse().expect("seconds");
    assert!(limit > comms::supervisor::DRAIN.as_secs() + 5, "{limit}");
}
