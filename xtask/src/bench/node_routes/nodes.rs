//! The nodes of a large cluster, as an API server of Kubernetes 1.20 shows them: each takes about fifteen kilobytes of JSON.

use serde_json::{Value, json};

/// As many as Kubernetes supports.
pub(super) const NODES: usize = 5000;
/// The node whose address changes.
pub(super) const CHANGED: usize = 2500;
/// kubelet reports so many images (`nodeStatusMaxImages`).
const IMAGES: usize = 50;

/// All nodes, each as JSON.
pub(super) fn all() -> Vec<String> {
    (0..NODES)
        .map(|number| node(number, &address(number)).to_string())
        .collect()
}

/// The node that has changed: it has another address.
pub(super) fn changed() -> String {
    node(CHANGED, "172.30.200.1").to_string()
}

fn address(number: usize) -> String {
    format!("172.30.{}.{}", 1 + number / 250, 1 + number % 250)
}

fn node(number: usize, address: &str) -> Value {
    let name = format!("node-{number:04}");
    let subnet = format!("10.{}.{}.0/24", 100 + number / 250, number % 250);
    let amounts = json!({"cpu": "32", "ephemeral-storage": "959786032Ki", "hugepages-1Gi": "0", "hugepages-2Mi": "0",
        "memory": "131837236Ki", "pods": "110"});
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": format!("7a3c1f5e-2b4d-4c6e-8f10-{number:012}"),
            "resourceVersion": (1000 + number).to_string(),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "node-role.kubernetes.io/worker": "",
                "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
            },
            "annotations": {"node.alpha.kubernetes.io/ttl": "300", "volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            "managedFields": [managed(&subnet)],
        },
        "spec": {"podCIDR": subnet, "podCIDRs": [subnet]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": conditions(),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "images": (0..IMAGES).map(image).collect::<Vec<_>>(),
            "nodeInfo": {
                "architecture": "amd64", "bootID": format!("b1d9a2c4-0000-4000-8000-{number:012}"),
                "containerRuntimeVersion": "docker://20.10.24", "kernelVersion": "5.10.0-28-amd64", "kubeProxyVersion": "v1.20.2",
                "kubeletVersion": "v1.20.2", "machineID": format!("{number:032x}"), "operatingSystem": "linux",
                "osImage": "Debian GNU/Linux 11 (bullseye)", "systemUUID": format!("5c9f7d1e-0000-4000-8000-{number:012}"),
            },
        },
    })
}

fn managed(subnet: &str) -> Value {
    json!({
        "manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:annotations": {".": {}, "f:node.alpha.kubernetes.io/ttl": {}}, "f:labels": {".": {}, "f:kubernetes.io/arch": {},
                "f:kubernetes.io/hostname": {}, "f:kubernetes.io/os": {}}},
            "f:spec": {"f:podCIDR": {}, "f:podCIDRs": {".": {}, format!("v:\"{subnet}\""): {}}},
            "f:status": {
                "f:allocatable": {"f:cpu": {}, "f:ephemeral-storage": {}, "f:memory": {}, "f:pods": {}},
                "f:capacity": {"f:cpu": {}, "f:ephemeral-storage": {}, "f:memory": {}, "f:pods": {}},
                "f:conditions": {"k:{\"type\":\"Ready\"}": {"f:lastHeartbeatTime": {}, "f:lastTransitionTime": {}, "f:message": {},
                    "f:reason": {}, "f:status": {}}},
                "f:images": {}, "f:nodeInfo": {"f:bootID": {}, "f:kernelVersion": {}, "f:kubeletVersion": {}},
            },
        },
    })
}

fn conditions() -> Vec<Value> {
    let kinds = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID"),
        ("Ready", "True", "KubeletReady"),
    ];
    let condition = |(kind, status, reason)| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": format!("kubelet reports {reason}"),
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    kinds.into_iter().map(condition).collect()
}

fn image(number: usize) -> Value {
    let name = format!("registry.example.com/platform/service-{number:02}");
    let digest = format!("{number:064x}");
    json!({"names": [format!("{name}@sha256:{digest}"), format!("{name}:v1.{number}.0")], "sizeBytes": 150_000_000 + number})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_node_has_a_subnet_and_an_address_of_its_own() {
        let nodes: Vec<Value> = (0..NODES).map(|it| node(it, &address(it))).collect();
        for field in [
            "/metadata/name",
            "/spec/podCIDR",
            "/status/addresses/0/address",
        ] {
            let values: BTreeSet<&str> = nodes
                .iter()
                .filter_map(|node| node.pointer(field)?.as_str())
                .collect();
            assert_eq!(values.len(), NODES, "{field}");
        }
        let size = nodes[CHANGED].to_string().len();
        assert!((8_000..20_000).contains(&size), "{size}");
        let changed: Value = serde_json::from_str(&changed()).expect("JSON");
        assert_eq!(changed["spec"], nodes[CHANGED]["spec"]);
        assert_ne!(
            changed["status"]["addresses"],
            nodes[CHANGED]["status"]["addresses"]
        );
    }
}
