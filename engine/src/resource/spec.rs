//! The list of all kinds of resource: [`Spec`] is one resource of any kind, as a plan has it.
//!
//! `with_resource` is for code that treats all kinds alike, and [`Properties`] for what differs from kind to kind. What a kind has to
//! implement is in `contract`.
//!
//! Start with the list `kinds!`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::resource::pki::SignedBy;
use crate::resource::{
    Action, AuthoritySpec, CertificateSpec, CgroupSpec, Change, Checksums, CommandStep,
    ContainerSpec, Context, DataIdSpec, DirectorySpec, DrainSpec, EncryptionKeysSpec, EnvFileSpec,
    EtcdMemberSpec, EtcdPromotedSpec, FileSpec, FirewallChainSpec, FirewallChainsSpec, GroupSpec,
    ImageDirectorySpec, ImageSpec, IpsetsSpec, IpvsServicesSpec, JoinFileSpec, JoinMasterSpec,
    KEPT_LIMIT, KernelModuleSpec, KubeconfigSpec, LinkSpec, ManifestSpec, NodeRoutesSpec, NodeSpec,
    PackagesSpec, PodContainerSpec, PodsSpec, READ_LIMIT, Receipt, Resource, ResourceResult,
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
    JoinFile(JoinFileSpec) => "join_file",
    JoinMaster(JoinMasterSpec) => "join_file",
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
    FirewallChain(FirewallChainSpec) => "firewall_chain",
    NodeRoutes(NodeRoutesSpec) => "node_routes",
    EtcdMember(EtcdMemberSpec) => "etcd_member",
    EtcdPromoted(EtcdPromotedSpec) => "etcd_promoted",
}

impl Spec {
    /// Whether it is a matter of the cluster: only the API server knows whether it is as wanted.
    pub(crate) fn is_of_cluster(&self) -> bool {
        matches!(
            self,
            Self::Node(_) | Self::Manifest(_) | Self::NodeRoutes(_)
        )
    }

    /// Whether a look at this resource asks docker, etcd, an API server or a program, and so may hang because something else has failed. A look at
    /// any other kind reads files, and asks the kernel or systemd.
    pub(crate) fn asks_a_server(&self) -> bool {
        match self {
            Self::Image(_)
            | Self::Container(_)
            | Self::Pods(_)
            | Self::PodContainer(_)
            | Self::Manifest(_)
            | Self::Node(_)
            | Self::Drain(_)
            | Self::Command(_)
            | Self::NodeRoutes(_)
            | Self::EtcdMember(_)
            | Self::EtcdPromoted(_) => true,
            Self::Directory(_)
            | Self::File(_)
            | Self::Symlink(_)
            | Self::EnvFile(_)
            | Self::Authority(_)
            | Self::ServiceAccountKey(_)
            | Self::EncryptionKeys(_)
            | Self::DataId(_)
            | Self::JoinFile(_)
            | Self::JoinMaster(_)
            | Self::Certificate(_)
            | Self::Kubeconfig(_)
            | Self::ImageDirectory(_)
            | Self::Service(_)
            | Self::Sysctl(_)
            | Self::KernelModule(_)
            | Self::Packages(_)
            | Self::Link(_)
            | Self::FirewallChains(_)
            | Self::Ipsets(_)
            | Self::IpvsServices(_)
            | Self::Cgroup(_)
            | Self::SysctlSnapshot(_)
            | Self::Group(_)
            | Self::Timer(_)
            | Self::FirewallChain(_) => false,
        }
    }

    /// The properties of this resource. Each kind must be named here, so a new one cannot get a wrong answer by default.
    pub(crate) fn properties(&self) -> Properties<'_> {
        let mut its = Properties::default();
        match self {
            Self::Directory(directory) => {
                its.path = Some(&directory.path);
                its.irreversible = true;
                its.possibly_foreign = Some(PossiblyForeign::Directory(&directory.path));
                its.divisible = Some(Divisible::Directory(directory));
            }
            Self::File(file) => {
                its.path = Some(&file.path);
                its.secrecy = Some(SecrecyFrom::File(file));
            }
            Self::Symlink(link) => its.path = Some(&link.path),
            Self::EnvFile(file) => {
                its.path = Some(&file.path);
                its.secrecy = Some(SecrecyFrom::EnvFile(file));
            }
            Self::DataId(file) => {
                its.path = Some(&file.path);
                its.recorded_key = Some(RecordedKey::DataId(file));
            }
            Self::Authority(authority) => {
                its.follows_pki = true;
                its.recorded_key = Some(RecordedKey::Authority(authority));
                its.secrecy = Some(SecrecyFrom::Authority(authority));
            }
            Self::JoinFile(_) => {
                its.follows_pki = true;
                its.recorded_key = Some(RecordedKey::Joined);
                its.secrecy = Some(SecrecyFrom::JoinFile);
            }
            // The steps that make the keys know their records and files.
            Self::JoinMaster(_) => its.follows_pki = true,
            Self::ServiceAccountKey(key) => {
                its.follows_pki = true;
                its.recorded_key = Some(RecordedKey::ServiceAccountKey(key));
                its.secrecy = Some(SecrecyFrom::ServiceAccountKey);
            }
            Self::EncryptionKeys(keys) => {
                its.recorded_key = Some(RecordedKey::EncryptionKeys(keys));
                its.secrecy = Some(SecrecyFrom::AllPrivate);
            }
            Self::Kubeconfig(_) => {
                its.follows_pki = true;
                its.secrecy = Some(SecrecyFrom::AllPrivate);
            }
            Self::Certificate(spec) => {
                its.follows_pki = true;
                its.secrecy = Some(SecrecyFrom::Certificate(spec));
            }
            Self::EtcdMember(member) => its.path = Some(&member.settings),
            Self::Image(image) => {
                its.irreversible = true;
                its.payload_user = Some(PayloadUser::Image(image));
            }
            Self::Packages(packages) => its.payload_user = Some(PayloadUser::Packages(packages)),
            Self::Service(service) => its.payload_user = Some(PayloadUser::Service(service)),
            Self::SysctlSnapshot(setting) => {
                its.possibly_foreign = Some(PossiblyForeign::Sysctl(setting.key.as_str()));
            }
            Self::Group(_) => {
                its.irreversible = true;
                its.possibly_foreign = Some(PossiblyForeign::Group);
            }
            Self::FirewallChains(chains) => {
                its.irreversible = true;
                its.divisible = Some(Divisible::FirewallChains(chains));
            }
            Self::IpvsServices(services) => {
                its.irreversible = true;
                its.divisible = Some(Divisible::IpvsServices(services));
            }
            Self::ImageDirectory(_)
            | Self::Link(_)
            | Self::Pods(_)
            | Self::PodContainer(_)
            | Self::Ipsets(_)
            | Self::Cgroup(_) => its.irreversible = true,
            Self::Container(_)
            | Self::Sysctl(_)
            | Self::KernelModule(_)
            | Self::Manifest(_)
            | Self::Node(_)
            | Self::Drain(_)
            | Self::Command(_)
            | Self::Timer(_)
            | Self::FirewallChain(_)
            | Self::NodeRoutes(_)
            | Self::EtcdPromoted(_) => {}
        }
        its
    }

    /// Whether consumers need no restart because of this change: the next apply makes it, and the check `keys_kept` reports it. False is the
    /// right answer for any other kind: the change is reported and repaired.
    #[must_use]
    pub fn can_wait(&self, change: &Change) -> bool {
        matches!(self, Self::DataId(_)) && change.action == Action::Change
    }

    /// Whether no other host has to sign for it.
    #[must_use]
    pub fn is_signed_here(&self) -> bool {
        match self {
            Self::Certificate(certificate) => certificate.signed_by == SignedBy::Authority,
            _ => true,
        }
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

    /// All files that the step makes. See [`Resource::made_files`].
    #[must_use]
    pub fn made_files(&self) -> Vec<PathBuf> {
        with_resource!(self, resource => resource.made_files())
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

/// What is asked about resources of all kinds, and what differs from kind to kind. [`Spec::properties`] answers it without a host.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Properties<'a> {
    /// The path that the step makes. None for a resource whose path nodelet chooses, or that has none.
    pub(crate) path: Option<&'a Path>,
    /// No undo can restore what the step removes when the resource has to be absent.
    pub(crate) irreversible: bool,
    /// A key, a certificate or a kubeconfig. If one of these is made again, those after it in its phase are made again from it.
    pub(crate) follows_pki: bool,
    /// The resource itself, if it is a key, an authority or a data id that the host records.
    pub(crate) recorded_key: Option<RecordedKey<'a>>,
    /// The resource itself, if it verifies files of the payload before it uses them.
    pub(crate) payload_user: Option<PayloadUser<'a>>,
    /// What a clean must not remove if it may have been there before the role. None if all of it belongs to the role.
    pub(crate) possibly_foreign: Option<PossiblyForeign<'a>>,
    /// The resource itself, if a step can remove only what is added to it after the step was recorded.
    pub(crate) divisible: Option<Divisible<'a>>,
    /// What in the plan says who may see the content of the files.
    pub(crate) secrecy: Option<SecrecyFrom<'a>>,
}

/// A key, authority or data id that the host records, so that a lost or exchanged one is noticed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RecordedKey<'a> {
    Authority(&'a AuthoritySpec),
    /// The authority of the cluster that the host has joined, without a key.
    Joined,
    ServiceAccountKey(&'a ServiceAccountKeySpec),
    EncryptionKeys(&'a EncryptionKeysSpec),
    DataId(&'a DataIdSpec),
}

/// A resource that verifies the files of the payload before it uses them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PayloadUser<'a> {
    Image(&'a ImageSpec),
    Packages(&'a PackagesSpec),
    Service(&'a ServiceSpec),
}

impl<'a> PayloadUser<'a> {
    /// The checksums by which the files are verified; a payload from a checkout has none.
    pub(crate) fn checksums(self) -> Option<&'a Checksums> {
        match self {
            Self::Image(image) => image.checksums.as_ref(),
            Self::Packages(packages) => packages.checksums.as_ref(),
            Self::Service(service) => service.checksums.as_ref(),
        }
    }
}

/// What may have been on the host before the role.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PossiblyForeign<'a> {
    /// What is in this directory.
    Directory(&'a Path),
    /// The group itself.
    Group,
    /// The value of the kernel setting with this key.
    Sysctl(&'a str),
}

/// A resource with parts, of which those from before the role stay.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Divisible<'a> {
    Directory(&'a DirectorySpec),
    FirewallChains(&'a FirewallChainsSpec),
    IpvsServices(&'a IpvsServicesSpec),
}

/// What in the plan says who may see the content of a step's files.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SecrecyFrom<'a> {
    File(&'a FileSpec),
    EnvFile(&'a EnvFileSpec),
    Certificate(&'a CertificateSpec),
    Authority(&'a AuthoritySpec),
    JoinFile,
    ServiceAccountKey,
    /// All files of the step are private.
    AllPrivate,
}

/// Maximum size of an existing file that `spec` may replace. Only a link replaces a file without reading it for a comparison. For any other
/// kind the lower limit is safe: a trial refuses before anything is stopped.
pub(crate) fn largest(spec: &Spec) -> u64 {
    match spec {
        Spec::Symlink(_) => KEPT_LIMIT,
        _ => READ_LIMIT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_differ_from_kind_to_kind() {
        let group = Spec::Group(GroupSpec {
            name: "docker".to_owned(),
        });
        let its = group.properties();
        assert!(its.irreversible && its.path.is_none() && its.secrecy.is_none());
        assert!(matches!(its.possibly_foreign, Some(PossiblyForeign::Group)));

        let setting = Spec::SysctlSnapshot(SysctlSnapshotSpec {
            key: "kernel.panic".parse().unwrap(),
            before: None,
        });
        let its = setting.properties();
        assert!(!its.irreversible);
        assert!(matches!(
            its.possibly_foreign,
            Some(PossiblyForeign::Sysctl("kernel.panic"))
        ));

        let data = Spec::DataId(DataIdSpec {
            name: "etcd".to_owned(),
            path: "/var/lib/etcd/id".into(),
        });
        let its = data.properties();
        assert_eq!(its.path, Some(Path::new("/var/lib/etcd/id")));
        assert!(matches!(its.recorded_key, Some(RecordedKey::DataId(_))));
        assert!(its.possibly_foreign.is_none() && its.payload_user.is_none());

        // nodelet chooses the paths of the key.
        let key = Spec::ServiceAccountKey(ServiceAccountKeySpec {});
        let its = key.properties();
        assert!(its.path.is_none() && !its.irreversible && its.follows_pki);
        assert!(!data.properties().follows_pki && !group.properties().follows_pki);
        assert!(matches!(
            its.recorded_key,
            Some(RecordedKey::ServiceAccountKey(_))
        ));
    }

    #[test]
    fn a_user_of_the_payload_has_the_checksums_of_its_package() {
        let checksums = Checksums {
            file: "/opt/pf9/roles/r/1/SHA256SUMS".into(),
            sha256: String::new(),
        };
        let image = |checksums| {
            Spec::Image(ImageSpec {
                reference: "app:1".to_owned(),
                archive: "/opt/pf9/roles/r/1/payload/app.tar".into(),
                checksums,
            })
        };
        for expected in [Some(checksums), None] {
            let spec = image(expected.clone());
            let payload = spec.properties().payload_user.expect("it uses the payload");
            assert_eq!(payload.checksums(), expected.as_ref());
        }
    }
}
