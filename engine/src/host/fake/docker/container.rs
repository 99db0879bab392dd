//! A container of a fake host.

use std::time::SystemTime;

use crate::host::{ContainerConfig, ContainerState, EndedRun, ListedContainer};

/// A container with the configuration it was made from.
#[derive(Debug, Clone)]
pub(crate) struct FakeContainer {
    pub(crate) config: ContainerConfig,
    pub(crate) id: String,
    pub(crate) running: bool,
    pub(crate) exit_code: i64,
    pub(crate) started_at: Option<SystemTime>,
    /// The last run that has ended, even if another one is under way.
    pub(crate) ended: Option<EndedRun>,
    pub(crate) restarts: u64,
    /// It was stopped by a call, so the policy `unless-stopped` does not start it again.
    pub(crate) stopped: bool,
}

impl FakeContainer {
    /// Its process ends.
    pub(in crate::host::fake) fn end(&mut self, ended_at: SystemTime) {
        self.running = false;
        if let Some(started_at) = self.started_at.take() {
            self.ended = Some(EndedRun {
                started_at,
                ended_at,
            });
        }
    }

    pub(in crate::host::fake) fn listed(&self) -> ListedContainer {
        ListedContainer {
            id: self.id.clone(),
            name: self.config.name.clone(),
            image: self.config.image.clone(),
            running: self.running,
            paused: false,
            host_network: self.config.host_network,
            labels: self.config.labels.clone(),
        }
    }

    pub(in crate::host::fake) fn state(&self) -> ContainerState {
        ContainerState {
            id: self.id.clone(),
            name: self.config.name.clone(),
            running: self.running,
            paused: false,
            exit_code: self.exit_code,
            started_at: self.started_at,
            ended: self.ended.filter(|_| !self.running),
            restarts: self.restarts,
            image: self.config.image.clone(),
            host_network: self.config.host_network,
            labels: self.config.labels.clone(),
        }
    }
}
