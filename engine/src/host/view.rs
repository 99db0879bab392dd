//! One look at a host, shared by many callers.
//!
//! A [`View`] answers as the host below it does. For its own lifetime it remembers answers that are expensive and that many callers ask
//! for: the lists of containers, and the output of commands that [allow it](CommandSpec::once_a_look). A status pass makes a view for its
//! first look at all checks. Waits, repairs and second looks ask the host itself. Failures are not remembered.
//!
//! Verbs go to the host as well, and clear what is remembered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::OnceCell;

use super::{
    ArchivedImage, Attributes, Clock, Cluster, ClusterAccess, ClusterNode, ClusterObject,
    CommandOutput, CommandSpec, ContainerConfig, ContainerState, Containers, Entry, Files, Host,
    HostResult, HttpsRequest, HttpsResponse, ImageState, Kernel, Link, ListedContainer, Network,
    Packages, PodSubnets, Processes, RemainingPod, Services, Space, SubnetClaim, SubnetNode,
    UnitState, VirtualService,
};

/// A host as it is seen in one look.
pub struct View<'a> {
    host: &'a dyn Host,
    seen: Mutex<Seen>,
}

/// An answer that the first caller fetches and all other callers share.
type Shared<T> = Arc<OnceCell<T>>;

#[derive(Default)]
struct Seen {
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
            seen: Mutex::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host, for a change: what was remembered may be outdated afterwards.
    fn to_change(&self) -> &'a dyn Host {
        *self.seen() = Seen::default();
        self.host
    }
}

#[async_trait::async_trait]
impl Containers for View<'_> {
    async fn containers(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> HostResult<Vec<ListedContainer>> {
        let answer = Arc::clone(self.seen().containers.entry(labels.clone()).or_default());
        let listed = answer.get_or_try_init(|| self.host.containers(labels));
        listed.await.cloned()
    }

    async fn container_engine_within(&self, patience: Duration) -> HostResult<()> {
        self.host.container_engine_within(patience).await
    }

    async fn container_engine_version(&self) -> HostResult<String> {
        self.host.container_engine_version().await
    }

    async fn container_engine_root(&self) -> HostResult<PathBuf> {
        self.host.container_engine_root().await
    }

    async fn image(&self, reference: &str) -> HostResult<Option<ImageState>> {
        self.host.image(reference).await
    }

    async fn archived_images(&self, archive: &Path) -> HostResult<Option<Vec<ArchivedImage>>> {
        self.host.archived_images(archive).await
    }

    async fn tag_image(&self, id: &str, reference: &str) -> HostResult<()> {
        self.to_change().tag_image(id, reference).await
    }

    async fn load_image(&self, archive: &Path) -> HostResult<()> {
        self.to_change().load_image(archive).await
    }

    async fn remove_image(&self, reference: &str) -> HostResult<()> {
        self.to_change().remove_image(reference).await
    }

    async fn container(&self, name: &str) -> HostResult<Option<ContainerState>> {
        self.host.container(name).await
    }

    async fn create_container(&self, config: &ContainerConfig) -> HostResult<String> {
        self.to_change().create_container(config).await
    }

    async fn container_config(&self, name: &str) -> HostResult<Option<ContainerConfig>> {
        self.host.container_config(name).await
    }

    async fn start_container(&self, name: &str) -> HostResult<()> {
        self.to_change().start_container(name).await
    }

    async fn stop_container(&self, name: &str, grace: Duration) -> HostResult<()> {
        self.to_change().stop_container(name, grace).await
    }

    async fn remove_container(&self, name: &str) -> HostResult<()> {
        self.to_change().remove_container(name).await
    }

    async fn container_log(&self, name: &str, lines: usize) -> HostResult<String> {
        self.host.container_log(name, lines).await
    }
}

#[async_trait::async_trait]
impl Processes for View<'_> {
    async fn run(&self, command: &CommandSpec) -> HostResult<CommandOutput> {
        if !command.once_a_look {
            return self.host.run(command).await;
        }
        let answer = Arc::clone(self.seen().outputs.entry(command.argv.clone()).or_default());
        let output = answer.get_or_try_init(|| self.host.run(command));
        output.await.cloned()
    }

    async fn stopped_processes(&self) -> HostResult<Vec<String>> {
        self.host.stopped_processes().await
    }

    async fn has_program(&self, name: &str) -> HostResult<bool> {
        self.host.has_program(name).await
    }
}

#[async_trait::async_trait]
impl Files for View<'_> {
    async fn entry(&self, path: &Path) -> HostResult<Option<Entry>> {
        self.host.entry(path).await
    }

    async fn read(&self, path: &Path, limit: u64) -> HostResult<Option<Vec<u8>>> {
        self.host.read(path, limit).await
    }

    async fn digest(&self, path: &Path) -> HostResult<Option<String>> {
        self.host.digest(path).await
    }

    async fn remembered_digest(&self, path: &Path) -> HostResult<Option<String>> {
        self.host.remembered_digest(path).await
    }

    fn reads_payload(&self) -> bool {
        self.host.reads_payload()
    }

    async fn list(&self, path: &Path) -> HostResult<Vec<String>> {
        self.host.list(path).await
    }

    async fn write(&self, path: &Path, content: &[u8], attributes: Attributes) -> HostResult<()> {
        self.to_change().write(path, content, attributes).await
    }

    async fn try_write(&self, path: &Path, room: u64) -> HostResult<()> {
        self.to_change().try_write(path, room).await
    }

    async fn append(&self, path: &Path, content: &[u8], attributes: Attributes) -> HostResult<()> {
        self.to_change().append(path, content, attributes).await
    }

    async fn create_directory(&self, path: &Path, attributes: Attributes) -> HostResult<()> {
        self.to_change().create_directory(path, attributes).await
    }

    async fn symlink(&self, path: &Path, target: &str) -> HostResult<()> {
        self.to_change().symlink(path, target).await
    }

    async fn set_attributes(&self, path: &Path, attributes: Attributes) -> HostResult<()> {
        self.to_change().set_attributes(path, attributes).await
    }

    async fn remove(&self, path: &Path) -> HostResult<()> {
        self.to_change().remove(path).await
    }

    async fn remove_tree(&self, path: &Path) -> HostResult<()> {
        self.to_change().remove_tree(path).await
    }

    async fn unmount_below(&self, path: &Path) -> HostResult<()> {
        self.to_change().unmount_below(path).await
    }

    async fn mark_late(&self, path: &Path, why: &str) -> HostResult<()> {
        self.to_change().mark_late(path, why).await
    }

    async fn is_late(&self, path: &Path) -> HostResult<bool> {
        self.host.is_late(path).await
    }

    async fn space(&self, path: &Path) -> HostResult<Space> {
        self.host.space(path).await
    }
}

#[async_trait::async_trait]
impl Services for View<'_> {
    async fn unit(&self, name: &str) -> HostResult<UnitState> {
        self.host.unit(name).await
    }

    async fn start_unit(&self, name: &str) -> HostResult<()> {
        self.to_change().start_unit(name).await
    }

    async fn stop_unit(&self, name: &str) -> HostResult<()> {
        self.to_change().stop_unit(name).await
    }

    async fn restart_unit(&self, name: &str) -> HostResult<()> {
        self.to_change().restart_unit(name).await
    }

    async fn reload_unit(&self, name: &str) -> HostResult<()> {
        self.to_change().reload_unit(name).await
    }

    async fn set_unit_enabled(&self, name: &str, enabled: bool) -> HostResult<()> {
        self.to_change().set_unit_enabled(name, enabled).await
    }

    async fn reset_failed_unit(&self, name: &str) -> HostResult<()> {
        self.to_change().reset_failed_unit(name).await
    }

    async fn reload_units(&self) -> HostResult<()> {
        self.to_change().reload_units().await
    }

    async fn unit_log(&self, name: &str, lines: usize) -> HostResult<String> {
        self.host.unit_log(name, lines).await
    }
}

#[async_trait::async_trait]
impl Network for View<'_> {
    async fn https_get(&self, request: &HttpsRequest) -> HostResult<HttpsResponse> {
        self.host.https_get(request).await
    }

    async fn tcp_connect(&self, address: SocketAddr, timeout: Duration) -> HostResult<()> {
        self.host.tcp_connect(address, timeout).await
    }

    async fn links(&self) -> HostResult<Vec<Link>> {
        self.host.links().await
    }

    async fn link(&self, name: &str) -> HostResult<Option<Link>> {
        self.host.link(name).await
    }

    async fn remove_link(&self, name: &str) -> HostResult<()> {
        self.to_change().remove_link(name).await
    }

    async fn virtual_services(&self) -> HostResult<Vec<VirtualService>> {
        self.host.virtual_services().await
    }

    async fn remove_virtual_service(&self, service: &VirtualService) -> HostResult<()> {
        self.to_change().remove_virtual_service(service).await
    }
}

#[async_trait::async_trait]
impl Kernel for View<'_> {
    async fn sysctl(&self, key: &str) -> HostResult<Option<String>> {
        self.host.sysctl(key).await
    }

    async fn set_sysctl(&self, key: &str, value: &str) -> HostResult<()> {
        self.to_change().set_sysctl(key, value).await
    }

    async fn module_loaded(&self, name: &str) -> HostResult<bool> {
        self.host.module_loaded(name).await
    }

    async fn load_module(&self, name: &str) -> HostResult<()> {
        self.to_change().load_module(name).await
    }

    async fn loaded_modules(&self) -> HostResult<Vec<String>> {
        self.host.loaded_modules().await
    }

    async fn unload_module(&self, name: &str, stay: &[String]) -> HostResult<()> {
        self.to_change().unload_module(name, stay).await
    }
}

#[async_trait::async_trait]
impl Packages for View<'_> {
    async fn package_version(&self, name: &str) -> HostResult<Option<String>> {
        self.host.package_version(name).await
    }

    async fn package_file(&self, file: &Path) -> HostResult<(String, String)> {
        self.host.package_file(file).await
    }

    async fn install_packages(&self, files: &[PathBuf]) -> HostResult<()> {
        self.to_change().install_packages(files).await
    }

    async fn purge_packages(&self, names: &[String]) -> HostResult<()> {
        self.to_change().purge_packages(names).await
    }
}

#[async_trait::async_trait]
impl Cluster for View<'_> {
    async fn node(&self, access: &ClusterAccess, name: &str) -> HostResult<Option<ClusterNode>> {
        self.host.node(access, name).await
    }

    async fn patch_node(
        &self,
        access: &ClusterAccess,
        name: &str,
        patch: &serde_json::Value,
    ) -> HostResult<()> {
        self.to_change().patch_node(access, name, patch).await
    }

    async fn delete_node(&self, access: &ClusterAccess, name: &str) -> HostResult<()> {
        self.to_change().delete_node(access, name).await
    }

    async fn object_exists(
        &self,
        access: &ClusterAccess,
        object: &serde_json::Value,
    ) -> HostResult<bool> {
        self.host.object_exists(access, object).await
    }

    async fn compare_object(
        &self,
        access: &ClusterAccess,
        object: &serde_json::Value,
    ) -> HostResult<Option<ClusterObject>> {
        self.host.compare_object(access, object).await
    }

    async fn apply_object(
        &self,
        access: &ClusterAccess,
        object: &serde_json::Value,
    ) -> HostResult<()> {
        self.to_change().apply_object(access, object).await
    }

    async fn delete_object(
        &self,
        access: &ClusterAccess,
        object: &serde_json::Value,
    ) -> HostResult<()> {
        self.to_change().delete_object(access, object).await
    }

    async fn rewrite_secrets(&self, access: &ClusterAccess) -> HostResult<u64> {
        self.to_change().rewrite_secrets(access).await
    }

    async fn accepts_token_of(
        &self,
        access: &ClusterAccess,
        namespace: &str,
        account: &str,
    ) -> HostResult<Option<bool>> {
        self.host.accepts_token_of(access, namespace, account).await
    }

    async fn evict_pods(
        &self,
        access: &ClusterAccess,
        node: &str,
        timeout: Duration,
    ) -> HostResult<Vec<RemainingPod>> {
        self.to_change().evict_pods(access, node, timeout).await
    }
}

#[async_trait::async_trait]
impl PodSubnets for View<'_> {
    async fn subnet_nodes(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetNode>> {
        self.host.subnet_nodes(access).await
    }

    async fn subnet_claims(&self, access: &ClusterAccess) -> HostResult<Vec<SubnetClaim>> {
        self.host.subnet_claims(access).await
    }

    async fn claim_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool> {
        self.to_change().claim_subnet(access, claim).await
    }

    async fn release_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<()> {
        self.to_change().release_subnet(access, claim).await
    }

    async fn assign_subnet(&self, access: &ClusterAccess, claim: &SubnetClaim) -> HostResult<bool> {
        self.to_change().assign_subnet(access, claim).await
    }
}

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
    async fn what_is_dear_is_asked_once_in_a_look_and_anew_in_the_next() {
        let host = FakeHost::new()
            .with_docker()
            .with_program("count", Program::ends(0, "1\n"));
        let labels = BTreeMap::new();
        let look = CommandSpec::new(["count"]).once_a_look();
        for number in 1..=2 {
            let view = View::of(&host);
            for _ in 0..3 {
                view.containers(&labels).await.unwrap();
                view.run(&look).await.unwrap();
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
            .expect_err("the engine fails");
        host.set_faults(FaultPlan::none());
        assert_eq!(view.containers(&labels).await.unwrap(), []);
    }
}
