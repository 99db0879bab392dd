//! Kernel settings and modules.

use super::OverlayHost;
use crate::host::{HostResult, Kernel};

#[async_trait::async_trait]
impl Kernel for OverlayHost<'_> {
    async fn sysctl(&self, key: &str) -> HostResult<Option<String>> {
        self.fetch_setting(key).await?;
        self.upper.sysctl(key).await
    }

    async fn set_sysctl(&self, key: &str, value: &str) -> HostResult<()> {
        self.changes();
        self.fetch_setting(key).await?;
        self.upper.set_sysctl(key, value).await
    }

    async fn module_loaded(&self, name: &str) -> HostResult<bool> {
        self.fetch_module(name).await?;
        self.upper.module_loaded(name).await
    }

    async fn load_module(&self, name: &str) -> HostResult<()> {
        self.changes();
        self.fetch_module(name).await?;
        // The preconditions tell whether this kernel has the module.
        self.upper
            .with_world_mut(|world| world.loadable_modules.insert(name.to_owned()));
        self.upper.load_module(name).await
    }

    /// The modules of the real host: the list is used only for the record of a module load.
    async fn loaded_modules(&self) -> HostResult<Vec<String>> {
        self.lower.loaded_modules().await
    }

    async fn unload_module(&self, name: &str, stay: &[String]) -> HostResult<()> {
        self.changes();
        self.fetch_module(name).await?;
        self.upper.unload_module(name, stay).await
    }
}

impl OverlayHost<'_> {
    async fn fetch_setting(&self, key: &str) -> HostResult<()> {
        if self.known().settings.contains(key) {
            return Ok(());
        }
        let value = self.lower.sysctl(key).await?;
        self.known().settings.insert(key.to_owned());
        if let Some(value) = value {
            self.upper
                .with_world_mut(|world| world.set_sysctl(key, &value));
        }
        Ok(())
    }

    async fn fetch_module(&self, name: &str) -> HostResult<()> {
        if self.known().modules.contains(name) {
            return Ok(());
        }
        let loaded = self.lower.module_loaded(name).await?;
        self.known().modules.insert(name.to_owned());
        if loaded {
            // Its settings are fetched separately.
            self.upper
                .with_world_mut(|world| world.modules.insert(name.to_owned()));
        }
        Ok(())
    }
}
