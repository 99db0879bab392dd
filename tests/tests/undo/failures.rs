//! How runs end when something goes wrong that is not only the host's state: a signal at the same time, an error that waiting does
//! not remove, a docker that does not answer when resources are taken back.

use std::path::Path;

use behaviour::{Bringup, Case, block_on, foreign_container};
use engine::exec::{Event, EventSink, Recording, Runner, simulated_host};
use engine::host::fake::{FakeHost, FaultPlan};
use engine::host::{
    Clock as _, Files as _, HttpsRequest, Network as _, Packages as _, Services as _,
};
use engine::model::Outcome;
use engine::plan::{PlannedCheck, Probe};
use engine::report::{Detail, render};
use engine::resource::{NoSecrets, all_containers_have_ended};
use tokio_util::sync::CancellationToken;

/// Asks the run to end when a step of this kind begins to change something.
struct Signal {
    at: &'static str,
    cancel: CancellationToken,
    events: Recording,
}

impl EventSink for Signal {
    fn emit(&self, event: Event) {
        if let Event::StepChanging { step, .. } = &event
            && step.as_str().contains(self.at)
        {
            self.cancel.cancel();
        }
        self.events.emit(event);
    }
}

fn text(events: &[Event]) -> String {
    let detail = Detail {
        unchanged: false,
        diffs: false,
        times: false,
    };
    events.iter().map(|event| render(event, detail)).collect()
}

/// A host with the role on it.
fn applied_host(bringup: &Bringup) -> FakeHost {
    let host = bringup.bare_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host
}

#[test]
fn an_error_at_a_signal_is_reported_with_its_cause() {
    let case = Case::named("cp-1");
    let plan = case.planned();
    let host = simulated_host(&case.facts, &plan);
    host.set_faults(FaultPlan::none().fail("create_container", "etcd"));
    let sink = Signal {
        at: "etcd/container",
        cancel: CancellationToken::new(),
        events: Recording::default(),
    };
    let mut runner = Runner::new(&plan, &host, &case.facts, &NoSecrets, &sink);
    runner.cancel = sink.cancel.clone();
    let outcome = block_on(runner.apply()).expect("the run comes to its end");
    assert_eq!(outcome, Outcome::Interrupted);
    let output_text = text(&sink.events.events());
    for wanted in [
        "✗ etcd was interrupted at phases/etcd.rhai:",
        "could not create_container etcd (injected fault)",
        "next: ",
        "etcd was interrupted at a safe point",
    ] {
        assert!(
            output_text.contains(wanted),
            "`{wanted}` is missing in {output_text}"
        );
    }
}

#[test]
fn a_clean_is_incomplete_while_the_runtime_does_not_answer() {
    let bringup = Bringup::of("cp-2-nodocker");
    let host = applied_host(&bringup);
    let before = host.snapshot();
    block_on(host.stop_unit("docker.service")).expect("it stops");
    host.set_faults(FaultPlan::none().fail("start_unit", "docker.service"));
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Failed, "{}", clean.text());
    for wanted in [
        "✗ container proxy: could not revert container proxy: docker does not answer, so it may still be there",
        "✗ container etcd: could not",
        "remove docker while containers may still be in it",
    ] {
        assert!(
            clean.text().contains(wanted),
            "`{wanted}`: {}",
            clean.text()
        );
    }
    assert!(
        before.resources().any(|(name, _)| name == "container etcd"),
        "there was one"
    );

    // Docker is still there, so that the rest can be taken back.
    host.set_faults(FaultPlan::none());
    let again = Bringup::clean(&host, false);
    assert_eq!(again.outcome, Outcome::Cleaned, "{}", again.text());
    let containers: Vec<String> = host
        .snapshot()
        .resources()
        .filter(|(name, _)| name.starts_with("container ") || name.starts_with("image "))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(containers, Vec::<String>::new());
}

#[test]
fn a_stopped_runtime_is_started_to_revert_resources() {
    let bringup = Bringup::of("cp-1");
    let host = applied_host(&bringup);
    block_on(host.stop_unit("docker.service")).expect("it stops");
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
}

/// docker's containers go on without it (`live-restore`), and only docker can end them.
#[test]
fn a_stop_ends_what_has_outlived_the_runtime() {
    let bringup = Bringup::of("cp-1");
    let host = applied_host(&bringup);
    let running = || {
        let states = block_on(host.list(Path::new(
            "/run/containerd/io.containerd.runtime.v2.task/moby",
        )));
        states.expect("it can be looked at")
    };
    block_on(host.stop_unit("docker.service")).expect("it stops");
    assert!(!running().is_empty(), "live-restore keeps them");

    host.set_faults(FaultPlan::none().fail("start_unit", "docker.service"));
    let vain = bringup.stop(&host);
    assert_eq!(vain.outcome, Outcome::Failed, "{}", vain.text());
    assert!(
        vain.text().contains(
            "start docker: its containers still run without it, and only docker can stop them: "
        ),
        "{}",
        vain.text()
    );

    host.set_faults(FaultPlan::none());
    let stop = bringup.stop(&host);
    assert_eq!(stop.outcome, Outcome::Stopped, "{}", stop.text());
    assert_eq!(running(), Vec::<String>::new(), "{}", stop.text());
    let docker = block_on(host.unit("docker.service")).expect("it can be asked");
    assert!(!docker.is_active(), "{docker:?}");

    // If no container runs any more, docker is not started for another stop.
    host.set_faults(FaultPlan::none().fail("start_unit", "docker.service"));
    let again = bringup.stop(&host);
    assert_eq!(again.outcome, Outcome::Stopped, "{}", again.text());
}

/// docker ends a container through its shim. docker itself works, and stays: without it, the container could not be ended later.
#[test]
fn a_container_whose_shim_is_stopped_is_left_with_docker_and_the_shim_is_named() {
    const STUCK: &str = "k8s_app_web_tenant";
    // The last host has docker from before the role, with other settings.
    for (case, cleans) in [("wk-1", false), ("cp-2-nodocker", true), ("cp-1", true)] {
        let bringup = Bringup::of(case);
        let host = applied_host(&bringup);
        host.with_world_mut(|world| {
            world.image("app:1");
            world.tenants_pod("web", "app", "app:1");
            world.stop_shim(4711, STUCK);
        });
        host.set_faults(FaultPlan::none().hang("stop_container", STUCK));
        let end = || match cleans {
            true => Bringup::clean(&host, false),
            false => bringup.stop(&host),
        };
        host.clear_journal();
        let vain = end();
        let restarted = host
            .mutating_calls()
            .into_iter()
            .any(|call| call.name == "restart_unit" && call.argument.contains("docker"));
        assert!(!restarted, "{}", vain.text());
        assert_eq!(vain.outcome, Outcome::Failed, "{}", vain.text());
        for wanted in [
            "end container k8s_app_web_tenant: its containerd-shim (process 4711) is stopped (SIGSTOP or a debugger)",
            "`kill -CONT 4711`",
            "still runs, and only docker can end it",
        ] {
            assert!(vain.text().contains(wanted), "`{wanted}`: {}", vain.text());
        }
        let docker = || block_on(host.unit("docker.service")).expect("it can be asked");
        assert!(docker().is_active(), "{}", vain.text());
        let pods = || block_on(all_containers_have_ended(&host));
        let error = pods().expect_err("it runs").to_string();
        assert!(error.contains(STUCK), "{error}");

        host.set_faults(FaultPlan::none());
        let again = end();
        let outcome = if cleans {
            Outcome::Cleaned
        } else {
            Outcome::Stopped
        };
        assert_eq!(again.outcome, outcome, "{}", again.text());
        let was_there = case == "cp-1";
        assert_eq!(docker().is_active(), was_there, "{}", again.text());
        pods().expect("none runs");
    }
}

/// docker does not come up with its file from before the role. It is down at the next clean, and does not tell then what ran.
#[test]
fn containers_of_others_run_again_after_a_clean_that_could_not_restart_docker() {
    const FILE: &str = "/etc/docker/daemon.json";
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    host.with_world_mut(|world| world.file(FILE, "no JSON"));
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host.with_world_mut(|world| world.container(foreign_container("theirs")));
    let vain = Bringup::clean(&host, false);
    assert_eq!(vain.outcome, Outcome::Failed, "{}", vain.text());
    assert!(
        vain.text().contains("`docker start theirs`"),
        "{}",
        vain.text()
    );
    // Without live-restore docker ends it.
    host.with_world_mut(|world| {
        world.kill_container("theirs");
        world.file(FILE, "{}");
    });
    let again = Bringup::clean(&host, false);
    assert_eq!(again.outcome, Outcome::Cleaned, "{}", again.text());
    let runs = host.with_world(|world| world.container_runs("theirs"));
    assert!(runs, "{}", again.text());
}

#[test]
fn containers_of_a_removed_runtime_count_as_removed() {
    let bringup = Bringup::of("cp-2-nodocker");
    let host = applied_host(&bringup);
    block_on(host.purge_packages(&["docker.io".to_owned()])).expect("it goes");
    let clean = Bringup::clean(&host, false);
    let output_text = clean.text();
    assert!(!output_text.contains("may still be there"), "{output_text}");
}

/// The certificate that the API server presents.
fn shown(host: &FakeHost) -> Option<Vec<u8>> {
    let request = HttpsRequest {
        url: "https://127.0.0.1/readyz".to_owned(),
        ca: None,
        client: None,
        timeout: std::time::Duration::from_secs(5),
    };
    block_on(host.https_get(&request)).ok()?.certificate
}

#[test]
fn an_apply_ends_with_the_renewed_certificate_in_use() {
    let host = applied_host(&Bringup::of("cp-1"));
    let (before, began) = (shown(&host), host.elapsed());
    assert!(before.is_some());
    let run = Bringup::of("cp-1-vip").apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert!(
        run.changes()
            .iter()
            .any(|step| step.ends_with("certificate:apiserver")),
        "{:?}",
        run.changes()
    );
    let after = shown(&host);
    assert!(
        after.is_some() && after != before,
        "it still presents the old one"
    );
    let waited = host.elapsed().saturating_sub(began).as_secs();
    assert!((1..90).contains(&waited), "{waited} s");
}

#[test]
fn an_unknown_host_is_not_waited_for() {
    let mut bringup = Bringup::of("cp-1");
    let phase = bringup
        .plan
        .phases
        .iter_mut()
        .find(|phase| phase.name.as_str() == "preflight")
        .expect("the role has it");
    phase.checks.push(PlannedCheck {
        name: "a server answers".to_owned(),
        span: phase.span.clone(),
        probe: Probe::Https {
            url: "https://127.0.0.1:4433/".to_owned(),
            ca: None,
            client: None,
            expect: String::new(),
            certificate: None,
        },
        every: PlannedCheck::EVERY,
        timeout: PlannedCheck::TIMEOUT,
        failures: PlannedCheck::FAILURES,
        advisory: false,
        needs_api: None,
        needs_quorum: false,
    });
    let phase = phase.clone();
    let wait = |status: u16| {
        let host = bringup
            .bare_host()
            .with_endpoint("127.0.0.1:4433", status, "no");
        let began = host.elapsed();
        let run = bringup.apply_phase(&host, &phase);
        assert_eq!(run.outcome, Outcome::Failed);
        (host.elapsed().saturating_sub(began).as_secs(), run.text())
    };
    let (seconds, output_text) = wait(401);
    assert!(seconds < 10, "{seconds} s: {output_text}");
    assert!(
        output_text.contains("the server does not accept the client's certificate"),
        "{output_text}"
    );
    let (seconds, output_text) = wait(503);
    assert!(seconds >= 59, "{seconds} s: {output_text}");
}
