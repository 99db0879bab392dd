//! Units: fetched with their files, so that a changed file makes them stale.

use std::path::{Path, PathBuf};

use super::OverlayHost;
use crate::host::fake::{UNIT_DIRECTORIES, Unit};
use crate::host::{HostResult, Services, UnitState};

#[async_trait::async_trait]
impl Services for OverlayHost<'_> {
    async fn unit(&self, name: &str) -> HostResult<UnitState> {
        self.fetch_unit(name).await?;
        self.upper.unit(name).await
    }

    async fn main_process(&self, name: &str) -> HostResult<Option<u32>> {
        self.lower.main_process(name).await
    }

    async fn continue_unit(&self, name: &str) -> HostResult<()> {
        self.changes();
        self.fetch_unit(name).await?;
        self.upper.continue_unit(name).await
    }

    async fn start_unit(&self, name: &str) -> HostResult<()> {
        self.before_start(name).await?;
        self.begins(name);
        self.upper.start_unit(name).await
    }

    async fn stop_unit(&self, name: &str) -> HostResult<()> {
        self.before_start(name).await?;
        self.upper.stop_unit(name).await
    }

    async fn restart_unit(&self, name: &str) -> HostResult<()> {
        self.before_start(name).await?;
        self.begins(name);
        self.upper.restart_unit(name).await
    }

    async fn reload_unit(&self, name: &str) -> HostResult<()> {
        self.before_start(name).await?;
        self.upper.reload_unit(name).await
    }

    async fn set_unit_enabled(&self, name: &str, enabled: bool) -> HostResult<()> {
        self.changes();
        self.fetch_unit(name).await?;
        self.upper.set_unit_enabled(name, enabled).await
    }

    async fn reset_failed_unit(&self, name: &str) -> HostResult<()> {
        self.changes();
        self.fetch_unit(name).await?;
        self.upper.reset_failed_unit(name).await
    }

    async fn reload_units(&self) -> HostResult<()> {
        self.changes();
        self.upper.reload_units().await
    }

    async fn unit_log(&self, name: &str, lines: usize) -> HostResult<String> {
        self.lower.unit_log(name, lines).await
    }
}

impl OverlayHost<'_> {
    /// Fetches a unit with its file and drop-ins.
    pub(super) async fn fetch_unit(&self, name: &str) -> HostResult<()> {
        if self.known().units.contains(name) {
            return Ok(());
        }
        let state = self.lower.unit(name).await?;
        for directory in UNIT_DIRECTORIES.map(Path::new) {
            self.fetch_content(&directory.join(name)).await?;
            let drop_ins = self
                .fetch_children(&directory.join(format!("{name}.d")))
                .await?;
            let names = self.upper.with_world(|world| world.tree.names(&drop_ins));
            for drop_in in names {
                self.fetch_content(&drop_ins.join(drop_in)).await?;
            }
        }
        self.known().units.insert(name.to_owned());
        if !state.loaded && state.active == "inactive" {
            return Ok(());
        }
        self.upper.with_world_mut(|world| {
            if state.loaded && world.unit_text(name).is_none() {
                // A generated unit: these directories have no file of it.
                world.file(PathBuf::from("/run/systemd/system").join(name), "");
            }
            let text = world.unit_text(name).unwrap_or_default();
            let loaded = match (state.loaded, state.stale) {
                (false, _) => None,
                (true, false) => Some(text),
                (true, true) => Some(format!("{text}\n# an older version\n")),
            };
            let unit = Unit {
                text: loaded,
                active: state.active,
                sub: state.sub,
                enabled: state.enabled,
                invocation: state.invocation,
                active_since: state.active_since,
                active_for: state.active_for.map(|age| (world.elapsed(), age)),
                job: state.job,
            };
            world.units.insert(name.to_owned(), unit);
        });
        Ok(())
    }

    /// Fetches what decides whether a unit starts, and what starts and ends with it.
    async fn before_start(&self, name: &str) -> HostResult<()> {
        self.changes();
        self.fetch_unit(name).await?;
        for path in self.upper.with_world(|world| world.unit_needs(name)) {
            self.fetch(&path, true).await?;
        }
        self.before_runtime_start(name).await
    }
}
