//! What a failure message says beyond the error: its causes, what was found nearby, and the next thing to try.

use std::time::Duration;

use super::remedy::remedy;
use crate::host::{ContainerState, Host, HostResult, ListedContainer, UnitState};
use crate::model::chain;
use crate::plan::{PlannedPhase, Probe};
use crate::resource::docker::container_runtime;
use crate::resource::kubernetes::pod_container::{StaticPods, of_pods};
use crate::resource::{ResourceError, Spec};

/// The next thing to try, judged by the error and by what was found near it.
#[must_use]
pub fn advice(error: &ResourceError, found: &[String]) -> String {
    let what = remedy(error, found);
    let again = "then run `nodelet apply` again; phases that are already applied stay as they are";
    format!("{what}, {again}")
}

/// How much of a log is read, and how many of its lines are shown. A kubelet that refuses its flags prints about 400 lines of usage first.
const LOG_READ: usize = 1000;
const LOG_SHOWN: usize = 5;
/// A container of a pod that has run for less than this may be one that ends again and again.
const JUST_STARTED: Duration = Duration::from_secs(60);
/// How often the containers of a pod are listed.
const LOOKS: usize = 3;
/// Longest line of a log that is shown, in characters.
const LINE: usize = 300;

/// The states of a phase's containers, of its inactive units and of missing pod containers, with the log lines that
/// explain the error.
pub(in crate::exec) async fn nearby_findings(
    phase: &PlannedPhase,
    host: &dyn Host,
    error: &ResourceError,
) -> Vec<String> {
    let mut found = Vec::new();
    for step in &phase.steps {
        match &step.spec {
            Spec::Container(spec) => {
                if let Ok(Some(state)) = host.container(&spec.name).await {
                    found.extend(container(host, &state, &spec.name).await);
                }
            }
            Spec::Service(spec) => {
                if let Ok(state) = host.unit(&spec.unit).await {
                    let fails = is_of_connection(error) || is_about(error, &spec.unit);
                    found.extend(unit(host, &state, &spec.unit, fails).await);
                }
            }
            _ => {}
        }
    }
    for check in &phase.checks {
        // Another phase starts a static pod. The phase that waits for the pod reports why it does not run.
        if let Probe::PodRunning { pod, containers } = &check.probe {
            let ended = pod_containers(host, pod, containers).await;
            if is_of_connection(error) {
                let running = logs_of_running(host, pod, containers, &ended).await;
                found.extend(ended.into_iter().chain(running));
            } else {
                found.extend(ended);
            }
        }
    }
    found.truncate(30);
    found
}

async fn unit(host: &dyn Host, state: &UnitState, name: &str, fails: bool) -> Vec<String> {
    if state.is_active() && !fails {
        return Vec::new();
    }
    let log = host.unit_log(name, LOG_READ).await.unwrap_or_default();
    about_unit(state, name, &log)
}

/// Whether this unit is what has failed. One that ends again and again was down then, and may be active by now.
fn is_about(error: &ResourceError, unit: &str) -> bool {
    let name = unit.strip_suffix(".service").unwrap_or(unit);
    chain(error).iter().any(|part| part.contains(name))
}

/// What is to be said of a unit that does not run or does not listen. systemd starts a program again that ends all the time, so such a unit is often active:
/// then its log tells whether there is something to say.
fn about_unit(state: &UnitState, name: &str, log: &str) -> Vec<String> {
    if state.is_active() && !log.lines().any(tells) {
        return Vec::new();
    }
    let how = format!("{name} is {} ({})", state.active, state.sub);
    let said = telling(log).map(|line| format!("  {name}: {line}"));
    std::iter::once(how).chain(said).collect()
}

async fn container(host: &dyn Host, state: &ContainerState, name: &str) -> Vec<String> {
    let restarted = match state.restarts {
        0 => String::new(),
        1 => ", restarted once".to_owned(),
        times => format!(", restarted {times} times"),
    };
    let how = if state.running {
        "runs".to_owned()
    } else {
        format!("exited with {}", state.exit_code)
    };
    let mut found = vec![format!("container {name} {how}{restarted}")];
    if let Ok(log) = host.container_log(&state.name, LOG_READ).await {
        found.extend(telling(&log).map(|line| format!("  {name}: {line}")));
    }
    found
}

/// The containers of a pod that do not run. Kubelet removes containers that have ended, so one may be gone between two questions: then all are listed
/// again.
async fn pod_containers(host: &dyn Host, pod: &str, names: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for name in names {
        let mut lines = Ok(None);
        for _ in 0..LOOKS {
            lines = pod_container(host, pod, name).await;
            if !matches!(lines, Ok(None)) {
                break;
            }
        }
        match lines {
            Ok(Some(lines)) => found.extend(lines),
            Ok(None) => found.push(format!("container {name} of pod {pod} ends all the time")),
            // Each question would take as long.
            Err(error) => {
                let why = chain(&error).join(": ");
                found.push(format!("it is not known how pod {pod} is: {why}"));
                return found;
            }
        }
    }
    found
}

/// What is to be said of a container of a pod; `None` if it is gone meanwhile. If several have the name, it is kubelet's latest one. One that kubelet has
/// just started again runs, and may end in the next moment: then the one before says why.
async fn pod_container(host: &dyn Host, pod: &str, name: &str) -> HostResult<Option<Vec<String>>> {
    let all = host.containers(&of_pods()).await?;
    let pods = StaticPods::among(&all);
    let mut of_name: Vec<&ListedContainer> =
        all.iter().filter(|one| pods.has(one, pod, name)).collect();
    // The name ends in the number of the attempt.
    of_name.sort_by_key(|one| {
        one.name
            .rsplit('_')
            .next()
            .and_then(|n| n.parse::<u32>().ok())
    });
    let (running, ended): (Vec<_>, Vec<_>) = of_name.into_iter().partition(|one| one.running);
    if let Some(running) = running.first() {
        match is_just_started(host, running).await? {
            None => return Ok(None),
            Some(false) => return Ok(Some(Vec::new())),
            Some(true) => {}
        }
    }
    // After a change of the manifest, containers of the pod before may be there, too.
    let uid = |one: &ListedContainer| one.labels.get(container_runtime::POD).cloned();
    let last = ended.iter().rev().find(|ended| {
        running.is_empty() || running.iter().any(|running| uid(running) == uid(ended))
    });
    let Some(last) = last else {
        let none = running.is_empty();
        let none = none.then(|| format!("there is no container {name} of pod {pod}"));
        return Ok(Some(none.into_iter().collect()));
    };
    let Some(last) = host.container(&last.name).await? else {
        return Ok(None);
    };
    let mut lines = container(host, &last, name).await;
    if !running.is_empty()
        && let Some(first) = lines.first_mut()
    {
        first.push_str(", and was started again");
    }
    Ok(Some(lines))
}

/// No server listens where one is expected, or it ends or is silent. Its process may run, and try for long to reach what it needs. The API server
/// listens before that, and accepts nothing.
fn is_of_connection(error: &ResourceError) -> bool {
    // The last three are of a server that ends while it greets (rustls) or answers (rustls, hyper).
    const SIGNS: [&str; 8] = [
        "connection refused",
        "connection reset",
        "broken pipe",
        "no answer within",
        "timed out",
        "handshake eof",
        "close_notify",
        "connection closed before",
    ];
    let all = chain(error).join(": ").to_lowercase();
    SIGNS.iter().any(|sign| all.contains(sign))
}

/// What the containers of a pod complain of while they run, or why one has ended that is not in what was `said` before: it ran then. Docker or
/// kubelet may be what does not work, so a container that cannot be asked is left out: [`pod_containers`] names that.
async fn logs_of_running(
    host: &dyn Host,
    pod: &str,
    names: &[String],
    said: &[String],
) -> Vec<String> {
    let Ok(all) = host.containers(&of_pods()).await else {
        return Vec::new();
    };
    let pods = StaticPods::among(&all);
    let mut found = Vec::new();
    for name in names {
        let its = all
            .iter()
            .find(|one| one.running && pods.has(one, pod, name));
        let Some(its) = its else {
            let start = format!("container {name} ");
            if !said.iter().any(|line| line.starts_with(&start))
                && let Ok(Some(lines)) = pod_container(host, pod, name).await
            {
                found.extend(lines);
            }
            continue;
        };
        let Ok(log) = host.container_log(&its.name, LOG_READ).await else {
            continue;
        };
        if log.lines().any(tells) {
            found.push(format!("container {name} runs, and says"));
            found.extend(telling(&log).map(|line| format!("  {name}: {line}")));
        }
    }
    found
}

/// `None` if it is gone.
async fn is_just_started(host: &dyn Host, listed: &ListedContainer) -> HostResult<Option<bool>> {
    let state = host.container(&listed.name).await?;
    Ok(state.map(|state| {
        let age = state
            .started_at
            .and_then(|started| host.now().duration_since(started).ok());
        age.is_some_and(|age| age < JUST_STARTED)
    }))
}

/// The last lines of a log that say what is wrong, or simply the last lines if no line does.
fn telling(log: &str) -> impl Iterator<Item = String> {
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| !line.is_empty() && !is_of_stack(line))
        .collect();
    let mut chosen: Vec<&str> = lines.iter().copied().filter(|line| tells(line)).collect();
    if chosen.is_empty() {
        chosen = lines;
    }
    let from = chosen.len().saturating_sub(LOG_SHOWN);
    let cut = |line: &str| match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    };
    chosen
        .split_off(from)
        .into_iter()
        .map(cut)
        .collect::<Vec<_>>()
        .into_iter()
}

/// A line of the stack trace at the end of a Go program. It may have hundreds of lines, and the reason is above it.
fn is_of_stack(line: &str) -> bool {
    line.starts_with(['\t', ' '])
        || line.starts_with("goroutine ")
        || line.starts_with("created by ")
        || (line.ends_with(')')
            && ["(...)", "(0x", "({0x", "()"]
                .iter()
                .any(|sign| line.contains(sign)))
}

fn tells(line: &str) -> bool {
    const SIGNS: [&str; 9] = [
        "error", "fatal", "panic", "fail", "refused", "denied", "unable", "no space", "in use",
    ];
    let mut start = line.chars();
    // Kubernetes' own form: severity and date, as in `E1120 10:04:01`.
    let klog = start.next().is_some_and(|c| matches!(c, 'E' | 'F'))
        && start.take(4).all(|c| c.is_ascii_digit());
    let line = line.to_lowercase();
    klog || SIGNS.iter().any(|sign| line.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostError;
    use crate::host::fake::{FakeHost, FaultPlan};

    /// The findings about the API server's container, which runs for so long and before it has ended, in the pod with this uid.
    async fn found_after(runs_for: Duration, ended_in: &str) -> Vec<String> {
        const SANDBOX: &str = "k8s_POD_k8s-master-cp-1";
        const NAME: &str = "k8s_kube-apiserver_k8s-master-cp-1";
        const HASH: &str = "annotation.kubernetes.io/config.hash";
        let host = FakeHost::new().with_docker().with_image("a:1");
        host.with_world_mut(|world| {
            world.static_pod("k8s-master-cp-1", "kube-apiserver", "a:1");
            for name in [SANDBOX, NAME] {
                let mut ended = world.containers[name].clone();
                ended.config.name = format!("{name}_0");
                ended.id.push('0');
                ended.running = false;
                ended.exit_code = 1;
                for (label, value) in &mut ended.config.labels {
                    if label == container_runtime::POD || label == HASH {
                        ended_in.clone_into(value);
                    }
                }
                world.containers.insert(ended.config.name.clone(), ended);
            }
            world.advance(runs_for);
        });
        pod_containers(&host, "k8s-master", &["kube-apiserver".to_owned()]).await
    }

    #[tokio::test]
    async fn a_container_that_kubelet_has_just_started_again_says_why_it_ended() {
        const UID: &str = "4f5e6d7c";
        let found = found_after(Duration::from_secs(5), UID).await;
        assert_eq!(
            found,
            ["container kube-apiserver exited with 1, and was started again"]
        );
        let found = found_after(JUST_STARTED * 2, UID).await;
        assert_eq!(found, Vec::<String>::new(), "it is long ago");
        let found = found_after(Duration::from_secs(5), "another").await;
        assert_eq!(found, Vec::<String>::new(), "it is of the pod before");
    }

    /// The API server runs for long while it tries to reach etcd, and nothing listens meanwhile.
    #[tokio::test]
    async fn a_container_that_runs_and_does_not_listen_says_why() {
        const NAME: &str = "k8s_kube-apiserver_k8s-master-cp-1";
        let host = FakeHost::new().with_docker().with_image("a:1");
        host.with_world_mut(|world| {
            world.static_pod("k8s-master-cp-1", "kube-apiserver", "a:1");
            world.static_pod("k8s-master-cp-1", "kube-scheduler", "a:1");
            world.broken_containers.insert(NAME.to_owned());
        });
        let names = ["kube-apiserver".to_owned(), "kube-scheduler".to_owned()];
        let found =
            async |said: &[String]| logs_of_running(&host, "k8s-master", &names, said).await;
        let its = format!("  kube-apiserver: {NAME}: fatal: told to end");
        assert_eq!(
            found(&[]).await,
            ["container kube-apiserver runs, and says", &its]
        );
        // It ran when it was looked at first, and has ended since.
        host.with_world_mut(|world| world.kill_container(NAME));
        let ended = found(&[]).await;
        assert!(
            ended.len() == 2 && ended[0].starts_with("container kube-apiserver exited with "),
            "{ended:?}"
        );
        assert_eq!(ended[1], its);
        assert_eq!(found(&ended).await, Vec::<String>::new());

        // Linux' ECONNREFUSED, ECONNRESET, EPIPE and ETIMEDOUT, a connection that a server ends in its handshake, and silence.
        let systems = [111, 104, 32, 110].map(std::io::Error::from_raw_os_error);
        let ended = systems
            .into_iter()
            .chain([std::io::Error::other("tls handshake eof")])
            .map(|error| HostError::service("compare", error));
        let silent = HostError::Deadline {
            action: "compare".to_owned(),
            after: Duration::from_secs(3),
        };
        for error in ended.chain([silent]).map(ResourceError::Host) {
            assert!(is_of_connection(&error), "{error:?}");
        }
        let forbidden =
            ResourceError::Host(HostError::refused("compare", "forbidden (status 403)"));
        assert!(!is_of_connection(&forbidden));
        let down = ResourceError::Host(HostError::service("start docker.service", "it failed"));
        assert!(is_about(&down, "docker.service") && !is_about(&down, "pf9-kubelet.service"));
    }

    /// A kubelet that refuses a flag ends all the time, and systemd starts it again each time.
    #[test]
    fn a_unit_that_is_active_and_does_not_listen_says_why() {
        let about = |active: &str, sub: &str, log: String| {
            let state = UnitState {
                active: active.to_owned(),
                sub: sub.to_owned(),
                ..UnitState::default()
            };
            about_unit(&state, "pf9-kubelet.service", &log)
        };
        let refused = "F1120 10:04:01 server.go:155] unknown flag: --x";
        let log = format!("Started\n{refused}\nStarted\n");
        assert_eq!(
            about("active", "running", log),
            [
                "pf9-kubelet.service is active (running)".to_owned(),
                format!("  pf9-kubelet.service: {refused}")
            ]
        );
        let started = "Started\n".to_owned();
        assert_eq!(
            about("active", "running", started.clone()),
            Vec::<String>::new()
        );
        assert_eq!(
            about("activating", "auto-restart", started),
            [
                "pf9-kubelet.service is activating (auto-restart)",
                "  pf9-kubelet.service: Started"
            ]
        );
    }

    /// Kubelet removes it between the list and the question; or docker does not answer.
    #[tokio::test]
    async fn a_container_that_is_not_described_is_named() {
        const NAME: &str = "k8s_kube-apiserver_k8s-master-cp-1";
        let host = FakeHost::new().with_docker().with_image("a:1");
        host.with_world_mut(|world| world.static_pod("k8s-master-cp-1", "kube-apiserver", "a:1"));
        let found =
            async || pod_containers(&host, "k8s-master", &["kube-apiserver".to_owned()]).await;
        host.set_faults(FaultPlan::none().fail("container", NAME));
        let said = found().await;
        assert!(
            said.len() == 1 && said[0].starts_with("it is not known how pod k8s-master is: "),
            "{said:?}"
        );
        host.set_faults(FaultPlan::none());
        host.with_world_mut(|world| {
            let its = world.containers.remove(NAME).expect("it is there");
            world.containers.insert("gone".to_owned(), its);
        });
        assert_eq!(
            found().await,
            ["container kube-apiserver of pod k8s-master ends all the time"]
        );
    }

    #[test]
    fn a_log_line_has_the_cause_without_a_stack_trace() {
        let log = "starting\npanic: mkdir: no space left on device\n\ngoroutine 1 [running]:\n\tmain.go:28 +0x17\nmain.main()\n";
        assert_eq!(
            telling(log).collect::<Vec<_>>(),
            ["panic: mkdir: no space left on device"]
        );
        let klog = "F1120 10:04:01 server.go:155] unknown flag: --x\nk8s.io/klog.Fatal(...)\nmain.run(0xc00, 0x1)\n";
        assert_eq!(
            telling(klog).collect::<Vec<_>>(),
            ["F1120 10:04:01 server.go:155] unknown flag: --x"]
        );
        assert_eq!(telling("one\ntwo\n").collect::<Vec<_>>(), ["one", "two"]);
        assert!(
            telling(&format!("error {}", "x".repeat(1000)))
                .all(|line| line.chars().count() == LINE + 1)
        );
    }
}
