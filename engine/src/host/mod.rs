//! The only access to a host.
//!
//! Everything the engine learns about a host and everything it does to one goes through the capability
//! traits gathered by [`Host`]: facts and small verbs, typed errors, a deadline passed in where a call can
//! wait. [`live`] is the machine we run on; [`fake`] is a small stateful world for tests and dry runs.
//! Policy (what should be, in which order, how often to try) lives above, in `resource` and `exec`.
//!
//! Not here: what a change means and how it is taken back (`resource`), and what a run records (`ledger`). Start with the traits in
//! `traits`, for example `traits::files`; then compare `live::files` with `fake::files`.

mod error;
pub mod fake;
#[expect(
    clippy::disallowed_methods,
    reason = "all other code has to use this module instead"
)]
pub mod live;
pub mod overlay;
mod ownership;
mod retried;
mod traits;
mod view;

pub use error::{HostError, HostResult};
pub use ownership::changeable_way_to;
pub(crate) use ownership::{Ownership, OwnershipError};
pub(crate) use retried::retried;
pub(crate) use traits::containers::LIVE_RESTORE_DIR;
pub use traits::containers::{
    ArchivedImage, ContainerConfig, ContainerState, Containers, EndedRun, ImageState,
    ListedContainer, Mount, PRESENCE, RestartPolicy,
};
pub use traits::etcd::{EtcdKey, EtcdLock, EtcdMember, EtcdMembers, EtcdStatus};
pub use traits::files::{Attributes, Entry, EntryKind, Files, Space, partial_file};
pub use traits::kernel::Kernel;
pub use traits::kubernetes::certificate_requests::{
    CertificateRequest, CertificateRequestList, CertificateRequests, LONGEST_REQUEST,
    ListedRequest, NewCertificateRequest, RequestState,
};
pub use traits::kubernetes::cluster::{
    Cluster, ClusterAccess, ClusterNode, ClusterObject, FIELD_MANAGER, RemainingPod, Taint,
};
pub use traits::kubernetes::config_maps::{ConfigMap, ConfigMaps};
pub use traits::kubernetes::pod_subnets::{PodSubnets, SubnetClaim, SubnetNode};
pub use traits::network::routes::{NodeRoute, ROUTE_PROTOCOL, Routes};
pub use traits::network::{
    ClaimKind, ClaimOutcome, ClaimedAddress, HttpsRequest, HttpsResponse, Link, Network, VrrpSender,
};
pub use traits::packages::Packages;
pub use traits::processes::{CommandOutput, CommandSpec, Processes, StoppedProcess, StoppedShim};
pub use traits::services::{Services, UnitState};
pub use traits::virtual_service::{Transport, VirtualService};
pub use view::View;

use std::time::{Duration, SystemTime};

/// Everything the engine can see and do on one host.
///
/// Object safe on purpose: a plan runs the same against the live machine and against a fake.
pub trait Host:
    Files
    + Processes
    + Containers
    + Services
    + Network
    + Routes
    + Kernel
    + Packages
    + Cluster
    + PodSubnets
    + CertificateRequests
    + ConfigMaps
    + EtcdMembers
    + Clock
    + Send
    + Sync
{
}

impl<T> Host for T where
    T: Files
        + Processes
        + Containers
        + Services
        + Network
        + Routes
        + Kernel
        + Packages
        + Cluster
        + PodSubnets
        + CertificateRequests
        + ConfigMaps
        + EtcdMembers
        + Clock
        + Send
        + Sync
{
}

/// Time, so that a test can hold it still.
#[async_trait::async_trait]
pub trait Clock {
    /// Wall-clock time; for certificates and reports.
    fn now(&self) -> SystemTime;

    /// Time since an arbitrary start that never goes back; for deadlines.
    fn elapsed(&self) -> Duration;

    /// How long the host has been up: how long its first process has run, so that the value is right for a host in a container, too.
    /// `Duration::MAX` if it cannot be read.
    fn up(&self) -> Duration;

    /// Waits for `duration`. Cancel safe. A fake clock advances at once.
    async fn pause(&self, duration: Duration);

    /// Waits for `duration` before another host is asked again, also in a dry run: its pauses end at once, and the other host would have had no
    /// time. Cancel safe. A fake clock advances at once.
    async fn pause_for_others(&self, duration: Duration);
}
