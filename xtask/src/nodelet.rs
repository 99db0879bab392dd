//! The program that labs run, built from the checkout.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::repository::cargo;

/// How it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Builds fast.
    Dev,
    /// As it is shipped; measurements use it.
    Release,
}

impl Profile {
    /// cargo's name of the profile, and of its directory below the target directory.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Dev => ("dev", "debug"),
            Self::Release => ("release", "release"),
        }
    }
}

/// Builds nodelet and, beside it, nodeletd in cargo's target directory, and returns the path of nodelet.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    let (profile, directory) = profile.names();
    let build = ["build", "--package", "nodelet", "--bins"];
    let status = cargo()
        .args(build)
        .args(["--profile", profile])
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("nodelet does not build");
    }
    made(&[directory, "nodelet"])
}

/// Builds pf9-comms, planectl and their examples beside nodelet, and returns their directory.
pub(crate) fn build_of_plane(profile: Profile) -> Result<PathBuf> {
    let (profile, directory) = profile.names();
    let status = cargo()
        .args(["build", "--package", "comms", "--package", "plane"])
        .args(["--bins", "--examples", "--profile", profile])
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("pf9-comms and planectl do not build");
    }
    let mut program = made(&[directory, "planectl"])?;
    program.pop();
    Ok(program)
}

/// Builds a program of a package without what its tests need, as a release, and returns its path.
pub(crate) fn build_program(package: &str, program: &str) -> Result<PathBuf> {
    build_release(package, ["--bin", program], &[program])
}

/// Builds an example of a package as a release, and returns its path.
pub(crate) fn build_example(package: &str, example: &str) -> Result<PathBuf> {
    build_release(package, ["--example", example], &["examples", example])
}

/// Builds one target of a package, which cargo puts at this place.
fn build_release(package: &str, target: [&str; 2], place: &[&str]) -> Result<PathBuf> {
    let (profile, directory) = Profile::Release.names();
    let status = cargo()
        .args(["build", "--package", package])
        .args(target)
        .args(["--profile", profile])
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("{} of {package} does not build", target[1]);
    }
    made(&[&[directory], place].concat())
}

/// A program in cargo's target directory.
fn made(names: &[&str]) -> Result<PathBuf> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("cannot start cargo")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo's metadata is no JSON")?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo's metadata names no target directory")?;
    let mut program = PathBuf::from(target);
    program.extend(names);
    fs::metadata(&program).with_context(|| format!("cargo made no {}", program.display()))?;
    Ok(program)
}
