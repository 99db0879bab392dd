//! Packages of the distribution, from the role's payload.
//!
//! For each package the payload contains `debs/<name>.list`, which names the `.deb` files of the package and of all its
//! dependencies beyond a minimal system. Nothing is downloaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::resource::{
    Action, Change, Checksums, Context, READ_LIMIT, Receipt, Resource, ResourceError,
    ResourceResult, Undo,
};

/// Packages that are installed. An installed package of any version is accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackagesSpec {
    /// Their names.
    pub names: Vec<String>,
    /// Directory of the payload with the `.deb` files.
    pub directory: PathBuf,
    /// The checksums by which lists and package files are verified before they are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<Checksums>,
}

#[async_trait]
impl Resource for PackagesSpec {
    /// Versions by name; `None` for a package that is not installed.
    type Observed = BTreeMap<String, Option<String>>;

    fn label(&self) -> String {
        self.names.join(" ")
    }

    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed> {
        let mut versions = BTreeMap::new();
        for name in &self.names {
            versions.insert(name.clone(), cx.host.package_version(name).await?);
        }
        Ok(versions)
    }

    fn diff(&self, versions: &Self::Observed, _absent: bool) -> Option<Change> {
        let mut change = Change::new(Action::Create);
        for (name, version) in versions {
            if version.is_none() {
                change = change.with(name, "not installed", "installed");
            }
        }
        (!change.differences.is_empty()).then_some(change)
    }

    async fn converge(
        &self,
        versions: &Self::Observed,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()> {
        let mut files = BTreeSet::new();
        for (name, version) in versions {
            if version.is_none() {
                files.extend(self.closure(name, cx).await?);
            }
        }
        // A dependency that is already installed is left as it is: no version of an installed package is changed.
        let mut names = Vec::new();
        let mut missing = Vec::new();
        for file in files {
            let path = self.directory.join(file);
            self.verify(&path, cx).await?;
            let (name, _) = cx.host.package_file(&path).await?;
            if cx.host.package_version(&name).await?.is_none() {
                names.push(name);
                missing.push(path);
            }
        }
        receipt.push(Undo::PurgePackages { names }).await?;
        cx.host.install_packages(&missing).await?;
        for name in &self.names {
            if cx.host.package_version(name).await?.is_none() {
                return Err(ResourceError::NotConverged {
                    what: format!(
                        "install {name}: its files were unpacked, but it is not configured (see `dpkg --audit`)"
                    ),
                });
            }
        }
        Ok(())
    }
}

/// A package in the role's payload, and its installed version.
pub(crate) struct BroughtPackage {
    pub(crate) name: String,
    /// The version in the payload.
    pub(crate) version: String,
    pub(crate) installed: Option<String>,
}

impl PackagesSpec {
    /// The packages in the payload for these names, each with its installed version on this host.
    pub(crate) async fn on_host(&self, cx: &Context<'_>) -> ResourceResult<Vec<BroughtPackage>> {
        let mut files = BTreeSet::new();
        for name in &self.names {
            files.extend(self.closure(name, cx).await?);
        }
        let mut found = Vec::new();
        for file in files {
            let (name, version) = cx.host.package_file(&self.directory.join(file)).await?;
            let installed = cx.host.package_version(&name).await?;
            found.push(BroughtPackage {
                name,
                version,
                installed,
            });
        }
        Ok(found)
    }

    /// Checks that a file of the payload is the one that was packed.
    async fn verify(&self, path: &Path, cx: &Context<'_>) -> ResourceResult<()> {
        match &self.checksums {
            Some(checksums) => checksums.verify(cx.host, path).await,
            None => Ok(()),
        }
    }

    /// Names of the files of a package and of all its dependencies.
    ///
    /// # Errors
    /// The list does not exist, or is damaged.
    pub(crate) async fn closure(
        &self,
        name: &str,
        cx: &Context<'_>,
    ) -> ResourceResult<Vec<String>> {
        let list = self.directory.join(format!("{name}.list"));
        let content =
            cx.host
                .read(&list, READ_LIMIT)
                .await?
                .ok_or_else(|| ResourceError::Unmet {
                    what: format!(
                        "find package {name}: it is not installed and the role's payload has no {}",
                        list.display()
                    ),
                    next: format!(
                        "install the role's package again, or install {name} yourself (`apt-get install {name}`)"
                    ),
                })?;
        self.verify(&list, cx).await?;
        let text = String::from_utf8_lossy(&content);
        Ok(text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;
    use crate::host::fake::FakeHost;
    use crate::resource::tests::{apply_in, context};

    const FILE: &str = "/opt/r/payload/debs/tool_1.deb";
    const LIST: &str = "/opt/r/payload/debs/tool.list";

    /// A host with a package in a payload that has checksums.
    fn with_checksums() -> (FakeHost, PackagesSpec) {
        let host = FakeHost::new()
            .with_package_file(FILE, "tool", "1", &[])
            .with_file(LIST, "tool_1.deb\n");
        let digest = |path: &str| {
            let content = host
                .with_world(|world| world.text(path))
                .expect("it is there");
            crate::model::hex(&sha2::Sha256::digest(content))
        };
        let sums = format!(
            "{}  payload/debs/tool_1.deb\n{}  payload/debs/tool.list\n",
            digest(FILE),
            digest(LIST)
        );
        let packages = PackagesSpec {
            names: vec!["tool".to_owned()],
            directory: "/opt/r/payload/debs".into(),
            checksums: Some(Checksums {
                file: "/opt/r/SHA256SUMS".into(),
                sha256: crate::model::hex(&sha2::Sha256::digest(&sums)),
            }),
        };
        (host.with_file("/opt/r/SHA256SUMS", sums), packages)
    }

    async fn converge(host: &FakeHost, packages: &PackagesSpec) -> ResourceResult<()> {
        let change = apply_in(&context(host), packages, &mut Receipt::default()).await?;
        change.expect("it is not installed");
        Ok(())
    }

    /// A valid package that differs from the packed one only in its checksum.
    #[tokio::test]
    async fn a_changed_package_or_list_is_not_installed() {
        let (host, packages) = with_checksums();
        converge(&host.fork(), &packages)
            .await
            .expect("as packed, it is installed");
        for (path, other) in [
            (FILE, "fake-deb:tool:1:program=/usr/bin/evil"),
            (LIST, "tool_1.deb\n\n"),
        ] {
            let host = host.fork();
            host.with_world_mut(|world| world.file(path, other));
            host.clear_journal();
            let error = converge(&host, &packages).await.expect_err("it is refused");
            let message = error.to_string();
            assert!(
                message.contains(path) && message.contains("it is damaged"),
                "{message}"
            );
            let calls = host.mutating_calls();
            let installs = calls.iter().any(|call| call.name == "install_packages");
            assert!(!installs, "{path}: {calls:?}");
        }
    }
}
