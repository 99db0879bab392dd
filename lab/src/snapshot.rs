//! Everything about a host that a role may change, as text, so that two moments can be compared.
//!
//! One script runs in the host and prints one item per line; nothing is installed there. The script leaves out what changes by
//! itself: [`LEFT_OUT`] lists that. [`EXCEPTIONS`] lists the paths that may differ, and why. [`KEPT`] and [`KEPT_BY_WORKERS`] list
//! what `clean` keeps. The lists are in `exceptions`.

mod exceptions;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};

pub use exceptions::{EXCEPTIONS, KEPT, KEPT_BY_WORKERS, LEFT_OUT};

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
