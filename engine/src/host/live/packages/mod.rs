//! The machine's packages, as dpkg knows them.
//!
//! Contains which version of a package is installed, what a `.deb` file contains, and the installation and removal of packages. The
//! versions of all packages are read once and kept until dpkg's database changes. `dpkg_run` is one run of dpkg: its lock, and the policy
//! that keeps packages from starting services.
//!
//! Two messages of dpkg become errors of their own, because something else has to be done then: a file is damaged, and a package that
//! stays needs what is to be removed.
//!
//! Not here: which packages a role needs, and from which files they come (`resource::system::packages`). Start with this file.

pub(in crate::host::live) mod dpkg_run;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::Mutex;

use super::LiveHost;
use super::blocking::blocking;
use crate::host::live::packages::dpkg_run::{Lock, NO_SERVICES, NoServices};
use crate::host::{CommandSpec, HostError, HostResult, Packages, Processes};
use crate::model::is_package_name;

/// How long one run of dpkg may take.
const RUN: Duration = Duration::from_secs(10 * 60);

/// dpkg's database: the file, and the folder of what is not merged into it yet (dpkg(1), "Files").
const DATABASE: [&str; 2] = ["/var/lib/dpkg/status", "/var/lib/dpkg/updates"];

/// Versions of all packages that are installed and configured, kept until dpkg's database changes. One look at a host asks for a dozen
/// packages, and dpkg reads the whole database for each.
#[derive(Debug, Default)]
pub(super) struct Installed(Mutex<Option<(Vec<Stamp>, Versions)>>);

/// By the packages' names.
type Versions = BTreeMap<String, String>;

/// Tells one state of a file from another: inode, size, seconds and nanoseconds of its last change.
type Stamp = (u64, u64, i64, i64);

impl Installed {
    /// The version of a package, if there is one. The outer `None` means that the list of all packages cannot be read.
    async fn version(&self, host: &LiveHost, name: &str) -> Option<Option<String>> {
        let now = blocking(|| Ok(stamps())).await.ok()??;
        let mut known = self.0.lock().await;
        if known.as_ref().is_none_or(|(then, _)| *then != now) {
            *known = None;
            let output = host.run(&versions(None)).await.ok()?;
            if output.status != 0 {
                return None;
            }
            *known = Some((now, by_name(&output.stdout)));
        }
        let (_, versions) = known.as_ref()?;
        Some(versions.get(name).cloned())
    }
}

fn stamps() -> Option<Vec<Stamp>> {
    let stamp = |path| {
        let is = std::fs::metadata(path).ok()?;
        Some((is.ino(), is.size(), is.ctime(), is.ctime_nsec()))
    };
    DATABASE.into_iter().map(stamp).collect()
}

/// Asks for the versions of one package, or of all.
fn versions(name: Option<&str>) -> CommandSpec {
    let format = "--showformat=${Package}\t${Architecture}\t${db:Status-Abbrev}\t${Version}\n";
    let mut argv = vec!["dpkg-query", "--show", format];
    argv.extend(name.into_iter().flat_map(|name| ["--", name]));
    CommandSpec::new(argv).complete_output()
}

/// Name, architecture and version, of a line about a package that is installed and configured.
fn configured(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.split('\t');
    let (name, architecture, status) = (words.next()?, words.next()?, words.next()?);
    let version = words.next()?;
    // The first letter is the wanted state, the second the actual one: a package on hold is installed, too (dpkg-query(1)).
    let installed = status.get(1..2) == Some("i");
    installed.then_some((name, architecture, version))
}

/// Versions by name, and by name and architecture. Of several architectures the first counts.
fn by_name(listed: &str) -> Versions {
    let mut versions = Versions::new();
    for (name, architecture, version) in listed.lines().filter_map(configured) {
        versions.insert(format!("{name}:{architecture}"), version.to_owned());
        versions
            .entry(name.to_owned())
            .or_insert_with(|| version.to_owned());
    }
    versions
}

#[async_trait::async_trait]
impl Packages for LiveHost {
    async fn package_version(&self, name: &str) -> HostResult<Option<String>> {
        let name = package(name)?;
        if let Some(version) = self.installed.version(self, name).await {
            return Ok(version);
        }
        let output = self.run(&versions(Some(name))).await?;
        // Status 1 with nothing on standard output: dpkg does not know the package. One line per architecture otherwise.
        let mut configured = output.stdout.lines().filter_map(configured);
        Ok(configured.next().map(|(_, _, version)| version.to_owned()))
    }

    async fn package_file(&self, file: &Path) -> HostResult<(String, String)> {
        let path = file.to_string_lossy();
        let command = CommandSpec::new(["dpkg-deb", "--field", &path, "Package", "Version"])
            .complete_output();
        let output = self
            .run_ok(&command)
            .await
            .map_err(|error| damaged(file, error))?;
        let field = |wanted: &str| {
            let line = output
                .stdout
                .lines()
                .find_map(|line| line.strip_prefix(wanted));
            line.map(|value| value.trim().to_owned())
        };
        field("Package:")
            .zip(field("Version:"))
            .ok_or_else(|| HostError::Missing {
                what: format!("name and version in package file {path}"),
            })
    }

    async fn install_packages(&self, files: &[PathBuf]) -> HostResult<()> {
        if files.is_empty() {
            return Ok(());
        }
        let mut wanted = Vec::with_capacity(files.len());
        for file in files {
            wanted.push(self.package_file(file).await?);
        }
        // Keep configuration files that were changed on this host, take the package's version of the others, and ask no questions.
        let arguments = [
            "dpkg",
            "--force-confold",
            "--force-confdef",
            "--install",
            "--",
        ];
        let paths = files;
        let files = files.iter().map(|file| file.to_string_lossy().into_owned());
        let mut command = dpkg(
            arguments
                .into_iter()
                .map(str::to_owned)
                .chain(files)
                .collect(),
        );
        command.env.insert(NO_SERVICES.to_owned(), "1".to_owned());
        {
            let _lock = Lock::take().await?;
            let policy = blocking(NoServices::install).await?;
            let result = self.run_ok(&command).await;
            blocking(move || {
                drop(policy);
                Ok(())
            })
            .await?;
            result.map_err(|error| damaged_one(paths, error))?;
        }
        for (name, version) in wanted {
            let installed = self.package_version(&name).await?;
            if installed.as_ref() != Some(&version) {
                return Err(HostError::service(
                    format!("install package {name} {version}"),
                    format!(
                        "dpkg reported success, but {} is configured now; see `dpkg --audit`",
                        installed.as_deref().unwrap_or("no version")
                    ),
                ));
            }
        }
        Ok(())
    }

    async fn purge_packages(&self, names: &[String]) -> HostResult<()> {
        if names.is_empty() {
            return Ok(());
        }
        let mut arguments = vec!["dpkg".to_owned(), "--purge".to_owned(), "--".to_owned()];
        for name in names {
            arguments.push(package(name)?.to_owned());
        }
        // Without the policy: a package that is removed has to stop its services.
        let _lock = Lock::take().await?;
        blocking(dpkg_run::sweep).await?;
        // dpkg warns about those that are not installed and goes on.
        let purged = self.run_ok(&dpkg(arguments)).await;
        purged.map(drop).map_err(|error| needed(names, error))
    }
}

/// What dpkg says if packages that stay depend on one that is to be removed.
const NEEDED: &str = "dependency problems";

/// The error, turned into one about the packages that depend on these if those are the cause.
fn needed(names: &[String], error: HostError) -> HostError {
    match &error {
        HostError::Exit { stderr, .. } if stderr.contains(NEEDED) => {
            HostError::in_use(format!("purge packages {}", names.join(" ")), error)
        }
        _ => error,
    }
}

/// What dpkg-deb, and the decompressors that it runs, say of a package file that was truncated or altered.
const DAMAGE: [&str; 6] = [
    "not a Debian format archive",
    "unexpected end of",
    "gzip read error",
    "lzma error",
    "zstd decompression error",
    "is corrupt",
];

/// The error, turned into one about the file if the file is the cause.
fn damaged(file: &Path, error: HostError) -> HostError {
    match &error {
        HostError::Exit { stderr, .. } if DAMAGE.iter().any(|sign| stderr.contains(sign)) => {
            HostError::Damaged {
                path: file.to_owned(),
                source: Box::new(error),
            }
        }
        _ => error,
    }
}

/// The same for several files, of which dpkg names the one that it could not process.
fn damaged_one(files: &[PathBuf], error: HostError) -> HostError {
    let HostError::Exit { stderr, .. } = &error else {
        return error;
    };
    let named = files
        .iter()
        .find(|file| stderr.contains(&format!("archive {}", file.display())));
    match named {
        Some(file) => damaged(file, error),
        None => error,
    }
}

/// A run of dpkg that asks no questions, under a front end lock that we hold.
fn dpkg(argv: Vec<String>) -> CommandSpec {
    let mut command = CommandSpec::new(argv).timeout(RUN);
    for (key, value) in [
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("DPKG_FRONTEND_LOCKED", "true"),
    ] {
        command.env.insert(key.to_owned(), value.to_owned());
    }
    command
}

/// The name, if it is that of one package. The same rule holds for scripts when the plan is made.
fn package(name: &str) -> HostResult<&str> {
    if is_package_name(name) {
        return Ok(name);
    }
    Err(HostError::service(
        format!("name package {name:?}"),
        "this is not the name of a package",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed_and_configured_has_a_version() {
        let listed = "a\tamd64\tii \t1.0-1\n\
                      a\ti386\tii \t1.0-2\n\
                      held\tall\thi \t4\n\
                      gone\tall\trc \t2\n\
                      half\tall\tiF \t3\n\
                      cut\tall\n";
        let versions = by_name(listed);
        let version = |name: &str| versions.get(name).map(String::as_str);
        assert_eq!(version("a"), Some("1.0-1"));
        assert_eq!(version("a:i386"), Some("1.0-2"));
        assert_eq!(version("held"), Some("4"));
        for name in ["gone", "half", "cut"] {
            assert_eq!(version(name), None, "{name}");
        }
    }

    #[test]
    fn packages_that_others_depend_on_are_in_use() {
        let is_used = |stderr: &str| {
            let error = HostError::Exit {
                command: "dpkg --purge".to_owned(),
                status: 1,
                stderr: stderr.to_owned(),
            };
            let names = ["iptables".to_owned()];
            matches!(needed(&names, error), HostError::InUse { .. })
        };
        assert!(is_used(
            "dpkg: dependency problems prevent removal of iptables"
        ));
        assert!(!is_used("dpkg: error: unable to access the database"));
    }

    /// Uses this machine's dpkg: the list of all packages gives the same versions as single queries.
    #[tokio::test]
    async fn dpkg_lists_agree_with_single_queries() {
        let host = LiveHost::new();
        for name in ["dpkg", "libc6", "libc-bin", "no-such-package"] {
            let one = host.run(&versions(Some(name))).await.expect("dpkg runs");
            let one = one.stdout.lines().find_map(configured);
            let one = one.map(|(_, _, version)| version.to_owned());
            let all = host.installed.version(&host, name).await;
            assert_eq!(all, Some(one.clone()), "{name}");
            assert_eq!(host.package_version(name).await.expect("a look"), one);
        }
        // A database that has changed is read again.
        *host.installed.0.lock().await = Some((Vec::new(), BTreeMap::new()));
        let version = host.package_version("dpkg").await.expect("a look");
        assert!(version.is_some());
    }
}
