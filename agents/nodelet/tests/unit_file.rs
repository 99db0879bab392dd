//! What nodeletd's unit promises, and that each supported systemd knows the settings of this unit and of the role's units.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

const UNIT: &str = include_str!("../pf9-nodeletd.service");

/// A setting of a unit file.
#[derive(Debug, PartialEq)]
struct Setting<'t> {
    section: &'t str,
    name: &'t str,
    value: &'t str,
}

/// The settings of a unit file or of a template for one, in order. Of a value with several lines, only the first line.
fn settings(text: &str) -> Vec<Setting<'_>> {
    let mut section = "";
    let mut continues = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        // These may be between the lines of one value.
        if line.is_empty() || line.starts_with(['#', ';']) || line.starts_with("{%") {
            continue;
        }
        let is_rest = continues;
        continues = line.ends_with('\\');
        if is_rest {
            continue;
        }
        let begun = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'));
        if let Some(begun) = begun {
            section = begun;
        } else if let Some((name, value)) = line.split_once('=') {
            found.push(Setting {
                section,
                name: name.trim(),
                value: value.trim(),
            });
        }
    }
    found
}

/// The values of a setting in a section of nodeletd's unit, in order.
fn values(section: &str, name: &str) -> Vec<&'static str> {
    let all = settings(UNIT).into_iter();
    all.filter(|setting| setting.section == section && setting.name == name)
        .map(|setting| setting.value)
        .collect()
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

/// The supported operating systems (`phases/preflight.rhai`), and the version of systemd in each of their releases.
const SUPPORTED: [(&str, &[(&str, u32)]); 2] = [
    ("debian", &[("11", 247), ("12", 252), ("13", 257)]),
    ("ubuntu", &[("20.04", 245), ("22.04", 249), ("24.04", 255)]),
];

/// Settings by the version of systemd that introduced them, according to its manual pages ("Added in version") and its file NEWS. 187
/// stands for all versions up to 187.
const INTRODUCED: [(u32, &[&str]); 16] = [
    (
        187,
        &[
            "After",
            "CapabilityBoundingSet",
            "ConditionPathExists",
            "Description",
            "Documentation",
            "Environment",
            "ExecReload",
            "ExecStart",
            "ExecStop",
            "ExecStopPost",
            "Group",
            "KillMode",
            "LimitNOFILE",
            "NoNewPrivileges",
            "OOMScoreAdjust",
            "PrivateTmp",
            "Restart",
            "RestartSec",
            "SystemCallFilter",
            "Type",
            "UMask",
            "User",
            "WantedBy",
            "Wants",
            "WatchdogSec",
        ],
    ),
    (188, &["TimeoutStopSec"]),
    (208, &["CPUAccounting", "MemoryAccounting"]),
    (
        209,
        &[
            "PrivateDevices",
            "SystemCallArchitectures",
            "SystemCallErrorNumber",
        ],
    ),
    (211, &["RestrictAddressFamilies", "RuntimeDirectory"]),
    (214, &["ProtectHome", "ProtectSystem"]),
    (218, &["Delegate"]),
    (229, &["StartLimitIntervalSec"]),
    (
        231,
        &["MemoryDenyWriteExecute", "MemoryMax", "RestrictRealtime"],
    ),
    (
        232,
        &[
            "ProtectControlGroups",
            "ProtectKernelModules",
            "ProtectKernelTunables",
        ],
    ),
    (233, &["RestrictNamespaces"]),
    (
        235,
        &["KeyringMode", "LockPersonality", "RuntimeDirectoryPreserve"],
    ),
    (242, &["ProtectHostname", "RestrictSUIDSGID"]),
    (244, &["ProtectKernelLogs"]),
    (245, &["ProtectClock"]),
    (254, &["RestartMaxDelaySec", "RestartSteps"]),
];

/// The version of systemd that introduced a setting.
fn introduced(name: &str) -> Option<u32> {
    let mut all = INTRODUCED.iter();
    let (version, _) = all.find(|(_, names)| names.contains(&name))?;
    Some(*version)
}

/// Adds the files and templates below a directory that are unit files or drop-ins of units.
fn add_unit_templates(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).expect("it is a directory") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            add_unit_templates(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("it is text");
        let is_source = path.extension().is_some_and(|its| its == "rs");
        if !is_source && text.lines().any(|line| line == "[Service]") {
            found.push((path, text));
        }
    }
}

/// systemd logs a warning for each setting that it does not know, at each `systemctl daemon-reload`.
#[test]
fn systemd_of_each_supported_host_knows_every_setting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let releases = SUPPORTED.iter().flat_map(|(_, releases)| releases.iter());
    let oldest = releases.map(|(_, systemd)| *systemd).min();
    let oldest = oldest.expect("there are supported hosts");
    let mut files = Vec::new();
    add_unit_templates(&root.join("agents"), &mut files);
    add_unit_templates(&root.join("phases/templates"), &mut files);
    let names: Vec<_> = files
        .iter()
        .filter_map(|(path, _)| path.file_name())
        .collect();
    for name in [
        "pf9-comms.service",
        "pf9-nodeletd.service",
        "pf9-kubelet.service.tmpl",
        "shutdown.conf.tmpl",
    ] {
        assert!(names.contains(&OsStr::new(name)), "{name}: {names:?}");
    }
    for (path, text) in &files {
        let path = path.display();
        for Setting { name, .. } in settings(text) {
            let Some(version) = introduced(name) else {
                panic!("{path}: `INTRODUCED` does not say which version of systemd knows {name}");
            };
            assert!(
                version <= oldest,
                "{path}: only systemd {version} knows {name}, and a supported host has {oldest}"
            );
        }
    }
    // The table judges: settings of later versions would be noticed.
    for newer in ["RestartMaxDelaySec", "RestartSteps"] {
        let version = introduced(newer).expect("it is in the table");
        assert!(version > oldest, "{newer}");
    }
}

#[test]
fn the_supported_hosts_are_those_of_the_role() {
    let script = include_str!("../../../phases/preflight.rhai");
    let (_, rest) = script.split_once(".supported_system(#{").expect("a map");
    let (map, _) = rest.split_once('}').expect("its end");
    let items = map.split_terminator(",\n").map(str::trim);
    let listed: Vec<&str> = items.filter(|item| !item.is_empty()).collect();
    let expected = SUPPORTED.map(|(system, releases)| {
        let releases = releases.iter().map(|(release, _)| format!("{release:?}"));
        let releases: Vec<String> = releases.collect();
        format!("{system}: [{}]", releases.join(", "))
    });
    assert_eq!(listed, expected);
}

#[test]
fn settings_of_a_template_are_read_without_their_further_lines() {
    let text = "# a=1\n[Unit]\nAfter=a b\n\n[Service]\n{% if x == 1 %}\nExecStart=/bin/a \\\n    --b=1 \\\n\
                {% if y %}\n    --c=2 \\\n{% endif %}\n    --d=3\nExecStop=/bin/sh -c '[ a = b ]'\nUMask=0027\n";
    let read: Vec<(&str, &str)> = settings(text)
        .into_iter()
        .map(|setting| (setting.section, setting.name))
        .collect();
    let expected = [
        ("Unit", "After"),
        ("Service", "ExecStart"),
        ("Service", "ExecStop"),
        ("Service", "UMask"),
    ];
    assert_eq!(read, expected);
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
