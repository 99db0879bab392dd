//! ConfigMaps as records: read below, and kept above when they are written.

use serde_json::json;

use crate::host::overlay::OverlayHost;
use crate::host::{ClusterAccess, ConfigMap, ConfigMaps, HostResult};

#[async_trait::async_trait]
impl ConfigMaps for OverlayHost<'_> {
    async fn config_maps(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        label: &str,
    ) -> HostResult<Vec<ConfigMap>> {
        if let Some(silent) = self.silence("list ConfigMaps") {
            return Err(silent);
        }
        for map in self.lower.config_maps(access, namespace, label).await? {
            self.fetch_config_map(access, namespace, &map.name).await?;
        }
        self.upper.config_maps(access, namespace, label).await
    }

    async fn config_map_names(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        prefix: &str,
    ) -> HostResult<Vec<String>> {
        if let Some(silent) = self.silence("list the names of ConfigMaps") {
            return Err(silent);
        }
        for name in self
            .lower
            .config_map_names(access, namespace, prefix)
            .await?
        {
            self.fetch_config_map(access, namespace, &name).await?;
        }
        self.upper.config_map_names(access, namespace, prefix).await
    }

    async fn config_map(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        name: &str,
    ) -> HostResult<Option<ConfigMap>> {
        self.fetch_config_map(access, namespace, name).await?;
        self.upper.config_map(access, namespace, name).await
    }

    async fn put_config_map(&self, access: &ClusterAccess, map: &ConfigMap) -> HostResult<bool> {
        self.changes();
        self.fetch_config_map(access, &map.namespace, &map.name)
            .await?;
        self.upper.put_config_map(access, map).await
    }

    async fn delete_config_map(&self, access: &ClusterAccess, map: &ConfigMap) -> HostResult<bool> {
        self.changes();
        self.fetch_config_map(access, &map.namespace, &map.name)
            .await?;
        self.upper.delete_config_map(access, map).await
    }
}

impl OverlayHost<'_> {
    async fn fetch_config_map(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        name: &str,
    ) -> HostResult<()> {
        // It has no content, so it differs from each one below, and the one below is taken.
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace, "labels": {"nodelet.pf9.io/dry-run": ""}},
        });
        self.fetch_object(access, &object).await
    }
}
