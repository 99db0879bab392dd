//! The payload of the role package: everything that the role needs and a host does not have, in one folder with a manifest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::UNPACK;
use crate::cache::{Cache, Key, Leftover, Variables, key_of};
use crate::debian;

const RECIPE: &str = include_str!("../../../recipes/payload.sh");

/// Debian packages that the role installs, each with its closure over the bare host.
const PACKAGES: &[&str] = &[
    "docker.io",
    "conntrack",
    "socat",
    "ipset",
    "keepalived",
    "containernetworking-plugins",
    // Not for this role: the suite `role` copies it into the package of the example in docs/role.md.
    "chrony",
];

/// One file of the payload.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Entry {
    sha256: String,
    size: u64,
}

/// Gathers the payload; gives its directory. `host` is the artifact of the host image without docker.
pub(crate) fn build(
    cache: &Cache,
    host: &Path,
    programs: &Path,
    images: &Path,
    announce: &dyn Fn(&str),
) -> Result<PathBuf> {
    let key = Key::of(&[
        ("recipe", RECIPE),
        ("packages", &debian::versions_text(PACKAGES)?),
        ("host", &key_of(host)),
        ("programs", &key_of(programs)),
        ("images", &key_of(images)),
    ]);
    cache.artifact("payload", &key, Leftover::Discard, announce, |build| {
        let variables: &Variables<'_> = &[
            ("BIN", &programs.join("bin")),
            ("IMAGES", &images),
            ("STATUS", &host.join("dpkg-status")),
            ("PACKAGES", &PACKAGES.join(" ")),
        ];
        build.recipe(RECIPE, variables, UNPACK)?;
        let take = |name: &str| -> Result<String> {
            let path = build.directory.join(name);
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            fs::remove_file(&path)?;
            Ok(text)
        };
        let manifest = manifest(&take("sums")?, &take("sizes")?)?;
        let text = serde_json::to_vec_pretty(&BTreeMap::from([("files", manifest)]))?;
        fs::write(build.directory.join("manifest.json"), text).context("cannot write the manifest")
    })
}

/// Joins the output of `sha256sum` with the sizes of the same files in the same order.
fn manifest(sums: &str, sizes: &str) -> Result<BTreeMap<String, Entry>> {
    let entry = |(sum, size): (&str, &str)| {
        let (digest, path) = sum
            .split_once("  ")
            .with_context(|| format!("`{sum}` is no line of sha256sum"))?;
        Ok((
            path.to_owned(),
            Entry {
                sha256: digest.to_owned(),
                size: size.parse()?,
            },
        ))
    };
    sums.lines().zip(sizes.lines()).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_digests_and_sizes() {
        let found =
            manifest("aa  bin/kubelet\nbb  debs/x y.deb\n", "12\n34\n").expect("well formed");
        assert_eq!(
            found["bin/kubelet"],
            Entry {
                sha256: "aa".to_owned(),
                size: 12
            }
        );
        assert_eq!(
            found["debs/x y.deb"],
            Entry {
                sha256: "bb".to_owned(),
                size: 34
            }
        );
        manifest("aa bin/kubelet\n", "12\n").expect_err("one blank is not the separator");
    }
}
