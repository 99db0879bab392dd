//! Claims of pod subnets as objects of the API server: a Lease in `kube-system`, named after the subnet, held and owned by its node.
//!
//! A Lease is small, and it records what a claim records: its holder.

use ipnet::IpNet;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use super::cluster::internal_addresses;
use super::kubeconfig::{if_there, status};
use super::list::{all, all_as};
use crate::host::live::LiveHost;
use crate::host::{ClusterAccess, HostError, HostResult, PodSubnets, SubnetClaim, SubnetNode};

/// The subnet that a claim is about.
const ANNOTATION: &str = "nodelet.pf9.io/pod-subnet";
/// Where the claims are.
const NAMESPACE: &str = "kube-system";
/// Tells claims from other leases.
const LABEL: &str = "nodelet.pf9.io/claim";
const KIND: &str = "pod-subnet";

#[async_trait::async_trait]
impl PodSubnets for LiveHost {
    async fn subnet_nodes(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetNode>> {
        self.clusters
            .call(access, "list the nodes", |client| {
                all_as(Api::<Node>::all(client), ListParams::default(), node)
            })
            .await
    }

    async fn subnet_claims(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetClaim>> {
        let params = ListParams::default().labels(&format!("{LABEL}={KIND}"));
        let leases = self
            .clusters
            .call(access, "list the claims of pod subnets", |client| {
                all(leases(client), params)
            })
            .await?;
        leases.iter().map(claim).collect()
    }

    async fn claim_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool> {
        let action = format!(
            "claim the pod subnet {} for node {}",
            claim.subnet, claim.node
        );
        let lease = lease(claim);
        self.clusters
            .call(access, action, |client| async move {
                match leases(client).create(&PostParams::default(), &lease).await {
                    Ok(_) => Ok(true),
                    Err(error) if status(&error) == Some(409) => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    async fn release_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<()> {
        let action = format!(
            "release the pod subnet {} of node {}",
            claim.subnet, claim.node
        );
        let name = name(claim.subnet);
        self.clusters
            .call(access, action, |client| async move {
                let leases = leases(client);
                let Some(present) = leases.get_opt(&name).await? else {
                    return Ok(());
                };
                if owner(&present) != Some(&claim.uid) {
                    return Ok(());
                }
                // Deletes only the object that was read: another node may have its name by now.
                let params = DeleteParams::default().preconditions(Preconditions {
                    uid: present.metadata.uid,
                    resource_version: None,
                });
                match if_there(leases.delete(&name, &params).await) {
                    Err(error) if status(&error) != Some(409) => Err(error),
                    _ => Ok(()),
                }
            })
            .await
    }

    async fn assign_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool> {
        let action = format!("give node {} the pod subnet {}", claim.node, claim.subnet);
        // The uid is a condition: the API server refuses the patch where another node has the name by now.
        let patch = json!({
            "metadata": { "uid": claim.uid },
            "spec": { "podCIDR": claim.subnet, "podCIDRs": [claim.subnet] },
        });
        self.clusters
            .call(access, action, |client| async move {
                let nodes = Api::<Node>::all(client);
                let patched = nodes
                    .patch(&claim.node, &PatchParams::default(), &Patch::Merge(&patch))
                    .await;
                let error = match patched {
                    Ok(_) => return Ok(true),
                    Err(error) if matches!(status(&error), Some(404 | 409 | 422)) => error,
                    Err(error) => return Err(error),
                };
                // The claim is kept only if the node can still get the subnet, so the node is read again.
                let present = nodes.get_opt(&claim.node).await?.map(node);
                match present.filter(|node| node.uid == claim.uid) {
                    None => Ok(false),
                    Some(node) if node.subnets.contains(&claim.subnet) => Ok(true),
                    Some(node) if !node.subnets.is_empty() => Ok(false),
                    Some(_) => Err(error),
                }
            })
            .await
    }
}

fn leases(client: Client) -> Api<Lease> {
    Api::namespaced(client, NAMESPACE)
}

/// `10.20.3.0/24` as the name of an object: `pod-subnet-10-20-3-0-24`.
fn name(subnet: IpNet) -> String {
    let plain: String = match subnet {
        IpNet::V4(subnet) => subnet.to_string(),
        // Written in full, because `::` would make a name end or begin with a dash.
        IpNet::V6(subnet) => {
            let groups = subnet.addr().segments().map(|group| format!("{group:x}"));
            format!("{}-{}", groups.join("-"), subnet.prefix_len())
        }
    };
    format!("{KIND}-{}", plain.replace(['.', '/'], "-"))
}

fn lease(claim: &SubnetClaim) -> Lease {
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let labels = [
        label(LABEL, KIND),
        label("app.kubernetes.io/managed-by", "nodelet"),
    ];
    let annotation = label(ANNOTATION, &claim.subnet.to_string());
    Lease {
        metadata: ObjectMeta {
            name: Some(name(claim.subnet)),
            namespace: Some(NAMESPACE.to_owned()),
            labels: Some(labels.into()),
            annotations: Some([annotation].into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: claim.node.clone(),
                uid: claim.uid.clone(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(claim.node.clone()),
            ..LeaseSpec::default()
        }),
    }
}

fn owner(lease: &Lease) -> Option<&String> {
    let owners = lease.metadata.owner_references.iter().flatten();
    let mut nodes = owners.filter(|owner| owner.kind == "Node");
    nodes.next().map(|owner| &owner.uid)
}

/// A claim that cannot be read may be for any subnet, so no subnet is allocated while it is there.
fn claim(lease: &Lease) -> HostResult<SubnetClaim> {
    let its_name = lease.metadata.name.clone().unwrap_or_default();
    let annotations = lease.metadata.annotations.as_ref();
    let subnet = annotations.and_then(|all| all.get(ANNOTATION)?.parse::<IpNet>().ok());
    let subnet = subnet.filter(|subnet| name(*subnet) == its_name);
    let subnet = subnet.ok_or_else(|| {
        HostError::service(
            format!("read the claim {NAMESPACE}/{its_name}"),
            format!("its annotation {ANNOTATION} is not the subnet of its name; delete the Lease if no node has the subnet"),
        )
    })?;
    let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.clone());
    Ok(SubnetClaim {
        subnet,
        node: holder.unwrap_or_default(),
        uid: owner(lease).cloned().unwrap_or_default(),
    })
}

fn node(object: Node) -> SubnetNode {
    let spec = object.spec.unwrap_or_default();
    let reported = object.status.unwrap_or_default();
    let mut subnets = spec.pod_cidrs.unwrap_or_default();
    if subnets.is_empty() {
        subnets.extend(spec.pod_cidr.filter(|subnet| !subnet.is_empty()));
    }
    SubnetNode {
        name: object.metadata.name.unwrap_or_default(),
        uid: object.metadata.uid.unwrap_or_default(),
        // The API server also accepts bits behind the prefix.
        subnets: subnets
            .iter()
            .filter_map(|one| one.parse::<IpNet>().ok())
            .map(|subnet| subnet.trunc())
            .collect(),
        addresses: internal_addresses(reported.addresses.as_deref().unwrap_or_default()),
        created: object.metadata.creation_timestamp.map(|time| time.0.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_no_bits_behind_its_prefix() {
        let mut object = Node::default();
        object.spec.get_or_insert_default().pod_cidr = Some("10.20.1.5/24".to_owned());
        let expected: IpNet = "10.20.1.0/24".parse().unwrap();
        assert_eq!(node(object).subnets, [expected]);
    }

    fn of(subnet: &str) -> SubnetClaim {
        SubnetClaim {
            subnet: subnet.parse().unwrap(),
            node: "cp-1".to_owned(),
            uid: "1-2-3".to_owned(),
        }
    }

    #[test]
    fn a_claim_is_named_after_its_subnet_and_owned_by_its_node() {
        for (subnet, named) in [
            ("10.20.3.0/24", "pod-subnet-10-20-3-0-24"),
            ("fd00::/64", "pod-subnet-fd00-0-0-0-0-0-0-0-64"),
        ] {
            let lease = lease(&of(subnet));
            assert_eq!(lease.metadata.name.as_deref(), Some(named));
            assert_eq!(owner(&lease).map(String::as_str), Some("1-2-3"));
            assert_eq!(claim(&lease).unwrap(), of(subnet));
        }
    }

    #[test]
    fn a_claim_that_says_another_subnet_than_its_name_is_refused() {
        let mut lease = lease(&of("10.20.3.0/24"));
        lease.metadata.name = Some("pod-subnet-10-20-4-0-24".to_owned());
        let error = claim(&lease).unwrap_err();
        assert!(
            error.to_string().contains("pod-subnet-10-20-4-0-24"),
            "{error}"
        );
    }

    #[test]
    fn a_node_has_the_subnets_of_either_field() {
        let node_of = |spec: serde_json::Value| {
            let object = json!({"metadata": {"name": "a", "uid": "u"}, "spec": spec});
            node(serde_json::from_value(object).unwrap()).subnets
        };
        let subnet: IpNet = "10.20.1.0/24".parse().unwrap();
        assert_eq!(node_of(json!({"podCIDR": "10.20.1.0/24"})), [subnet]);
        assert_eq!(
            node_of(json!({"podCIDR": "10.20.1.0/24", "podCIDRs": ["10.20.1.0/24"]})),
            [subnet]
        );
        assert_eq!(node_of(json!({"podCIDR": ""})), []);
    }
}
