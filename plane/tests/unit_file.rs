//! What the unit of the plane promises, and what its program must not need.

const UNIT: &str = include_str!("../pf9-plane.service");
const HAPROXY: &str = include_str!("../haproxy.conf");

/// A setting that is gone would show on a loaded or attacked host only.
#[test]
fn each_setting_has_a_reason() {
    for (line, reason) in [
        ("Type=notify", "units after it start when it enrols hosts"),
        ("User=pf9-plane", "it needs no privilege"),
        ("CapabilityBoundingSet=", "it needs no privilege"),
        ("NoNewPrivileges=yes", "nor does what it starts"),
        ("Restart=always", "a daemon that ends is started again"),
        ("StartLimitIntervalSec=0", "as often as needed"),
        ("WatchdogSec=150s", "a daemon that hangs is killed"),
        ("ProtectSystem=strict", "it writes below its state only"),
        ("StateDirectoryMode=0700", "keys are there"),
        ("UMask=0077", "what it writes is for itself"),
        ("MemoryDenyWriteExecute=yes", "it makes no machine code"),
    ] {
        let count = UNIT.lines().filter(|its| *its == line).count();
        assert_eq!(count, 1, "{line}: {reason}");
    }
}

/// planectl writes the configuration of HAProxy: with an HAProxy of root, its user could become root.
#[test]
fn haproxy_has_no_right_but_its_port() {
    for line in [
        "StartLimitIntervalSec=0",
        "User=haproxy",
        "Group=haproxy",
        "SupplementaryGroups=pf9-plane",
        "RuntimeDirectory=pf9-haproxy",
        "Environment=PIDFILE=/run/pf9-haproxy/haproxy.pid",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
        "NoNewPrivileges=yes",
        "TemporaryFileSystem=/var/lib/pf9-plane:ro",
        "BindReadOnlyPaths=/var/lib/pf9-plane/ingress",
        "ProtectSystem=strict",
    ] {
        assert_eq!(
            HAPROXY.lines().filter(|its| *its == line).count(),
            1,
            "{line}"
        );
    }
    let socket = plane::config::Ingress::default().master_socket;
    let option = format!("-S {},group,pf9-plane,mode,660\"", socket.display());
    assert!(HAPROXY.contains(&option), "{option}");
}

/// systemd kills what has not ended by itself.
#[test]
fn requests_have_time_to_end() {
    let limit = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="));
    let limit = limit.and_then(|limit| limit.strip_suffix('s'));
    let limit: u64 = limit.expect("a time").parse().expect("seconds");
    assert!(limit > plane::server::DRAIN.as_secs() + 5, "{limit}");
}

/// With IPv6, a client has as many addresses as it wants.
#[test]
fn limits_count_networks_of_ipv6() {
    let template = include_str!("../templates/haproxy.cfg");
    let of_addresses: Vec<&str> = template
        .lines()
        .filter(|line| line.contains(" track-sc") && line.contains(" src"))
        .collect();
    assert_eq!(of_addresses.len(), 2, "{of_addresses:?}");
    for line in of_addresses {
        assert!(line.contains(" src,ipmask(32,64) table "), "{line}");
    }
}

/// The unit forbids machine code that is made while a program runs: `haproxy -c` makes some for each pattern.
#[test]
fn haproxys_configuration_has_no_patterns() {
    let template = include_str!("../templates/haproxy.cfg");
    let words = template.split_whitespace();
    let patterns: Vec<&str> = words
        .filter(|word| *word == "reg" || word.contains("regsub") || word.ends_with("_reg"))
        .collect();
    assert_eq!(patterns, [""; 0]);
}
