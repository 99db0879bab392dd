//! Containers of other programs around stops and restarts of docker, on a fake host.

use super::*;
use crate::host::fake::{FakeHost, Fault, FaultKind, FaultPlan, Trigger};
use crate::host::{Clock as _, ContainerConfig, Containers as _, Services as _};
use crate::resource::docker::container_runtime::tests::{
    FILE, interrupted_host, interrupted_host_of, of_role,
};
use crate::resource::docker::container_runtime::{self, UNIT};
use crate::resource::tests::{apply_in, context};
use crate::resource::{Receipt, Resource as _, ServiceSpec, Undo};

#[test]
fn a_restart_ends_what_ran_before_it_until_docker_is_up() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let one = Interrupted {
        name: "theirs".to_owned(),
        id: "1".to_owned(),
        seen: format_rfc3339_nanos(at(100)).to_string(),
    };
    for (started, ended, otherwise) in [
        (50, 101, false),
        (50, 199, false),
        (50, 201, true),
        (120, 150, true),
        // The clock was set back while it ran.
        (160, 150, false),
        // It is 300 now, so the clock was wrong, or the restart that began then has ended it.
        (50, 301, false),
        (120, 301, false),
    ] {
        let last = EndedRun {
            started_at: at(started),
            ended_at: at(ended),
        };
        let said = one.has_ended_otherwise(last, Some(at(200)), at(300));
        assert_eq!(said, otherwise, "{started} to {ended}");
    }
    // Of a version that wrote another time down.
    let one = r#"{"name": "theirs", "id": "1", "started": "1970-01-01T00:00:50Z"}"#;
    let one: Interrupted = serde_json::from_str(one).expect("it is read");
    let last = EndedRun {
        started_at: at(120),
        ended_at: at(150),
    };
    assert!(!one.has_ended_otherwise(last, Some(at(200)), at(300)));
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_removed() {
    let host = interrupted_host().await;
    host.with_world_mut(|world| world.file(path(), "no JSON"));
    let left = are_there(&host).await;
    assert!(!left.expect("the disk is in order"));
    assert_eq!(host.with_world(|world| world.text(path())), None);
}

/// A host on whose list is a container that its owner has started again.
async fn started_again() -> FakeHost {
    let host = interrupted_host().await;
    host.start_unit(UNIT).await.expect("it starts");
    host.pause(Duration::from_secs(3600)).await;
    let started = host.start_container("theirs").await;
    started.expect("it starts");
    host.pause(Duration::from_secs(3600)).await;
    host
}

/// docker was restarted then without nodelet.
#[tokio::test(start_paused = true)]
async fn another_run_than_the_one_that_was_seen_is_not_started_again() {
    let host = started_again().await;
    host.restart_unit(UNIT).await.expect("it restarts");
    host.pause(Duration::from_secs(3600)).await;
    let done = container_runtime::start_interrupted(&host).await;
    done.expect("docker answers");
    assert!(!host.with_world(|world| world.container_runs("theirs")));
    assert_eq!(host.with_world(|world| world.text(path())), None);
}

#[tokio::test(start_paused = true)]
async fn a_container_runs_again_after_a_restart_of_a_docker_that_does_not_answer() {
    let host = started_again().await;
    let silent = FaultPlan::none().fail("container_runtime", "*");
    host.set_faults(silent.times(1));
    let restarted = container_runtime::restart(&host, UNIT).await;
    restarted.expect("it answers after its restart");
    assert!(host.with_world(|world| world.container_runs("theirs")));
}

/// docker has come up without nodelet after a restart that has failed, so the list is still there weeks later.
#[tokio::test(start_paused = true)]
async fn a_container_on_the_list_that_its_owner_has_ended_is_not_started() {
    let week = Duration::from_secs(7 * 24 * 3600);
    for live_restore in [false, true] {
        for next in ["restart", "stop", "absent", "undo", "clean"] {
            let names = ["theirs", "stopped", "running"];
            let host = interrupted_host_of(&names, live_restore).await;
            host.start_unit(UNIT).await.expect("it starts");
            // Nothing has started `theirs` again, unless it has gone on without docker.
            for name in ["stopped", "running"] {
                host.start_container(name).await.expect("it starts");
            }
            host.pause(week).await;
            let stopped = host.stop_container("stopped", Duration::ZERO).await;
            stopped.expect("it ends");
            host.pause(week).await;
            match next {
                "restart" => container_runtime::restart(&host, UNIT)
                    .await
                    .expect("it restarts"),
                "stop" | "absent" | "undo" => {
                    stop(&host, next).await;
                    assert!(!host.with_world(|world| world.unit_active(UNIT)));
                    host.start_unit(UNIT).await.expect("it starts");
                    container_runtime::after_start(&host, UNIT, host.now()).await;
                }
                _ => container_runtime::start_interrupted(&host)
                    .await
                    .expect("docker answers"),
            }
            let case = format!("{next}, live-restore: {live_restore}");
            let runs = |name: &str| host.with_world(|world| world.container_runs(name));
            assert!(runs("theirs") && runs("running"), "{case}");
            assert!(!runs("stopped"), "{case}");
            let list = host.with_world(|world| world.text(path()));
            assert_eq!(list, None, "{case}");
        }
    }
}

/// A repair stops docker and starts it again. What goes on without docker is not started: it may have ended by itself.
#[tokio::test(start_paused = true)]
async fn containers_of_others_that_a_stop_has_ended_run_again_after_the_next_start() {
    for live_restore in [false, true] {
        let host = FakeHost::new().with_docker().with_directory(STATE);
        let file = format!(r#"{{"live-restore": {live_restore}}}"#);
        host.with_world_mut(|world| {
            world.container(ContainerConfig::bare("theirs", "app:1"));
            world.file(FILE, &file);
        });
        host.reload_unit(UNIT).await.expect("it is reloaded");
        container_runtime::before_stop(&host, UNIT).await;
        host.stop_unit(UNIT).await.expect("it ends");
        let runs = || host.with_world(|world| world.container_runs("theirs"));
        assert_eq!(runs(), live_restore);
        let list = host.with_world(|world| world.text(path()));
        assert_eq!(list.is_some(), !live_restore);
        host.start_unit(UNIT).await.expect("it starts");
        container_runtime::after_start(&host, UNIT, host.now()).await;
        assert!(runs());
        assert_eq!(host.with_world(|world| world.text(path())), None);
    }
}

/// It is a part of the step that stops docker.
#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_docker_that_does_not_tell_what_runs() {
    for silent in ["containers", "container"] {
        let host = interrupted_host().await;
        host.start_unit(UNIT).await.expect("it starts");
        host.with_world_mut(|world| world.container(ContainerConfig::bare("new", "app:1")));
        host.set_faults(FaultPlan::none().stall(silent, "*"));
        let bound = container_runtime::LOOK + Duration::from_secs(1);
        let looked = tokio::time::timeout(bound, container_runtime::before_stop(&host, UNIT)).await;
        looked.expect(silent);
        let list = host.with_world(|world| world.text(path()));
        let list = list.expect("it stays");
        // What is on the list already is asked for, and what runs is only listed.
        assert_eq!(list.contains("\"new\""), silent == "container", "{silent}");
    }
}

/// nodelet was ended between the start of docker and of `theirs`.
#[tokio::test(start_paused = true)]
async fn the_next_apply_starts_what_an_ended_run_has_left() {
    let host = interrupted_host().await;
    let runs = || host.with_world(|world| world.container_runs("theirs"));
    let started = async || {
        let predicted = container_runtime::interrupted_to_start(&host).await;
        let (started, result) = container_runtime::start_interrupted_if_up(&host).await;
        result.expect("docker is down, or starts it");
        assert_eq!(started, predicted);
        started
    };
    assert_eq!(started().await, [""; 0], "docker stays down");
    assert!(host.with_world(|world| world.text(path())).is_some());
    host.start_unit(UNIT).await.expect("it starts");
    assert!(!runs());
    assert_eq!(started().await, ["theirs"]);
    assert!(runs());
    assert_eq!(started().await, [""; 0]);
    assert_eq!(host.with_world(|world| world.text(path())), None);
}

#[tokio::test(start_paused = true)]
async fn the_list_stays_while_docker_cannot_start_containers() {
    let host = interrupted_host().await;
    host.start_unit(UNIT).await.expect("it starts");
    let faults = FaultPlan::none().fail("start_container", "*");
    host.set_faults(faults.fail("container_runtime", "*"));
    let error = container_runtime::start_interrupted(&host).await;
    let error = error.expect_err("nothing starts").to_string();
    assert!(error.contains("start docker first"), "{error}");
    assert!(host.with_world(|world| world.text(path())).is_some());
    host.set_faults(FaultPlan::none());
    let started = container_runtime::start_interrupted(&host).await;
    started.expect("it starts");
    assert!(host.with_world(|world| world.container_runs("theirs")));
}

/// The first one, in the order of the names, uses the network of the second.
#[tokio::test(start_paused = true)]
async fn a_container_that_needs_another_one_is_tried_after_it() {
    let host = interrupted_host_of(&["app", "db"], false).await;
    host.start_unit(UNIT).await.expect("it starts");
    host.set_faults(FaultPlan::none().fail("start_container", "app").times(1));
    let started = container_runtime::start_interrupted(&host).await;
    started.expect("both start");
    let runs = |name: &str| host.with_world(|world| world.container_runs(name));
    assert!(runs("app") && runs("db"));
}

/// The first one, in the order of the names, uses the network of the second.
#[tokio::test(start_paused = true)]
async fn a_container_of_the_role_that_needs_another_one_is_tried_after_it() {
    let host = FakeHost::new().with_docker().with_directory(STATE);
    host.with_world_mut(|world| {
        for name in ["app", "db"] {
            world.container(of_role(name));
        }
    });
    host.set_faults(FaultPlan::none().fail("start_container", "app").times(1));
    let restarted = container_runtime::restart(&host, UNIT).await;
    restarted.expect("both start");
    let runs = |name: &str| host.with_world(|world| world.container_runs(name));
    assert!(runs("app") && runs("db"));
}

/// In the first case docker's answer is lost. In the second one it does not start the container.
#[tokio::test(start_paused = true)]
async fn a_container_of_the_role_that_is_not_down_any_more_fails_no_restart() {
    for (fault_kind, fails) in [(FaultKind::FailAfter, false), (FaultKind::Fail, true)] {
        let host = FakeHost::new().with_docker().with_directory(STATE);
        host.with_world_mut(|world| world.container(of_role("app")));
        host.set_faults(FaultPlan::none().with(Fault {
            trigger: Trigger::Call {
                name: "start_container".to_owned(),
                argument: "app".to_owned(),
            },
            fault_kind,
            remaining: None,
        }));
        let restarted = container_runtime::restart(&host, UNIT).await;
        assert_eq!(restarted.is_err(), fails, "{fault_kind:?}");
    }
}

/// kubelet has removed the second one, whose start then fails.
#[tokio::test(start_paused = true)]
async fn a_container_that_is_gone_is_not_down() {
    let host = FakeHost::new().with_docker().with_directory(STATE);
    host.with_world_mut(|world| {
        world.container(of_role("app"));
        world.kill_container("app");
    });
    assert!(container_runtime::one_is_down(&host, &["app"]).await);
    assert!(!container_runtime::one_is_down(&host, &["gone"]).await);
}

/// Stops docker in this way.
async fn stop(host: &FakeHost, how: &str) {
    let (cx, mut ignored) = (context(host), Receipt::default());
    let mut docker = ServiceSpec::bare(UNIT);
    docker.started = how != "absent";
    let name = UNIT.to_owned();
    let stopped = match how {
        "stop" => docker.quiesce(&cx, &mut ignored).await.map(drop),
        "absent" => apply_in(&cx, &docker, &mut ignored).await.map(drop),
        _ => Undo::StopUnit { name }.carry_out(host).await,
    };
    stopped.expect("it ends");
}
