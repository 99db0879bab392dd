//! Packages: read from their files, installed above.

use std::path::{Path, PathBuf};

use super::OverlayHost;
use crate::host::fake::{FakeHost, PackageFile};
use crate::host::{HostResult, Packages};

#[async_trait::async_trait]
impl Packages for OverlayHost<'_> {
    async fn package_version(&self, name: &str) -> HostResult<Option<String>> {
        self.fetch_package(name).await?;
        self.upper.package_version(name).await
    }

    async fn package_file(&self, file: &Path) -> HostResult<(String, String)> {
        self.lower.package_file(file).await
    }

    async fn install_packages(&self, files: &[PathBuf]) -> HostResult<()> {
        self.changes();
        for file in files {
            let (name, version) = self.lower.package_file(file).await?;
            self.fetch_package(&name).await?;
            let items: Vec<(String, String)> = FakeHost::package_items(&name)
                .iter()
                .filter_map(|item| item.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            for (key, value) in &items {
                match key.as_str() {
                    "unit" => self.fetch_unit(value).await?,
                    _ => drop(self.fetch(Path::new(value), true).await?),
                }
            }
            let package = PackageFile {
                name,
                version,
                items,
            };
            self.upper.with_world_mut(|world| world.unpack(&package));
        }
        Ok(())
    }

    async fn purge_packages(&self, names: &[String]) -> HostResult<()> {
        self.changes();
        for name in names {
            self.fetch_package(name).await?;
        }
        self.upper.purge_packages(names).await
    }
}

impl OverlayHost<'_> {
    async fn fetch_package(&self, name: &str) -> HostResult<()> {
        if self.known().packages.contains(name) {
            return Ok(());
        }
        let version = self.lower.package_version(name).await?;
        self.known().packages.insert(name.to_owned());
        if let Some(version) = version {
            self.upper
                .with_world_mut(|world| world.package(name, &version));
        }
        Ok(())
    }
}
