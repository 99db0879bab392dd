//! ConfigMaps as records: a write names the version that was read, so it replaces no change of another client.

use k8s_openapi::api::core::v1::ConfigMap as ApiConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;

use super::kubeconfig::{if_there, status};
use super::list::{all, all_metadata_as};
use crate::host::live::LiveHost;
use crate::host::{ClusterAccess, ConfigMap, ConfigMaps, FIELD_MANAGER, HostResult};

#[async_trait::async_trait]
impl ConfigMaps for LiveHost {
    async fn config_maps(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        label: &str,
    ) -> HostResult<Vec<ConfigMap>> {
        let params = ListParams::default().labels(label);
        let action = format!("list the ConfigMaps in {namespace} with label {label}");
        let found = self
            .clusters
            .call(access, action, |client| {
                all(Api::<ApiConfigMap>::namespaced(client, namespace), params)
            })
            .await?;
        Ok(found.into_iter().map(read).collect())
    }

    async fn config_map_names(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        prefix: &str,
    ) -> HostResult<Vec<String>> {
        let action = format!("list the names of the ConfigMaps in {namespace}");
        let chosen = |map: PartialObjectMeta<ApiConfigMap>| {
            let name = map.metadata.name?;
            name.starts_with(prefix).then_some(name)
        };
        let found = self
            .clusters
            .call(access, action, |client| {
                let maps = Api::<ApiConfigMap>::namespaced(client, namespace);
                all_metadata_as(maps, ListParams::default(), chosen)
            })
            .await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn config_map(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        name: &str,
    ) -> HostResult<Option<ConfigMap>> {
        let action = format!("get the ConfigMap {namespace}/{name}");
        let found = self
            .clusters
            .call(access, action, |client| async move {
                let maps = Api::<ApiConfigMap>::namespaced(client, namespace);
                maps.get_opt(name).await
            })
            .await?;
        Ok(found.map(read))
    }

    async fn put_config_map(&self, access: &ClusterAccess, map: &ConfigMap) -> HostResult<bool> {
        let action = format!("write the ConfigMap {}/{}", map.namespace, map.name);
        let object = object(map);
        self.clusters
            .call(access, action, |client| async move {
                let maps = Api::<ApiConfigMap>::namespaced(client, &map.namespace);
                let params = PostParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PostParams::default()
                };
                let (answer, faster): (_, &[u16]) = match map.version.is_empty() {
                    true => (maps.create(&params, &object).await, &[409]),
                    false => {
                        let replaced = maps.replace(&map.name, &params, &object).await;
                        (replaced, &[404, 409])
                    }
                };
                match answer {
                    Ok(_) => Ok(true),
                    Err(error) if status(&error).is_some_and(|code| faster.contains(&code)) => {
                        Ok(false)
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }

    async fn delete_config_map(&self, access: &ClusterAccess, map: &ConfigMap) -> HostResult<bool> {
        let action = format!("delete the ConfigMap {}/{}", map.namespace, map.name);
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: None,
            resource_version: Some(map.version.clone()),
        });
        self.clusters
            .call(access, action, |client| async move {
                let maps = Api::<ApiConfigMap>::namespaced(client, &map.namespace);
                match if_there(maps.delete(&map.name, &params).await) {
                    Ok(_) => Ok(true),
                    Err(error) if status(&error) == Some(409) => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await
    }
}

fn object(map: &ConfigMap) -> ApiConfigMap {
    ApiConfigMap {
        metadata: ObjectMeta {
            name: Some(map.name.clone()),
            namespace: Some(map.namespace.clone()),
            labels: Some(map.labels.clone()),
            resource_version: (!map.version.is_empty()).then(|| map.version.clone()),
            ..ObjectMeta::default()
        },
        data: Some(map.data.clone()),
        ..ApiConfigMap::default()
    }
}

fn read(object: ApiConfigMap) -> ConfigMap {
    let metadata = object.metadata;
    ConfigMap {
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        version: metadata.resource_version.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        data: object.data.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_names_the_version_that_was_read() {
        let map = ConfigMap {
            namespace: "kube-system".to_owned(),
            name: "a".to_owned(),
            version: "7".to_owned(),
            data: [("k".to_owned(), "v".to_owned())].into(),
            ..ConfigMap::default()
        };
        let written = object(&map);
        assert_eq!(written.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(read(written), map);
        let new = ConfigMap {
            version: String::new(),
            ..map
        };
        assert_eq!(object(&new).metadata.resource_version, None);
    }
}
