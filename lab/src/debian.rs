//! What the machine's apt knows: where Debian's packages come from, and in which versions.
//!
//! Everything is derived from the sources apt already has; the lab names no mirror.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;

/// The only release whose packages include both Go 1.19 and the last Kubernetes source with a docker runtime.
pub(crate) const SUITE: &str = "bookworm";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const APT: Duration = Duration::from_secs(120);

/// Refuses a machine that the recipes do not know.
pub(crate) fn check_machine() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab starts containers and installs packages: run it as root");
    }
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    if !text
        .lines()
        .any(|line| line == format!("VERSION_CODENAME={SUITE}"))
    {
        bail!("the lab's recipes build from Debian 12 ({SUITE}); use a machine that runs it");
    }
    Ok(())
}

/// One `deb` line per archive of Debian that apt is configured with.
pub(crate) fn source_lines() -> Result<String> {
    let format = "$(ORIGIN) $(TRUSTED) $(REPO_URI) $(RELEASE) $(COMPONENT)";
    let listing = command::text(
        Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]),
        APT,
    )?;
    let lines = debian_lines(&listing);
    if lines.is_empty() {
        bail!(
            "apt knows no archive of Debian; add one to /etc/apt/sources.list.d and run `apt-get update`"
        );
    }
    Ok(lines)
}

fn debian_lines(listing: &str) -> String {
    let mut lines: Vec<String> = listing
        .lines()
        .filter_map(|line| line.strip_prefix("Debian yes "))
        .map(|rest| format!("deb [signed-by={KEYRING}] {rest}\n"))
        .collect();
    lines.dedup();
    lines.concat()
}

/// `name=version` of each package, as apt would install it.
pub(crate) fn versions(packages: &[&str]) -> Result<Vec<(String, String)>> {
    let listing = command::text(
        Command::new("apt-cache")
            .arg("policy")
            .args(packages)
            .env("LC_ALL", "C"),
        APT,
    )?;
    let found = candidates(&listing);
    for package in packages {
        if !found.iter().any(|(name, _)| name == package) {
            bail!("apt knows no package `{package}`; run `apt-get update` and look for errors");
        }
    }
    Ok(found)
}

fn candidates(listing: &str) -> Vec<(String, String)> {
    let mut name = "";
    let mut found = Vec::new();
    for line in listing.lines() {
        match line.trim_start().strip_prefix("Candidate: ") {
            Some(version) if version != "(none)" => {
                found.push((name.to_owned(), version.to_owned()))
            }
            Some(_) => {}
            None if !line.starts_with(' ') => name = line.trim_end_matches(':'),
            None => {}
        }
    }
    found
}

/// The package that a metapackage depends on: for a kernel, the newest build.
pub(crate) fn dependency_of_metapackage(package: &str) -> Result<String> {
    let listing = command::text(
        Command::new("apt-cache")
            .args(["depends", "--important", package])
            .env("LC_ALL", "C"),
        APT,
    )?;
    let first = first_dependency(&listing);
    first.map(str::to_owned).with_context(|| {
        format!("apt knows no package `{package}`; run `apt-get update` and look for errors")
    })
}

fn first_dependency(listing: &str) -> Option<&str> {
    listing
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("Depends: "))
}

/// The versions as one text, for a key.
pub(crate) fn versions_text(packages: &[&str]) -> Result<String> {
    Ok(versions(packages)?
        .into_iter()
        .map(|(name, version)| format!("{name}={version}\n"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_debians_own_archives_only() {
        let listing = "Debian yes http://mirror.example/debian/ bookworm main\n\
                       Other yes http://other.example/ stable main\n\
                       Debian no http://odd.example/ bookworm main\n";
        assert_eq!(
            debian_lines(listing),
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian/ bookworm main\n"
        );
    }

    #[test]
    fn reads_dependencies() {
        let listing = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n";
        assert_eq!(
            first_dependency(listing),
            Some("linux-image-6.1.0-1-cloud-amd64")
        );
        assert_eq!(first_dependency("linux-image-cloud-amd64\n"), None);
    }

    #[test]
    fn reads_candidates() {
        let listing = "etcd-server:\n  Installed: (none)\n  Candidate: 3.4.23-4+b4\n  Version table:\n\
                       gone:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(
            candidates(listing),
            [("etcd-server".to_owned(), "3.4.23-4+b4".to_owned())]
        );
    }
}
