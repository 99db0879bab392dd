//! The variants that the words and modifiers of the tables name. `lower` matches them without an arm for all others: a new variant compiles
//! only after `lower` has a meaning for it.
//!
//! Not here: names and parameters of words (`vocabulary`, `words`), and what they mean (`lower`). Start with [`WordVariant`].

/// What a word begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum WordVariant {
    Header,
    Resource(ResourceWord),
    Check,
    Requirement,
}

/// The words for resources, by the file of `lower` that gives them their meaning.
#[derive(Debug, Clone, Copy)]
pub(super) enum ResourceWord {
    Files(FileWord),
    Pki(PkiWord),
    Containers(ContainerWord),
    System(SystemWord),
    Cluster(ClusterWord),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum FileWord {
    Directory,
    File,
    Template,
    Symlink,
    Unit,
    EnvFile,
    DataId,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum PkiWord {
    CertificateAuthority,
    ServiceAccountKey,
    EncryptionKeys,
    JoinFile,
    Certificate,
    Kubeconfig,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum ContainerWord {
    Image,
    ImageDirectory,
    Container,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum SystemWord {
    Service,
    Sysctl,
    KernelModule,
    Packages,
    Link,
    Command,
    FirewallChains,
    Ipsets,
    IpvsServices,
    Cgroup,
    RestoreSysctl,
    Group,
    Timer,
    FirewallChain,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum ClusterWord {
    Manifest,
    Drain,
    Node,
    Pods,
    PodContainer,
    NodeRoutes,
    EtcdMember,
    EtcdPromoted,
}

/// What a modifier says about its word.
#[derive(Debug, Clone, Copy)]
pub(super) enum ModifierVariant {
    /// An option, which `lower` reads by its name.
    Option,
    /// An option of a check that only some observations use.
    CheckDetail(CheckDetail),
    /// What a check observes.
    Observation(Observation),
    /// What a requirement asserts.
    Precondition(Precondition),
}

/// Options of a check that only some observations use.
#[derive(Debug, Clone, Copy)]
pub(super) enum CheckDetail {
    Ca,
    ClientCertificate,
    ServerCertificate,
    Expect,
    Peers,
}

/// What a check observes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Observation {
    Https,
    Tcp,
    Run,
    FileExists,
    FirstFile,
    ServiceActive,
    ContainerRunning,
    ContainerRuntime,
    PodRunning,
    NodeReady,
    NodeWithoutPressure,
    ObjectExists,
    LinkUp,
    LinkAddressed,
    FirewallRules,
    FirewallJump,
    AddressHeld,
    AddressUnique,
    VirtualIp,
    VirtualIpAnswers,
    CertificatesValid,
    BackupYoungerThan,
    RoomForBackup,
    TokenAccepted,
    KeysKept,
    PackageIntact,
    AsPlanned,
}

/// What a requirement asserts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Precondition {
    NoSwap,
    PortsFree,
    Programs,
    Memory,
    Processors,
    ProcessorsOnline,
    Disk,
    PersistentDirectory,
    CgroupControllers,
    NoForeignRuntime,
    NoEarlierCluster,
    NoVirtualServices,
    HostNameValid,
    HostNameNotOfApi,
    NetworksDisjoint,
    KernelFeatures,
    Interface,
    NodeAddress,
    UsableAddress,
    VirtualIp,
    VirtualIpFree,
    VirtualRouterFree,
    Architecture,
    SupportedSystem,
    Systemd,
    Root,
    SaneClock,
}
