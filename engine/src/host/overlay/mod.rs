//! A host that is read and never changed.
//!
//! [`OverlayHost`] answers like the host below it until something is changed; changes stay in an upper world with
//! the behaviour of [`FakeHost`], so that later steps see what earlier ones would have done. What the upper world
//! needs to know is *fetched*: read from below the first time it is asked for, and from then on the upper world answers for it. No mutating
//! call reaches the host below, and no command is run: it might change something. The only exception shows the rules of the packet filter.
//!
//! What is not known is an error, never a guess: an unreadable file, an API server that does not answer. A dry run shows those as known
//! after apply.
//!
//! Not here: the behaviour of the upper world (`host::fake`), and what a dry run makes of the answers (`exec::dry_run`). Start with
//! `read_through`, then `files`.

mod clock;
mod docker;
mod files;
mod kernel;
mod kubernetes;
mod network;
mod packages;
mod processes;
mod read_through;
mod services;

pub use kubernetes::ledger_hints::{LedgerHint, LedgerHints};

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fake::{FakeHost, World};
use super::{ContainerState, Host};

/// A host below, and what would be different on it.
pub struct OverlayHost<'a> {
    lower: &'a dyn Host,
    upper: FakeHost,
    known: Mutex<Known>,
    /// References that an image archive brings.
    archives: BTreeMap<PathBuf, Vec<String>>,
    hints: LedgerHints,
}

/// What has been fetched from below, and what the host below is no longer asked for.
#[derive(Debug, Default)]
struct Known {
    paths: BTreeSet<PathBuf>,
    /// Directories that were removed: nothing in them is fetched any more.
    gone: BTreeSet<PathBuf>,
    units: BTreeSet<String>,
    /// Whether the runtime below was asked, and what it said.
    runtime: Option<LowerRuntime>,
    images: BTreeSet<String>,
    /// As they were below.
    containers: BTreeMap<String, Option<ContainerState>>,
    /// Containers known only from the list of all: names, and whether they ran.
    listed: BTreeMap<String, bool>,
    packages: BTreeSet<String>,
    links: BTreeSet<String>,
    /// Whether all of them have been fetched.
    virtual_services: bool,
    /// Whether the routes to pods of other nodes have been fetched.
    routes: bool,
    /// Families of the packet filter whose rules have been fetched.
    firewalls: BTreeSet<&'static str>,
    modules: BTreeSet<String>,
    settings: BTreeSet<String>,
    nodes: BTreeSet<String>,
    /// Whether all nodes have been fetched.
    all_nodes: bool,
    /// Requests for certificates that have been fetched or made here.
    requests: BTreeSet<String>,
    /// Whether the pod subnets of all nodes have been fetched.
    subnet_nodes: bool,
    /// Whether the claims of them have been fetched.
    subnet_claims: bool,
    /// Whether the members of etcd have been fetched, because they were changed here.
    members: bool,
    /// Objects that were compared below, and those that were applied here.
    objects: BTreeSet<String>,
    /// Why the API server below did not answer.
    silent: Option<String>,
    /// Whether anything was changed.
    changed: bool,
    /// Whether anything was started that may have made files which are not known here: a command, a unit, a container. The container
    /// runtime does not count, because it makes only its own files.
    ran: bool,
}

/// The container runtime below.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LowerRuntime {
    /// It answers.
    Answers,
    /// There is none, or it has never run.
    Absent,
    /// What it has cannot be known now, and why: it runs and did not answer us, or it does not run and would have to be started.
    Unreadable(String),
}

impl<'a> OverlayHost<'a> {
    /// Nothing changed yet above `lower`.
    #[must_use]
    pub fn new(lower: &'a dyn Host) -> Self {
        let mut world = World::bare("");
        world.begin_at(lower.now());
        // Runs that start above must have other ids than runs below.
        world.begin_ids_at(1 << 63);
        world.runtime_without_unit = false;
        world.pods_below = true;
        Self {
            lower,
            upper: FakeHost::of(world),
            known: Mutex::default(),
            archives: BTreeMap::new(),
            hints: LedgerHints::default(),
        }
    }

    /// Says which reference an archive brings; archives are too large to be read for it.
    #[must_use]
    pub fn with_archive(mut self, archive: PathBuf, reference: String) -> Self {
        self.archives.entry(archive).or_default().push(reference);
        self
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks that the two hosts may differ from now on.
    fn changes(&self) {
        self.known().changed = true;
    }
}

#[cfg(test)]
mod tests;
