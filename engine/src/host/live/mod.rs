//! The machine we run on.
//!
//! [`LiveHost`] implements every capability of [`Host`](super::Host) with the real thing: system calls, child
//! processes, the docker socket, systemd over D-Bus, dpkg, the API server. One file per capability; the helpers that two of them share are
//! in `blocking`, `effects`, `backoff`, `engine` and `bus`.
//!
//! Two rules hold everywhere. All input from outside is bounded in size and in time. And a connection is made when it is first needed and
//! made again after it failed, because the plan itself may install, start or restart the program at its other end.
//!
//! Deliberately not here: policy. How often to try, in which order and what to do about a failure is decided by
//! `resource` and `exec`; this module tries once and says what happened.

mod atomic;
mod backoff;
mod blocking;
mod bus;
mod clock;
mod cluster;
mod container_config;
mod containers;
mod digests;
mod dpkg_run;
mod drain;
#[cfg(test)]
mod durable;
mod effects;
mod engine;
mod files;
mod foreign_container;
mod group;
mod https;
mod image_archive;
mod ipvs;
mod jobs;
mod kernel;
mod kubeconfig;
mod lasting;
mod loading;
mod network;
mod packages;
mod pod_subnets;
mod process_age;
mod processes;
mod secrets;
mod services;
mod stopped;
mod tail;
mod tree;
mod watch;

use std::time::Instant;

pub use stopped::stopped_processes;
pub use watch::{NodeEvent, watch_nodes};

/// The machine we run on. Make one per process and share it.
#[derive(Debug)]
pub struct LiveHost {
    started: Instant,
    effects: effects::Effects,
    engine: engine::Engine,
    bus: bus::Bus,
    clusters: kubeconfig::Clients,
    installed: packages::Installed,
}

impl LiveHost {
    /// Access to this machine. Changes nothing except the process's choice of a TLS implementation, which the Kubernetes client uses.
    #[must_use]
    pub fn new() -> Self {
        // An error means that the choice was made before, which is fine.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self {
            started: Instant::now(),
            effects: effects::Effects::default(),
            engine: engine::Engine::default(),
            bus: bus::Bus::default(),
            clusters: kubeconfig::Clients::default(),
            installed: packages::Installed::default(),
        }
    }
}

impl Default for LiveHost {
    fn default() -> Self {
        Self::new()
    }
}
