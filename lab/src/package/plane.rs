//! A management plane on a host, and hosts that are enrolled there.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command;
use crate::topology::host::Host;

/// The name of the plane. Hosts find it in their `/etc/hosts`.
pub const PLANE: &str = "plane.lab";
/// Where the plane's program is.
const PLANECTL: &str = "/opt/pf9/plane/planectl";
/// Where pf9-comms is on a host.
pub const COMMS: &str = "/opt/pf9/comms/pf9-comms";
/// What the set-up of a plane does on its host.
const SETUP: &str = include_str!("plane.sh");
/// Its deadline.
const LIMIT: Duration = Duration::from_secs(300);
/// What pushes an image to the registry of its host.
const PUSH: &str = include_str!("push.py");

/// Makes a host a management plane. `programs` is the directory with `planectl`.
///
/// # Errors
/// A service does not start.
pub fn install_plane(host: &Host, checkout: &Path, programs: &Path) -> Result<()> {
    host.put_file(&programs.join("planectl"), PLANECTL, 0o755)?;
    for (name, place) in [
        ("pf9-plane.service", "/lib/systemd/system/pf9-plane.service"),
        (
            "haproxy.conf",
            "/etc/systemd/system/haproxy.service.d/pf9-plane.conf",
        ),
    ] {
        host.put_file(&checkout.join("plane").join(name), place, 0o644)?;
    }
    let script = format!("NAME={PLANE}\n{SETUP}");
    let output = host.exec_within(&["sh", "-s"], Some(script.as_bytes()), LIMIT)?;
    command::check(&output, || {
        format!("cannot make `{}` a management plane", host.name())
    })
}

/// Installs pf9-comms on a host, and tells it where the plane is. It is not enrolled yet.
///
/// # Errors
/// The host cannot be reached.
pub fn install_comms(host: &Host, plane: &Host, checkout: &Path, programs: &Path) -> Result<()> {
    host.put_file(&programs.join("pf9-comms"), COMMS, 0o755)?;
    host.put_file(
        &checkout.join("agents/comms/pf9-comms.service"),
        "/lib/systemd/system/pf9-comms.service",
        0o644,
    )?;
    let script = format!(
        "set -eu
         id pf9 > /dev/null 2>&1 || useradd --system --no-create-home pf9
         grep -q ' {PLANE}$' /etc/hosts || echo '{} {PLANE}' >> /etc/hosts
         systemctl daemon-reload",
        plane.address()
    );
    host.text(&["sh", "-c", &script]).map(drop)
}

/// Pushes an image, a file for `docker load`, to the registry of a plane as `NAME:TAG`. Gives the digest of its manifest.
///
/// # Errors
/// The registry refuses it.
pub fn push_image(plane: &Host, image: &Path, name: &str) -> Result<String> {
    let file = "/var/tmp/image.tar";
    plane.put_file(image, file, 0o644)?;
    let words = ["python3", "-", file, name];
    let output = plane.exec_within(&words, Some(PUSH.as_bytes()), LIMIT)?;
    plane.text(&["rm", "-f", file])?;
    command::check(&output, || {
        format!("cannot push {name} to the registry of `{}`", plane.name())
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Enrols a host that has pf9-comms, and starts it.
///
/// # Errors
/// The plane refuses, or pf9-comms does not start.
pub fn enrol(host: &Host, plane: &Host) -> Result<()> {
    let planectl = |arguments: &[&str]| {
        let words = [&["runuser", "-u", "pf9-plane", "--", PLANECTL], arguments].concat();
        plane.text(&words)
    };
    let token = planectl(&["token", "create", "--host", host.name()])?;
    let fingerprint = planectl(&["fingerprint"])?;
    let file = "/run/pf9-enrol.token";
    host.put(token.trim().as_bytes(), file, 0o600)?;
    let enrolled = host.text(&[
        COMMS,
        "enroll",
        "--plane",
        PLANE,
        "--token-file",
        file,
        "--root-fingerprint",
        fingerprint.trim(),
        "--host-name",
        host.name(),
    ]);
    host.text(&["rm", "-f", file])?;
    enrolled.with_context(|| format!("cannot enrol `{}`", host.name()))?;
    host.text(&["systemctl", "enable", "--quiet", "--now", "pf9-comms"])
        .map(drop)
}
