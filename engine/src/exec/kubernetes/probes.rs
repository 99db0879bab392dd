//! Observations that checks make of Kubernetes: nodes, pods, objects and tokens of service accounts.
//!
//! Not here: what the results mean, and all other observations (`check::probe`).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::exec::Runner;
use crate::host::{ClusterAccess, Host};
use crate::model::Problem;
use crate::plan::{NeededApi, Plan};
use crate::resource::kubernetes::pod_container::{StaticPods, of_pods};
use crate::resource::{ResourceError, ResourceResult, Spec, pki};

/// How long after kubelet's start its report has to be newer than the start. A limit, because a changed clock would make every later
/// report look old until kubelet's next one, which may come five minutes later.
const FIRST_REPORT: Duration = Duration::from_secs(60);
/// How long an API server has to answer when a check that needs it has failed.
const ANSWER: Duration = Duration::from_secs(5);

impl Runner<'_> {
    /// Why the API server refuses the token of a service account.
    pub(in crate::exec) async fn token_accepted(
        &self,
        host: &dyn Host,
        namespace: &str,
        account: &str,
        kubeconfig: &Path,
    ) -> ResourceResult<Option<String>> {
        let whose = format!("service account {namespace}/{account}");
        let access = ClusterAccess::with(kubeconfig);
        match host.accepts_token_of(&access, namespace, account).await? {
            Some(true) => Ok(None),
            Some(false) => Ok(Some(format!(
                "the API server refuses the token of {whose}: it may have read another service-account key than the one that signed the token; {}",
                self.keys_in_use(host).await
            ))),
            None => Err(ResourceError::Missing {
                what: format!("find a token of {whose}: the cluster has given it none yet"),
            }),
        }
    }

    /// What to do if a token is refused: a program reads the service-account key only at its start. A wrong key must
    /// not be read.
    async fn keys_in_use(&self, host: &dyn Host) -> String {
        let mut readers = BTreeSet::new();
        for phase in &self.plan.phases {
            for step in phase.steps.iter().filter(|step| !step.policy.absent) {
                let Spec::PodContainer(container) = &step.spec else {
                    continue;
                };
                if !pki::has_service_account_key(&container.inputs) {
                    continue;
                }
                if let Err(error) = pki::may_be_read(host, &container.inputs).await {
                    return format!("could not {}", crate::model::chain(&error).join(": "));
                }
                readers.insert(phase.name.as_str());
            }
        }
        if readers.is_empty() {
            return "see the log of the API server".to_owned();
        }
        let readers: Vec<&str> = readers.into_iter().collect();
        format!(
            "the keys on this host are the right ones, and a program reads them at its start: `nodelet repair {}`",
            readers.join(" ")
        )
    }
}

/// A kubelet that was not cleaned after the removal of its host registers again, and masters delete its node each time.
pub(in crate::exec) fn no_node(node: &str) -> String {
    format!(
        "there is no node {node}: it was deleted, and `nodelet repair kubelet` registers it again; if this host was removed from the cluster, masters delete its node each time: run `nodelet clean --purge` on it"
    )
}

/// The API server keeps the last report of the kubelet that ran before. kubelet's own first report may be that it is not ready.
pub(in crate::exec) async fn node_ready(
    host: &dyn Host,
    node: &str,
    kubelet: &str,
    kubeconfig: &Path,
) -> ResourceResult<Option<String>> {
    let Some(state) = host.node(&ClusterAccess::with(kubeconfig), node).await? else {
        return Ok(Some(no_node(node)));
    };
    if state.ready != Some(true) {
        let why = Some(&state.ready_message).filter(|message| !message.is_empty());
        let why = why
            .map(|message| format!(": {message}"))
            .unwrap_or_default();
        return Ok(Some(format!("node {node} is not Ready{why}")));
    }
    let unit = host.unit(kubelet).await?;
    if !unit.loaded {
        return Err(ResourceError::Missing {
            what: format!(
                "node {node} is not known to be Ready: there is no unit {kubelet}, so its start is not known"
            ),
        });
    }
    if is_from_before(state.reported, unit.active_since, host.now()) {
        return Err(ResourceError::Missing {
            what: format!(
                "node {node} is not known to be Ready: {kubelet} has not reported since its start"
            ),
        });
    }
    Ok(None)
}

/// Whether a report with a time in whole seconds is older than kubelet's start, which was a short time ago.
fn is_from_before(
    reported: Option<SystemTime>,
    started: Option<SystemTime>,
    now: SystemTime,
) -> bool {
    let (Some(reported), Some(started)) = (reported, started) else {
        return false;
    };
    let is_new = now
        .duration_since(started)
        .is_ok_and(|age| age < FIRST_REPORT);
    is_new && reported + Duration::from_secs(1) <= started
}

/// Whether an API server answers this host, so that a check which needs it says something about this host. Gives whether the server has this
/// host's node.
///
/// # Errors
/// Why it is not known to: it does not answer, or refuses.
pub(in crate::exec) async fn api_answers(
    host: &dyn Host,
    needed: &NeededApi,
) -> Result<bool, String> {
    let access = ClusterAccess::with(&needed.kubeconfig);
    let asked = host.node(&access, &needed.node);
    let why = match tokio::time::timeout(ANSWER, asked).await {
        Ok(Ok(node)) => return Ok(node.is_some()),
        Ok(Err(error)) => crate::model::chain(&error).join(": "),
        Err(_) => format!("no answer within {} s", ANSWER.as_secs()),
    };
    Err(format!(
        "the API server, which this needs, does not answer this host: {why}"
    ))
}

/// Whether this host has no pods yet: neither the kubeconfig of its kubelet is there, nor does a pod run. Only the file may have been lost.
pub(in crate::exec) async fn has_no_pods_yet(host: &dyn Host, needed: &NeededApi) -> bool {
    if !matches!(host.entry(&needed.kubeconfig).await, Ok(None)) {
        return false;
    }
    let of_pods = of_pods();
    let pods = tokio::time::timeout(ANSWER, host.containers(&of_pods)).await;
    // Without a container runtime that answers, none can be seen.
    !matches!(pods, Ok(Ok(pods)) if pods.iter().any(|its| its.running))
}

/// Why a full clean of this host must not begin: it would take the pods, and the host could not come up again, because the API server on another host,
/// which this one needs, does not answer it. `None` if it may; a host without the kubeconfig, on which no pod runs, has none yet. Changes nothing. Cancel safe.
pub async fn api_problem_of_clean(host: &dyn Host, plan: &Plan) -> Option<Problem> {
    let phases = plan.phases.iter().filter(|phase| phase.skipped.is_none());
    let mut checks = phases.flat_map(|phase| &phase.checks);
    let (check, needed) = checks.find_map(|check| Some((check, check.needs_api.as_ref()?)))?;
    if has_no_pods_yet(host, needed).await {
        return None;
    }
    let silence = api_answers(host, needed).await.err()?;
    Some(Problem {
        requirement: "the host can come up again".to_owned(),
        span: check.span.clone(),
        problem: format!("{silence}; a clean would end its pods, and it could not come up again"),
        remedy: "let this host reach the API server; `nodelet check` shows what fails".to_owned(),
    })
}

/// Which pressures a node reports.
pub(in crate::exec) async fn node_without_pressure(
    host: &dyn Host,
    node: &str,
    kubeconfig: &Path,
) -> ResourceResult<Option<String>> {
    Ok(
        match host.node(&ClusterAccess::with(kubeconfig), node).await? {
            // Another check names the node that is missing.
            None => {
                return Err(ResourceError::Missing {
                    what: format!("find the pressures of node {node}: {}", no_node(node)),
                });
            }
            Some(state) if state.pressures.is_empty() => {
                if !state.unknown_pressures.is_empty() {
                    return Err(ResourceError::Missing {
                        what: format!(
                            "find {} of node {node}: kubelet has not reported it",
                            state.unknown_pressures.join(", ")
                        ),
                    });
                }
                None
            }
            Some(state) => Some(format!(
                "node {node} reports {}: kubelet evicts pods and admits few new ones until there is room again",
                state.pressures.join(", ")
            )),
        },
    )
}

/// Whether the API server has an object.
pub(in crate::exec) async fn object_exists(
    host: &dyn Host,
    object: &Value,
    kubeconfig: &Path,
) -> ResourceResult<Option<String>> {
    let there = host
        .object_exists(&ClusterAccess::with(kubeconfig), object)
        .await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok((!there).then(|| {
        let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
        let [namespace, name] = ["namespace", "name"].map(|key| text(&metadata[key]));
        format!("there is no {kind} {namespace}/{name}")
    }))
}

/// What an operator can expect of a container that has ended.
const KUBELET_PAUSES: &str =
    "; kubelet starts it again, after a pause of up to 5 minutes if it has ended several times";

/// Why a container of a static pod does not run.
pub(in crate::exec) async fn pod_running(
    host: &dyn Host,
    pod: &str,
    names: &[String],
) -> ResourceResult<Option<String>> {
    let all = host.containers(&of_pods()).await?;
    let pods = StaticPods::among(&all);
    for name in names {
        let mut present = all.iter().filter(|its| pods.has(its, pod, name)).peekable();
        let has_ended = present.peek().is_some();
        if !present.any(|container| container.running) {
            let pause = if has_ended { KUBELET_PAUSES } else { "" };
            let text = format!("container {name} of pod {pod} does not run{pause}");
            return Ok(Some(text));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn a_report_from_before_the_start_of_kubelet_does_not_count_in_its_first_minute() {
        let at = |millis: u64| Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        let now = |millis: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        for (reported, started, asked, before, why) in [
            (at(5_000), at(6_200), 6_900, true, "from an earlier second"),
            (at(6_000), at(6_200), 6_900, false, "perhaps of this second"),
            (at(7_000), at(6_200), 7_900, false, "later"),
            (at(5_000), at(6_200), 66_199, true, "the end of the minute"),
            (at(5_000), at(6_200), 66_200, false, "after the minute"),
            (at(5_000), at(6_200), 1_000, false, "the clock went back"),
            (None, at(6_200), 6_900, false, "no time in the report"),
            (at(5_000), None, 6_900, false, "kubelet is not active"),
        ] {
            assert_eq!(
                is_from_before(reported, started, now(asked)),
                before,
                "{why}"
            );
        }
    }

    /// A script names another unit than the one that runs kubelet.
    #[tokio::test]
    async fn a_node_whose_kubelet_has_no_unit_is_not_known_to_be_ready() {
        let host = FakeHost::new()
            .with_unit("pf9-kubelet.service", "[Service]\n")
            .with_file("/etc/kubeconfig", "")
            .with_file("/etc/cni/net.d/10-pods.conf", "")
            .with_kubernetes(|rules| rules.remote_api = true);
        host.with_world_mut(|world| world.start_unit("pf9-kubelet.service"))
            .unwrap();
        let kubeconfig = Path::new("/etc/kubeconfig");
        let ready = node_ready(&host, "cp-1", "pf9-kubelet.service", kubeconfig).await;
        assert_eq!(ready.unwrap(), None);
        let ready = node_ready(&host, "w-1", "pf9-kubelet.service", kubeconfig).await;
        let removed = ready.unwrap().expect("there is no such node");
        assert!(removed.contains("`nodelet clean --purge`"), "{removed}");
        let ready = node_ready(&host, "cp-1", "kubelet.service", kubeconfig).await;
        let Err(ResourceError::Missing { what }) = &ready else {
            panic!("{ready:?}")
        };
        assert_eq!(
            what,
            "node cp-1 is not known to be Ready: there is no unit kubelet.service, so its start is not known"
        );
    }
}
