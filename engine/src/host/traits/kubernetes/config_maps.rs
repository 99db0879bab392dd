//! Records of ours in the cluster: ConfigMaps that are read with their version, and written only if that is still the present one.

use std::collections::BTreeMap;

use crate::host::{ClusterAccess, HostResult};

/// A ConfigMap, as far as our records need it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigMap {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its `metadata.resourceVersion`; empty for one that does not exist yet.
    pub version: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Its content.
    pub data: BTreeMap<String, String>,
}

/// Calls on the API server, each with the implementation's own deadline (10 s).
#[async_trait::async_trait]
pub trait ConfigMaps {
    /// All ConfigMaps of a namespace that have this label. Cancel safe.
    async fn config_maps(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        label: &str,
    ) -> HostResult<Vec<ConfigMap>>;

    /// The names of all ConfigMaps of a namespace that begin with `prefix`. Cancel safe.
    async fn config_map_names(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        prefix: &str,
    ) -> HostResult<Vec<String>>;

    /// The ConfigMap of this name; `None` if there is none. Cancel safe.
    async fn config_map(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        name: &str,
    ) -> HostResult<Option<ConfigMap>>;

    /// Creates a ConfigMap without a version, or replaces exactly the version that it names. False if another client was faster: it exists
    /// already, has changed, or is gone.
    async fn put_config_map(&self, access: &ClusterAccess, map: &ConfigMap) -> HostResult<bool>;

    /// Deletes exactly the version of a ConfigMap that it names. False if another client has changed it. Fine if there is none.
    async fn delete_config_map(&self, access: &ClusterAccess, map: &ConfigMap) -> HostResult<bool>;
}
