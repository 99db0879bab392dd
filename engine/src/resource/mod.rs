//! Resources: kinds of thing that a step can bring about.
//!
//! A resource has four verbs: `observe` reads the host, `diff` compares (pure: values in, values out), `converge` brings
//! the host to the desired state and fills a [`Receipt`], and the receipt's [`Undo`]s revert it. All access to the host
//! goes through [`Host`](crate::host::Host); the runner (`exec`) is responsible for order, retries, deadlines and rollback.
//!
//! Each kind of resource has one file, in a directory for its topic (`files`, `kernel`, `system`, `docker`, `kubernetes`, `pki`). Undos
//! are in `undo`. Not here: how a script describes a resource (`script`), the order of steps (`exec`), and the calls of the host
//! (`host`). Start with the trait [`Resource`] in `contract`, then `files::file` as an example.

mod change;
mod contract;
pub(crate) mod directory_contents;
pub(crate) mod docker;
pub(crate) mod files;
mod inputs;
pub(crate) mod kernel;
pub(crate) mod kubernetes;
pub mod pki;
mod resource_keys;
mod secrecy;
mod spec;
pub(crate) mod system;
mod undo;

pub use contract::{
    Context, MaskedSecrets, NoSecrets, Outputs, Resource, ResourceError, ResourceResult,
    SecretStore,
};
pub(crate) use contract::{KEPT_LIMIT, READ_LIMIT, create_parents, create_parents_with};
pub use spec::Spec;
pub(crate) use spec::{
    Divisible, PayloadUser, PossiblyForeign, RecordedKey, SecrecyFrom, largest, with_resource,
};

pub use change::{Action, Change, Difference, TextDiff};
pub use docker::container::ContainerSpec;
pub use docker::container_runtime::working_unit;
pub use docker::image::ImageSpec;
pub use docker::image_directory::ImageDirectorySpec;
pub use files::checksums::Checksums;
pub(crate) use files::checksums::{ANOTHER_VERSION, APPLY_VERSION, digest_of};
pub use files::data_id::DataIdSpec;
pub use files::directory::DirectorySpec;
pub use files::env_file::EnvFileSpec;
pub use files::file::{FileSource, FileSpec};
pub use files::owner::Owner;
pub use files::symlink::SymlinkSpec;
pub use kernel::cgroup::CgroupSpec;
pub use kernel::firewall::FirewallChainsSpec;
pub use kernel::firewall_chain::{FirewallChainSpec, FirewallRule, RuleAction, RuleProtocol};
pub use kernel::ipsets::IpsetsSpec;
pub use kernel::ipvs::IpvsServicesSpec;
pub use kernel::link::LinkSpec;
pub use kernel::packet_filter::{ChainContent, FilterFamily};
pub use kernel::settings::{KernelModuleSpec, SysctlSpec};
pub use kernel::sysctl_snapshot::SysctlSnapshotSpec;
pub(crate) use kubernetes::etcd::marker::has_data as etcd_has_data;
pub(crate) use kubernetes::etcd::member::Bootstrap;
pub use kubernetes::etcd::member::EtcdMemberSpec;
pub use kubernetes::etcd::promoted::EtcdPromotedSpec;
pub use kubernetes::etcd::settings::InitialState;
pub use kubernetes::manifest::ManifestSpec;
pub use kubernetes::node::{DrainSpec, NodeSpec};
pub use kubernetes::node_routes::NodeRoutesSpec;
pub use kubernetes::pod_container::PodContainerSpec;
pub use kubernetes::pods::{PodsSpec, all_containers_have_ended};
pub use pki::{
    AuthoritySpec, CertificateSpec, EncryptionKeysSpec, JoinFileSpec, JoinMasterSpec,
    KubeconfigSpec, ServiceAccountKeySpec,
};
pub(crate) use secrecy::{Secrecy, TOO_OPEN, is_read_by_systemd};
pub use system::command::CommandStep;
pub use system::group::GroupSpec;
pub use system::packages::PackagesSpec;
pub use system::service::ServiceSpec;
pub use system::timer::{RUNNABLE, TIMERS, TimerCommand, TimerFile, TimerSpec, timer_path};
pub use undo::{EntryType, Receipt, SavedContent, Undo, UndoLog};
pub(crate) use undo::{in_order, last_order, within};
#[cfg(test)]
pub(crate) use undo::{revert, revert_each};

/// What unit tests with resources share.
#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::host::Host;

    /// A context on this host, without outputs and secrets, for a resource that has to be there.
    pub(crate) fn context(host: &dyn Host) -> Context<'_> {
        static OUTPUTS: LazyLock<Outputs> = LazyLock::new(Outputs::default);
        Context {
            host,
            outputs: &OUTPUTS,
            secrets: &NoSecrets,
            absent: false,
            cancel: None,
        }
    }

    /// Observes a resource, and converges it if it differs. Returns the change; the undos go to the receipt.
    pub(crate) async fn apply_in<R: Resource>(
        cx: &Context<'_>,
        resource: &R,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<Option<Change>> {
        let observed = resource.observe(cx).await?;
        let change = resource.diff(&observed, cx.absent);
        if change.is_some() {
            resource.converge(&observed, cx, receipt).await?;
        }
        Ok(change)
    }
}
