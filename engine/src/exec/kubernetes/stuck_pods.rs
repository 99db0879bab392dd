//! Ends the containers of a pod that a phase has waited for without success, so that kubelet starts others before the
//! next attempt.
//!
//! kubelet's own probes usually end a container that hangs, and much sooner. But a kubelet that starts while its own
//! API server hangs does not probe that container, and no phase ends what kubelet runs.

use std::time::Duration;

use crate::exec::Runner;
use crate::exec::event::Event;
use crate::host::{ContainerState, ListedContainer};
use crate::model::chain;
use crate::plan::{PlannedPhase, Probe};
use crate::resource::kubernetes::pod_container::{GRACE, StaticPods, of_pods};

/// Minimum wait of the phase, and minimum age of a container when the wait began: kubelet gives a container as long to
/// start. The timeout of `api-ready` is not longer than this; it waits to the end if its API server does not answer at
/// all.
const LONG: Duration = Duration::from_secs(5 * 60);

impl Runner<'_> {
    /// Ends the containers of the pods that a failed phase is about, if it has `waited` at least [`LONG`] and they had
    /// been started at least as long before.
    pub(in crate::exec) async fn kill_stuck_pods(&self, phase: &PlannedPhase, waited: Duration) {
        if waited < LONG {
            return;
        }
        let pods = phase.checks.iter().filter_map(|check| match &check.probe {
            Probe::PodRunning { pod, containers } => Some((pod, containers)),
            _ => None,
        });
        let pods: Vec<_> = pods.collect();
        if pods.is_empty() {
            return;
        }
        let all = match self.host.containers(&of_pods()).await {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!("could not {}", chain(&error).join(": "));
                return;
            }
        };
        let statics = StaticPods::among(&all);
        // A clock that was corrected since may make the container look older, but it is not older than the boot.
        let (now, up) = (self.host.now(), self.host.up());
        let theirs = |listed: &&ListedContainer| {
            let is_one = |(pod, names): &(&String, &Vec<String>)| {
                names.iter().any(|name| statics.has(listed, pod, name))
            };
            listed.running && pods.iter().any(is_one)
        };
        let hangs = |container: &ContainerState| {
            let since = container.started_at;
            let age = since.and_then(|since| now.duration_since(since).ok());
            container.running && age.is_some_and(|age| age.min(up) >= waited + LONG)
        };
        for listed in all.iter().filter(theirs) {
            let container = match self.host.container(&listed.name).await {
                Ok(Some(container)) if hangs(&container) => container,
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!("could not {}", chain(&error).join(": "));
                    continue;
                }
            };
            match self.host.stop_container(&container.name, GRACE).await {
                Ok(()) => self.events.emit(Event::ResourceRestarted {
                    phase: phase.name.clone(),
                    resource: format!("container {}", container.name),
                    reason: format!(
                        "the phase waited {} without success; kubelet starts another container",
                        humantime::format_duration(Duration::from_secs(waited.as_secs()))
                    ),
                }),
                Err(error) => tracing::warn!("could not {}", chain(&error).join(": ")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Recording;
    use crate::facts::Facts;
    use crate::host::fake::FakeHost;
    use crate::host::{Clock as _, Containers as _};
    use crate::model::{Outcome, PhaseName};
    use crate::plan::{Plan, PlannedCheck};
    use crate::resource::NoSecrets;

    fn check(name: &str, probe: Probe, timeout: Duration) -> PlannedCheck {
        let phase: PhaseName = "api-ready".parse().expect("a name");
        PlannedCheck {
            every: Duration::from_secs(1),
            timeout,
            ..PlannedCheck::bare(&phase, name, probe)
        }
    }

    /// A phase that waits `timeout` for an API server that never answers.
    fn plan(timeout: Duration) -> Plan {
        let phase = PlannedPhase {
            checks: vec![
                check(
                    "the API server is ready",
                    Probe::FileExists("/never".into()),
                    timeout,
                ),
                check(
                    "the pod runs",
                    Probe::PodRunning {
                        pod: "k8s-master".to_owned(),
                        containers: vec!["kube-apiserver".to_owned()],
                    },
                    timeout,
                ),
            ],
            ..PlannedPhase::bare("api-ready".parse().expect("a name"))
        };
        Plan::bare(vec![phase])
    }

    /// Runs a static pod with this container; returns the container's name.
    fn run(host: &FakeHost, pod: &str, container: &str) -> String {
        let pod = format!("{pod}-cp-1");
        host.with_world_mut(|world| world.static_pod(&pod, container, "image:1"));
        format!("k8s_{container}_{pod}")
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_hangs_is_ended_by_the_phase_that_waited_for_it() {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        // How long the container ran before, by the clock; whether the host has just been booted; how long the phase
        // waits; whether the container is ended. A slow container has just been started.
        for (before, booted, waits, ended) in [
            (minutes(60), false, minutes(5), true),
            (minutes(60), true, minutes(5), false),
            (minutes(60), false, minutes(4), false),
            (minutes(4), false, minutes(5), false),
        ] {
            let host = FakeHost::new().with_docker().with_image("image:1");
            let api = run(&host, "k8s-master", "kube-apiserver");
            let other = run(&host, "coredns", "kube-apiserver");
            // A tenant's pod: its name begins like ours, and its container has the same name.
            host.with_world_mut(|world| {
                world.tenants_pod("k8s-master-x", "kube-apiserver", "image:1")
            });
            let tenants = "k8s_kube-apiserver_k8s-master-x_tenant";
            host.with_world_mut(|world| {
                world.advance(before);
                if booted {
                    world.has_booted();
                }
            });
            let (plan, facts, heard) = (
                plan(waits),
                Facts::nothing_about("cp-1"),
                Recording::default(),
            );
            let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
            let outcome = runner.apply().await.expect("it can be written down");
            assert_eq!(outcome, Outcome::Failed);
            let runs = |name: &str| host.with_world(|world| world.container_runs(name));
            assert_eq!(runs(&api), !ended, "after {waits:?}");
            assert!(runs(&other) && runs(tenants));
            let is_reported = heard.events().into_iter().any(|event| {
                matches!(event, Event::ResourceRestarted { resource, .. } if resource.ends_with(&api))
            });
            assert_eq!(is_reported, ended);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_was_just_restarted_is_not_killed() {
        let host = FakeHost::new().with_docker().with_image("image:1");
        let api = run(&host, "k8s-master", "kube-apiserver");
        let plan = plan(Duration::from_secs(300));
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        host.with_world_mut(|world| world.advance(Duration::from_secs(3600)));
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        let restarted = async {
            host.pause(Duration::from_secs(100)).await;
            host.stop_container(&api, GRACE).await.expect("it ends");
            host.start_container(&api).await.expect("it starts");
        };
        let (outcome, ()) = tokio::join!(runner.apply(), restarted);
        assert_eq!(outcome.expect("it can be written down"), Outcome::Failed);
        assert!(host.with_world(|world| world.container_runs(&api)));
    }
}
