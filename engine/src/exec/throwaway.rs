//! What an agent makes for a moment, beside the ledger, and a stop or a clean takes away where the agent was killed meanwhile.

use std::collections::BTreeMap;
use std::path::Path;

use crate::host::{ContainerState, Host};
use crate::resource::{ResourceError, engine};

/// Label and value on a container of that kind: an etcd on which a backup is proven.
pub const LABEL: (&str, &str) = (engine::OWNER, "etcd-proof");
/// The directory that such a container works in. What is copied there is as secret as what it was copied from.
pub const DIRECTORY: &str = "/var/opt/pf9/nodelet/etcd-proof";

/// Removes such containers where an engine answers, and then the directory, in which they may be writing. Nobody is at one now, for who is
/// holds the lock that a stop and a clean have. Gives what could not be removed, and why.
pub(super) async fn remove_all(host: &dyn Host) -> Vec<(String, ResourceError)> {
    let mut left = containers(host).await;
    if let Err(error) = host.remove_tree(Path::new(DIRECTORY)).await {
        left.push((format!("directory {DIRECTORY}"), error.into()));
    }
    left
}

async fn containers(host: &dyn Host) -> Vec<(String, ResourceError)> {
    if host.container_engine().await.is_err() {
        return Vec::new();
    }
    let (label, value) = LABEL;
    let labelled = BTreeMap::from([(label.to_owned(), value.to_owned())]);
    let all = match host.containers(&labelled).await {
        Ok(all) => all,
        Err(error) => return vec![("throw-away containers".to_owned(), error.into())],
    };
    let mut left = Vec::new();
    for one in all.iter().filter(|one| is_throwaway(one)) {
        if let Err(error) = host.remove_container(&one.name).await {
            left.push((format!("container {}", one.name), error.into()));
        }
    }
    left
}

/// Whether a container is of that kind.
fn is_throwaway(container: &ContainerState) -> bool {
    let (label, value) = LABEL;
    container.labels.get(label).is_some_and(|its| its == value)
}
