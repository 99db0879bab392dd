//! The list of all kinds of resource: [`Spec`] is one resource of any kind, as a plan has it.
//!
//! `with_resource` is for code that treats all kinds alike. What a kind has to implement is in `contract`.
//!
//! Start with the list `kinds!`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::resource::{
    Action, AuthoritySpec, CertificateSpec, CgroupSpec, Change, CommandStep, ContainerSpec,
    Context, DataIdSpec, DirectorySpec, DrainSpec, EncryptionKeysSpec, EnvFileSpec, FileSpec,
    FirewallChainsSpec, GroupSpec, ImageDirectorySpec, ImageSpec, IpsetsSpec, IpvsServicesSpec,
    KEPT_LIMIT, KernelModuleSpec, KubeconfigSpec, LinkSpec, ManifestSpec, NodeSpec, PackagesSpec,
    PodContainerSpec, PodsSpec, READ_LIMIT, Receipt, Resource, ResourceResult,
    ServiceAccountKeySpec, ServiceSpec, SymlinkSpec, SysctlSnapshotSpec, SysctlSpec, TimerSpec,
};

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

/// Maximum size of an existing file that `spec` may replace.
pub(crate) fn largest(spec: &Spec) -> u64 {
    match spec {
        Spec::Symlink(_) => KEPT_LIMIT,
        _ => READ_LIMIT,
    }
}
