//! Everything about a host that a role may change, as text, so that two moments can be compared.
//!
//! One script runs in the host and prints one thing a line; nothing is installed there. What changes by itself is left
//! out by the script, what may differ by [`EXCEPTIONS`], which each say why.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::Host;

const SCRIPT: &str = include_str!("snapshot.sh");
const LIMIT: Duration = Duration::from_secs(180);

/// Paths that may differ, and why.
pub const EXCEPTIONS: &[(&str, &str)] = &[
    ("/var/log", "logs"),
    (
        "/var/cache",
        "caches of the package manager, of ldconfig, of man",
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
    ("/etc/group-", "the account tools' own copy"),
    ("/etc/gshadow-", "the account tools' own copy"),
    ("/etc/passwd-", "the account tools' own copy"),
    ("/etc/shadow-", "the account tools' own copy"),
    ("/etc/ld.so.cache", "ldconfig's cache"),
    ("/etc/pf9/nodelet", "the operator's settings"),
    ("/var/opt/pf9/nodelet", "history"),
    ("/var/tmp", "temporary files of services"),
    ("/root/.bash_history", "the operator's"),
];

/// Data that a clean keeps and a purge does not.
pub const KEPT: &[&str] = &[
    "/etc/pf9/etcd-backup",
    "/etc/pf9/kube.d/ca",
    "/etc/pf9/kube.d/certs/apiserver/svcacct.key",
    "/etc/pf9/kube.d/certs/apiserver/svcacct.pub",
    "/var/opt/pf9/kube/etcd/data",
];

/// A host at one moment: its things by section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSnapshot {
    sections: BTreeMap<String, BTreeSet<String>>,
}

impl HostSnapshot {
    /// Looks at a host.
    ///
    /// # Errors
    /// The script does not come to its end.
    pub fn of(host: &Host) -> Result<Self> {
        let output = host.exec_within(&["bash", "-s"], Some(SCRIPT.as_bytes()), LIMIT)?;
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
        let mut sections: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut section = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('#') {
                name.clone_into(&mut section);
            } else if !line.is_empty()
                && !EXCEPTIONS
                    .iter()
                    .any(|(path, _)| is_about(line, path) || leads_to(line, path))
            {
                sections
                    .entry(section.clone())
                    .or_default()
                    .insert(line.to_owned());
            }
        }
        Self { sections }
    }

    /// How many things each section has.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&str, usize> {
        self.sections
            .iter()
            .map(|(name, lines)| (name.as_str(), lines.len()))
            .collect()
    }

    /// The same without what is about these paths and what leads to them.
    #[must_use]
    pub fn without(mut self, paths: &[&str]) -> Self {
        for lines in self.sections.values_mut() {
            lines.retain(|line| {
                !paths
                    .iter()
                    .any(|path| is_about(line, path) || leads_to(line, path))
            });
        }
        self
    }
}

/// What is different in `after`, a line each: `+` new, `-` gone. Empty if the host is the same.
#[must_use]
pub fn difference(before: &HostSnapshot, after: &HostSnapshot) -> Vec<String> {
    let none = BTreeSet::new();
    let names: BTreeSet<&String> = before
        .sections
        .keys()
        .chain(after.sections.keys())
        .collect();
    let mut lines = Vec::new();
    for name in names {
        let (old, new) = (
            before.sections.get(name).unwrap_or(&none),
            after.sections.get(name).unwrap_or(&none),
        );
        lines.extend(old.difference(new).map(|line| format!("{name}: - {line}")));
        lines.extend(new.difference(old).map(|line| format!("{name}: + {line}")));
    }
    lines
}

/// Whether a line is about `path` or something in it.
fn is_about(line: &str, path: &str) -> bool {
    line.split(' ').any(|word| {
        word.strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Whether a line is about a directory on the way to `path`.
fn leads_to(line: &str, path: &str) -> bool {
    line.starts_with("directory ")
        && line.rsplit(' ').next().is_some_and(|directory| {
            path.strip_prefix(directory)
                .is_some_and(|rest| rest.starts_with('/'))
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    /// The script's own section, with programs that show what they are told to.
    #[test]
    fn rules_of_both_families_are_in_a_snapshot() {
        let from = SCRIPT
            .find("section firewall")
            .expect("it has such a section");
        let rest = &SCRIPT[from..];
        let to = rest.find("section ipsets").expect("another follows");
        let programs = tempfile::tempdir().expect("a directory");
        for (name, rule) in [
            ("iptables-save", "-A INPUT -s 192.0.2.1/32 -j DROP"),
            ("ip6tables-save", "-A INPUT -s 2001:db8::1/128 -j DROP"),
        ] {
            let saved = format!(
                "# Generated by it\n*filter\n:INPUT ACCEPT [3:4]\n:THEIRS - [0:0]\n{rule}\nCOMMIT\n"
            );
            let path = programs.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\ncat <<'END'\n{saved}END\n"))
                .expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        }
        let script = format!("section() {{ printf '#%s\\n' \"$1\"; }}\n{}", &rest[..to]);
        let output = Command::new("bash")
            .args(["-c", &script])
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", programs.path().display()),
            )
            .output()
            .expect("bash runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let snapshot = HostSnapshot::parse(&said);
        let lines = snapshot
            .sections
            .get("firewall")
            .expect("the section is there");
        for family in ["iptables-save", "ip6tables-save"] {
            for what in ["-j DROP", "THEIRS"] {
                let told = |line: &String| line.starts_with(family) && line.contains(what);
                assert!(lines.iter().any(told), "{family} {what}: {said}");
            }
        }
    }

    #[test]
    fn differences_name_section_and_thing_and_exceptions_stay_out() {
        let before = HostSnapshot::parse(
            "#files\nregular file 644 0:0 /etc/a\n#units\nunit x active\n#end\n",
        );
        let after = HostSnapshot::parse(
            "#files\nregular file 600 0:0 /etc/a\nregular file 644 0:0 /var/log/x\ndirectory 755 0:0 /etc/pf9\n\
             directory 755 0:0 /etc/pf9/kube.d/ca\n#units\nunit x active\n#end\n",
        );
        assert_eq!(
            difference(&before, &after.without(&["/etc/pf9/kube.d/ca"])),
            [
                "files: - regular file 644 0:0 /etc/a",
                "files: + regular file 600 0:0 /etc/a"
            ]
        );
    }
}
