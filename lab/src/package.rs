//! The role package as hostagent would leave it on a host, made from the checkout and the set-up's payload.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::host::Host;
use crate::steps::kubernetes::VERSION;
use crate::topology::Mount;

/// The role the lab installs.
pub const ROLE: &str = "pf9-kube";
/// Where role packages live on a host.
const ROLES: &str = "/opt/pf9/roles";
/// Where nodelet lives on a host.
const NODELET: &str = "/opt/pf9/nodelet/nodelet";
/// Where the daemon lies.
const NODELETD: &str = "/opt/pf9/nodelet/nodeletd";
/// Its unit.
const UNIT: &str = "/lib/systemd/system/pf9-nodeletd.service";
/// The operator's configuration.
const CONFIG: &str = "/etc/pf9/nodelet/config.yaml";

fn version_directory() -> PathBuf {
    Path::new(ROLES).join(ROLE).join(VERSION)
}

/// The payload is large and never written to, so hosts see it in the cache instead of having a copy.
pub fn payload_mount(payload: &Path) -> Mount {
    Mount {
        source: payload.to_owned(),
        target: version_directory().join("payload"),
    }
}

/// Installs the role's scripts from `checkout` and the program `nodelet`, over what an earlier installation left.
pub fn install(host: &Host, checkout: &Path, nodelet: &Path) -> Result<()> {
    let target = version_directory();
    let inside = |name: &str| target.join(name).to_string_lossy().into_owned();
    host.put_directory(
        &checkout.join("roles").join(ROLE),
        &target.to_string_lossy(),
    )
    .context("cannot install the role")?;
    host.put_directory(&checkout.join("phases"), &inside("phases"))
        .context("cannot install the phases")?;
    seal(host, checkout, &target).context("cannot seal the package")?;
    let current = Path::new(ROLES).join(ROLE).join("current");
    host.text(&["ln", "-sfn", VERSION, &current.to_string_lossy()])?;
    host.put_file(nodelet, NODELET, 0o755)?;
    host.put_file(&nodelet.with_file_name("nodeletd"), NODELETD, 0o755)?;
    // Installed and not started: whoever wants the daemon starts it.
    host.put_file(
        &checkout.join("agents/nodelet/pf9-nodeletd.service"),
        UNIT,
        0o644,
    )?;
    host.text(&["systemctl", "daemon-reload"])?;
    host.text(&["ln", "-sfn", NODELET, "/usr/local/bin/nodelet"])
        .map(drop)
}

/// What the payload's `manifest.json` says.
#[derive(Deserialize)]
struct PayloadManifest {
    files: BTreeMap<String, PayloadFile>,
}

#[derive(Deserialize)]
struct PayloadFile {
    sha256: String,
}

/// Writes the package's checksums, and theirs into its `role.yaml`. A host without a payload has none.
fn seal(host: &Host, checkout: &Path, target: &Path) -> Result<()> {
    let manifest = target.join("payload/manifest.json");
    let manifest = manifest.to_string_lossy();
    if !host.exec(&["test", "-e", &manifest])?.status.success() {
        return Ok(());
    }
    let manifest: PayloadManifest = serde_json::from_str(&host.text(&["cat", &manifest])?)
        .context("cannot understand the payload's manifest")?;
    let sums = checksums(&manifest);
    let role = std::fs::read_to_string(checkout.join("roles").join(ROLE).join("role.yaml"))
        .context("cannot read role.yaml")?;
    let role = sealed(&role, &sums);
    let inside = |name: &str| target.join(name).to_string_lossy().into_owned();
    host.put(sums.as_bytes(), &inside("SHA256SUMS"), 0o644)?;
    host.put(role.as_bytes(), &inside("role.yaml"), 0o644)
}

/// The lines of `sha256sum` for all files of the payload, with paths from the package's directory on.
fn checksums(manifest: &PayloadManifest) -> String {
    let mut sums = String::new();
    for (path, file) in &manifest.files {
        let _ = writeln!(sums, "{}  payload/{path}", file.sha256);
    }
    sums
}

/// `role.yaml` with the digest of the checksums.
fn sealed(role: &str, sums: &str) -> String {
    let mut digest = String::new();
    for byte in Sha256::digest(sums) {
        let _ = write!(digest, "{byte:02x}");
    }
    role.replacen("\npayload:", &format!("\nchecksums: {digest}\npayload:"), 1)
}

/// Writes the operator's configuration.
pub fn configure(host: &Host, config: &Config) -> Result<()> {
    host.put(config.render().as_bytes(), CONFIG, 0o600)
        .context("cannot write the configuration")
}

/// True if the operator's configuration is there.
pub fn is_configured(host: &Host) -> Result<bool> {
    Ok(host.exec(&["test", "-e", CONFIG])?.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_names_the_digest_of_its_checksums() {
        let manifest =
            serde_json::from_str(r#"{"files": {"bin/a": {"sha256": "00ff", "size": 1}}}"#);
        let sums = checksums(&manifest.expect("a manifest"));
        assert_eq!(sums, "00ff  payload/bin/a\n");
        let role = sealed("name: r\npayload:\n  - bin/a\n", "");
        assert_eq!(
            role,
            "name: r\nchecksums: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\npayload:\n  - bin/a\n"
        );
    }
}
