//! The images of lab hosts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::UNPACK;
use crate::cache::{Cache, Key, Leftover, Variables, key_of};
use crate::debian;
use crate::docker::Docker;
use crate::topology::host::Image;

const RECIPE: &str = include_str!("../../../recipes/host-image.sh");

/// The packages of a plain server. What a role needs beyond them comes in the role's payload, and is left out here on purpose.
const COMMON: &[&str] = &[
    "ca-certificates",
    "curl",
    "dbus",
    "ebtables",
    "ethtool",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    // For the suite in which the clock of one process goes wrong.
    "libfaketime",
    "mount",
    "netbase",
    "openssl",
    "procps",
    "systemd",
    "systemd-sysv",
    "util-linux",
];

/// A container runtime.
const DOCKER: &[&str] = &["docker.io"];
/// The servers of a management plane, and a proxy for hosts that reach it through one.
const PLANE: &[&str] = &[
    "docker-registry",
    "haproxy",
    "nginx-light",
    // Without the unit of Debian, which takes the port of the registry.
    "python3-keystone",
    "rabbitmq-server",
    "tinyproxy",
];

/// Builds the root file system of `image`, imports it into `docker`, and gives the artifact's directory.
pub(crate) fn build(
    cache: &Cache,
    docker: &Docker,
    image: Image,
    wrapper: Option<&Path>,
    announce: &dyn Fn(&str),
) -> Result<PathBuf> {
    let more = match image {
        Image::Bare => DOCKER,
        Image::Plane => PLANE,
        Image::NoDocker | Image::Machine => &[],
    };
    let (key, directory) = root(cache, image.name(), more, wrapper, announce)?;
    import(docker, image, &key, &directory.join("host.tar"), announce)?;
    Ok(directory)
}

/// Builds the root file system of a plain server with `more` packages, `host.tar` in the directory that it gives.
pub(crate) fn root(
    cache: &Cache,
    name: &str,
    more: &[&str],
    wrapper: Option<&Path>,
    announce: &dyn Fn(&str),
) -> Result<(Key, PathBuf)> {
    let packages = [COMMON, more].concat();
    let wrapper_text = wrapper
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    let key = Key::of(&[
        ("recipe", RECIPE),
        ("packages", &debian::versions_text(&packages)?),
        (
            "wrapper",
            &wrapper
                .and_then(Path::parent)
                .map(key_of)
                .unwrap_or_default(),
        ),
    ]);
    let step = format!("host-image-{name}");
    let directory = cache.artifact(&step, &key, Leftover::Discard, announce, |build| {
        let sources = build.directory.join("sources");
        fs::write(&sources, debian::source_lines()?).context("cannot write the apt sources")?;
        let variables: &Variables<'_> = &[
            ("SUITE", &debian::SUITE),
            ("SOURCES", &sources),
            ("INCLUDE", &packages.join(",")),
            ("WRAPPER", &wrapper_text),
        ];
        build.recipe(RECIPE, variables, UNPACK)
    })?;
    Ok((key, directory))
}

/// Imports the file system unless docker has it, and tags it with the image's plain name.
pub(crate) fn import(
    docker: &Docker,
    image: Image,
    key: &Key,
    tar: &Path,
    announce: &dyn Fn(&str),
) -> Result<()> {
    let exact = format!("{}-{}", image.reference(), key.as_str());
    if docker
        .text(&["image", "inspect", "--format", "{{.Id}}", &exact])
        .is_err()
    {
        announce("importing");
        let changes = [
            "--change",
            r#"CMD ["/sbin/lab-init"]"#,
            "--change",
            "ENV container=docker",
        ];
        let words: Vec<&str> = ["import"].into_iter().chain(changes).collect();
        let tar = tar.to_string_lossy();
        docker.text_within(&[words.as_slice(), &[&*tar, &exact]].concat(), UNPACK)?;
    }
    docker.text(&["tag", &exact, &image.reference()])?;
    remove_older(docker, image, &exact)
}

/// Removes images of this kind that no host uses and that are not the current one; docker refuses the ones in use.
fn remove_older(docker: &Docker, image: Image, current: &str) -> Result<()> {
    let listing = docker.text(&[
        "image",
        "ls",
        "--format",
        "{{.Repository}}:{{.Tag}}",
        "nodelet-lab/host",
    ])?;
    let prefix = format!("{}-", image.reference());
    for old in listing
        .lines()
        .filter(|name| name.starts_with(&prefix) && *name != current)
    {
        let _ = docker.text(&["image", "rm", old]);
    }
    Ok(())
}
