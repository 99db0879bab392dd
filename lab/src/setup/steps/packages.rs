//! The packages that the machine itself needs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::Result;

use crate::cache::{Build, Cache};
use crate::command;

/// What labs are made with: containers, root file systems, and compilers.
pub(crate) const LABS: &[&str] = &[
    "busybox-static",
    "docker.io",
    "dpkg-dev",
    "gcc",
    "golang-1.19-go",
    "golang-1.19-src",
    "golang-github-modern-go-reflect2-dev",
    "iproute2",
    "iptables",
    "libc6-dev",
    "mmdebstrap",
    "patch",
    "util-linux",
    "xz-utils",
];
/// What virtual machines are made with: an emulator, a shell that needs no library, and `strip`.
pub(crate) const MACHINES: &[&str] = &["binutils", "busybox-static", "qemu-system-x86"];
/// What tests trace their own system calls with, and the ingress and the database of a management plane.
pub(crate) const TESTS: &[&str] = &["haproxy", "openssl", "postgresql", "strace"];
/// What pf9-comms is measured beside.
const PEERS: &[&str] = &[
    "haproxy",
    "libnginx-mod-stream",
    "nginx-light",
    "openssl",
    "stunnel4",
];
const DAY: Duration = Duration::from_secs(24 * 3600);
const INSTALL: Duration = Duration::from_secs(1800);

/// Installs what tests without a lab need.
///
/// # Errors
/// apt cannot install it.
pub fn for_tests(cache: &Cache) -> Result<()> {
    fs::create_dir_all(cache.root())?;
    install(cache, TESTS, &|what| {
        println!("packages of the tests: {what}")
    })
}

/// Installs what the bench measures beside pf9-comms.
///
/// # Errors
/// apt cannot install it.
pub fn for_bench(cache: &Cache) -> Result<()> {
    fs::create_dir_all(cache.root())?;
    install(cache, PEERS, &|what| {
        println!("packages of the bench: {what}")
    })
}

/// Refreshes apt's lists once a day and installs what is missing of `needed`.
pub(crate) fn install(
    cache: &Cache,
    needed: &[&'static str],
    announce: &dyn Fn(&str),
) -> Result<()> {
    let lock = cache.lock("packages", |owner| {
        announce(&format!("waiting for process {owner}"))
    })?;
    let build = Build::beside(cache, "packages", &lock)?;
    let missing = missing(needed);
    let stale = lists_are_stale(Path::new("/var/lib/apt/lists"));
    if stale {
        announce("updating lists");
        let update = build.run(apt().args(["update"]), INSTALL);
        // Old lists are good enough when nothing has to be installed, as on a machine that is off the network.
        if missing.is_empty() {
            drop(update)
        } else {
            update?
        }
    }
    if !missing.is_empty() {
        announce("installing");
        build.run(
            apt()
                .args(["install", "--yes", "--no-install-recommends"])
                .args(missing),
            INSTALL,
        )?;
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // Two apt programs at once wait for each other. RUNLEVEL=1 keeps invoke-rc.d from starting what is installed: the lab runs its
    // own docker daemon, and no other.
    command.args(["-q", "-o", "DPkg::Lock::Timeout=600"]);
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .env("LC_ALL", "C.UTF-8");
    command
}

fn missing(needed: &[&'static str]) -> Vec<&'static str> {
    let query = |package: &&&str| {
        let mut command = Command::new("dpkg-query");
        command.args(["--show", "--showformat", "${db:Status-Status}", package]);
        command::text(&command, Duration::from_secs(30))
            .map_or(true, |status| status != "installed")
    };
    needed.iter().filter(query).copied().collect()
}

/// True if apt's lists are missing or older than a day.
fn lists_are_stale(lists: &Path) -> bool {
    let newest = fs::read_dir(lists)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("Packages"))
        .filter_map(|_| {
            fs::metadata(lists.join("partial"))
                .and_then(|meta| meta.modified())
                .ok()
        })
        .max();
    newest
        .and_then(|time| SystemTime::now().duration_since(time).ok())
        .is_none_or(|age| age > DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_grow_stale() {
        let lists = tempfile::tempdir().expect("a directory");
        assert!(lists_are_stale(lists.path()));
        fs::create_dir(lists.path().join("partial")).expect("made");
        fs::write(lists.path().join("mirror_Packages.lz4"), "").expect("written");
        assert!(!lists_are_stale(lists.path()));
        let partial = fs::File::open(lists.path().join("partial")).expect("opened");
        partial
            .set_modified(SystemTime::now() - 2 * DAY)
            .expect("aged");
        assert!(lists_are_stale(lists.path()));
    }
}
