//! Everything about a host that a role may change, as text, so that two moments can be compared.
//!
//! One script runs in the host and prints one item per line; nothing is installed there. The script leaves out what changes by
//! itself: [`LEFT_OUT`] lists that. [`EXCEPTIONS`] lists the paths that may differ, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::Host;

const SCRIPT: &str = include_str!("snapshot.sh");
const LIMIT: Duration = Duration::from_secs(180);

/// What is compared, in the order of the snapshot.
const SECTIONS: &[&str] = &[
    "files", "contents", "links", "docker", "mounts", "network", "firewall", "nftables", "ipsets",
    "ipvs", "sysctls", "modules", "packages", "accounts", "units", "cgroups", "crontabs",
];
/// Sections whose lines have an order.
const ORDERED: &[&str] = &["firewall", "nftables"];

/// Paths that may differ, and why.
pub const EXCEPTIONS: &[(&str, &str)] = &[
    ("/var/log", "logs"),
    (
        "/var/cache",
        "caches of the package manager, of ldconfig, of man",
    ),
    (
        "/var/backups",
        "copies that the package manager makes of its records each midnight",
    ),
    ("/var/lib/apt", "the package manager's own lists"),
    (
        "/var/lib/dpkg",
        "the package manager's own records; the packages are compared by name",
    ),
    ("/var/lib/systemd/timers", "when timers ran last"),
    ("/var/lib/systemd/random-seed", "random"),
    ("/var/lib/systemd/catalog", "the journal's cache"),
    (
        "/var/lib/docker",
        "its content is compared through docker; where there was none it is a volume of the lab",
    ),
    ("/var/lib/containerd", "containerd's own content"),
    ("/opt/pf9/roles", "the installed role, which the lab mounts"),
    ("/etc/group-", "the account tools' own copy"),
    ("/etc/gshadow-", "the account tools' own copy"),
    ("/etc/passwd-", "the account tools' own copy"),
    ("/etc/shadow-", "the account tools' own copy"),
    ("/etc/ld.so.cache", "ldconfig's cache"),
    ("/etc/pf9/nodelet", "the operator's settings"),
    ("/var/opt/pf9/nodelet", "history"),
    ("/var/tmp", "temporary files of services"),
    ("/root/.bash_history", "the operator's"),
    (
        "/run/pf9-nodelet.lock",
        "remains: nodelet's lock, an empty file that the next boot removes",
    ),
    (
        "/run/docker.sock",
        "remains if the role installed docker: systemd leaves it when it ends docker.socket; the next boot removes it",
    ),
    (
        "/run/adduser",
        "remains if packages made accounts: the lock of adduser; the next boot removes it",
    ),
    (
        "/run/xtables.lock",
        "remains if no program used iptables before: the lock of iptables; the next boot removes it",
    ),
    ("/run/docker", "docker's run time state"),
    ("/run/containerd", "containerd's run time state"),
    ("/run/log", "the journal"),
    ("/run/udev", "udev's run time state"),
    ("/run/user", "sessions of users"),
    ("/run/systemd/journal", "the journal's streams"),
    ("/run/systemd/units", "systemd's notes of invocations"),
    (
        "/run/systemd/propagate",
        "systemd's folders of services that run",
    ),
    ("/run/systemd/sessions", "sessions of users"),
    ("/run/systemd/users", "sessions of users"),
];

/// What the snapshot leaves out, and the parts of the script that do so. An item without such a part is something that the script does
/// not read at all.
pub const LEFT_OUT: &[(&str, &[&str])] = &[
    ("files: times, sizes and extended attributes", &[]),
    (
        "files: the directory `/run/systemd/transient` itself; systemd makes it with the first transient unit",
        &["grep -v ' /run/systemd/transient$'"],
    ),
    (
        "content of files below /usr, except /usr/local, /usr/lib/systemd and /usr/libexec. Nearly all of them belong to packages. \
         `/usr/sbin/policy-rc.d` does not: nodelet writes it while it installs packages, and then takes it back",
        &[],
    ),
    (
        "content of files in /run, except /run/systemd/system, /run/systemd/transient and /run/systemd/generator; targets of links \
         in /run, except /run/systemd/system and /run/systemd/generator",
        &[],
    ),
    (
        "content of files on mounts inside /etc, /var and the other directories",
        &["-xdev"],
    ),
    (
        "docker: the content of its volumes; the ID of its network `bridge`, which is new with each start of docker; settings other than storage driver, root \
         directory, drivers of control groups and of logs, live-restore and mirrors",
        &[r"sed -E 's/^(network bridge bridge) .*/\1/'"],
    ),
    (
        "mounts: their options and sources, what is below `/proc/sys/fs/binfmt_misc`, and the IDs of network namespaces and of \
         docker's layers",
        &[
            "grep -v '^/proc/sys/fs/binfmt_misc'",
            "sed -E 's|/[0-9a-f]{12} nsfs|/CONTAINER nsfs|; s|overlay2/[0-9a-f]+/|overlay2/LAYER/|'",
        ],
    ),
    (
        "network links: their numbers and those of their peers, queue lengths, MAC addresses, and the names of veth links",
        &[
            r"sed -E 's/^[0-9]+: //; s/ (qlen|link-netnsid) [^ ]*//g; s/@if[0-9]+/@/; s/veth[0-9a-f]+/veth/; s/(link\/ether) [^ ]*/\1/'",
        ],
    ),
    (
        "addresses of veth links; of other addresses their scope, flags and lifetime",
        &["awk '{ if ($2 !~ /^veth/) print $2, $3, $4 }'"],
    ),
    (
        "routes of veth links; of other routes when they expire, and of IPv4 routes what follows that or `linkdown`",
        &[
            "sed -E 's/veth[0-9a-f]+/veth/; s/ (expires|linkdown).*//'",
            "sed -E 's/ expires [^ ]*//'",
            "grep -v 'dev veth'",
        ],
    ),
    ("routing rules of IPv6", &[]),
    (
        "firewall: counters, comments of the tools, and chains with the policy ACCEPT, which the kernel makes with a table; the \
         rules in such a chain are compared",
        &[
            "grep -v '^#'",
            r"sed -E 's/ ?\[[0-9]+:[0-9]+\]//'",
            r#"awk -v family=$save '/^\*/ { table = $0; next } /^COMMIT/ { next } /^:/ && $2 == "ACCEPT" { next }"#,
        ],
    ),
    ("nftables: counters", &["--stateless"]),
    (
        "kernel settings: fs.dentry-state, fs.file-nr, fs.inode-nr, fs.inode-state, fs.quota, \
         kernel.random, kernel.ns_last_pid, kernel.pty.nr, kernel.tainted, net.netfilter.nf_conntrack_count, net.ipv4 and net.ipv6 \
         conf and neigh of veth links, net.ipv4.tcp_fastopen_key, net.ipv6.conf stable_secret, debug, dev.cdrom, vm.stat, user",
        &[
            r"grep -vE '^(fs\.(dentry-state|file-nr|inode-nr|inode-state|quota)|kernel\.(random|ns_last_pid|pty\.nr|tainted)|net\.netfilter\.nf_conntrack_count|net\.ipv[46]\.(conf|neigh)\.veth|debug\.|dev\.cdrom|vm\.stat|net\.ipv4\.tcp_fastopen_key|net\.ipv6\.conf\.[^.]*\.stable_secret|user\.)'",
        ],
    ),
    (
        "kernel modules: everything but their names",
        &["cut -d' ' -f1 /proc/modules"],
    ),
    (
        "unit files: the preset of the distribution",
        &[r#"awk '{ print "file", $1, $2 }'"#],
    ),
    (
        "units: devices, scopes, docker's mounts of layers and network namespaces and those in /run/docker, and \
         `network-online.target`, which stays reached; of all others their description",
        &[
            r#"awk '$1 != "network-online.target" && $1 !~ /\.(device|scope)$/ && $1 !~ /docker-overlay2|docker-netns|run-docker/ { print "unit", $1, $2, $3, $4 }'"#,
        ],
    ),
    (
        "control groups: their settings, and the IDs of containers in their names",
        &["sed -E 's/[0-9a-f]{64}/CONTAINER/'"],
    ),
];

/// Data that a clean keeps and a purge does not.
pub const KEPT: &[&str] = &[
    "/etc/pf9/etcd-backup",
    "/etc/pf9/kube.d/ca",
    "/etc/pf9/kube.d/certs/apiserver/svcacct.key",
    "/etc/pf9/kube.d/certs/apiserver/svcacct.pub",
    "/etc/pf9/kube.d/encryption",
    "/var/log/pf9/kube-audit",
    "/var/opt/pf9/kube/etcd/data",
];

/// A host at one moment: its items by section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSnapshot {
    sections: BTreeMap<String, Section>,
    /// Paths that may be there afterwards; the directories above them may be there, too.
    may_appear: Vec<String>,
}

/// The items of one section, in the order of the script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Section {
    lines: Vec<String>,
    /// Why some of it cannot be read.
    unread: Vec<String>,
}

impl HostSnapshot {
    /// Takes a snapshot of a host.
    ///
    /// # Errors
    /// The script does not run to its end.
    pub fn of(host: &Host) -> Result<Self> {
        let words: Vec<&str> = ["bash", "-s", "--"]
            .iter()
            .chain(SECTIONS)
            .copied()
            .collect();
        let output = host.exec_within(&words, Some(SCRIPT.as_bytes()), LIMIT)?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !text.ends_with("#end\n") {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!(
                "the snapshot of {} is cut off: {}",
                host.name(),
                error.trim()
            );
        }
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut sections: BTreeMap<String, Section> = BTreeMap::new();
        let mut name = String::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(next) = line.strip_prefix('#') {
                next.clone_into(&mut name);
                if name != "end" {
                    sections.entry(name.clone()).or_default();
                }
                continue;
            }
            let section = sections.entry(name.clone()).or_default();
            match line.strip_prefix('!') {
                Some(why) => section.unread.push(why.to_owned()),
                None => section.lines.push(line.to_owned()),
            }
        }
        let all = Self {
            sections,
            may_appear: Vec::new(),
        };
        let excepted: Vec<&str> = EXCEPTIONS.iter().map(|(path, _)| *path).collect();
        all.without(&excepted)
    }

    /// The same without what lies at or below these paths. Directories on the way to them stay, but may be new.
    #[must_use]
    pub fn without(mut self, paths: &[&str]) -> Self {
        for (name, section) in &mut self.sections {
            section.lines.retain(|line| {
                let at = path_of(name, line);
                !at.is_some_and(|at| paths.iter().any(|path| is_within(at, path)))
            });
        }
        self.may_appear
            .extend(paths.iter().map(|&path| path.to_owned()));
        self
    }
}

/// Two moments of a host, compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// How many items the host had before.
    pub items: usize,
    /// What is different now, a line each: `+` new, `-` gone.
    pub differences: Vec<String>,
    /// Sections that were empty both times, with the reason if they could not be read: nothing was compared there.
    pub empty: Vec<String>,
}

/// Compares two snapshots of a host.
#[must_use]
pub fn compare(before: &HostSnapshot, after: &HostSnapshot) -> Comparison {
    let none = Section::default();
    let names: BTreeSet<&String> = before
        .sections
        .keys()
        .chain(after.sections.keys())
        .collect();
    let (mut items, mut differences, mut empty) = (0, Vec::new(), Vec::new());
    for name in names {
        let (old, new) = (
            before.sections.get(name).unwrap_or(&none),
            after.sections.get(name).unwrap_or(&none),
        );
        items += old.lines.len();
        if old.lines.is_empty() && new.lines.is_empty() {
            empty.push(match old.unread.as_slice() {
                [] => name.clone(),
                unread => format!("{name} ({})", unread.join(", ")),
            });
        }
        if old.unread != new.unread {
            differences.push(format!(
                "{name}: cannot be read alike: before {:?}, now {:?}",
                old.unread, new.unread
            ));
        }
        let (gone, mut added) = (
            only_in(&old.lines, &new.lines),
            only_in(&new.lines, &old.lines),
        );
        added.retain(|line| !is_way_to_what_may_appear(name, line, before, after));
        if gone.is_empty() && added.is_empty() && ORDERED.contains(&name.as_str()) {
            let moved = old
                .lines
                .iter()
                .zip(&new.lines)
                .find(|(old, new)| old != new);
            differences.extend(
                moved.map(|(old, new)| format!("{name}: another order: `{new}` where `{old}` was")),
            );
        }
        differences.extend(gone.iter().map(|line| format!("{name}: - {line}")));
        differences.extend(added.iter().map(|line| format!("{name}: + {line}")));
    }
    Comparison {
        items,
        differences,
        empty,
    }
}

/// The lines of `these` that `those` do not have, or not as often.
fn only_in(these: &[String], those: &[String]) -> Vec<String> {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for line in those {
        *left.entry(line).or_default() += 1;
    }
    let mut extra = Vec::new();
    for line in these {
        match left.get_mut(line.as_str()) {
            Some(count) if *count > 0 => *count -= 1,
            _ => extra.push(line.clone()),
        }
    }
    extra
}

/// The path that a line is about, in the sections that list paths.
fn path_of<'a>(section: &str, line: &'a str) -> Option<&'a str> {
    match section {
        // Mode, owner and kind, or a digest, have no slash.
        "files" | "contents" => line.find(" /").map(|at| &line[at + 1..]),
        "links" => line.split_once(" -> ").map(|(path, _)| path),
        "mounts" => line.rsplit_once(' ').map(|(path, _)| path),
        _ => None,
    }
}

/// Whether something lies at `path` or below it.
fn is_within(at: &str, path: &str) -> bool {
    at.strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a new line is a directory that was not there, above a path that may appear.
fn is_way_to_what_may_appear(
    section: &str,
    line: &str,
    before: &HostSnapshot,
    after: &HostSnapshot,
) -> bool {
    if section != "files" || !line.starts_with("directory ") {
        return false;
    }
    let Some(at) = path_of(section, line) else {
        return false;
    };
    let leads = after
        .may_appear
        .iter()
        .any(|path| is_within(path, at) && path != at);
    let files = before.sections.get(section).map(|files| &files.lines);
    let was_there = |line: &String| path_of(section, line) == Some(at);
    leads && !files.is_some_and(|lines| lines.iter().any(was_there))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    fn differences(before: &str, after: &str) -> Vec<String> {
        compare(&HostSnapshot::parse(before), &HostSnapshot::parse(after)).differences
    }

    #[test]
    fn differences_name_section_and_item_and_exceptions_stay_out() {
        let before = HostSnapshot::parse(
            "#files\nregular file 644 0:0 /etc/a\n#units\nunit x active\n#end\n",
        );
        let after = HostSnapshot::parse(
            "#files\nregular file 600 0:0 /etc/a\nregular file 644 0:0 /var/log/x\ndirectory 755 0:0 /etc/pf9\n\
             directory 755 0:0 /etc/pf9/kube.d\ndirectory 755 0:0 /etc/pf9/kube.d/ca\n#units\nunit x active\n#end\n",
        );
        let kept = &["/etc/pf9/kube.d/ca"];
        let compared = compare(&before.without(kept), &after.without(kept));
        assert_eq!(
            compared.differences,
            [
                "files: - regular file 644 0:0 /etc/a",
                "files: + regular file 600 0:0 /etc/a"
            ]
        );
        assert_eq!(compared.items, 2);
    }

    #[test]
    fn a_directory_that_leads_to_an_exception_may_be_new_and_not_differ() {
        let was = "#files\ndirectory 755 0:0 /var\n#end\n";
        let now = "#files\ndirectory 777 0:0 /var\ndirectory 755 0:0 /var/opt/pf9\n#end\n";
        assert_eq!(
            differences(was, now),
            [
                "files: - directory 755 0:0 /var",
                "files: + directory 777 0:0 /var"
            ]
        );
    }

    #[test]
    fn a_line_that_only_mentions_an_exception_is_compared() {
        let before = "#files\n#links\n#contents\n#units\n#end\n";
        let after = "#files\nregular file 644 0:0 /etc/x /var/log\n#links\n/etc/logs -> /var/log\n\
            #contents\n00  /var/logs\n#units\nunit x /var/log\n#end\n";
        assert_eq!(differences(before, after).len(), 4);
    }

    #[test]
    fn rules_are_compared_in_order_and_with_duplicates() {
        let rules = |lines: &str| format!("#firewall\n{lines}#end\n");
        let was = rules("a\nb\n");
        assert_eq!(differences(&was, &was), [""; 0]);
        assert_eq!(
            differences(&was, &rules("b\na\n")),
            ["firewall: another order: `b` where `a` was"]
        );
        assert_eq!(differences(&was, &rules("a\na\nb\n")), ["firewall: + a"]);
        // In other sections the order has no meaning, but a duplicate is a difference.
        assert_eq!(
            differences("#units\na\nb\n#end\n", "#units\nb\na\nb\n#end\n"),
            ["units: + b"]
        );
    }

    #[test]
    fn empty_and_unreadable_files_are_named() {
        let before = "#modules\n#nftables\n!nft is not installed\n#ipsets\nx\n#end\n";
        let snapshot = HostSnapshot::parse(before);
        let compared = compare(&snapshot, &snapshot);
        assert_eq!(
            compared.empty,
            ["modules", "nftables (nft is not installed)"]
        );
        let after = "#modules\n#nftables\n#ipsets\nx\n#end\n";
        assert_eq!(differences(before, after).len(), 1);
    }

    /// Runs sections of the script with these programs first on the path.
    fn sections(names: &[&str], programs: &[(&str, &str)]) -> String {
        sections_with(names, programs, ":/usr/bin:/bin")
    }

    /// Runs sections of the script with these programs, and those in `others`, the rest of the path.
    fn sections_with(names: &[&str], programs: &[(&str, &str)], others: &str) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in programs {
            let path = directory.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        let path = format!("{}{others}", directory.path().display());
        let output = Command::new("/bin/bash")
            .args(["-c", SCRIPT, "snapshot"])
            .args(names)
            .env("PATH", path)
            .output()
            .expect("bash runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn the_script_reads_every_rule_of_both_families_and_of_nft() {
        let save = |rule: &str| {
            format!(
                "printf '%s\\n' '# comment' '*filter' ':INPUT ACCEPT [5:300]' ':FORWARD DROP [0:0]' ':THEIRS - [0:0]' \
                 '-A THEIRS -s 10.0.0.2/32 -j {rule}' '-A INPUT -j THEIRS' '-A THEIRS -j {rule}' '-A THEIRS -j {rule}' COMMIT"
            )
        };
        let text = sections(
            &["firewall", "nftables"],
            &[
                ("iptables-save", &save("ACCEPT")),
                ("ip6tables-save", &save("DROP")),
                ("nft", "echo table inet theirs; echo \"$@\""),
            ],
        );
        let family = |name: &str, rule: &str| {
            format!(
                "{name} *filter chain FORWARD DROP\n{name} *filter chain THEIRS -\n{name} *filter rule INPUT -j THEIRS\n\
                 {name} *filter rule THEIRS -s 10.0.0.2/32 -j {rule}\n{name} *filter rule THEIRS -j {rule}\n{name} *filter rule THEIRS -j {rule}\n"
            )
        };
        assert_eq!(
            text,
            format!(
                "#firewall\n{}{}#nftables\ntable inet theirs\n--stateless list ruleset\n#end\n",
                family("iptables-save", "ACCEPT"),
                family("ip6tables-save", "DROP")
            )
        );
    }

    #[test]
    fn the_script_looks_below_every_directory_that_a_role_may_write_to() {
        // The fake `find` prints its arguments in place of the files that it would find.
        let programs = [
            ("find", r#"printf '%s\0' "$@""#),
            ("stat", r#"shift 2; printf 'thing %s\n' "$@""#),
            ("sha256sum", r#"printf 'thing %s\n' "$@""#),
        ];
        let listed = |section: &str| sections(&[section], &programs).replace('\0', "\nthing ");
        let everywhere = [
            "/etc", "/opt", "/var", "/root", "/tmp", "/home", "/srv", "/boot",
        ];
        let more: [(&str, &[&str]); 3] = [
            ("files", &["/usr", "/run"]),
            (
                "contents",
                &["/usr/local", "/usr/libexec", "/run/systemd/system"],
            ),
            ("links", &["/usr", "/run/systemd/system"]),
        ];
        for (section, more) in more {
            let text = listed(section).replace(&format!("#{section}\n"), "thing ");
            for root in everywhere.iter().chain(more) {
                let line = format!("thing {root}");
                assert!(
                    text.lines().any(|its| its == line),
                    "{section}: {root}\n{text}"
                );
            }
        }
    }

    #[test]
    fn a_section_that_cannot_be_read_says_so_and_an_unknown_one_ends_the_script() {
        assert_eq!(
            sections(&["ipvs"], &[("ipvsadm", "echo '-A -t 10.0.0.1:80 -s rr'")]),
            "#ipvs\n-A -t 10.0.0.1:80 -s rr\n#end\n"
        );
        // This machine may have the program, so nothing else is on the path.
        assert_eq!(
            sections_with(&["ipvs"], &[], ""),
            "#ipvs\n!ipvsadm is not installed\n#end\n"
        );
        assert_eq!(sections(&["sunshine"], &[]), "#sunshine\n");
    }

    #[test]
    fn the_script_has_every_section_and_leaves_out_nothing_in_silence() {
        for name in SECTIONS {
            assert!(SCRIPT.contains(&format!("section_{name}() {{")), "{name}");
        }
        assert_eq!(SCRIPT.matches("\nsection_").count(), SECTIONS.len());
        let pruned = SCRIPT.split("-path ").skip(1);
        for path in pruned.filter_map(|rest| rest.split_whitespace().next()) {
            let named = EXCEPTIONS.iter().any(|(named, _)| is_within(path, named));
            assert!(named, "{path} is left out and EXCEPTIONS does not say why");
        }
        // Without the parts that are named, nothing of the script filters any more.
        let mut rest = SCRIPT.to_owned();
        for part in LEFT_OUT.iter().flat_map(|(_, parts)| parts.iter().copied()) {
            assert!(rest.contains(part), "the script has no `{part}`");
            rest = rest.replace(part, "");
        }
        for filter in ["grep", "awk", "sed -E", "cut ", "-xdev", "--stateless"] {
            assert!(
                !rest.contains(filter),
                "`{filter}` leaves out something that LEFT_OUT does not name:\n{rest}"
            );
        }
    }
}
