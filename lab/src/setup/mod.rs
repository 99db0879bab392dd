//! The set-up as a whole: from a machine with Rust and apt to everything a lab is made of.
//!
//! [`Setup::run`] takes the steps in `steps/`, one file each. Each makes an artifact in the cache, or finds it there. `oci` is what the
//! wrapper of runc changes, `shared_sysctls` what all hosts share.
//!
//! Not here: the cache (`cache`), and the hosts that are made of the artifacts (`topology`). Start with [`Setup::run`].

pub mod oci;
mod shared_sysctls;
pub(crate) mod steps;

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::docker::Docker;
use crate::progress::Progress;
use crate::setup::steps::{
    host_image, images, kubernetes, machine, packages, payload, runc_wrapper,
};
use crate::topology::host::Image;
use crate::topology::outer_docker::OuterDocker;
use crate::{command, debian};

/// What the set-up made.
#[derive(Debug)]
pub struct Setup {
    /// The cache it is in.
    pub cache: Cache,
    /// The outer docker.
    pub docker: Docker,
    /// Keeps a `down` from stopping the outer docker under us.
    _keep: File,
    /// The directory with the Kubernetes programs, `kubeadm` among them.
    pub programs: PathBuf,
    /// The payload of the role package.
    pub payload: PathBuf,
    /// The workload image of tests, a file for `docker load`.
    pub toolbox: PathBuf,
}

const STEPS: usize = 11;

impl Setup {
    /// Makes everything that is not in the cache yet, with one line of progress per step.
    pub fn run(cache: &Cache) -> Result<Self> {
        debian::check_machine()?;
        shared_sysctls::set()?;
        command::end_groups_on_interrupt()?;
        fs::create_dir_all(cache.root())
            .with_context(|| format!("cannot create {}", cache.root().display()))?;
        let keep = OuterDocker::of(cache).keep()?;
        let progress = Progress::new(STEPS);
        progress.step("packages of this machine", |announce| {
            packages::install(cache, packages::LABS, announce)
        })?;
        let wrapper = progress.step("runc wrapper", |announce| {
            runc_wrapper::build(cache, announce)
        })?;
        let wrapper = wrapper.as_deref();
        let docker = progress.step("outer docker", |announce| {
            start_outer(cache, wrapper, announce)
        })?;
        let host = |image| {
            let docker = &docker;
            move |announce: &dyn Fn(&str)| {
                host_image::build(cache, docker, image, wrapper, announce)
            }
        };
        let plain = progress.step("host image without docker", host(Image::NoDocker))?;
        progress.step("host image with docker", host(Image::Bare))?;
        progress.step("host image of a management plane", host(Image::Plane))?;
        let name = |what| format!("kubernetes {} {what}", kubernetes::VERSION);
        let source = progress.step(name("source"), |announce| {
            kubernetes::source(cache, announce)
        })?;
        let built = progress.step(name("programs"), |announce| {
            kubernetes::build(cache, &source, announce)
        })?;
        let images = progress.step(name("images"), |announce| {
            images::build(cache, &source, &built, announce)
        })?;
        let payload = progress.step("role payload", |announce| {
            payload::build(cache, &plain, &built, &images, announce)
        })?;
        let toolbox =
            progress.step("toolbox image", |announce| images::toolbox(cache, announce))?;
        Ok(Self {
            cache: cache.clone(),
            docker,
            _keep: keep,
            programs: built.join("bin"),
            payload,
            toolbox,
        })
    }

    /// Makes the disk and the image of virtual hosts, which other labs do not need, and gives their directory.
    pub fn machine(&self) -> Result<PathBuf> {
        let progress = Progress::new(1);
        progress.step("virtual machine", |announce| {
            machine::build(&self.cache, &self.docker, announce)
        })
    }
}

fn start_outer(
    cache: &Cache,
    wrapper: Option<&std::path::Path>,
    announce: &dyn Fn(&str),
) -> Result<Docker> {
    let _lock = cache.lock("docker-daemon", |owner| {
        announce(&format!("waiting for process {owner}"))
    })?;
    OuterDocker::of(cache).start(wrapper, announce)
}
