//! ConfigMaps of a fake cluster as records. They are among its other objects.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::cluster::key;
use crate::host::fake::fake_host::FakeHost;
use crate::host::{ClusterAccess, ConfigMap, ConfigMaps, HostResult};

const DEADLINE: Duration = Duration::from_secs(10);

#[async_trait::async_trait]
impl ConfigMaps for FakeHost {
    async fn config_maps(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        label: &str,
    ) -> HostResult<Vec<ConfigMap>> {
        self.observe("config_maps", label, DEADLINE, |world| {
            world.reach(access, "list ConfigMaps")?;
            let prefix = format!("v1/ConfigMap/{namespace}/");
            let all = world.cluster.objects.iter();
            let maps = all.filter(|(key, _)| key.starts_with(&prefix));
            let maps = maps.map(|(_, object)| read(object));
            Ok(maps.filter(|map| map.labels.contains_key(label)).collect())
        })
        .await
    }

    async fn config_map_names(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        prefix: &str,
    ) -> HostResult<Vec<String>> {
        self.observe("config_map_names", prefix, DEADLINE, |world| {
            world.reach(access, "list the names of ConfigMaps")?;
            let start = format!("v1/ConfigMap/{namespace}/");
            let all = world.cluster.objects.keys();
            let names = all.filter_map(|key| key.strip_prefix(&start));
            let names = names.filter(|name| name.starts_with(prefix));
            Ok(names.map(str::to_owned).collect())
        })
        .await
    }

    async fn config_map(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        name: &str,
    ) -> HostResult<Option<ConfigMap>> {
        self.observe("config_map", name, DEADLINE, |world| {
            world.reach(access, &format!("get the ConfigMap {namespace}/{name}"))?;
            let key = format!("v1/ConfigMap/{namespace}/{name}");
            Ok(world.cluster.objects.get(&key).map(read))
        })
        .await
    }

    async fn put_config_map(&self, access: &ClusterAccess, map: &ConfigMap) -> HostResult<bool> {
        let object = object(map);
        let key = key(&object)?;
        self.mutate("put_config_map", &map.name, DEADLINE, |world| {
            world.reach(access, &format!("write {key}"))?;
            let present = world.cluster.objects.get(&key).map(version);
            if present.unwrap_or_default() != map.version {
                return Ok(false);
            }
            world.cluster.objects.insert(key.clone(), object.clone());
            Ok(true)
        })
        .await
    }

    async fn delete_config_map(&self, access: &ClusterAccess, map: &ConfigMap) -> HostResult<bool> {
        let key = key(&object(map))?;
        self.mutate("delete_config_map", &map.name, DEADLINE, |world| {
            world.reach(access, &format!("delete {key}"))?;
            let present = world.cluster.objects.get(&key).map(version);
            let is_same = present.is_none_or(|present| present == map.version);
            if is_same {
                world.cluster.objects.remove(&key);
            }
            Ok(is_same)
        })
        .await
    }
}

/// The version of an object. On a fake host it depends on the content only, so an object with its earlier content has its earlier version.
fn version(object: &Value) -> String {
    object.to_string()
}

fn object(map: &ConfigMap) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": map.name, "namespace": map.namespace, "labels": map.labels},
        "data": map.data,
    })
}

fn read(object: &Value) -> ConfigMap {
    let text = |pointer: &str| {
        let value = object.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let texts = |pointer: &str| -> BTreeMap<String, String> {
        let all = object.pointer(pointer).and_then(Value::as_object);
        let all = all.into_iter().flatten();
        all.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect()
    };
    ConfigMap {
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        version: version(object),
        labels: texts("/metadata/labels"),
        data: texts("/data"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_that_names_another_version_changes_nothing() {
        let host = FakeHost::new()
            .with_file("/etc/kubeconfig", "")
            .with_kubernetes(|rules| rules.remote_api = true);
        let access = ClusterAccess::with("/etc/kubeconfig".as_ref());
        let new = ConfigMap {
            namespace: "kube-system".to_owned(),
            name: "a".to_owned(),
            labels: [("l".to_owned(), String::new())].into(),
            ..ConfigMap::default()
        };
        assert!(host.put_config_map(&access, &new).await.unwrap());
        assert!(!host.put_config_map(&access, &new).await.unwrap());
        let read = host.config_map(&access, "kube-system", "a").await.unwrap();
        let mut read = read.expect("it is there");
        read.data.insert("k".to_owned(), "v".to_owned());
        assert!(host.put_config_map(&access, &read).await.unwrap());
        assert!(!host.put_config_map(&access, &read).await.unwrap());
        let all = host.config_maps(&access, "kube-system", "l").await.unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].data["k"], "v");
        let names = async |prefix: &str| {
            let names = host.config_map_names(&access, "kube-system", prefix);
            names.await.unwrap()
        };
        assert_eq!(names("a").await, ["a"]);
        assert!(names("b").await.is_empty());
        let other = host.config_maps(&access, "default", "l").await.unwrap();
        assert_eq!(other, []);
        assert!(!host.delete_config_map(&access, &read).await.unwrap());
        assert!(host.delete_config_map(&access, &all[0]).await.unwrap());
        let left = host.config_maps(&access, "kube-system", "l").await.unwrap();
        assert_eq!(left, []);
    }
}
