//! What the unit of pf9-comms promises. Whether each supported systemd knows its settings is a test of nodelet's.

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
