//! The role package as hostagent would leave it on a host, made from the checkout and the set-up's payload.
//!
//! `join` lets a worker or another master join the cluster of a master, `masters` reads which masters a host knows, `plane` makes a management plane and
//! enrols hosts there.

mod join;
mod masters;
mod plane;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::config::Config;
use crate::setup::steps::kubernetes::VERSION;
use crate::topology::Mount;
use crate::topology::host::Host;

pub use join::{
    forget, is_joined, is_joined_master, join, join_in_place, join_master, join_master_in_place,
    join_tainted, remove_join_file,
};
pub use masters::{wait_for_masters, without_member};
pub use plane::{COMMS, PLANE, enrol, install_comms, install_plane, push_image};

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

/// The payload is large and never written to, so hosts mount it from the cache and have no copy.
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
    // A script that the checkout does not have any more would be one that role.yaml does not list.
    host.text(&["rm", "-rf", &inside("phases")])?;
    host.put_directory(&checkout.join("phases"), &inside("phases"))
        .context("cannot install the phases")?;
    write_checksums(host, &target).context("cannot write the checksums of the package")?;
    let current = Path::new(ROLES).join(ROLE).join("current");
    host.text(&["ln", "-sfn", VERSION, &current.to_string_lossy()])?;
    host.put_file(nodelet, NODELET, 0o755)?;
    host.put_file(&nodelet.with_file_name("nodeletd"), NODELETD, 0o755)?;
    // The daemon is installed and not started: `up` and the suites start it when they need it.
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

/// Writes the package's checksums, and the checksum of those into its `role.yaml`. A package without a payload gets none.
fn write_checksums(host: &Host, target: &Path) -> Result<()> {
    let manifest = target.join("payload/manifest.json");
    let manifest = manifest.to_string_lossy();
    if !host.exec(&["test", "-e", &manifest])?.status.success() {
        return Ok(());
    }
    let manifest: PayloadManifest = serde_json::from_str(&host.text(&["cat", &manifest])?)
        .context("cannot understand the payload's manifest")?;
    let sums = target.join("SHA256SUMS");
    host.put(
        payload_sums(&manifest).as_bytes(),
        &sums.to_string_lossy(),
        0o644,
    )?;
    host.text(&["sh", "-c", &checksum_script(&target.to_string_lossy())])
        .map(drop)
}

/// The lines of `sha256sum` for all files of the payload, with paths from the package's directory on.
fn payload_sums(manifest: &PayloadManifest) -> String {
    let mut sums = String::new();
    for (path, file) in &manifest.files {
        let _ = writeln!(sums, "{}  payload/{path}", file.sha256);
    }
    sums
}

/// A shell script that writes the checksums of the package in `directory` again, after its scripts or templates were changed on
/// purpose. The payload and its checksums stay. It does nothing to a package without checksums.
#[must_use]
pub fn checksum_script(directory: &str) -> String {
    format!(
        r#"(
set -e; cd {directory}; [ -e SHA256SUMS ] || exit 0
{{ grep '  payload/' SHA256SUMS || true; find phases -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; }} > .sums
digest=$(sha256sum < .sums | cut -d ' ' -f 1)
sed -e '/^checksums:/d' -e "s/^payload:/checksums: $digest\n&/" role.yaml > .role
chmod 0644 .sums .role; mv .sums SHA256SUMS; mv .role role.yaml
)"#
    )
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
    use std::process::Command;

    use super::*;

    /// Writes the checksums of the package in `directory` as a host does, and gives the content of its two files.
    fn with_checksums(directory: &Path) -> (String, String) {
        let script = checksum_script(&directory.to_string_lossy());
        let output = Command::new("sh").args(["-c", &script]).output();
        let output = output.expect("a shell");
        assert!(output.status.success(), "{output:?}");
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect(name);
        (read("SHA256SUMS"), read("role.yaml"))
    }

    #[test]
    fn checksums_name_the_payload_and_the_phases_of_a_package() {
        let manifest =
            serde_json::from_str(r#"{"files": {"bin/a": {"sha256": "00ff", "size": 1}}}"#);
        let sums = payload_sums(&manifest.expect("a manifest"));
        assert_eq!(sums, "00ff  payload/bin/a\n");
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).expect(name);
        };
        std::fs::create_dir_all(directory.path().join("phases/templates")).expect("directories");
        write("SHA256SUMS", &sums);
        write("role.yaml", "name: r\npayload:\n  - bin/a\n");
        write("phases/b.rhai", "");
        write("phases/templates/a.tmpl", "a");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let a = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
        let (sums, role) = with_checksums(directory.path());
        let expected =
            format!("00ff  payload/bin/a\n{empty}  phases/b.rhai\n{a}  phases/templates/a.tmpl\n");
        assert_eq!(sums, expected);
        let (begins, ends) = ("name: r\nchecksums: ", "\npayload:\n  - bin/a\n");
        let digest = role.strip_prefix(begins).and_then(|r| r.strip_suffix(ends));
        assert!(digest.is_some_and(|digest| digest.len() == 64), "{role}");
        assert_eq!(with_checksums(directory.path()), (sums, role.clone()));
        // A changed text has another digest.
        write("phases/b.rhai", "a");
        let (sums, other) = with_checksums(directory.path());
        assert!(sums.contains(&format!("{a}  phases/b.rhai\n")), "{sums}");
        assert_ne!(other, role);
        assert_eq!(other.matches("checksums:").count(), 1, "{other}");
    }
}
