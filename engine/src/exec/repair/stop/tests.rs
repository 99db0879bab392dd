//! Stops and restarts of a master that etcd's quorum needs.

use super::*;
use crate::exec::kubernetes::quorum::lock::tests::other_takes_lock;
use crate::exec::kubernetes::quorum::tests as quorum;
use crate::exec::{EventSink, Recording};
use crate::facts::Facts;
use crate::host::fake::{FakeHost, FaultPlan};
use crate::host::{EtcdLock, Services as _};
use crate::plan::Plan;
use crate::resource::{NoSecrets, ServiceSpec};

const UNIT: &str = "kubelet.service";

/// Another master fails while the phase `kubelet` is being ended.
struct FailsMeanwhile<'a> {
    host: &'a FakeHost,
    heard: Recording,
}

impl EventSink for FailsMeanwhile<'_> {
    fn emit(&self, event: Event) {
        if matches!(&event, Event::PhaseStarted { phase, .. } if phase.as_str() == "kubelet") {
            let silence = |world: &mut crate::host::fake::World| {
                world.etcd.silence("172.30.0.13");
            };
            self.host.with_world_mut(silence);
        }
        self.heard.emit(event);
    }
}

fn plan() -> Plan {
    let name: PhaseName = "kubelet".parse().expect("a name");
    let service = Spec::Service(ServiceSpec::bare(UNIT));
    let kubelet = PlannedPhase {
        steps: vec![PlannedStep::bare(&name, service)],
        ..PlannedPhase::bare(name)
    };
    Plan::bare(vec![quorum::phase(), kubelet])
}

/// One of three masters, on which this plan is applied.
async fn applied(plan: &Plan) -> FakeHost {
    let host = quorum::host();
    host.with_world_mut(|world| world.unit(UNIT, "[Service]\n"));
    let (facts, heard) = (Facts::nothing_about("m-1"), Recording::default());
    let runner = Runner::new(plan, &host, &facts, &NoSecrets, &heard);
    let outcome = runner.apply().await.expect("it is written down");
    assert_eq!(outcome, Outcome::Converged, "{:?}", heard.events());
    host
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_needed_meanwhile_is_not_stopped() {
    let (plan, facts) = (plan(), Facts::nothing_about("m-1"));
    let phases: Vec<PhaseName> = plan.phases.iter().map(|one| one.name.clone()).collect();
    for verb in ["stop", "clean", "restart"] {
        let host = applied(&plan).await;
        let events = FailsMeanwhile {
            host: &host,
            heard: Recording::default(),
        };
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &events);
        let outcome = match verb {
            "stop" => runner.stop().await,
            "clean" => runner.stop_for_clean().await,
            _ => runner.restart(&phases, &[]).await,
        };
        let events = events.heard.events();
        let failure = events.iter().find_map(|event| match event {
            Event::PhaseFailed { failure, .. } => Some(failure.chain.join(": ")),
            _ => None,
        });
        // The report of a stop does not say that nothing was touched.
        let (wanted, said) = match verb {
            "stop" => (Outcome::Failed, failure),
            _ => (Outcome::Refused, events.iter().find_map(Event::refusal)),
        };
        assert_eq!(outcome.expect("it is written down"), wanted, "{verb}");
        let said = said.unwrap_or_default();
        assert!(said.contains("m-3"), "{verb}: {said}");
        assert!(
            host.with_world(|world| world.container_runs("etcd")),
            "{verb}"
        );
        let unit = host.unit(UNIT).await.expect("systemd answers");
        assert!(
            unit.is_active(),
            "{verb}: it was stopped, and is started again"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn two_masters_do_not_end_their_members_at_the_same_time() {
    let (plan, facts) = (plan(), Facts::nothing_about("m-1"));
    for held in [false, true] {
        let host = applied(&plan).await;
        let heard = Recording::default();
        let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
        if held {
            other_takes_lock(&host, Duration::from_secs(600)).await;
        }
        let outcome = runner.stop().await.expect("it is written down");
        let runs = host.with_world(|world| world.container_runs("etcd"));
        let said = heard.events().iter().find_map(Event::refusal);
        let said = said.unwrap_or_default();
        if held {
            assert_eq!((outcome, runs), (Outcome::Refused, true));
            assert!(said.contains("master m-2 has had the lock"), "{said}");
            let unit = host.unit(UNIT).await.expect("systemd answers");
            assert!(unit.is_active(), "nothing was ended");
        } else {
            assert_eq!((outcome, runs), (Outcome::Stopped, false), "{said}");
            let next = other_takes_lock(&host, Duration::from_secs(600)).await;
            assert!(matches!(next, EtcdLock::Held { .. }), "{next:?}");
        }
    }
}

/// Otherwise a runtime that hangs would never be repaired while another master is down.
#[tokio::test(start_paused = true)]
async fn a_restart_that_leaves_containers_alone_is_not_refused() {
    let (plan, facts) = (plan(), Facts::nothing_about("m-1"));
    let phases: Vec<PhaseName> = plan.phases.iter().map(|one| one.name.clone()).collect();
    let host = applied(&plan).await;
    let heard = Recording::default();
    let runner = || Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
    host.with_world_mut(|world| world.etcd.silence("172.30.0.13"));
    host.set_faults(FaultPlan::none().stall("container_runtime", "*"));
    let outcome = runner().restart(&phases, &[]).await;
    assert_ne!(outcome.expect("it is written down"), Outcome::Refused);
    let events = heard.events();
    assert_eq!(events.iter().find_map(Event::refusal), None);
}
