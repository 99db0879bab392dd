//! One look at a host, shared by many callers.
//!
//! A [`View`] answers as the host below it does. For its own lifetime it remembers answers that are expensive and that many callers ask
//! for: the lists of containers, and the output of commands that [allow it](CommandSpec::cached_per_pass). A status pass makes a view for its
//! first look at all checks. Waits, repairs and second looks ask the host itself. Failures are not remembered.
//!
//! Verbs go to the host as well, and clear what is remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    ArchivedImage, Attributes, CertificateRequest, CertificateRequestList, CertificateRequests,
    ClaimKind, ClaimOutcome, Clock, Cluster, ClusterAccess, ClusterNode, ClusterObject,
    CommandOutput, CommandSpec, ConfigMap, ConfigMaps, ContainerConfig, ContainerState, Containers,
    Entry, EtcdKey, EtcdLock, EtcdMember, EtcdMembers, EtcdStatus, Files, Host, HostResult,
    HttpsRequest, HttpsResponse, ImageState, Kernel, Link, ListedContainer, ListedRequest, Network,
    NewCertificateRequest, NodeRoute, Packages, PodSubnets, Processes, RemainingPod, Routes,
    Services, Space, StoppedProcess, StoppedShim, SubnetClaim, SubnetNode, UnitState,
    VirtualService, VrrpSender,
};

/// A host as it is seen in one look.
pub struct View<'a> {
    host: &'a dyn Host,
    cached: Mutex<CachedAnswers>,
}

/// An answer that the first caller fetches and all other callers share.
type Shared<T> = Arc<OnceCell<T>>;

#[derive(Default)]
struct CachedAnswers {
    /// By the labels that were asked for.
    containers: BTreeMap<BTreeMap<String, String>, Shared<Vec<ListedContainer>>>,
    /// By command line.
    outputs: BTreeMap<Vec<String>, Shared<CommandOutput>>,
}

impl<'a> View<'a> {
    /// Nothing seen yet of `host`.
    #[must_use]
    pub fn of(host: &'a dyn Host) -> Self {
        Self {
            host,
            cached: Mutex::default(),
        }
    }

    fn cached(&self) -> MutexGuard<'_, CachedAnswers> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host, for a question.
    fn to_read(&self) -> &'a dyn Host {
        self.host
    }

    /// The host, for a change: what was remembered may be outdated afterwards.
    fn to_change(&self) -> &'a dyn Host {
        *self.cached() = CachedAnswers::default();
        self.host
    }
}

/// Implements a trait: passes each call on to the host (`to_read`), or clears what was remembered and passes it on (`to_change`). The
/// second pair of braces has the methods that are not passed on in this way.
macro_rules! pass_on {
    ($name:ident {
        $($host:ident $call:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*
    } { $($own:tt)* }) => {
        #[async_trait::async_trait]
        impl $name for View<'_> {
            $(async fn $call(&self, $($argument: $kind),*) -> HostResult<$answer> {
                self.$host().$call($($argument),*).await
            })*
            $($own)*
        }
    };
}

pass_on!(Containers {
    to_read container_runtime_within(timeout: Duration) -> ();
    to_read container_runtime_version() -> String;
    to_read container_runtime_root() -> PathBuf;
    to_read containers_outlive_runtime() -> bool;
    to_read image(reference: &str) -> Option<ImageState>;
    to_read archived_images(archive: &Path) -> Option<Vec<ArchivedImage>>;
    to_change tag_image(id: &str, reference: &str) -> ();
    to_change load_image(archive: &Path) -> ();
    to_change remove_image(reference: &str) -> ();
    to_read container(name: &str) -> Option<ContainerState>;
    to_change create_container(config: &ContainerConfig) -> String;
    to_read container_config(name: &str) -> Option<ContainerConfig>;
    to_change start_container(name: &str) -> ();
    to_change stop_container(name: &str, grace: Duration) -> ();
    to_change remove_container(name: &str) -> ();
    to_read container_log(name: &str, lines: usize) -> String;
} {
    async fn containers(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> HostResult<Vec<ListedContainer>> {
        let answer = Arc::clone(self.cached().containers.entry(labels.clone()).or_default());
        let listed = answer.get_or_try_init(|| self.host.containers(labels));
        listed.await.cloned()
    }
});

pass_on!(Processes {
    to_read stopped_processes() -> Vec<StoppedProcess>;
    to_read stopped_shims() -> Vec<StoppedShim>;
    to_read has_program(name: &str) -> bool;
} {
    async fn run(&self, command: &CommandSpec) -> HostResult<CommandOutput> {
        if !command.cached_per_pass {
            return self.host.run(command).await;
        }
        let answer = Arc::clone(self.cached().outputs.entry(command.argv.clone()).or_default());
        let output = answer.get_or_try_init(|| self.host.run(command));
        output.await.cloned()
    }
});

pass_on!(Files {
    to_read entry(path: &Path) -> Option<Entry>;
    to_read read(path: &Path, limit: u64) -> Option<Vec<u8>>;
    to_read digest(path: &Path) -> Option<String>;
    to_read remembered_digest(path: &Path) -> Option<String>;
    to_read list(path: &Path) -> Vec<String>;
    to_change write(path: &Path, content: &[u8], attributes: Attributes) -> ();
    to_change try_write(path: &Path, room: u64) -> ();
    to_change append(path: &Path, content: &[u8], attributes: Attributes) -> ();
    to_change create_directory(path: &Path, attributes: Attributes) -> ();
    to_change symlink(path: &Path, target: &str) -> ();
    to_change set_attributes(path: &Path, attributes: Attributes) -> ();
    to_change remove(path: &Path) -> ();
    to_change remove_tree(path: &Path) -> ();
    to_change unmount_below(path: &Path) -> ();
    to_change mark_unknown(path: &Path, why: &str) -> ();
    to_read predict_write(path: &Path, room: u64) -> ();
    to_read is_unknown(path: &Path) -> bool;
    to_read space(path: &Path) -> Space;
} {
    fn reads_payload(&self) -> bool {
        self.host.reads_payload()
    }
});

pass_on!(Services {
    to_read unit(name: &str) -> UnitState;
    to_read main_process(name: &str) -> Option<u32>;
    to_change continue_unit(name: &str) -> ();
    to_change start_unit(name: &str) -> ();
    to_change stop_unit(name: &str) -> ();
    to_change restart_unit(name: &str) -> ();
    to_change reload_unit(name: &str) -> ();
    to_change set_unit_enabled(name: &str, enabled: bool) -> ();
    to_change reset_failed_unit(name: &str) -> ();
    to_change reload_units() -> ();
    to_read unit_log(name: &str, lines: usize) -> String;
} {});

pass_on!(Network {
    to_read https_get(request: &HttpsRequest) -> HttpsResponse;
    to_read tcp_connect(address: SocketAddr, timeout: Duration) -> ();
    to_read neighbour(address: IpAddr) -> Option<String>;
    to_read address_holders(link: &str, addresses: &[Ipv4Addr], during: Duration) -> BTreeMap<Ipv4Addr, BTreeSet<String>>;
    to_read claim_address(link: &str, address: Ipv4Addr, during: Duration, kind: ClaimKind) -> ClaimOutcome;
    to_read vrrp_senders(link: &str, during: Duration) -> BTreeSet<VrrpSender>;
    to_read links() -> Vec<Link>;
    to_read link(name: &str) -> Option<Link>;
    to_change set_link_up(name: &str) -> ();
    to_change remove_link(name: &str) -> ();
    to_read virtual_services() -> Vec<VirtualService>;
    to_change remove_virtual_service(service: &VirtualService) -> ();
} {});

pass_on!(Kernel {
    to_read sysctl(key: &str) -> Option<String>;
    to_change set_sysctl(key: &str, value: &str) -> ();
    to_read module_loaded(name: &str) -> bool;
    to_change load_module(name: &str) -> ();
    to_read loaded_modules() -> Vec<String>;
    to_change unload_module(name: &str, stay: &[String]) -> ();
} {});

pass_on!(Packages {
    to_read package_version(name: &str) -> Option<String>;
    to_read package_file(file: &Path) -> (String, String);
    to_change install_packages(files: &[PathBuf]) -> ();
    to_change purge_packages(names: &[String]) -> ();
} {});

pass_on!(Cluster {
    to_read node(access: &ClusterAccess, name: &str) -> Option<ClusterNode>;
    to_read nodes(access: &ClusterAccess) -> BTreeMap<String, ClusterNode>;
    to_read api_version(access: &ClusterAccess) -> String;
    to_change patch_node(access: &ClusterAccess, name: &str, patch: &Value) -> ();
    to_change delete_same_node(access: &ClusterAccess, name: &str, node: &ClusterNode) -> bool;
    to_read object_exists(access: &ClusterAccess, object: &Value) -> bool;
    to_read compare_object(access: &ClusterAccess, object: &Value) -> Option<ClusterObject>;
    to_read secret(access: &ClusterAccess, namespace: &str, name: &str) -> Option<Value>;
    to_change apply_object(access: &ClusterAccess, object: &Value) -> ();
    to_change delete_object(access: &ClusterAccess, object: &Value) -> ();
    to_change rewrite_secrets(access: &ClusterAccess) -> u64;
    to_read accepts_token_of(access: &ClusterAccess, namespace: &str, account: &str) -> Option<bool>;
    to_change evict_pods(access: &ClusterAccess, node: &str, running: Option<&BTreeSet<String>>, timeout: Duration) -> Vec<RemainingPod>;
} {});

pass_on!(PodSubnets {
    to_read subnet_nodes(access: &ClusterAccess) -> Vec<SubnetNode>;
    to_read subnet_claims(access: &ClusterAccess) -> Vec<SubnetClaim>;
    to_change claim_subnet(access: &ClusterAccess, claim: &SubnetClaim) -> bool;
    to_change release_subnet(access: &ClusterAccess, claim: &SubnetClaim) -> ();
    to_change assign_subnet(access: &ClusterAccess, claim: &SubnetClaim) -> bool;
} {});

pass_on!(CertificateRequests {
    to_read certificate_requests(access: &ClusterAccess, signer: &str, limit: Duration) -> CertificateRequestList;
    to_read certificate_request(access: &ClusterAccess, name: &str) -> Option<CertificateRequest>;
    to_read accepts_identity(kubeconfig: &str, timeout: Duration) -> bool;
    to_change create_certificate_request(access: &ClusterAccess, new: &NewCertificateRequest) -> bool;
    to_change approve_certificate_request(access: &ClusterAccess, request: &CertificateRequest, reason: &str) -> ();
    to_change deny_certificate_request(access: &ClusterAccess, request: &CertificateRequest, reason: &str) -> ();
    to_change set_certificate(access: &ClusterAccess, request: &CertificateRequest, certificate: &[u8]) -> ();
    to_change delete_certificate_request(access: &ClusterAccess, request: &ListedRequest) -> ();
} {});
pass_on!(ConfigMaps {
    to_read config_maps(access: &ClusterAccess, namespace: &str, label: &str) -> Vec<ConfigMap>;
    to_read config_map_names(access: &ClusterAccess, namespace: &str, prefix: &str) -> Vec<String>;
    to_read config_map(access: &ClusterAccess, namespace: &str, name: &str) -> Option<ConfigMap>;
    to_change put_config_map(access: &ClusterAccess, map: &ConfigMap) -> bool;
    to_change delete_config_map(access: &ClusterAccess, map: &ConfigMap) -> bool;
} {});
pass_on!(EtcdMembers {
    to_read member_list(endpoints: &[String]) -> Vec<EtcdMember>;
    to_change member_add_learner(endpoints: &[String], peer_url: &str) -> u64;
    to_change member_promote(endpoints: &[String], id: u64) -> ();
    to_change member_remove(endpoints: &[String], id: u64) -> ();
    to_change take_lock(endpoints: &[String], key: &str, holder: &str, life: Duration) -> EtcdLock;
    to_change release_lock(endpoints: &[String], lease: u64) -> ();
    to_read get_key(endpoints: &[String], key: &str) -> Option<EtcdKey>;
    to_change put_key(endpoints: &[String], key: &str, value: &str) -> u64;
    to_read member_status(endpoint: &str) -> EtcdStatus;
} {});
pass_on!(Routes {
    to_read node_routes() -> Vec<NodeRoute>;
    to_read foreign_routes(network: IpNet) -> BTreeMap<IpNet, String>;
    to_change set_node_routes(routes: &[NodeRoute]) -> ();
    to_change remove_node_routes(subnets: &[IpNet]) -> ();
} {
    fn shows_present_routes(&self) -> bool {
        self.host.shows_present_routes()
    }
});

#[async_trait::async_trait]
impl Clock for View<'_> {
    fn now(&self) -> SystemTime {
        self.host.now()
    }

    fn elapsed(&self) -> Duration {
        self.host.elapsed()
    }

    fn up(&self) -> Duration {
        self.host.up()
    }

    async fn pause(&self, duration: Duration) {
        self.host.pause(duration).await;
    }

    async fn pause_for_others(&self, duration: Duration) {
        self.host.pause_for_others(duration).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, FaultPlan, Program};

    fn calls(host: &FakeHost, name: &str) -> usize {
        host.journal()
            .iter()
            .filter(|call| call.name == name)
            .count()
    }

    #[tokio::test]
    async fn expensive_answers_are_cached_for_one_pass() {
        let host = FakeHost::new()
            .with_docker()
            .with_program("count", Program::ends(0, "1\n"));
        let labels = BTreeMap::new();
        let count = CommandSpec::new(["count"]).cached_per_pass();
        for number in 1..=2 {
            let view = View::of(&host);
            for _ in 0..3 {
                view.containers(&labels).await.unwrap();
                view.run(&count).await.unwrap();
                view.run(&CommandSpec::new(["count"])).await.unwrap();
            }
            assert_eq!(calls(&host, "containers"), number);
            assert_eq!(calls(&host, "run"), 4 * number);
        }
    }

    #[tokio::test]
    async fn a_change_is_seen_and_a_failure_is_not_remembered() {
        let host = FakeHost::new().with_docker().with_image("a:1");
        let view = View::of(&host);
        let labels = BTreeMap::new();
        assert_eq!(view.containers(&labels).await.unwrap(), []);
        let config = ContainerConfig::bare("a", "a:1");
        view.create_container(&config).await.unwrap();
        assert_eq!(view.containers(&labels).await.unwrap().len(), 1);
        view.remove_container("a").await.unwrap();
        host.set_faults(FaultPlan::none().fail("containers", "*"));
        view.containers(&labels)
            .await
            .expect_err("the runtime fails");
        host.set_faults(FaultPlan::none());
        assert_eq!(view.containers(&labels).await.unwrap(), []);
    }
}
