//! The role package as hostagent would leave it on a host, made from the checkout and the set-up's payload.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

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

/// Writes the operator's configuration.
pub fn configure(host: &Host, config: &Config) -> Result<()> {
    host.put(config.render().as_bytes(), CONFIG, 0o600)
        .context("cannot write the configuration")
}

/// True if the operator's configuration is there.
pub fn is_configured(host: &Host) -> Result<bool> {
    Ok(host.exec(&["test", "-e", CONFIG])?.status.success())
}
