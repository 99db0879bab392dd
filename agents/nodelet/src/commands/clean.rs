//! `nodelet clean`: makes the host as it was before the role. `leaving` tells the masters of a worker that leaves.

mod leaving;

use anyhow::{Result, anyhow, bail};
use engine::exec::{self, Event, EventSink, Recording, quorum_problem_of_clean};
use engine::host::Host;
use engine::host::live::LiveHost;
use engine::ledger::{Ledger, RECOVER, Record};
use engine::model::{Outcome, Problem};
use engine::resource::Spec;
use tokio_util::sync::CancellationToken;

use self::leaving::Leaving;
use super::run::{exit, has_ledger, installed_inputs_as_set_up, only_root, refuse_if_reapplied};
use crate::cli::{CleanArgs, RoleArgs};
use crate::inputs::Inputs;
use crate::inputs::identity::Identity;
use crate::inputs::last_good_settings::last_good;
use crate::output;
use crate::output::exit::Exit;
use crate::process::lock::Lock;
use crate::process::{cgroup, signals};

pub(crate) async fn clean(args: &CleanArgs) -> Result<Exit> {
    only_root("clean this host")?;
    refuse_if_reapplied("clean this host", "clean").await?;
    let _lock = Lock::take("clean")?;
    let host = LiveHost::new();
    let cancel = signals::cancel_on_signal()?;
    let sink = output::sink(args.role.json);
    let purpose = if args.purge {
        CleanPurpose::Purge
    } else {
        CleanPurpose::Leave
    };
    if !args.accept_quorum_loss
        && let Some(problem) = quorum_problem(&args.role, &host, purpose).await
    {
        let problems = vec![problem];
        sink.emit(Event::PreflightFailed { problems });
        return Ok(exit(Outcome::Refused));
    }
    let clean = Removal {
        purpose,
        accepts_quorum_loss: args.accept_quorum_loss,
    };
    let outcome = remove_role(&args.role, &host, sink.as_ref(), &cancel, clean).await?;
    cgroup::remove_unused(cgroup::MOUNT);
    Ok(exit(outcome))
}

/// Why etcd needs this host, so that it must not be cleaned; `None` if it does not, or if the clean removes nothing: nothing of a role is on
/// the host, or only what a clean keeps.
async fn quorum_problem(
    role: &RoleArgs,
    host: &LiveHost,
    purpose: CleanPurpose,
) -> Option<Problem> {
    let records = Ledger::read(host).await.unwrap_or_default();
    let mut live = Ledger::live_in(&records).into_iter();
    if live.all(|live| live.keep && purpose != CleanPurpose::Purge) {
        return None;
    }
    let inputs = inputs_to_clean(role, host).await;
    quorum_problem_of(inputs.as_ref().ok(), host).await
}

async fn quorum_problem_of(inputs: Option<&Inputs>, host: &LiveHost) -> Option<Problem> {
    let plan = inputs.map(|inputs| &inputs.plan);
    let recorded = Identity::recorded().unwrap_or_default().node_in_etcd();
    quorum_problem_of_clean(host, plan, &recorded).await
}

/// The inputs of the role that is on this host, as the node that it was set up as. An operator who changes ROLE or the node's name has to clean
/// the host first: the settings plan another node then, and the cluster does not know that one.
async fn inputs_to_clean(args: &RoleArgs, host: &LiveHost) -> Result<Inputs> {
    let inputs = installed_inputs_as_set_up(args, host).await?;
    let Some(recorded) = Identity::recorded() else {
        return Ok(inputs);
    };
    let last = async || last_good(args, host).await.map(|(_, last)| last);
    as_set_up(&recorded, inputs, last).await
}

/// These inputs if they plan the node that this host was set up as, otherwise the last good ones. If both plan another name, for example
/// that of another address, the host can still be stopped in order; [`no_drain`] says what is missing then.
async fn as_set_up(
    recorded: &Identity,
    inputs: Inputs,
    last_good: impl AsyncFnOnce() -> Result<Inputs>,
) -> Result<Inputs> {
    let kind = recorded.node_kind();
    let has_kind = |its: &Inputs| kind.is_none_or(|kind| kind == its.plan.node);
    if has_kind(&inputs) && recorded.renamed_by(&inputs.identity).is_none() {
        return Ok(inputs);
    }
    match last_good().await {
        Ok(last) if has_kind(&last) => Ok(last),
        _ if has_kind(&inputs) => Ok(inputs),
        last => {
            let kind = kind.unwrap_or_default();
            let why =
                format!("this host was set up with ROLE={kind}, and no settings with it are kept");
            Err(match last {
                Ok(_) => anyhow!(why),
                Err(error) => error.context(why),
            })
        }
    }
}

/// The warning if the plan has another name than the node of the set-up: its drain does not find that node.
fn no_drain(recorded: &Identity, planned: &Identity) -> Option<String> {
    recorded.renamed_by(planned)?;
    let (name, other) = (recorded.node_name()?, planned.node_name()?);
    Some(format!(
        "node {name} is not drained, because this host now has the node name {other}: its pods are not evicted before they are stopped"
    ))
}

/// What a clean is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CleanPurpose {
    /// The host may become something else afterwards.
    Leave,
    /// The cluster's data is removed as well, so the host may join any cluster.
    Purge,
    /// The host comes up again as what it was.
    Rebuild,
}

/// How a role is taken off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Removal {
    pub(super) purpose: CleanPurpose,
    /// Whether it goes on although etcd loses its quorum.
    pub(super) accepts_quorum_loss: bool,
}

/// Stops what runs, takes the role off, and releases the host from the identity that it was bound to, unless it is to come up again with
/// it.
pub(super) async fn remove_role(
    role: &RoleArgs,
    host: &LiveHost,
    sink: &dyn EventSink,
    cancel: &CancellationToken,
    removal: Removal,
) -> Result<Outcome> {
    let purpose = removal.purpose;
    let records = Ledger::read(host).await;
    let inputs = inputs_to_clean(role, host).await;
    if let Ok(inputs) = &inputs {
        has_ledger_to_clean(inputs, host).await?;
    }
    let records = records?;
    has_all_to_clean(&records, host).await?;
    let live = Ledger::live_in(&records);
    let runs = live.iter().any(|live| !live.keep);
    if runs {
        if let (Some(recorded), Ok(inputs)) = (Identity::recorded(), &inputs)
            && let Some(warning) = no_drain(&recorded, &inputs.identity)
        {
            tracing::warn!("{warning}");
        }
        let accepts = removal.accepts_quorum_loss;
        if stop(inputs.as_ref(), host, sink, cancel, accepts).await == Stopped::Refused {
            return Ok(Outcome::Refused);
        }
    }
    let of_role = inputs.as_ref().ok().filter(|its| !its.are_of_no_role());
    let plan = of_role.map(|inputs| &inputs.plan);
    let mut leaving = match purpose {
        CleanPurpose::Leave | CleanPurpose::Purge if !live.is_empty() => {
            let recorded = Identity::recorded().and_then(|its| its.node_name());
            Leaving::of(plan, recorded, host).await
        }
        CleanPurpose::Leave | CleanPurpose::Purge | CleanPurpose::Rebuild => None,
    };
    if let Some(leaving) = &mut leaving {
        leaving.may_have_containers = runs || has_pods_to_end(&records);
    }
    // Without a plan nothing was stopped, so the mark has to wait for the clean, except if that removes the identity.
    let marks_first = !runs || plan.is_some() || purpose == CleanPurpose::Purge;
    let outcome =
        clean_and_mark(host, sink, cancel, purpose, leaving.as_ref(), marks_first).await?;
    if let (Some(leaving), CleanPurpose::Purge) = (&leaving, purpose) {
        tracing::warn!("{}", leaving.after_purge());
    }
    if let (Outcome::Cleaned, Ok(inputs)) = (outcome, &inputs) {
        is_gone(inputs, host).await?;
    }
    match (outcome, purpose) {
        // Nothing of the cluster is left, so the host is bound to nothing.
        (Outcome::Cleaned, CleanPurpose::Purge) => Identity::forget()?,
        (Outcome::Cleaned, CleanPurpose::Leave) => Identity::release()?,
        _ => {}
    }
    Ok(outcome)
}

/// Refuses a clean if the ledger was lost: it would take back a part of the role at most.
async fn has_ledger_to_clean(inputs: &Inputs, host: &LiveHost) -> Result<()> {
    let Err(lost) = has_ledger(inputs, host).await else {
        return Ok(());
    };
    let remaining = installed(inputs, host, true).await;
    Err(lost.context(if remaining.is_empty() {
        "clean this host: nothing was reverted".to_owned()
    } else {
        format!(
            "clean this host: nothing was reverted, and this is on it: {}",
            remaining.join(", ")
        )
    }))
}

/// Refuses an empty ledger on a host with containers or kubeconfigs of any role. This needs no plan, so it also works without settings or
/// a role package.
async fn has_all_to_clean(records: &[Record], host: &dyn Host) -> Result<()> {
    match Ledger::contradicted_by_host(host, records).await {
        Some(lost) => Err(anyhow::Error::from(lost).context(
            "clean this host: nothing was reverted; restore this host's settings and role package first, because a recovery needs them",
        )),
        None => Ok(()),
    }
}

/// Fails if something of the role is left after a clean: the ledger did not know it.
async fn is_gone(inputs: &Inputs, host: &LiveHost) -> Result<()> {
    let left = installed(inputs, host, false).await;
    if left.is_empty() {
        return Ok(());
    }
    bail!(
        "clean this host: what the ledger knows was reverted, but it did not know {}, which are still there; {RECOVER}, then clean again",
        left.join(", ")
    );
}

/// The parts of the role that are on this host beyond doubt; with `files` also its files, which may have been there before the role.
async fn installed(inputs: &Inputs, host: &LiveHost, files: bool) -> Vec<String> {
    let ignored_events = Recording::default();
    let runner = inputs.runner(host, &ignored_events);
    runner.installed(files).await
}

/// Takes the role off, and marks the node before it, after it, or both. An interrupted stop leaves programs running, so the node is not
/// marked then: masters would delete the node of a working worker. Nor is it marked while a container of the role or of a pod runs: the worker
/// still works, and the cluster may start what the pod runs on another node. The clean tries to end such a container, also a purge, which first
/// takes back all but what is kept: without the kept identity the node cannot be marked later.
async fn clean_and_mark(
    host: &dyn Host,
    sink: &dyn EventSink,
    cancel: &CancellationToken,
    purpose: CleanPurpose,
    leaving: Option<&Leaving>,
    marks_first: bool,
) -> Result<Outcome> {
    let mark = async || match leaving {
        Some(leaving) if !cancel.is_cancelled() => leaving.mark_without_containers(host).await,
        Some(_) | None => Ok(None),
    };
    let mut warning = None;
    if marks_first {
        warning = match mark().await {
            Ok(warning) => warning,
            Err(_) if purpose == CleanPurpose::Purge => {
                exec::clean(host, sink, cancel, false).await?;
                if cancel.is_cancelled() {
                    return Ok(Outcome::Interrupted);
                }
                mark().await?
            }
            // It is asked again after the clean.
            Err(_) => None,
        };
    }
    let outcome = exec::clean(host, sink, cancel, purpose == CleanPurpose::Purge).await;
    // A kubelet that the stop has not ended may have reported after the first mark, so that masters have removed the mark. A purge has
    // removed the access.
    if !marks_first || purpose == CleanPurpose::Leave {
        warning = match mark().await {
            Ok(warning) => warning,
            // An error of the clean itself comes first.
            Err(error) => return outcome.map_err(anyhow::Error::from).and(Err(error)),
        };
    }
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    Ok(outcome?)
}

/// Whether a clean still has to end the pods of this host.
fn has_pods_to_end(records: &[Record]) -> bool {
    let left = Ledger::all_cleanup_steps_in(records);
    let mut steps = left.iter().flat_map(|(_, steps)| steps);
    steps.any(|step| matches!(step.spec, Spec::Pods(_)))
}

/// Whether a clean goes on after its stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    GoesOn,
    /// etcd would lose its quorum. What still ran goes on running.
    Refused,
}

/// For the cluster's sake: evicts the pods, and stops what runs in order. The clean itself needs only the ledger, so it continues if
/// the role or the settings are gone.
async fn stop(
    inputs: Result<&Inputs, &anyhow::Error>,
    host: &LiveHost,
    sink: &dyn EventSink,
    cancel: &CancellationToken,
    accepts_quorum_loss: bool,
) -> Stopped {
    let inputs = match inputs {
        Ok(inputs) => inputs,
        Err(error) => {
            tracing::warn!(
                error = engine::model::chain(error.as_ref()).join(": "),
                "cleaning without a stop: the role cannot be planned"
            );
            return Stopped::GoesOn;
        }
    };
    let mut runner = inputs.runner(host, sink);
    runner.cancel = cancel.clone();
    runner.accepts_quorum_loss = accepts_quorum_loss;
    if let Err(error) = runner.wake_stopped_runtime().await {
        tracing::warn!("{}", engine::model::chain(&error).join(": "));
    }
    match runner.stop_for_clean().await {
        Ok(Outcome::Refused) => return Stopped::Refused,
        Ok(Outcome::Failed) => {
            tracing::warn!("the stop left something running; the clean continues")
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(
                error = engine::model::chain(&error).join(": "),
                "cleaning without a stop"
            );
            // The stop has not asked for the second time.
            if !accepts_quorum_loss
                && let Some(problem) = quorum_problem_of(Some(inputs), host).await
            {
                let problems = vec![problem];
                sink.emit(Event::PreflightFailed { problems });
                return Stopped::Refused;
            }
        }
    }
    Stopped::GoesOn
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use engine::env::KubeEnv;
    use engine::facts::Facts;
    use engine::host::fake::FakeHost;
    use engine::host::{ContainerConfig, Containers as _};
    use engine::plan::Plan;

    use super::*;

    /// The inputs of a host with this name and these values of `ROLE` and `USE_HOSTNAME`.
    fn inputs_of(host: &str, role: &str, use_hostname: &str) -> Inputs {
        let pairs = [
            ("ROLE", role),
            ("MASTER_IP", "10.0.0.1"),
            ("USE_HOSTNAME", use_hostname),
        ];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = KubeEnv::from_pairs(pairs).expect("good settings");
        let facts = Facts {
            address: "10.0.0.2".parse().ok(),
            ..Facts::nothing_about(host)
        };
        let plan = Plan {
            node: role.to_owned(),
            ..Plan::bare(Vec::new())
        };
        Inputs::of(plan, settings, facts)
    }

    /// The cluster does not know the node of other settings: its pods would not be evicted.
    #[tokio::test]
    async fn a_clean_is_planned_for_the_node_of_the_set_up() {
        let recorded = inputs_of("w-1", "worker", "true").identity;
        let planned = async |inputs: Inputs, last: Result<Inputs>| {
            let planned = as_set_up(&recorded, inputs, async || last).await;
            let planned = planned.map(|its| its.identity.node_name().unwrap_or_default());
            planned.map_err(|error| engine::model::chain(error.as_ref()).join(": "))
        };
        let lost = || -> Result<Inputs> { Err(anyhow!("read the last good settings")) };
        let as_before = || inputs_of("w-1", "worker", "true");
        let is_w_1 = Ok("w-1".to_owned());
        assert_eq!(planned(as_before(), lost()).await, is_w_1);
        assert_eq!(no_drain(&recorded, &as_before().identity), None);
        for (host, use_hostname, name) in [("w-1y", "true", "w-1y"), ("w-1", "false", "10.0.0.2")] {
            let other = || inputs_of(host, "worker", use_hostname);
            assert_eq!(planned(other(), Ok(as_before())).await, is_w_1, "{name}");
            // It is still stopped in order.
            for last in [lost(), Ok(other())] {
                assert_eq!(planned(other(), last).await, Ok(name.to_owned()));
            }
            let warning = no_drain(&recorded, &other().identity).expect("it has another name");
            for part in ["node w-1 is not drained", name] {
                assert!(warning.contains(part), "{warning}");
            }
        }
        let master = || inputs_of("w-1", "master", "true");
        assert_eq!(planned(master(), Ok(as_before())).await, is_w_1);
        for last in [lost(), Ok(master())] {
            let refused = planned(master(), last).await.expect_err("another kind");
            assert!(refused.contains("ROLE=worker"), "{refused}");
        }
    }

    /// How often a clean marks the node of its worker.
    async fn marks(purpose: CleanPurpose, cancel: &CancellationToken) -> usize {
        let host = FakeHost::new()
            .with_file("/etc/kubeconfig", "")
            .with_kubernetes(|rules| rules.remote_api = true);
        host.with_world_mut(|world| world.node("w-1", engine::host::ClusterNode::default()));
        host.clear_journal();
        let leaving = Leaving::of_node("w-1");
        let sink = Recording::default();
        let cleaned = clean_and_mark(&host, &sink, cancel, purpose, Some(&leaving), true).await;
        cleaned.expect("there is nothing to clean");
        let calls = host.mutating_calls();
        calls
            .iter()
            .filter(|call| call.name == "patch_node")
            .count()
    }

    /// kubelet still runs: masters would delete the node of a working worker.
    #[tokio::test]
    async fn an_interrupted_stop_marks_no_node() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        for purpose in [CleanPurpose::Leave, CleanPurpose::Purge] {
            assert_eq!(marks(purpose, &cancel).await, 0, "{purpose:?}");
        }
    }

    /// kubelet may have reported after the first mark.
    #[tokio::test]
    async fn a_worker_that_leaves_is_marked_again_after_the_clean() {
        let cancel = CancellationToken::new();
        assert_eq!(marks(CleanPurpose::Leave, &cancel).await, 2);
        assert_eq!(marks(CleanPurpose::Purge, &cancel).await, 1);
    }

    /// docker could not end it. The cluster would start its pod on another node.
    #[tokio::test]
    async fn a_worker_is_not_marked_while_a_container_of_a_pod_runs() {
        for purpose in [CleanPurpose::Leave, CleanPurpose::Purge] {
            for marks_first in [true, false] {
                let host = FakeHost::new()
                    .with_docker()
                    .with_image("app:1")
                    .with_file("/etc/kubeconfig", "")
                    .with_kubernetes(|rules| rules.remote_api = true);
                host.with_world_mut(|world| {
                    world.node("w-1", engine::host::ClusterNode::default());
                    world.tenants_pod("web", "app", "app:1");
                });
                let leaving = Leaving::of_node("w-1");
                // Without a plan, a purge marks first.
                let marks_first = marks_first || purpose == CleanPurpose::Purge;
                let (sink, cancel) = (Recording::default(), CancellationToken::new());
                let clean = async || {
                    let leaving = Some(&leaving);
                    clean_and_mark(&host, &sink, &cancel, purpose, leaving, marks_first).await
                };
                let is_marked = || {
                    let calls = host.mutating_calls();
                    calls.iter().any(|call| call.name == "patch_node")
                };
                let case = format!("{purpose:?}, {marks_first}");
                if purpose == CleanPurpose::Leave {
                    // An earlier clean has taken the role off, so this is another program's pod.
                    let (host, cancel) = (host.fork(), CancellationToken::new());
                    let repeated = Leaving {
                        may_have_containers: false,
                        ..Leaving::of_node("w-1")
                    };
                    let leaving = Some(&repeated);
                    let again = clean_and_mark(&host, &sink, &cancel, purpose, leaving, true).await;
                    again.expect("it is marked");
                }
                let error = clean().await.expect_err("a container runs");
                let said = engine::model::chain(error.as_ref()).join(": ");
                assert!(said.contains("node w-1 is not marked"), "{case}: {said}");
                assert!(said.contains("k8s_app_web_tenant"), "{case}: {said}");
                assert!(!is_marked(), "{case}");

                for name in ["k8s_app_web_tenant", "k8s_POD_web_tenant"] {
                    let ended = host.stop_container(name, std::time::Duration::ZERO);
                    ended.await.expect("docker ends it");
                }
                clean().await.expect("the leave is repeated");
                assert!(is_marked(), "{case}");
            }
        }
    }

    /// docker could not end it either. What another program runs does not keep the worker.
    #[tokio::test]
    async fn a_worker_is_not_marked_while_a_container_of_the_role_runs() {
        let host = FakeHost::new()
            .with_docker()
            .with_file("/etc/kubeconfig", "")
            .with_kubernetes(|rules| rules.remote_api = true);
        let owner = ("pf9.io/owner".to_owned(), "nodelet".to_owned());
        let proxy = ContainerConfig {
            labels: BTreeMap::from([owner]),
            ..ContainerConfig::bare("proxy", "proxy:1")
        };
        host.with_world_mut(|world| {
            world.node("w-1", engine::host::ClusterNode::default());
            world.container(ContainerConfig::bare("theirs", "app:1"));
            world.container(proxy);
            world.stop_shim(4711, "proxy");
        });
        let leaving = Leaving::of_node("w-1");
        let (sink, cancel) = (Recording::default(), CancellationToken::new());
        let clean = async || {
            let leaving = Some(&leaving);
            clean_and_mark(&host, &sink, &cancel, CleanPurpose::Leave, leaving, true).await
        };
        let is_marked = || {
            let calls = host.mutating_calls();
            calls.iter().any(|call| call.name == "patch_node")
        };
        let error = clean().await.expect_err("a container runs");
        let said = engine::model::chain(error.as_ref()).join(": ");
        assert!(said.contains("node w-1 is not marked"), "{said}");
        assert!(said.contains("container proxy still runs"), "{said}");
        assert!(!is_marked());

        let ended = host.stop_container("proxy", std::time::Duration::ZERO);
        ended.await.expect("docker ends it");
        clean().await.expect("the leave is repeated");
        assert!(is_marked());
    }
}
