//! Kubernetes 1.20.2, from Debian's source package.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{COMPILE, UNPACK};
use crate::cache::{Cache, Key, Leftover};
use crate::debian;

/// The version the programs report and the images are tagged with.
pub const VERSION: &str = "1.20.2";

const SOURCE: &str = include_str!("../../../recipes/kubernetes-source.sh");
const BUILD: &str = include_str!("../../../recipes/kubernetes-build.sh");
const GO: &str = "/usr/lib/go-1.19/bin";

/// Debian's binary package of kubectl is built from the same source package and tells its version without source lists.
const KUBECTL_PACKAGE: &str = "kubernetes-client";

/// Fetches and repairs the source; gives the directory with the tree in `src`.
pub(crate) fn source(cache: &Cache, announce: &dyn Fn(&str)) -> Result<PathBuf> {
    let key = source_key()?;
    let versions = debian::versions(&[KUBECTL_PACKAGE])?;
    let (_, version) = versions.first().context("no version of kubernetes")?;
    cache.artifact(
        "kubernetes-source",
        &key,
        Leftover::Discard,
        announce,
        |build| build.recipe(SOURCE, &[("VERSION", version), ("GO", &GO)], UNPACK),
    )
}

fn source_key() -> Result<Key> {
    let versions = debian::versions_text(&[
        KUBECTL_PACKAGE,
        "golang-github-modern-go-reflect2-dev",
        "golang-1.19-go",
    ])?;
    Ok(Key::of(&[("recipe", SOURCE), ("packages", &versions)]))
}

/// Builds the programs; gives the directory with them in `bin`.
pub(crate) fn build(cache: &Cache, source: &Path, announce: &dyn Fn(&str)) -> Result<PathBuf> {
    let go = debian::versions_text(&["golang-1.19-go"])?;
    let key = Key::of(&[
        ("recipe", BUILD),
        ("source", source_key()?.as_str()),
        ("go", &go),
        ("version", VERSION),
    ]);
    cache.artifact("kubernetes", &key, Leftover::Continue, announce, |build| {
        let tree = source.join("src");
        let version = format!("v{VERSION}");
        build.recipe(
            BUILD,
            &[("GIT_VERSION", &version), ("GO", &GO), ("SOURCE", &tree)],
            COMPILE,
        )
    })
}
