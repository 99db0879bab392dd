//! Whether etcd has data on a host, for a prediction of what it will answer.

use crate::host::Host;
use crate::host::fake::KubernetesRules;
use crate::plan::PlannedStep;
use crate::resource::Spec;

/// Whether the etcd of these steps will find no data on this host.
pub(in crate::exec) async fn begins_empty(lower: &dyn Host, steps: &[&PlannedStep]) -> bool {
    let name = KubernetesRules::default().etcd_container;
    let etcd = steps.iter().find_map(|step| match &step.spec {
        Spec::Container(container) if container.name == name => Some(container),
        _ => None,
    });
    let Some(etcd) = etcd else {
        return false;
    };
    for mount in etcd.mounts.iter().filter(|mount| !mount.read_only) {
        match lower.entry(&mount.source.join("member")).await {
            Ok(None) => {}
            // Data, or a directory that we may not look into.
            Ok(Some(_)) | Err(_) => return false,
        }
    }
    true
}
