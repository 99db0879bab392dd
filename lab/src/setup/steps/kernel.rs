//! The kernel of virtual machines: Debian's own for clouds, taken out of its package and not installed.

use std::path::PathBuf;

use anyhow::Result;

use super::UNPACK;
use crate::cache::{Cache, Key, Leftover};
use crate::debian;

/// The metapackage that depends on the newest build.
pub(crate) const PACKAGE: &str = "linux-image-cloud-amd64";

const RECIPE: &str = r#"set -e
apt-get -q download "$package"
dpkg-deb --extract ./*.deb unpacked
mv unpacked/boot/vmlinuz-* vmlinuz
mv unpacked/lib/modules modules
rm -r unpacked ./*.deb
"#;

/// The directory with `vmlinuz` and `modules`.
pub(crate) fn unpack(cache: &Cache, announce: &dyn Fn(&str)) -> Result<PathBuf> {
    let package = debian::dependency_of_metapackage(PACKAGE)?;
    let versions = debian::versions_text(&[&package])?;
    let key = Key::of(&[("recipe", RECIPE), ("package", &versions)]);
    cache.artifact("kernel", &key, Leftover::Discard, announce, |build| {
        build.recipe(RECIPE, &[("package", &package)], UNPACK)
    })
}
