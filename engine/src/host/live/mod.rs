//! The machine we run on.
//!
//! [`LiveHost`] implements every capability of [`Host`](super::Host) with the real thing: system calls, child
//! processes, the docker socket, systemd over D-Bus, dpkg, the API server. One directory per part of the machine; `backoff`,
//! `blocking` and `error_class` are what several of them share.
//!
//! Two rules hold everywhere. All input from outside is bounded in size and in time. And a connection is made when it is first needed and
//! made again after it failed, because the plan itself may install, start or restart the program at its other end.
//!
//! Deliberately not here: policy. How often to try, in which order and what to do about a failure is decided by
//! `resource` and `exec`; this module tries once and says what happened.
//!
//! Start with `files`; `process` runs programs.

mod backoff;
mod blocking;
mod clock;
mod docker;
mod error_class;
mod files;
mod kernel;
mod kubernetes;
mod network;
mod packages;
mod process;
mod systemd;

use std::time::Instant;

pub use kubernetes::watch::{NodeEvent, RequestEvent, watch_certificate_requests, watch_nodes};
pub use process::stopped::stopped_processes;

/// The machine we run on. Make one per process and share it.
#[derive(Debug)]
pub struct LiveHost {
    started: Instant,
    effects: files::effects::Effects,
    runtime: docker::client::DockerClient,
    bus: systemd::bus::Bus,
    clusters: kubernetes::kubeconfig::Clients,
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
            effects: files::effects::Effects::default(),
            runtime: docker::client::DockerClient::default(),
            bus: systemd::bus::Bus::default(),
            clusters: kubernetes::kubeconfig::Clients::default(),
            installed: packages::Installed::default(),
        }
    }
}

impl Default for LiveHost {
    fn default() -> Self {
        Self::new()
    }
}
