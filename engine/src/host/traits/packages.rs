//! The distribution's packages (dpkg).

use std::path::PathBuf;

use crate::host::HostResult;

/// Installed packages. No network: everything comes from files.
#[async_trait::async_trait]
pub trait Packages {
    /// Version of an installed and configured package. Cancel safe.
    async fn package_version(&self, name: &str) -> HostResult<Option<String>>;

    /// Name and version that a package file holds. Cancel safe.
    async fn package_file(&self, file: &std::path::Path) -> HostResult<(String, String)>;

    /// Installs package files together, without starting services that the package brings (the phase decides
    /// when). Waits for a package manager that is at work, at most 2 min. When cancelled it may go on.
    async fn install_packages(&self, files: &[PathBuf]) -> HostResult<()>;

    /// Removes packages with their configuration. Fine for those not installed. The error is
    /// [`InUse`](crate::host::HostError::InUse) if packages that stay depend on them.
    async fn purge_packages(&self, names: &[String]) -> HostResult<()>;
}
