//! Resources: kinds of thing that a step can bring about.
//!
//! A resource has four verbs: `observe` reads the host, `diff` compares (pure: values in, values out), `converge` brings
//! the host to the desired state and fills a [`Receipt`], and the receipt's [`Undo`]s revert it. All access to the host
//! goes through [`Host`]; the runner (`exec`) is responsible for order, retries, deadlines and rollback.

mod change;
pub(crate) mod docker;
pub(crate) mod files;
mod inputs;
pub(crate) mod kernel;
pub(crate) mod kubernetes;
pub mod pki;
mod resource_keys;
mod secrecy;
pub(crate) mod system;
mod undo;

pub use change::{Action, Change, Difference, TextDiff};
pub use docker::container::ContainerSpec;
pub use docker::image::ImageSpec;
pub use docker::image_directory::ImageDirectorySpec;
pub use files::checksums::Checksums;
pub(crate) use files::checksums::digest_of;
pub use files::data_id::DataIdSpec;
pub use files::directory::DirectorySpec;
pub use files::env_file::EnvFileSpec;
pub use files::file::{FileSource, FileSpec};
pub use files::owner::Owner;
pub use files::symlink::SymlinkSpec;
pub use kernel::cgroup::CgroupSpec;
pub use kernel::firewall::FirewallChainsSpec;
pub use kernel::ipsets::IpsetsSpec;
pub use kernel::ipvs::IpvsServicesSpec;
pub use kernel::link::LinkSpec;
pub use kernel::settings::{KernelModuleSpec, SysctlSpec};
pub use kernel::sysctl_snapshot::SysctlSnapshotSpec;
pub use kubernetes::manifest::ManifestSpec;
pub use kubernetes::node::{DrainSpec, NodeSpec};
pub use kubernetes::pod_container::PodContainerSpec;
pub use kubernetes::pods::PodsSpec;
pub use pki::{
    AuthoritySpec, CertificateSpec, EncryptionKeysSpec, KubeconfigSpec, ServiceAccountKeySpec,
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

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::host::{EntryKind, Host, HostError};
use crate::model::{OutputRef, SecretRef, StepId, Value};

/// Result of a resource's verb.
pub type ResourceResult<T> = Result<T, ResourceError>;

/// Why a resource could not be observed or converged. `Display` completes "failed to …".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// An operation of the host failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A template with late values did not render.
    #[error(transparent)]
    Render(#[from] crate::model::RenderError),
    /// Something that an earlier step provides is not there.
    #[error("{what}")]
    Missing {
        /// What, and what to do about it.
        what: String,
    },
    /// The ledger could not be written or read.
    #[error(transparent)]
    Ledger(Box<dyn std::error::Error + Send + Sync>),
    /// A key or certificate could not be made or read.
    #[error("{action}")]
    Pki {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An operator has to act first: a retry does not help.
    #[error("{what}")]
    Unmet {
        /// What cannot be done, and why.
        what: String,
        /// What to do, in the imperative.
        next: String,
    },
    /// The resource did not reach its desired state.
    #[error("{what}")]
    NotConverged {
        /// What is still wrong.
        what: String,
    },
}

impl ResourceError {
    /// Whether the next try would fail as this one did.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Host(error) => error.is_permanent(),
            Self::Unmet { .. } | Self::Render(_) => true,
            // A key that is lost does not come back by itself.
            Self::Pki { source, .. } => source
                .downcast_ref::<pki::PkiError>()
                .is_some_and(|error| matches!(error, pki::PkiError::Precious { .. })),
            _ => false,
        }
    }

    /// The path of a resource holds another kind of entry.
    pub(crate) fn in_the_way(path: &Path, wanted: &str, found: &EntryKind) -> Self {
        let found = match found {
            EntryKind::File(_) => "a file",
            EntryKind::Directory => "a directory",
            EntryKind::Symlink(_) => "a link",
            EntryKind::Socket => "a socket",
            EntryKind::Other => "a device or a pipe",
        };
        let path = path.display();
        Self::Unmet {
            what: format!("make {path} {wanted}: {found} is there"),
            next: format!(
                "check whether it is still needed, then move it away (`mv {path} {path}.away`)"
            ),
        }
    }
}

/// What a step can read while it runs.
pub struct Context<'a> {
    /// The host.
    pub host: &'a dyn Host,
    /// Outputs of steps that ran before.
    pub outputs: &'a Outputs,
    /// Secrets by name.
    pub secrets: &'a dyn SecretStore,
    /// Whether the resource should not be there.
    pub absent: bool,
}

impl Context<'_> {
    /// A late value as JSON. An output that is not known yet (a dry run on a host where its step has not run)
    /// is an error that says so.
    pub fn resolve(&self, value: &Value) -> ResourceResult<serde_json::Value> {
        match value {
            Value::Secret(secret) => self
                .secrets
                .get(secret)
                .map(serde_json::Value::String)
                .ok_or_else(|| ResourceError::Missing {
                    what: format!("find the value of {secret}"),
                }),
            Value::Output(output) => {
                self.outputs
                    .get(output)
                    .ok_or_else(|| ResourceError::Missing {
                        what: format!("find {output}: the step that gives it has not run"),
                    })
            }
            known => known.to_json(&mut |late| self.resolve(late)),
        }
    }
}

/// The source of secrets. Only a step gets their values, while it runs.
pub trait SecretStore: Send + Sync {
    /// The value of a secret.
    fn get(&self, secret: &SecretRef) -> Option<String>;
}

/// No secrets at all.
pub struct NoSecrets;

impl SecretStore for NoSecrets {
    fn get(&self, _: &SecretRef) -> Option<String> {
        None
    }
}

/// Gives references instead of secrets: a dry run must neither show nor hold a secret.
pub struct MaskedSecrets;

impl SecretStore for MaskedSecrets {
    fn get(&self, secret: &SecretRef) -> Option<String> {
        Some(secret.to_string())
    }
}

/// Outputs of steps, by step and field.
#[derive(Debug, Default)]
pub struct Outputs(Mutex<BTreeMap<(StepId, String), serde_json::Value>>);

impl Outputs {
    /// An output, if its step has run.
    #[must_use]
    pub fn get(&self, output: &OutputRef) -> Option<serde_json::Value> {
        let key = (output.step.clone(), output.field.clone());
        self.lock().get(&key).cloned()
    }

    /// Keeps the outputs of a step.
    pub fn set(&self, step: &StepId, fields: BTreeMap<String, serde_json::Value>) {
        let mut all = self.lock();
        for (field, value) in fields {
            all.insert((step.clone(), field), value);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(StepId, String), serde_json::Value>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A kind of thing with observe, diff, converge and undos.
#[async_trait]
pub trait Resource: Send + Sync {
    /// What observing it yields.
    type Observed: Send + Sync;

    /// Its name: unique among the resources of its kind in one phase.
    fn label(&self) -> String;

    /// Reads the current state. Changes nothing. Cancel safe.
    async fn observe(&self, cx: &Context<'_>) -> ResourceResult<Self::Observed>;

    /// What would have to change; `None` if nothing.
    fn diff(&self, observed: &Self::Observed) -> Option<Change>;

    /// Brings the host to the desired state. Must be idempotent: after a crash in the middle it is observed and converged
    /// again. An undo is pushed to `receipt` *before* the effect that it reverts, so a failure half-way can be reverted.
    async fn converge(
        &self,
        observed: &Self::Observed,
        change: &Change,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<()>;

    /// Outputs that later steps can refer to, once the resource is in its desired state.
    fn outputs(&self, _observed: &Self::Observed) -> BTreeMap<String, serde_json::Value> {
        BTreeMap::new()
    }

    /// A note for the operator that is not a change, for example a cordon by an operator.
    fn note(&self, _observed: &Self::Observed) -> Option<String> {
        None
    }

    /// Files of this step that a consumer reads (`restart_on`, `env_from`).
    fn paths(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Stops the unit or container of this resource; files stay. Returns whether it was running. The receipt gets the undo
    /// that starts a unit again, so that a clean starts a unit that ran before the role was applied.
    async fn quiesce(&self, _cx: &Context<'_>, _receipt: &mut Receipt<'_>) -> ResourceResult<bool> {
        Ok(false)
    }
}

/// Makes of the list of all kinds: [`Spec`], the names of the kinds in reports and step ids, and `with_resource`, which calls `$body` with
/// `$resource` bound to the typed resource inside a [`Spec`]. The first token stands for the `$` of the inner macro.
macro_rules! kinds {
    (($d:tt) $($(#[$meta:meta])* $kind:ident($spec:ty) => $name:literal,)*) => {
        macro_rules! with_resource {
            ($d spec:expr, $d resource:ident => $d body:expr) => {
                match $d spec {
                    $(Spec::$kind($d resource) => $d body,)*
                }
            };
        }
        pub(crate) use with_resource;

        /// A resource intent, ready to be serialized.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        #[expect(missing_docs, reason = "each variant is documented at its type")]
        pub enum Spec {
            $($(#[$meta])* $kind($spec),)*
        }

        impl Spec {
            /// The name of the kind in reports and step ids.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$kind(_) => $name,)*
                }
            }
        }
    };
}

kinds! { ($)
    Directory(DirectorySpec) => "directory",
    File(FileSpec) => "file",
    Symlink(SymlinkSpec) => "symlink",
    EnvFile(EnvFileSpec) => "env_file",
    Authority(AuthoritySpec) => "certificate_authority",
    ServiceAccountKey(ServiceAccountKeySpec) => "service_account_key",
    EncryptionKeys(EncryptionKeysSpec) => "encryption_keys",
    DataId(DataIdSpec) => "data_id",
    Certificate(CertificateSpec) => "certificate",
    Kubeconfig(KubeconfigSpec) => "kubeconfig",
    Image(ImageSpec) => "image",
    ImageDirectory(ImageDirectorySpec) => "image_directory",
    Container(ContainerSpec) => "container",
    Service(ServiceSpec) => "service",
    Sysctl(SysctlSpec) => "sysctl",
    KernelModule(KernelModuleSpec) => "kernel_module",
    Packages(PackagesSpec) => "packages",
    Link(LinkSpec) => "link",
    Pods(PodsSpec) => "pods",
    PodContainer(PodContainerSpec) => "pod_container",
    Manifest(ManifestSpec) => "manifest",
    Node(NodeSpec) => "node",
    Drain(DrainSpec) => "drain",
    Command(CommandStep) => "command",
    FirewallChains(FirewallChainsSpec) => "firewall_chains",
    Ipsets(IpsetsSpec) => "ipsets",
    IpvsServices(IpvsServicesSpec) => "ipvs_services",
    Cgroup(CgroupSpec) => "cgroup",
    // `sysctl_before` in older records; to be removed at the first release.
    #[serde(alias = "sysctl_before")]
    SysctlSnapshot(SysctlSnapshotSpec) => "restore_sysctl",
    Group(GroupSpec) => "group",
    Timer(TimerSpec) => "timer",
}

impl Spec {
    /// Whether an undo can restore what the step removes when the resource has to be absent.
    #[must_use]
    pub fn is_reversible(&self) -> bool {
        !matches!(
            self,
            Self::Directory(_)
                | Self::Image(_)
                | Self::ImageDirectory(_)
                | Self::Link(_)
                | Self::Pods(_)
                | Self::PodContainer(_)
                | Self::FirewallChains(_)
                | Self::Ipsets(_)
                | Self::IpvsServices(_)
                | Self::Cgroup(_)
                | Self::Group(_)
        )
    }

    /// Whether consumers need no restart because of this change: the next apply makes it, and the check `keys_kept` reports it.
    #[must_use]
    pub fn can_wait(&self, change: &Change) -> bool {
        matches!(self, Self::DataId(_)) && change.action == Action::Change
    }

    /// The name of the resource. See [`Resource::label`].
    #[must_use]
    pub fn label(&self) -> String {
        with_resource!(self, resource => resource.label())
    }

    /// Files that a consumer reads. See [`Resource::paths`].
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        with_resource!(self, resource => resource.paths())
    }

    /// Stops the unit or container of the resource. See [`Resource::quiesce`].
    ///
    /// # Errors
    /// An operation of the host failed.
    pub async fn quiesce(
        &self,
        cx: &Context<'_>,
        receipt: &mut Receipt<'_>,
    ) -> ResourceResult<bool> {
        with_resource!(self, resource => resource.quiesce(cx, receipt).await)
    }
}

/// Bound on files that are read for a comparison: larger files are compared by size and hash of their source.
pub(crate) const READ_LIMIT: u64 = 4 * 1024 * 1024;
/// Bound on a file that is saved for a clean because a file or link of ours replaces it, for example an operator's own program.
pub(crate) const KEPT_LIMIT: u64 = 128 * 1024 * 1024;

/// Maximum size of an existing file that `spec` may replace.
pub(crate) fn largest(spec: &Spec) -> u64 {
    match spec {
        Spec::Symlink(_) => KEPT_LIMIT,
        _ => READ_LIMIT,
    }
}

/// Parent directories of `path` that do not exist, outermost first.
pub(crate) async fn missing_parents(host: &dyn Host, path: &Path) -> ResourceResult<Vec<PathBuf>> {
    let mut missing = Vec::new();
    let mut at = path.parent();
    while let Some(directory) = at {
        if directory.as_os_str().is_empty() || host.entry(directory).await?.is_some() {
            break;
        }
        missing.push(directory.to_path_buf());
        at = directory.parent();
    }
    missing.reverse();
    Ok(missing)
}

/// Creates the missing parents of `path`, owned by root with mode 0755, and records their undos.
pub(crate) async fn create_parents(
    host: &dyn Host,
    path: &Path,
    receipt: &mut Receipt<'_>,
) -> ResourceResult<()> {
    for directory in missing_parents(host, path).await? {
        receipt
            .push(Undo::RemoveDirectory {
                path: directory.clone(),
            })
            .await?;
        host.create_directory(&directory, crate::host::Attributes::root(0o755))
            .await?;
    }
    Ok(())
}
