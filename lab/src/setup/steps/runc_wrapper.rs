//! The runc wrapper, built from this crate, where the machine needs one.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result};

use super::COMPILE;
use crate::cache::{Cache, Key, Leftover};
use crate::setup::oci;

/// The wrapper's path, or `None` on a machine that has CAP_SYS_RESOURCE to give.
pub(crate) fn build(cache: &Cache, announce: &dyn Fn(&str)) -> Result<Option<PathBuf>> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    if oci::has_sys_resource(&status) {
        return Ok(None);
    }
    let key = Key::of(&[
        ("main", include_str!("../../bin/runc-wrapper.rs")),
        ("oci", include_str!("../oci.rs")),
    ]);
    let directory = cache.artifact(
        "runc-wrapper",
        &key,
        Leftover::Continue,
        announce,
        |build| {
            let target = "x86_64-unknown-linux-gnu";
            let output = build.directory.join("target");
            let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.args([
                "build",
                "--quiet",
                "--release",
                "--package",
                "lab",
                "--bin",
                "runc-wrapper",
                "--target",
                target,
            ]);
            cargo
                .args(["--config", "profile.release.lto=false", "--target-dir"])
                .arg(&output);
            // Static, so that it does not depend on the libc of a host. An explicit target keeps the flag away from build scripts.
            cargo
                .env("RUSTFLAGS", "-C target-feature=+crt-static")
                .env_remove("CARGO_ENCODED_RUSTFLAGS");
            cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
            build.run(&mut cargo, COMPILE)?;
            fs::copy(
                output.join(target).join("release/runc-wrapper"),
                build.directory.join("runc"),
            )?;
            Ok(fs::remove_dir_all(output)?)
        },
    )?;
    Ok(Some(directory.join("runc")))
}
