//! Virtual lab hosts: the disk that each starts from, and the container image that each runs in.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{UNPACK, host_image, kernel};
use crate::cache::{Build, Cache, Key, Leftover, Variables, key_of};
use crate::debian;
use crate::docker::Docker;
use crate::topology::host::Image;

const DISK: &str = include_str!("../../../recipes/machine/disk.sh");
const EMULATOR: &str = include_str!("../../../recipes/machine/emulator.sh");
/// Files for the machine, and for the container around it.
const PARTS: &[(&str, &str)] = &[
    ("boot", include_str!("../../../recipes/machine/boot")),
    (
        "lab-boot.service",
        include_str!("../../../recipes/machine/lab-boot.service"),
    ),
    ("exec", include_str!("../../../recipes/machine/exec")),
    ("run", include_str!("../../../recipes/machine/run")),
];

/// Packages that a virtual host has and a bare one does not: an SSH server for our commands, a kernel, and AppArmor, which docker
/// needs where the kernel has it enabled.
const GUEST: &[&str] = &["apparmor", "docker.io", "openssh-server", kernel::PACKAGE];
/// Packages of the container around the machine.
const CONTAINER: &[&str] = &["e2fsprogs", "iproute2", "openssh-client", "qemu-system-x86"];

/// Builds both, imports the image into `docker`, and gives the directory with the disk.
pub(crate) fn build(cache: &Cache, docker: &Docker, announce: &dyn Fn(&str)) -> Result<PathBuf> {
    emulator(cache, docker, announce)?;
    let name = Image::Machine.name();
    let (_, root) = host_image::root(cache, name, GUEST, None, announce)?;
    let parts: String = PARTS.iter().map(|(_, text)| *text).collect();
    let key = Key::of(&[
        ("recipe", DISK),
        ("parts", &parts),
        ("root", &key_of(&root)),
        // The root's key has the name of the kernel's package, which stays the same from one kernel to the next.
        (
            "kernel",
            &debian::dependency_of_metapackage(kernel::PACKAGE)?,
        ),
    ]);
    cache.artifact("machine", &key, Leftover::Discard, announce, |build| {
        let parts = build.directory.join("parts");
        fs::create_dir(&parts).with_context(|| format!("cannot create {}", parts.display()))?;
        for (name, text) in PARTS {
            let path = parts.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let variables: &Variables<'_> = &[("ROOT", &root.join("host.tar")), ("PARTS", &parts)];
        build.recipe(DISK, variables, UNPACK)
    })
}

fn emulator(cache: &Cache, docker: &Docker, announce: &dyn Fn(&str)) -> Result<()> {
    let key = Key::of(&[
        ("recipe", EMULATOR),
        ("packages", &debian::versions_text(CONTAINER)?),
    ]);
    let recipe = |build: &Build<'_>| {
        let sources = build.directory.join("sources");
        fs::write(&sources, debian::source_lines()?).context("cannot write the apt sources")?;
        let variables: &Variables<'_> = &[
            ("SUITE", &debian::SUITE),
            ("SOURCES", &sources),
            ("INCLUDE", &CONTAINER.join(",")),
        ];
        build.recipe(EMULATOR, variables, UNPACK)
    };
    let directory = cache.artifact("emulator", &key, Leftover::Discard, announce, recipe)?;
    let tar = directory.join("host.tar");
    host_image::import(docker, Image::Machine, &key, &tar, announce)
}
