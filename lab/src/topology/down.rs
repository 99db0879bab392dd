//! Taking labs down so that nothing of them is left: containers, volumes, networks, the outer docker, its cgroups and sockets.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::topology;
use crate::topology::outer_docker::OuterDocker;

/// All labs: recorded ones, and those that only docker knows because an `up` was interrupted.
pub fn labs(cache: &Cache) -> Result<BTreeSet<String>> {
    let mut names = topology::names(cache);
    let docker = OuterDocker::of(cache).docker();
    if docker.answers() {
        names.extend(topology::labelled(&docker)?);
    }
    Ok(names)
}

/// Removes one lab, and the outer docker with the last one. True if there was such a lab.
pub fn lab(cache: &Cache, name: &str) -> Result<bool> {
    let existed = labs(cache)?.contains(name);
    if existed {
        remove(cache, name)?;
    }
    stop_if_idle(cache)?;
    Ok(existed)
}

/// Removes every lab and stops the outer docker; gives the names of the labs.
pub fn all(cache: &Cache) -> Result<BTreeSet<String>> {
    let names = labs(cache)?;
    names.iter().try_for_each(|name| remove(cache, name))?;
    stop_if_idle(cache)?;
    Ok(names)
}

fn remove(cache: &Cache, name: &str) -> Result<()> {
    let outer = OuterDocker::of(cache);
    if !outer.docker().answers() {
        // After a restart of the machine the lab's record is there, but the outer docker does not run. It must run to remove the
        // containers.
        let wrapper = outer.last_wrapper();
        outer.start(wrapper.as_deref(), &|_| ())?;
    }
    topology::remove(cache, &outer.docker(), name)
        .and_then(|()| cache.forget_lock(&topology::lock_name(name)))
        .with_context(|| format!("cannot take the lab `{name}` down completely"))
}

/// Stops the outer docker if there is no lab, no running `up`, and no container that belongs to other users.
fn stop_if_idle(cache: &Cache) -> Result<()> {
    let _lock = cache.lock("docker-daemon", |_| ())?;
    let outer = OuterDocker::of(cache);
    let docker = outer.docker();
    let foreign_containers =
        docker.answers() && !docker.list(&["ps", "--all", "--quiet"])?.is_empty();
    if foreign_containers || !labs(cache)?.is_empty() || !outer.is_unused()? {
        Ok(())
    } else {
        outer.stop()
    }
}

/// Removes the cache. Refuses while labs exist, because their data is in it.
pub fn cache(cache: &Cache) -> Result<()> {
    let names: Vec<String> = labs(cache)?.into_iter().collect();
    if !names.is_empty() {
        bail!(
            "labs still exist ({}); take them down with `cargo xtask down --all --cache`",
            names.join(", ")
        );
    }
    stop_if_idle(cache)?;
    let docker = OuterDocker::of(cache).docker();
    if docker.answers() {
        bail!(
            "the outer docker at {} is in use, by an `up` or by containers that belong to no lab",
            docker.socket().display()
        );
    }
    atomic_files::removed(fs::remove_dir_all(cache.root()))
        .with_context(|| format!("cannot remove {}", cache.root().display()))
}
