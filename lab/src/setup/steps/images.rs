//! Images as files for `docker load`: those of the control plane, and the toolbox that tests run as a workload.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{COMPILE, UNPACK, kubernetes};
use crate::cache::{Cache, Key, Leftover, Variables, key_of};
use crate::debian;

const ARCHIVE: &str = include_str!("../../../recipes/archive.sh");
const IMAGES: &str = include_str!("../../../recipes/images.sh");
const TOOLBOX: &str = include_str!("../../../recipes/toolbox.sh");

const ETCD_TAG: &str = "3.4.23-0";
const PAUSE_TAG: &str = "3.2";

/// The workload image of the lab's tests.
pub const TOOLBOX_IMAGE: &str = "nodelet.lab/toolbox:1";

/// Makes the control plane's images; gives their directory.
pub(crate) fn build(
    cache: &Cache,
    source: &Path,
    programs: &Path,
    announce: &dyn Fn(&str),
) -> Result<PathBuf> {
    let packages = debian::versions_text(&[
        "iptables",
        "conntrack",
        "ipset",
        "kmod",
        "etcd-server",
        "etcd-client",
        "libc6",
    ])?;
    let key = Key::of(&[
        ("recipe", IMAGES),
        ("archive", ARCHIVE),
        ("packages", &packages),
        ("programs", &key_of(programs)),
        ("source", &key_of(source)),
        (
            "tags",
            &format!("{} {ETCD_TAG} {PAUSE_TAG}", kubernetes::VERSION),
        ),
    ]);
    cache.artifact("images", &key, Leftover::Discard, announce, |build| {
        let sources = build.directory.join("sources");
        fs::write(&sources, debian::source_lines()?).context("cannot write the apt sources")?;
        let tag = format!("v{}", kubernetes::VERSION);
        let variables: &Variables<'_> = &[
            ("BIN", &programs.join("bin")),
            ("SOURCE", &source.join("src")),
            ("TAG", &tag),
            ("ETCD_TAG", &ETCD_TAG),
            ("PAUSE_TAG", &PAUSE_TAG),
            ("SUITE", &debian::SUITE),
            ("SOURCES", &sources),
        ];
        build.recipe(&format!("{ARCHIVE}\n{IMAGES}"), variables, COMPILE)
    })
}

/// Makes the toolbox; gives its file.
pub(crate) fn toolbox(cache: &Cache, announce: &dyn Fn(&str)) -> Result<PathBuf> {
    let packages = debian::versions_text(&["busybox-static"])?;
    let key = Key::of(&[
        ("recipe", TOOLBOX),
        ("archive", ARCHIVE),
        ("packages", &packages),
        ("name", TOOLBOX_IMAGE),
    ]);
    let directory = cache.artifact("toolbox", &key, Leftover::Discard, announce, |build| {
        build.recipe(
            &format!("{ARCHIVE}\n{TOOLBOX}"),
            &[("REFERENCE", &TOOLBOX_IMAGE)],
            UNPACK,
        )
    })?;
    Ok(directory.join("toolbox.tar"))
}
