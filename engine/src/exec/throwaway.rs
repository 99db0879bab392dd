//! What an agent makes for a moment, beside the ledger, and a clean takes away where the agent was killed meanwhile.

use crate::host::ContainerState;
use crate::resource::engine;

/// Label and value on a container of that kind: an etcd on which a backup is proven.
pub const LABEL: (&str, &str) = (engine::OWNER, "etcd-proof");
/// The directory that such a container works in. What is copied there is as secret as what it was copied from.
pub const DIRECTORY: &str = "/var/opt/pf9/nodelet/etcd-proof";

/// Whether a container is of that kind.
pub(super) fn is_throwaway(container: &ContainerState) -> bool {
    let (label, value) = LABEL;
    container.labels.get(label).is_some_and(|its| its == value)
}
