//! What checks report, and how long they take, on a fake host.

use sha2::{Digest as _, Sha256};

use super::*;
use crate::exec::apply::phase::Progress;
use crate::exec::{Recording, failed_phases, restart_set};
use crate::facts::Facts;
use crate::host::fake::{FakeHost, FaultPlan, World};
use crate::model::StepId;
use crate::plan::{NeededApi, Plan, PlannedStep, StepPolicy};
use crate::resource::{Checksums, NoSecrets, NodeRoutesSpec, ServiceSpec};

fn phase(name: &str, requires: &[&str], probe: Probe) -> PlannedPhase {
    let names = |list: &[&str]| list.iter().map(|n| n.parse().expect("a name")).collect();
    let phase: PhaseName = name.parse().expect("a name");
    PlannedPhase {
        requires: names(requires),
        checks: vec![PlannedCheck {
            every: Duration::from_secs(1),
            ..PlannedCheck::bare(&phase, "it answers", probe)
        }],
        ..PlannedPhase::bare(phase)
    }
}

/// A step that makes a unit run.
fn service(unit: &str) -> PlannedStep {
    let phase: PhaseName = "docker".parse().expect("a name");
    PlannedStep::bare(&phase, Spec::Service(ServiceSpec::bare(unit)))
}

/// The containers of a runtime that hangs are not known. That the runtime hangs is known, so it is restarted.
#[tokio::test(start_paused = true)]
async fn a_runtime_that_hangs_has_failed_and_what_it_runs_is_unknown() {
    let plan = Plan::bare(vec![
        phase("docker", &[], Probe::ContainerRuntime),
        phase(
            "etcd",
            &["docker"],
            Probe::ContainerRunning("etcd".to_owned()),
        ),
    ]);
    let hangs = FaultPlan::none()
        .stall("container_runtime", "*")
        .stall("container", "*");
    let host = FakeHost::new().with_docker().with_faults(hangs);
    let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
    let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
    let health = runner.check_until_failed(Duration::from_millis(250)).await;
    let statuses: Vec<Status> = health.iter().map(PhaseHealth::status).collect();
    assert_eq!(statuses, [Status::False, Status::Unknown], "{health:?}");
    let reason = &health[0].conditions[0].reason;
    assert!(reason.contains("does not answer within 30 s"), "{reason}");
    let set = restart_set(&plan, &failed_phases(&health));
    let set: Vec<&str> = set.iter().map(PhaseName::as_str).collect();
    assert_eq!(set, ["docker", "etcd"]);
    // A runtime that is slow has not failed.
    host.set_faults(FaultPlan::none().stall("container_runtime", "*").times(1));
    let health = runner.check_until_failed(Duration::from_millis(250)).await;
    assert_eq!(health[0].status(), Status::True, "{health:?}");
}

/// Whether a kubeconfig and its readers are repaired together must not depend on the host's speed. A disk that hangs delays a repair by seconds.
#[tokio::test(start_paused = true)]
async fn a_comparison_with_the_plan_gets_more_time_after_a_failure_and_not_all_of_it() {
    let failing = phase("docker", &[], Probe::FileExists("/run/docker".into()));
    let file = |name: &str, spec: Spec| {
        let mut compared = phase(name, &[], Probe::AsPlanned);
        compared.steps = vec![PlannedStep::bare(&compared.name, spec)];
        compared
    };
    let unit = Spec::Service(ServiceSpec::bare("kubelet.service"));
    let routes = plan_of_routes().phases.remove(0);
    let phases = vec![failing, file("kubelet", unit), routes];
    let local = phases
        .iter()
        .map(|phase| compares_this_host(phase, &phase.checks[0]));
    assert_eq!(local.collect::<Vec<_>>(), [false, true, false]);
    let plan = Plan::bare(phases);
    let host = FakeHost::new().with_faults(FaultPlan::none().stall("unit", "*"));
    let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
    let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
    let health = runner.check_until_failed(Duration::from_millis(250)).await;
    let statuses: Vec<Status> = health.iter().map(PhaseHealth::status).collect();
    assert_eq!(
        statuses[..2],
        [Status::False, Status::Unknown],
        "{health:?}"
    );
    let waited = host.with_world(|world| world.elapsed());
    assert!(waited >= COMPARISON, "{waited:?}");
}

/// docker is slow at first. Its second answer does not hide that it cannot end a container.
#[tokio::test(start_paused = true)]
async fn the_second_answer_of_a_runtime_comes_with_its_warning() {
    let plan = Plan::bare(vec![phase("docker", &[], Probe::ContainerRuntime)]);
    let slow = FaultPlan::none().stall("container_runtime", "*").times(1);
    let host = FakeHost::new().with_docker().with_faults(slow);
    host.with_world_mut(|world| {
        world.static_pod("k8s-master-cp-1", "kube-apiserver", "image:1");
        world.stop_shim(4711, "k8s_kube-apiserver_k8s-master-cp-1");
    });
    let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
    let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
    let health = runner.check_until_failed(Duration::from_millis(250)).await;
    assert_eq!(health[0].status(), Status::True, "{health:?}");
    let warnings: Vec<&Condition> = health[0].warnings().collect();
    assert_eq!(warnings.len(), 1, "{health:?}");
    let reason = &warnings[0].reason;
    assert!(reason.contains("`kill -CONT 4711`"), "{reason}");
}

/// A phase with routes to the nodes of a cluster.
fn plan_of_routes() -> Plan {
    let name: PhaseName = "node-routes".parse().expect("a name");
    let step = PlannedStep {
        id: StepId::new(&name, "node_routes", "cp-1"),
        span: Span::file("phases/node-routes.rhai"),
        spec: Spec::NodeRoutes(NodeRoutesSpec {
            node: "cp-1".to_owned(),
            network: "10.20.0.0/16".parse().expect("a network"),
            kubeconfig: "/etc/kubeconfig".into(),
        }),
        policy: StepPolicy::default(),
    };
    let planned = PlannedPhase {
        steps: vec![step],
        ..phase("node-routes", &[], Probe::AsPlanned)
    };
    Plan::bare(vec![planned])
}

/// Nodes may have moved meanwhile. An apply goes on, because a step has nothing to change.
#[tokio::test(start_paused = true)]
async fn routes_are_unknown_to_a_pass_while_the_api_server_does_not_answer() {
    let plan = plan_of_routes();
    let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
    for (answers, expected) in [(true, Status::True), (false, Status::Unknown)] {
        let host = FakeHost::new()
            .with_file("/etc/kubeconfig", "")
            .with_kubernetes(|rules| rules.remote_api = answers);
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        let health = runner.check().await;
        assert_eq!(health[0].status(), expected, "{health:?}");
        let reason = &health[0].conditions[0].reason;
        assert_eq!(
            reason.contains("the API server does not answer"),
            !answers,
            "{reason}"
        );
        assert!(failed_phases(&health).is_empty());
        let (phase, check) = (&plan.phases[0], &plan.phases[0].checks[0]);
        runner
            .wait_for(phase, check, &Progress::default())
            .await
            .expect("an apply goes on");
    }
}

/// A phase that waits for node `w-1`, of a worker if `is_worker`.
fn plan_of_node(is_worker: bool) -> Plan {
    let probe = Probe::NodeReady {
        node: "w-1".to_owned(),
        kubelet: "pf9-kubelet.service".to_owned(),
        kubeconfig: "/etc/kubeconfig".into(),
    };
    let mut planned = phase("kubernetes-ready", &[], probe);
    planned.checks[0].needs_api = is_worker.then(|| NeededApi {
        node: "w-1".to_owned(),
        kubeconfig: "/etc/kubeconfig".into(),
    });
    Plan::bare(vec![planned])
}

/// A host with a kubelet that has just started, and an API server elsewhere that has no node `w-1`.
fn host_without_node() -> FakeHost {
    let host = FakeHost::new()
        .with_unit("pf9-kubelet.service", "[Service]\n")
        .with_file("/etc/kubeconfig", "")
        .with_kubernetes(|rules| rules.remote_api = true);
    host.with_world_mut(|world| world.start_unit("pf9-kubelet.service"))
        .expect("kubelet starts");
    host
}

/// Masters delete the node of a worker that was removed, and an administrator may delete any. kubelet does not register it again, so a longer wait would be in vain.
#[tokio::test(start_paused = true)]
async fn the_wait_for_a_deleted_node_ends_early() {
    let (facts, ignored_events) = (Facts::nothing_about("w-1"), Recording::default());
    for is_worker in [true, false] {
        let (plan, host) = (plan_of_node(is_worker), host_without_node());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        let begun = host.with_world(World::elapsed);
        let (phase, check) = (&plan.phases[0], &plan.phases[0].checks[0]);
        let waited = runner.wait_for(phase, check, &Progress::default()).await;
        let error = waited.expect_err("there is no such node");
        let took = host.with_world(World::elapsed) - begun;
        assert!(took < Duration::from_secs(30), "{took:?}");
        let next = match &error {
            ResourceError::Unmet { next, .. } => next.as_str(),
            _ => "",
        };
        assert_eq!(
            next.contains("`nodelet pki issue w-1 --to KEY --replace`"),
            is_worker,
            "{error}"
        );
        assert!(next.contains("`nodelet repair kubelet`"), "{error}");
        let calls = host.journal();
        let asked = calls.iter().filter(|call| call.name == "unit").count();
        assert_eq!(asked, 1, "systemd is asked when its answer counts");
    }
}

/// The node may have been there meanwhile.
#[tokio::test(start_paused = true)]
async fn the_time_in_which_the_api_server_is_away_does_not_count_for_a_missing_node() {
    let (facts, ignored_events) = (Facts::nothing_about("w-1"), Recording::default());
    let (plan, host) = (plan_of_node(true), host_without_node());
    let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
    let begun = host.with_world(World::elapsed);
    let masters = async {
        for (at, answers) in [(5, false), (20, true)] {
            while host.with_world(World::elapsed) < begun + Duration::from_secs(at) {
                tokio::task::yield_now().await;
            }
            host.with_world_mut(|world| world.kubernetes.remote_api = answers);
        }
        std::future::pending::<()>().await;
    };
    let (phase, check) = (&plan.phases[0], &plan.phases[0].checks[0]);
    let progress = Progress::default();
    let waited = tokio::select! {
        waited = runner.wait_for(phase, check, &progress) => waited,
        () = masters => unreachable!("they never end"),
    };
    let error = waited.expect_err("there is no such node");
    let took = host.with_world(World::elapsed) - begun;
    assert!(took >= Duration::from_secs(20 + 15), "{took:?}: {error}");
    assert!(matches!(error, ResourceError::Unmet { .. }), "{error}");
}

/// Only an operator can end it, so nothing is restarted, and the host does not look healthy either.
#[tokio::test(start_paused = true)]
async fn a_problem_of_another_node_is_a_warning() {
    let plan = plan_of_routes();
    let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
    let host = FakeHost::new()
        .with_file("/etc/kubeconfig", "")
        .with_kubernetes(|rules| rules.remote_api = true);
    host.with_world_mut(|world| {
        let far = "172.31.0.21".parse().expect("an address");
        world.join_node("w-1", "10.20.1.0/24", far);
    });
    let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
    for health in [
        runner.check().await,
        runner.check_until_failed(Duration::from_secs(1)).await,
    ] {
        let condition = &health[0].conditions[0];
        assert_eq!(condition.status, Status::False, "{health:?}");
        assert!(condition.reason.contains("172.31.0.21"), "{health:?}");
        assert_eq!(health[0].warnings().count(), 1);
        assert_eq!(health[0].status(), Status::True);
        assert!(failed_phases(&health).is_empty());
    }
    let name = plan.phases[0].name.clone();
    assert!(runner.outdated(&[name]).await.is_empty());
    assert_eq!(host.mutations(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_check_with_failures_fails_after_that_many_in_a_row() {
    const FILE: &str = "/run/beat";
    let mut patient = phase("beat", &[], Probe::FileExists(FILE.into()));
    patient.checks[0].failures = 3;
    let plan = Plan::bare(vec![patient]);
    let (host, facts, ignored_events) = (
        FakeHost::new(),
        Facts::nothing_about("cp-1"),
        Recording::default(),
    );
    let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
    let settle = Duration::from_millis(250);
    let mut before = FailureCounts::default();
    let mut seen = Vec::new();
    for there in [false, false, true, false, false, false, false] {
        host.with_world_mut(|world| match there {
            true => world.file(FILE, "x"),
            false => world.remove(FILE),
        });
        let health = runner.check_again(settle, &before).await;
        // The caller passes it on as text.
        let json = serde_json::to_string(&FailureCounts::of(&health)).expect("JSON");
        before = serde_json::from_str(&json).expect("streaks");
        seen.push(health[0].status());
        let reason = &health[0].conditions[0].reason;
        let partly = seen.last() == Some(&Status::Unknown);
        assert_eq!(partly, reason.contains("of 3 times in a row"), "{reason}");
    }
    use Status::{False, True, Unknown};
    assert_eq!(
        seen,
        [Unknown, Unknown, True, Unknown, Unknown, False, False]
    );
    // A caller that checks only once does not wait for that.
    assert_eq!(runner.check_until_failed(settle).await[0].status(), False);
    assert_eq!(runner.check().await[0].status(), False);
}

/// The unit that is being started.
const UNIT: &str = "docker.service";

/// Checks a host whose service manager is starting [`UNIT`], which is up after `up`, together with what runs in it.
/// Returns the results, and how long the checks took.
async fn checked_while_starting(plan: &Plan, up: Duration) -> (Vec<PhaseHealth>, Duration) {
    let (host, ignored_events) = (FakeHost::new().with_docker(), Recording::default());
    let facts = Facts::nothing_about("cp-1");
    host.with_world_mut(|world| world.being_started(UNIT));
    let began = host.with_world(|world| world.elapsed());
    let runner = Runner::new(plan, &host, &facts, &NoSecrets, &ignored_events);
    let manager = async {
        while host.with_world(|world| world.elapsed()) < began + up {
            tokio::task::yield_now().await;
        }
        host.with_world_mut(|world| {
            world.file("/run/etcd", "up");
            world.start_unit(UNIT)
        })
        .expect("it starts");
        std::future::pending::<()>().await;
    };
    let health = tokio::select! {
        health = runner.check_until_failed(Duration::from_millis(250)) => health,
        () = manager => unreachable!("it never ends"),
    };
    (health, host.with_world(|world| world.elapsed()) - began)
}

/// At boot the service manager starts what is enabled, which takes some time on a slow machine.
#[tokio::test(start_paused = true)]
async fn a_starting_unit_fails_only_after_a_timeout() {
    let mut docker = phase("docker", &[], Probe::ServiceActive(UNIT.to_owned()));
    // Checks of one phase wait for the same start, one after the other.
    docker.checks.push(docker.checks[0].clone());
    let plan = Plan::bare(vec![docker]);
    let (health, took) = checked_while_starting(&plan, Duration::from_secs(20)).await;
    let condition = &health[0].conditions[0];
    assert_eq!(condition.status, Status::True, "{condition:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    let (health, took) = checked_while_starting(&plan, Duration::from_secs(600)).await;
    let condition = &health[0].conditions[0];
    assert_eq!(condition.status, Status::False, "{condition:?}");
    assert!(
        condition.reason.contains("activating (start)"),
        "{condition:?}"
    );
    assert!(took < STARTING + BOUND, "{took:?}");
}

/// For example, kube-proxy runs and has not written its rules yet.
#[tokio::test(start_paused = true)]
async fn services_that_start_after_a_boot_have_not_failed() {
    let probe = Probe::Https {
        url: "http://127.0.0.1:10256/healthz".to_owned(),
        ca: None,
        client: None,
        expect: String::new(),
        certificate: None,
    };
    let plan = Plan::bare(vec![
        phase("kube-proxy", &[], probe),
        phase("cni", &["kube-proxy"], Probe::FileExists("/etc/cni".into())),
    ]);
    let (host, ignored_events) = (FakeHost::new(), Recording::default());
    let facts = Facts::nothing_about("cp-1");
    let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
    let checked = async || {
        let health = runner.check_until_failed(Duration::from_millis(250)).await;
        let statuses: Vec<Status> = health.iter().map(PhaseHealth::status).collect();
        let reason = health[0].conditions[0].reason.clone();
        (statuses, reason, health[0].was_deferred())
    };
    use Status::{False, Unknown};
    let (before, reason, deferred) = checked().await;
    assert!(!deferred, "{reason}");
    assert_eq!(before, [False, False], "{reason}");
    host.with_world_mut(World::has_booted);
    let (booted, reason, deferred) = checked().await;
    assert_eq!(
        booted,
        [Unknown, False],
        "a file does not come by itself: {reason}"
    );
    assert!(deferred, "this does not end a row of failures");
    assert!(reason.contains("this may take 1m"), "{reason}");
    assert_eq!(
        runner.check().await[0].status(),
        False,
        "an operator sees the failure as it is"
    );
    host.with_world_mut(|world| world.advance(Duration::from_secs(60)));
    assert_eq!(checked().await.0, [False, False]);
}

/// A check that fails while a unit is still being started that it depends on is made again once the unit is up. If that
/// took long, the next check decides.
#[tokio::test(start_paused = true)]
async fn checks_of_a_starting_unit_are_repeated() {
    let seconds = Duration::from_secs;
    for (file, up, expected) in [
        ("/run/etcd", seconds(1), Status::True),
        ("/run/etcd", seconds(20), Status::True),
        ("/run/never", seconds(20), Status::False),
        ("/run/never", seconds(42), Status::Unknown),
    ] {
        let mut docker = phase("docker", &[], Probe::ServiceActive(UNIT.to_owned()));
        docker.steps.push(service(UNIT));
        let etcd = phase("etcd", &["docker"], Probe::FileExists(file.into()));
        let (health, _) = checked_while_starting(&Plan::bare(vec![docker, etcd]), up).await;
        let statuses: Vec<Status> = health.iter().map(PhaseHealth::status).collect();
        assert_eq!(statuses, [Status::True, expected], "{up:?} {health:?}");
    }
}

/// An API server that is overloaded would spend half of its time on answers to the checks that wait for it.
#[tokio::test(start_paused = true)]
async fn a_slow_component_is_renewed_less_often() {
    let probe = Probe::Https {
        url: "https://127.0.0.1/readyz".to_owned(),
        ca: None,
        client: None,
        expect: String::new(),
        certificate: None,
    };
    for (faults, most) in [
        (FaultPlan::none(), 80),
        (FaultPlan::none().hang("https_get", "*"), 7),
    ] {
        let plan = Plan::bare(vec![phase("api-ready", &[], probe.clone())]);
        let host = FakeHost::new().with_faults(faults);
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
        let phase = &plan.phases[0];
        let waited = runner
            .wait_for(phase, &phase.checks[0], &Progress::default())
            .await;
        assert!(waited.is_err(), "no server answers");
        let calls = host.journal();
        let asked = calls.iter().filter(|call| call.name == "https_get").count();
        assert!((most / 2..=most).contains(&asked), "asked {asked} times");
    }
}

/// A package of one program, and the check that compares it.
fn package(program: &str) -> (Plan, FakeHost) {
    let digest = |text: &str| crate::model::hex(&Sha256::digest(text));
    let sums = format!("{}  payload/bin/kubelet\n", digest("a program"));
    let file = "/opt/r/SHA256SUMS";
    let checksums = Checksums {
        file: file.into(),
        sha256: digest(&sums),
    };
    let etcd = Probe::ContainerRunning("etcd".to_owned());
    let compares = Probe::PackageIntact {
        checksums: Some(checksums),
    };
    let mut plan = Plan::bare(vec![
        phase("etcd", &[], etcd),
        phase("package", &[], compares),
    ]);
    plan.payload = vec![program.into()];
    let host = FakeHost::new().with_docker().with_file(file, sums);
    host.with_world_mut(|world| world.file_with_mode(program, "a program", 0o755));
    (plan, host)
}

/// The plan of the version before stays in use while the host has a wrong name. A new installation of the package would not help.
#[tokio::test(start_paused = true)]
async fn an_intact_package_of_a_version_that_is_not_applied_is_not_damaged() {
    let program = "/opt/r/payload/bin/kubelet";
    let (plan, host) = package(program);
    let digest = |text: &str| crate::model::hex(&Sha256::digest(text));
    let other = "/opt/r/payload/bin/other";
    let sums = format!("{}  payload/bin/other\n", digest("another program"));
    let manifest = format!("checksums: {}\n", digest(&sums));
    host.with_world_mut(|world| {
        world.remove(program);
        world.file_with_mode(other, "another program", 0o755);
        world.file("/opt/r/role.yaml", &manifest);
        world.file("/opt/r/SHA256SUMS", &sums);
    });
    let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
    let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
    let check_once = || async {
        let health = runner.check_until_failed(Duration::from_millis(250)).await;
        health[1].conditions[0].clone()
    };
    let intact = check_once().await;
    assert_eq!(intact.status, Status::True, "{intact:?}");
    host.with_world_mut(|world| world.file_with_mode(other, "a program", 0o755));
    let damaged = check_once().await;
    assert_eq!(damaged.status, Status::False, "{damaged:?}");
    assert!(damaged.reason.contains(other), "{damaged:?}");
}

#[tokio::test(start_paused = true)]
async fn package_damage_is_reported_beside_other_failures() {
    let program = "/opt/r/payload/bin/kubelet";
    let (plan, host) = package(program);
    let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
    let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &ignored_events);
    let check_once = || async {
        let health = runner.check_until_failed(Duration::from_millis(250)).await;
        assert_eq!(health[0].status(), Status::False, "{health:?}");
        health[1].conditions[0].clone()
    };
    assert_eq!(check_once().await.status, Status::True);
    // Its content is what was packed, but systemd could not start it.
    host.with_world_mut(|world| world.file_with_mode(program, "a program", 0o644));
    let unusable = check_once().await;
    assert_eq!(unusable.status, Status::False, "{unusable:?}");
    assert!(unusable.reason.contains("its mode is 0644"), "{unusable:?}");
    host.with_world_mut(|world| world.file_with_mode(program, "another", 0o755));
    let damaged = check_once().await;
    assert!(
        damaged.reason.contains("its checksum is not"),
        "{damaged:?}"
    );
    // It takes longer than the time that other checks get after a failure.
    host.set_faults(FaultPlan::none().stall("read", "/opt/r/SHA256SUMS"));
    let slow = check_once().await;
    assert!(
        !slow.reason.contains("the check was ended early"),
        "{slow:?}"
    );
}
