//! Packages of a fake host.
//!
//! A fake package file has the content `fake-deb:NAME:VERSION` followed by any of `:unit=NAME`, `:program=PATH`,
//! `:file=PATH` and `:directory=PATH`: what the package puts on the host.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::file_error;
use super::world::World;
use super::world::package::{InstalledPackage, PackageFile};
use crate::host::fake::docker::daemon;
use crate::host::fake::fake_host::FakeHost;
use crate::host::fake::kubernetes;
use crate::host::{HostError, HostResult, Packages};

const DEADLINE: Duration = Duration::from_secs(120);

#[async_trait::async_trait]
impl Packages for FakeHost {
    async fn package_version(&self, name: &str) -> HostResult<Option<String>> {
        self.observe("package_version", name, DEADLINE, |world| {
            Ok(world
                .packages
                .get(name)
                .map(|package| package.version.clone()))
        })
        .await
    }

    async fn package_file(&self, file: &Path) -> HostResult<(String, String)> {
        self.observe(
            "package_file",
            file.display().to_string(),
            DEADLINE,
            |world| {
                let package = world.read_package(file)?;
                Ok((package.name, package.version))
            },
        )
        .await
    }

    async fn install_packages(&self, files: &[PathBuf]) -> HostResult<()> {
        let list: Vec<String> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        self.mutate("install_packages", list.join(" "), DEADLINE, |world| {
            // All are read before the first is unpacked, as dpkg does.
            let packages: HostResult<Vec<_>> =
                files.iter().map(|file| world.read_package(file)).collect();
            for package in packages? {
                world.unpack(&package);
            }
            Ok(())
        })
        .await
    }

    async fn purge_packages(&self, names: &[String]) -> HostResult<()> {
        self.mutate("purge_packages", names.join(" "), DEADLINE, |world| {
            for name in names {
                world.purge(name);
            }
            Ok(())
        })
        .await
    }
}

impl FakeHost {
    /// Units and programs that a package of this name brings and that steps rely on, as items of a fake package.
    #[must_use]
    pub fn package_items(name: &str) -> &'static [&'static str] {
        match name {
            "chrony" => &["unit=chrony.service", "program=/usr/sbin/chronyd"],
            daemon::PACKAGE => daemon::PACKAGE_ITEMS,
            _ => kubernetes::package_items(name),
        }
    }
}

impl World {
    /// Installs a package that brings nothing.
    pub fn package(&mut self, name: &str, version: &str) {
        let package = InstalledPackage {
            version: version.to_owned(),
            ..InstalledPackage::default()
        };
        self.packages.insert(name.to_owned(), package);
    }

    fn read_package(&self, file: &Path) -> HostResult<PackageFile> {
        let missing = || file_error("read", file, std::io::ErrorKind::NotFound.into());
        let text = self.tree.text(file).ok_or_else(missing)?;
        let broken = || {
            HostError::service(
                format!("read package {}", file.display()),
                "it is not a Debian package archive",
            )
        };
        let mut parts = text
            .trim()
            .strip_prefix("fake-deb:")
            .ok_or_else(broken)?
            .split(':');
        let name = parts
            .next()
            .filter(|name| !name.is_empty())
            .ok_or_else(broken)?
            .to_owned();
        let version = parts.next().ok_or_else(broken)?.to_owned();
        let items: Option<Vec<_>> = parts
            .map(|part| {
                part.split_once('=')
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
            })
            .collect();
        Ok(PackageFile {
            name,
            version,
            items: items.ok_or_else(broken)?,
        })
    }

    pub(crate) fn unpack(&mut self, package: &PackageFile) {
        let mut installed = InstalledPackage {
            version: package.version.clone(),
            ..InstalledPackage::default()
        };
        let program = package
            .items
            .iter()
            .find(|(key, _)| key == "program")
            .map(|(_, path)| path.as_str());
        for (key, value) in &package.items {
            match key.as_str() {
                "unit" => {
                    let start = program
                        .map(|path| format!("ExecStart={path}\n"))
                        .unwrap_or_default();
                    let text = format!("[Unit]\nDescription={}\n[Service]\n{start}", package.name);
                    let path = Path::new("/lib/systemd/system").join(value);
                    installed.put(self, &path, Some((&text, 0o644)));
                    installed.units.push(value.clone());
                }
                "program" => installed.put(self, Path::new(value), Some(("fake program\n", 0o755))),
                "file" => installed.put(self, Path::new(value), Some(("", 0o644))),
                "directory" => installed.put(self, Path::new(value), None),
                _ => {}
            }
        }
        self.packages.insert(package.name.clone(), installed);
        self.reload_units();
        for unit in package.items.iter().filter(|(key, _)| key == "unit") {
            if let Some(unit) = self.units.get_mut(&unit.1) {
                unit.enabled = true;
            }
        }
    }

    fn purge(&mut self, name: &str) {
        let Some(package) = self.packages.remove(name) else {
            return;
        };
        for unit in &package.units {
            self.stop_unit(unit);
        }
        // As with dpkg, a directory of the package stays if it holds files from elsewhere.
        for path in package.paths.iter().rev() {
            self.tree.remove(path).ok();
        }
        self.reload_units();
    }
}

impl InstalledPackage {
    /// Puts a file (or a directory) with its missing parents and remembers what was new.
    fn put(&mut self, world: &mut World, path: &Path, file: Option<(&str, u32)>) {
        let missing = path
            .ancestors()
            .take_while(|above| world.tree.entry(above).is_none());
        let mut new: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
        new.reverse();
        match file {
            Some((content, mode)) => world.file_with_mode(path, content, mode),
            None => world.directory(path),
        }
        self.paths.append(&mut new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Processes, Services};

    #[tokio::test]
    async fn a_package_brings_its_unit_and_program_and_takes_them_away() {
        let host = FakeHost::new().with_package_file(
            "/opt/keepalived.deb",
            "keepalived",
            "2.2.7",
            &[
                "unit=keepalived.service",
                "program=/usr/sbin/keepalived",
                "directory=/etc/keepalived",
            ],
        );
        let before = host.snapshot();
        let file = PathBuf::from("/opt/keepalived.deb");
        assert_eq!(
            host.package_file(&file).await.unwrap(),
            ("keepalived".to_owned(), "2.2.7".to_owned())
        );
        host.install_packages(std::slice::from_ref(&file))
            .await
            .unwrap();
        assert_eq!(
            host.package_version("keepalived").await.unwrap().as_deref(),
            Some("2.2.7")
        );
        assert!(host.has_program("keepalived").await.unwrap());
        let unit = host.unit("keepalived.service").await.unwrap();
        assert!(
            unit.loaded && !unit.is_active(),
            "a package does not start its service"
        );
        host.start_unit("keepalived.service").await.unwrap();
        host.purge_packages(&["keepalived".to_owned(), "none".to_owned()])
            .await
            .unwrap();
        assert_eq!(host.snapshot(), before);
    }

    #[tokio::test]
    async fn a_broken_file_installs_nothing() {
        let host = FakeHost::new()
            .with_package_file("/opt/a.deb", "a", "1", &[])
            .with_file("/opt/b.deb", "?");
        let before = host.snapshot();
        let files = [PathBuf::from("/opt/a.deb"), PathBuf::from("/opt/b.deb")];
        assert!(host.install_packages(&files).await.is_err());
        assert_eq!(host.snapshot(), before);
    }
}
