//! What nodeletd's unit promises.

const UNIT: &str = include_str!("../pf9-nodeletd.service");

/// The values of a setting in a section, in order.
fn values(section: &str, name: &str) -> Vec<&'static str> {
    let mut now = "";
    let mut found = Vec::new();
    for line in UNIT.lines().map(str::trim) {
        if let Some(begun) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            now = begun;
        } else if let Some((key, value)) = line.split_once('=')
            && now == section
            && !line.starts_with('#')
            && key.trim() == name
        {
            found.push(value.trim());
        }
    }
    found
}

fn seconds(text: &str) -> u64 {
    let text = text.trim_end_matches('s');
    text.parse().expect("a number of seconds")
}

/// systemd kills a nodeletd that hangs, together with the processes that it has started to look at the host, and starts it again.
#[test]
fn a_daemon_that_hangs_or_exits_is_restarted() {
    assert_eq!(values("Service", "Type"), ["notify"]);
    let [watchdog] = values("Service", "WatchdogSec")[..] else {
        panic!("a daemon that hangs is not noticed");
    };
    assert!((1..=300).contains(&seconds(watchdog)), "{watchdog}");
    assert_eq!(values("Service", "Restart"), ["always"]);
    // The daemon ends its own workers in order first, and what is left of the group is killed.
    assert_eq!(values("Service", "KillMode"), ["mixed"]);
    let [timeout] = values("Service", "TimeoutStopSec")[..] else {
        panic!("a change in progress is cut");
    };
    assert!(
        seconds(timeout) >= 120,
        "a change reaches its next safe point in 90 s"
    );
}

#[test]
fn it_may_be_restarted_as_often_as_needed_and_sees_the_hosts_name() {
    assert_eq!(values("Unit", "StartLimitIntervalSec"), ["0"]);
    for own_namespace in ["ProtectHostname", "PrivateUsers"] {
        assert_eq!(
            values("Service", own_namespace),
            [""; 0],
            "{own_namespace}: nodeletd would not see changes of the host"
        );
    }
}

/// systemd logs a warning for each setting that it does not know, at each `systemctl daemon-reload`. Debian 12 has systemd 252.
#[test]
fn systemd_of_each_supported_host_knows_every_setting() {
    for newer in ["RestartSteps", "RestartMaxDelaySec"] {
        let known = values("Service", newer);
        assert_eq!(known, [""; 0], "{newer}: only systemd 254 knows it");
    }
}

/// A setting that is gone would show on a loaded or failing host only.
#[test]
fn each_setting_has_a_reason() {
    for (section, name, value, reason) in [
        (
            "Unit",
            "After",
            "network-online.target dbus.service",
            "it asks systemd over D-Bus, and the first pass needs the network",
        ),
        (
            "Unit",
            "Wants",
            "network-online.target",
            "`After` alone starts no target",
        ),
        (
            "Service",
            "RestartSec",
            "5s",
            "a daemon that ends at each start would keep a processor busy with shorter pauses",
        ),
        (
            "Service",
            "Delegate",
            "cpu memory",
            "the control group of status passes has limits of both",
        ),
        (
            "Service",
            "RuntimeDirectoryPreserve",
            "yes",
            "files of other agents in /run/pf9 survive a restart",
        ),
        (
            "Service",
            "MemoryMax",
            "512M",
            "a leak ends nodeletd and not the node",
        ),
        (
            "Service",
            "LimitNOFILE",
            "16384",
            "connections take no descriptor that a change needs",
        ),
        (
            "Service",
            "OOMScoreAdjust",
            "-500",
            "what repairs the host is not the first to be killed",
        ),
    ] {
        assert_eq!(values(section, name), [value], "{name}: {reason}");
    }
}

#[test]
fn the_unit_gains_no_privileges_and_writes_private_files() {
    assert_eq!(values("Service", "NoNewPrivileges"), ["yes"]);
    let [mask] = values("Service", "UMask")[..] else {
        panic!("all users can read what it writes");
    };
    let mask = u32::from_str_radix(mask, 8).expect("an octal number");
    assert_eq!(mask & 0o027, 0o027, "{mask:o}");
}
