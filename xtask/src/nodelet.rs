//! The program that labs run, built from the checkout.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::checkout;

/// Builds nodelet in the user's own target directory, and tells where it is.
pub(crate) fn build() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--package", "nodelet", "--bin", "nodelet"];
    let status = Command::new(&cargo)
        .args(build)
        .current_dir(checkout())
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("nodelet does not build");
    }
    let output = Command::new(&cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(checkout())
        .output()
        .context("cannot start cargo")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo's metadata is no JSON")?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo's metadata names no target directory")?;
    let program = PathBuf::from(target).join("debug/nodelet");
    fs::metadata(&program).with_context(|| format!("cargo made no {}", program.display()))?;
    Ok(program)
}
