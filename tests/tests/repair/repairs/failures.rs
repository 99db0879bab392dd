//! A repair that fails or is asked to end after it has stopped something: it starts that again, and reports what it cannot start.

use std::path::Path;
use std::time::Duration;

use behaviour::{Bringup, block_on};
use engine::exec::{Event, EventSink, Recording, restart_set};
use engine::host::fake::{FakeHost, FaultPlan};
use engine::host::{Containers as _, Services as _};
use engine::model::{Outcome, PhaseName};
use tokio_util::sync::CancellationToken;

use super::{
    ETCD_CONFIG, KUBELET, KUBELET_CONFIG, applied_host, edit, failed, repair, runner, running,
    runs, text,
};

/// A fault that the trial write cannot find: the disk fails at the moment of the real write.
#[test]
fn units_of_a_failed_stop_run_again() {
    let (bringup, host) = applied_host();
    for (path, unit, container) in [
        (KUBELET_CONFIG, KUBELET, None),
        (ETCD_CONFIG, KUBELET, Some("etcd")),
    ] {
        let host = host.fork();
        let config = |name: &str| block_on(host.container_config(name)).expect("docker answers");
        let before = container.map(config);
        edit(&host, path);
        host.set_faults(FaultPlan::none().fail("write", path));
        let (outcome, reported) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Failed, "{reported}");
        assert!(reported.contains("started again as it was"), "{reported}");
        assert!(runs(&host, unit), "{path}: {reported}");
        if let Some(name) = container {
            let state = block_on(host.container(name)).expect("docker answers");
            assert!(state.is_some_and(|state| state.running), "{reported}");
            assert_eq!(container.map(config), before, "same configuration");
        }
        // The next repair that can write succeeds, and a clean knows everything that runs.
        host.set_faults(FaultPlan::none());
        let (outcome, reported) = repair(&bringup, &host);
        assert_eq!(outcome, Outcome::Converged, "{reported}");
        let bare = bringup.bare_host().snapshot();
        let clean = Bringup::clean(&host, false);
        assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
        let left = bringup.not_cleaned(&bare, &host, false);
        assert_eq!(left, Vec::<String>::new());
    }
}

/// The API server did not answer when the repair was chosen, so it was not known that kubelet has to be restarted. Only the next repair does this.
#[test]
fn a_repair_does_not_wait_for_long_for_a_node_that_was_deleted() {
    let (bringup, host) = applied_host();
    host.with_world_mut(|world| {
        world.advance(Duration::from_secs(120));
        world.remove_node("cp-1");
    });
    for (phase, limit) in [("kubernetes-ready", 60), ("node-role", 90)] {
        let host = host.fork();
        let elapsed = || host.with_world(|world| world.elapsed());
        let begun = elapsed();
        let set: Vec<PhaseName> = vec![phase.parse().expect("a name")];
        let events = Recording::default();
        let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
        let took = elapsed() - begun;
        let reported = text(&events.events());
        assert_eq!(outcome.ok(), Some(Outcome::Failed), "{reported}");
        let limit = Duration::from_secs(limit);
        assert!(took < limit, "{phase}: {took:?}: {reported}");
        for says in [
            "it was deleted after its registration",
            "`nodelet repair kubelet` registers it again",
        ] {
            assert!(reported.contains(says), "{says}: {reported}");
        }
    }
}

/// docker is slow at that moment: a container whose configuration it does not return could not be made again.
#[test]
fn a_container_whose_configuration_cannot_be_read_is_not_ended() {
    let (bringup, host) = applied_host();
    let etcd = running(&host, "etcd");
    let set: Vec<PhaseName> = vec!["etcd".parse().expect("a name")];
    for faults in [
        FaultPlan::none().stall("container_config", "etcd"),
        FaultPlan::none().fail("container_config", "etcd"),
    ] {
        host.set_faults(faults);
        let events = Recording::default();
        let outcome = block_on(runner(&bringup, &host, &events).restart(&set, &[]));
        outcome.expect("it is written down");
        let reported = events.events();
        let left = reported.iter().any(|event| {
            matches!(event, Event::StopFailed { step, .. } if step.as_str().contains("container:etcd"))
        });
        assert!(left, "{}", text(&reported));
        assert!(etcd.is_some() && running(&host, "etcd") == etcd);
    }
}

/// Damages something as soon as a resource is stopped.
struct DamagingSink<'a> {
    /// Part of the step's name.
    stopped: &'a str,
    spoil: &'a (dyn Fn() + Sync),
    events: Recording,
}

impl EventSink for DamagingSink<'_> {
    fn emit(&self, event: Event) {
        if let Event::StepStopped { step, .. } = &event
            && step.as_str().contains(self.stopped)
        {
            (self.spoil)();
        }
        self.events.emit(event);
    }
}

#[test]
fn a_stopped_unit_was_not_restarted() {
    let (bringup, applied_host) = applied_host();
    type Spoil<'a> = (&'a str, &'a str, &'a (dyn Fn(&FakeHost) + Sync), &'a str);
    let ways: [Spoil<'_>; 2] = [
        (
            KUBELET,
            KUBELET_CONFIG,
            &|host| {
                host.with_world_mut(|world| {
                    for directory in ["/etc/systemd/system", "/lib/systemd/system"] {
                        world.remove(Path::new(directory).join(KUBELET));
                    }
                });
                // The sink is called inside a runtime, so another thread needs its own.
                std::thread::scope(|scope| {
                    let reload = scope.spawn(|| block_on(host.reload_units()));
                    let reloaded = reload.join().expect("it comes to its end");
                    reloaded.expect("systemd answers");
                });
            },
            "systemd has no unit of this name",
        ),
        (
            "container:etcd",
            ETCD_CONFIG,
            &|host| host.with_world_mut(|world| world.break_container("etcd", true)),
            "exited with 1; see `docker logs etcd`",
        ),
    ];
    for (resource, path, spoil, why) in ways {
        let host = applied_host.fork();
        edit(&host, path);
        host.set_faults(FaultPlan::none().fail("write", path));
        let sink = DamagingSink {
            stopped: resource,
            spoil: &|| spoil(&host),
            events: Recording::default(),
        };
        let set = restart_set(&bringup.plan, &failed(&bringup, &host));
        let outcome = block_on(runner(&bringup, &host, &sink).restart(&set, &[]));
        let reported = text(&sink.events.events());
        assert_eq!(outcome.ok(), Some(Outcome::Failed), "{reported}");
        let events = sink.events.events();
        let mut failures = events.iter().filter_map(|event| match event {
            Event::StartFailed { step, error, .. } if step.as_str().contains(resource) => {
                Some(error)
            }
            _ => None,
        });
        assert!(
            failures.any(|error| error.contains(why)),
            "{resource}: {reported}"
        );
        let claims = events.iter().any(|event| {
            matches!(event, Event::StepStartedAgain { step, .. } if step.as_str().contains(resource))
        });
        assert!(!claims, "{resource}: {reported}");
    }
}

/// Asks the run to end as soon as it has stopped kubelet.
struct Signal {
    cancel: CancellationToken,
    events: Recording,
}

impl EventSink for Signal {
    fn emit(&self, event: Event) {
        if let Event::StepStopped { step, .. } = &event
            && step.as_str().contains(KUBELET)
        {
            self.cancel.cancel();
        }
        self.events.emit(event);
    }
}

#[test]
fn a_repair_that_is_asked_to_end_leaves_nothing_stopped() {
    let (bringup, host) = applied_host();
    edit(&host, KUBELET_CONFIG);
    let sink = Signal {
        cancel: CancellationToken::new(),
        events: Recording::default(),
    };
    let set = restart_set(&bringup.plan, &failed(&bringup, &host));
    let mut runner = runner(&bringup, &host, &sink);
    runner.cancel = sink.cancel.clone();
    let outcome = block_on(runner.restart(&set, &[])).expect("it is written down");
    assert_eq!(outcome, Outcome::Interrupted);
    assert!(runs(&host, KUBELET), "{}", text(&sink.events.events()));
}
