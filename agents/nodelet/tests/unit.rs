//! The unit of nodeletd: what it may do, and what its children have to be able to do.

const UNIT: &str = include_str!("../pf9-nodeletd.service");

/// The values of a key, in the order of the file.
fn values(key: &str) -> Vec<&str> {
    let said = |line: &'static str| line.strip_prefix(key)?.strip_prefix('=');
    UNIT.lines().filter_map(said).collect()
}

#[test]
fn the_unit_drops_unused_privileges() {
    for (key, value) in [
        ("NoNewPrivileges", "yes"),
        ("LockPersonality", "yes"),
        ("RestrictRealtime", "yes"),
        ("ProtectClock", "yes"),
        ("SystemCallArchitectures", "native"),
        ("KeyringMode", "private"),
        (
            "RestrictAddressFamilies",
            "AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET",
        ),
        ("UMask", "0027"),
        ("WatchdogSec", "60s"),
        ("KillMode", "mixed"),
    ] {
        assert_eq!(values(key), [value], "{key}");
    }
    let dropped = values("CapabilityBoundingSet").concat();
    for capability in [
        "CAP_SYS_BOOT",
        "CAP_SYS_RAWIO",
        "CAP_SYS_TIME",
        "CAP_SYSLOG",
    ] {
        assert!(
            dropped.starts_with('~') && dropped.contains(capability),
            "{dropped}"
        );
    }
    let denied = values("SystemCallFilter").concat();
    for group in ["@clock", "@raw-io", "@reboot", "@swap"] {
        assert!(
            denied.starts_with('~') && denied.contains(group),
            "{denied}"
        );
    }
}

/// Its children install packages, unmount for the host, load modules and change the packet filter.
#[test]
fn its_children_can_do_their_work() {
    for key in [
        "ProtectSystem",
        "ProtectHome",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateNetwork",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "MemoryDenyWriteExecute",
    ] {
        assert_eq!(values(key), [""; 0], "{key}");
    }
    assert_eq!(values("PrivateTmp"), ["no"]);
    assert_eq!(
        values("RestrictSUIDSGID"),
        ["no"],
        "packages bring such files"
    );
    let dropped = values("CapabilityBoundingSet").concat();
    for capability in [
        "CAP_SYS_ADMIN",
        "CAP_NET_ADMIN",
        "CAP_NET_RAW",
        "CAP_SYS_MODULE",
        "CAP_SYS_PTRACE",
        "CAP_SYS_RESOURCE",
        "CAP_CHOWN",
        "CAP_MKNOD",
        "CAP_MAC_ADMIN",
    ] {
        assert!(!dropped.contains(capability), "{capability}");
    }
}
