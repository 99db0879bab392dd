//! The identity that a host is bound to, even if its record was lost.

use anyhow::Result;
use engine::exec::{Recording, Runner};
use engine::host::Host;
use engine::host::live::LiveHost;
use engine::ledger::Ledger;

use crate::cli::RoleArgs;
use crate::inputs::identity::Identity;
use crate::inputs::last_good_settings::last_good_if_any;

/// The identity that the host is bound to. If its record was lost while the role is on the host, it comes from the last good settings:
/// the current settings may have changed.
///
/// # Errors
/// Gathering the facts of the host timed out.
pub(crate) async fn installed_identity(
    args: &RoleArgs,
    host: &LiveHost,
) -> Result<Option<Identity>> {
    if let Some(recorded) = Identity::recorded() {
        return Ok(Some(recorded));
    }
    let Some((_, last)) = last_good_if_any(args, host).await? else {
        return Ok(None);
    };
    let ignored_events = Recording::default();
    let runner = last.runner(host, &ignored_events);
    let installed = !last.are_of_no_role() && is_installed(host, &runner).await;
    // The last good settings do not say with which address the host was set up.
    Ok(installed.then(|| last.identity.without_address()))
}

/// Whether anything of ours is on the host, except what a clean keeps: by the ledger, or by what runs if the ledger was lost. A ledger
/// that cannot be read counts as empty here, because a condition reports it already.
pub(crate) async fn is_installed(host: &dyn Host, runner: &Runner<'_>) -> bool {
    let records = Ledger::read(host).await.unwrap_or_default();
    let live = Ledger::live_in(&records);
    live.iter().any(|live| !live.keep) || runner.has_role().await
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use engine::env::KubeEnv;
    use engine::exec::simulated_host;
    use engine::facts::Facts;
    use engine::host::Services as _;
    use engine::host::fake::FaultPlan;
    use engine::model::{Outcome, STATE};
    use engine::planner;
    use engine::resource::NoSecrets;
    use engine::role::RolePackage;

    use super::*;

    fn repository(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(path)
    }

    /// `KUBE_SERVICE_STATE: false` stops what runs even if no record says any more what started it.
    #[tokio::test(start_paused = true)]
    async fn a_host_without_its_ledger_is_recognised_by_its_processes() {
        is_installed_by_what_runs("cp-1", "172.30.0.11").await;
    }

    /// On this host docker is ours, and so is its socket.
    #[tokio::test(start_paused = true)]
    async fn a_host_without_an_earlier_docker_is_recognised_by_its_processes() {
        is_installed_by_what_runs("cp-2-nodocker", "172.30.0.12").await;
    }

    async fn is_installed_by_what_runs(host: &str, address: &str) {
        let facts = repository(&format!("tests/fixtures/hosts/{host}.yaml"));
        let facts = std::fs::read_to_string(facts);
        let facts = Facts::from_yaml(&facts.expect("a fixture")).expect("facts");
        let role = repository("roles/pf9-kube").display().to_string();
        let role = RolePackage::load(&LiveHost::new(), &role).await;
        let pairs = [
            ("ROLE", "master"),
            ("MASTER_IP", address),
            ("ETCD_INITIAL_CLUSTER_STATE", "new"),
        ];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = KubeEnv::from_pairs(pairs).expect("good settings");
        let plan = planner::plan(&role.expect("the role"), &settings, &facts).expect("a plan");
        let host = simulated_host(&facts, &plan)
            .with_kubernetes(|rules| rules.pod_cidr = "10.20.0.0/24".to_owned());
        let ignored_events = Recording::default();
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        assert!(!is_installed(&host, &runner).await, "it is bare");
        // The check does not wait for a container runtime that hangs.
        let hangs = FaultPlan::none().stall("container", "*");
        host.set_faults(hangs.stall("container_runtime", "*"));
        let looked = tokio::time::timeout(Duration::from_secs(10), is_installed(&host, &runner));
        assert_eq!(looked.await, Ok(false));
        host.set_faults(FaultPlan::none());
        let outcome = runner.apply().await.expect("it is written down");
        assert_eq!(outcome, Outcome::Converged);
        assert!(is_installed(&host, &runner).await);
        assert_eq!(runner.runs().await, Some(true));
        let outcome = runner.stop().await.expect("it is written down");
        assert_eq!(outcome, Outcome::Stopped);
        assert!(is_installed(&host, &runner).await, "its files are there");
        assert_eq!(runner.runs().await, Some(false));
        for unit in ["docker.socket", "docker.service", "pf9-kubelet.service"] {
            host.start_unit(unit).await.expect("it starts");
            // Docker alone does not show that the role runs.
            let kubelet = unit == "pf9-kubelet.service";
            assert_eq!(runner.runs().await, Some(kubelet));
        }
        host.stop_unit("pf9-kubelet.service")
            .await
            .expect("it ends");
        host.set_faults(FaultPlan::none().fail("container", "etcd"));
        assert_eq!(runner.runs().await, None, "it is not known");
        host.set_faults(FaultPlan::none());
        host.with_world_mut(|world| world.remove(STATE));
        assert!(is_installed(&host, &runner).await, "the ledger is lost");
    }
}
