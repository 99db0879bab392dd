//! Temporary containers and files of an agent, which are not in the ledger. A stop or a clean removes them if the agent
//! was killed before it could.

use std::collections::BTreeMap;
use std::path::Path;

use crate::host::{Host, ListedContainer};
use crate::resource::ResourceError;
use crate::resource::docker::{container_runtime, ending};

/// Label and value on a temporary container: an etcd on which a backup is verified. The names of label, container and directory stay: a
/// running host may have them from a backup that was interrupted before nodelet was updated.
pub const LABEL: (&str, &str) = (container_runtime::OWNER, "etcd-proof");
/// The directory that such a container works in. The copies in it are as secret as their originals.
pub const DIRECTORY: &str = "/var/opt/pf9/nodelet/etcd-proof";

/// Removes such containers if the runtime answers, and then the directory, in which they may be writing. No agent uses
/// one now: it would hold the host's lock, which a stop or a clean holds. Returns what could not be removed, and why.
pub(in crate::exec) async fn remove_all(host: &dyn Host) -> Vec<(String, ResourceError)> {
    let mut left = containers(host).await;
    if let Err(error) = host.remove_tree(Path::new(DIRECTORY)).await {
        left.push((format!("directory {DIRECTORY}"), error.into()));
    }
    left
}

async fn containers(host: &dyn Host) -> Vec<(String, ResourceError)> {
    if host.container_runtime().await.is_err() {
        return Vec::new();
    }
    let (label, value) = LABEL;
    let labelled = BTreeMap::from([(label.to_owned(), value.to_owned())]);
    let all = match host.containers(&labelled).await {
        Ok(all) => all,
        Err(error) => return vec![("temporary containers".to_owned(), error.into())],
    };
    let mut left = Vec::new();
    for one in all.iter().filter(|one| is_scratch(one)) {
        if let Err(error) = ending::remove(host, &one.name).await {
            left.push((format!("container {}", one.name), error.into()));
        }
    }
    left
}

/// Whether a container is a temporary one.
fn is_scratch(container: &ListedContainer) -> bool {
    let (label, value) = LABEL;
    container.labels.get(label).is_some_and(|its| its == value)
}

#[cfg(test)]
mod tests {
    use crate::exec::scratch::*;
    use crate::host::fake::{FakeHost, FaultPlan};
    use crate::host::{ContainerConfig, Containers as _};

    /// A host on which a backup was killed, with two other containers that must stay.
    async fn host() -> FakeHost {
        let copy = format!("{DIRECTORY}/data/member/snap/db");
        let host = FakeHost::new()
            .with_docker()
            .with_image("etcd:1")
            .with_file(&copy, "keys");
        let (owner, proof) = LABEL;
        for (name, label) in [
            ("pf9-etcd-proof", (owner, proof)),
            ("etcd", (owner, "nodelet")),
            ("theirs", ("app", proof)),
        ] {
            let config = ContainerConfig {
                labels: BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]),
                ..ContainerConfig::bare(name, "etcd:1")
            };
            host.create_container(&config).await.expect("it is made");
            host.start_container(name).await.expect("it starts");
        }
        host.clear_journal();
        host
    }

    fn changes(host: &FakeHost) -> Vec<String> {
        let changes = host.mutating_calls().into_iter();
        changes
            .map(|call| format!("{} {}", call.name, call.argument))
            .collect()
    }

    #[tokio::test]
    async fn the_container_goes_before_the_directory_that_it_works_in() {
        let host = host().await;
        assert_eq!(remove_all(&host).await.len(), 0);
        assert_eq!(
            changes(&host),
            [
                "remove_container pf9-etcd-proof".to_owned(),
                format!("remove_tree {DIRECTORY}"),
            ]
        );
    }

    #[tokio::test]
    async fn remaining_resources_are_reported_and_block_nothing() {
        let host = host()
            .await
            .with_faults(FaultPlan::none().fail("remove_container", "pf9-etcd-proof"));
        let left = remove_all(&host).await;
        let names: Vec<&str> = left.iter().map(|(resource, _)| resource.as_str()).collect();
        assert_eq!(names, ["container pf9-etcd-proof"]);
        assert!(changes(&host).contains(&format!("remove_tree {DIRECTORY}")));
    }
}
