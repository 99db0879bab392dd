//! The machine's packages.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::LiveHost;
use super::blocking::blocking;
use super::dpkg_run::{self, Lock, NO_SERVICES, NoServices};
use crate::host::{CommandSpec, HostError, HostResult, Packages, Processes};

/// How long one run of dpkg may take.
const RUN: Duration = Duration::from_secs(10 * 60);

#[async_trait::async_trait]
impl Packages for LiveHost {
    async fn package_version(&self, name: &str) -> HostResult<Option<String>> {
        let format = "--showformat=${db:Status-Abbrev}\t${Version}\n";
        let output = self
            .run(&CommandSpec::new([
                "dpkg-query",
                "--show",
                format,
                "--",
                package(name)?,
            ]))
            .await?;
        // Status 1 with nothing on standard output: dpkg never heard of it. One line per architecture otherwise.
        Ok(output.stdout.lines().find_map(|line| {
            let (status, version) = line.split_once('\t')?;
            status.starts_with("ii").then(|| version.to_owned())
        }))
    }

    async fn package_file(&self, file: &Path) -> HostResult<(String, String)> {
        let path = file.to_string_lossy();
        let command = CommandSpec::new(["dpkg-deb", "--field", &path, "Package", "Version"]);
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
        // Keep configuration files that somebody changed, take the package's where nobody did, ask nobody.
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
                        "dpkg was content, but {} is configured now; see `dpkg --audit`",
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
        // No policy here: a package that goes has to stop its services.
        let _lock = Lock::take().await?;
        blocking(dpkg_run::sweep).await?;
        // dpkg warns about those that are not installed and goes on.
        self.run_ok(&dpkg(arguments)).await.map(drop)
    }
}

/// What dpkg-deb, and the decompressors that it runs, say of a package file that was cut or changed.
const DAMAGE: [&str; 6] = [
    "not a Debian format archive",
    "unexpected end of",
    "gzip read error",
    "lzma error",
    "zstd decompression error",
    "is corrupt",
];

/// The error, told as that of the file if this is what is wrong.
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

/// A name that dpkg takes for a name, and for one only: no option, no pattern.
fn package(name: &str) -> HostResult<&str> {
    let fits = |one: char| one.is_ascii_alphanumeric() || "+-.:".contains(one);
    if name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.chars().all(fits) {
        return Ok(name);
    }
    Err(HostError::service(
        format!("name package {name:?}"),
        "this is no name of a package",
    ))
}
