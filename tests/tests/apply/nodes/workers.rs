//! A worker: what it does without its masters, and what it has on its disk.

mod authority;
mod joining;

use std::path::Path;
use std::time::Duration;

use behaviour::{Bringup, block_on};
use engine::exec::{
    Event, Recording, Runner, Status, api_problem_of_clean, failed_phases, restart_set,
};
use engine::host::Services as _;
use engine::host::fake::FakeHost;
use engine::model::{Outcome, PhaseName};
use engine::resource::MaskedSecrets;

/// The conditions of a host that do not hold.
fn not_true(bringup: &Bringup, host: &FakeHost) -> Vec<String> {
    let health = bringup.check(host);
    let conditions = health.iter().flat_map(|phase| &phase.conditions);
    let conditions = conditions.filter(|condition| condition.status != Status::True);
    conditions
        .map(|its| format!("{}: {:?} {}", its.check, its.status, its.reason))
        .collect()
}

#[test]
fn nothing_is_restarted_while_the_masters_are_away() {
    let (bringup, host) = Bringup::brought_up("wk-1");
    assert_eq!(not_true(&bringup, &host), [""; 0]);
    // As after a boot: kube-proxy has written no rules yet, because it does not know the Services.
    let host = host.with_kubernetes(|rules| {
        rules.remote_api = false;
        rules.writes_services = false;
    });
    host.with_world_mut(|world| {
        for (table, chain) in [("nat", "KUBE-SERVICES"), ("filter", "KUBE-FORWARD")] {
            let input = format!("*{table}\n:{chain} - [0:0]\nCOMMIT\n");
            world.firewall_input("iptables", &input);
        }
    });
    let health = bringup.check(&host);
    let failed = failed_phases(&health);
    assert!(
        failed.is_empty(),
        "{failed:?}: {:#?}",
        not_true(&bringup, &host)
    );
    let unknown = not_true(&bringup, &host);
    for check in ["the node is Ready", "the rules of KUBE-SERVICES exist"] {
        let its = unknown.iter().find(|line| line.starts_with(check));
        assert!(
            its.is_some_and(|line| line.contains("Unknown")),
            "{unknown:#?}"
        );
    }
    // The same is a failure while the masters answer.
    let host = host.with_kubernetes(|rules| rules.remote_api = true);
    let failed: Vec<String> = failed_phases(&bringup.check(&host))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(failed.contains(&"kube-proxy".to_owned()), "{failed:?}");
}

/// The masters answer, and accept neither this worker's certificate nor its requests. A full clean would end its pods and help nothing.
#[test]
fn nothing_is_restarted_while_the_masters_refuse_the_worker() {
    let (bringup, host) = Bringup::brought_up("wk-1");
    let host = host.with_kubernetes(|rules| rules.api_refuses = true);
    // kube-proxy waits for the API server at its start.
    let host = host.with_endpoint("127.0.0.1:10256", 503, "");
    let health = bringup.check(&host);
    let unknown = not_true(&bringup, &host);
    assert_eq!(failed_phases(&health).len(), 0, "{unknown:#?}");
    for check in [
        "node is as planned",
        "the node is Ready",
        "the routes to the other nodes are as planned",
        "kube-proxy has written its rules",
    ] {
        let its = unknown.iter().find(|line| line.starts_with(check));
        assert!(
            its.is_some_and(|line| line.contains("Unknown") && line.contains("401")),
            "{check}: {unknown:#?}"
        );
    }
    let refused = block_on(api_problem_of_clean(&host, &bringup.plan));
    let refused = refused.expect("it could not come up again");
    assert!(refused.problem.contains("401"), "{refused:?}");
    let host = host.with_kubernetes(|rules| rules.api_refuses = false);
    let problem = block_on(api_problem_of_clean(&host, &bringup.plan));
    assert_eq!(problem, None);
    let failed: Vec<String> = failed_phases(&bringup.check(&host))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(failed, ["kube-proxy"]);
}

/// A master has removed it. Its kubelet runs on and registers nothing, and the API server answers as before the first registration.
#[test]
fn an_apply_on_a_worker_whose_node_was_deleted_ends_early() {
    let (bringup, host) = Bringup::brought_up("wk-1");
    host.with_world_mut(|world| {
        world.advance(Duration::from_secs(120));
        world.remove_node("w-1");
    });
    let elapsed = || host.with_world(|world| world.elapsed());
    let begun = elapsed();
    let run = bringup.apply(&host);
    let took = elapsed() - begun;
    let text = run.text();
    assert_eq!(run.outcome, Outcome::Failed, "{text}");
    assert!(took < Duration::from_secs(60), "{took:?}: {text}");
    for says in [
        "it was deleted after its registration, or the API server refuses to register it",
        "see `journalctl -u pf9-kubelet.service`",
        "`nodelet clean --purge`",
        "`nodelet pki issue w-1 --to KEY --replace`",
        "`nodelet repair kubelet`",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
}

/// Restarts these phases. Gives what happened, too.
fn restart(bringup: &Bringup, host: &FakeHost, set: &[PhaseName]) -> (Outcome, Vec<Event>) {
    let (plan, facts, events) = (&bringup.plan, &bringup.facts, Recording::default());
    let runner = Runner::new(plan, host, facts, &MaskedSecrets, &events);
    let outcome = block_on(runner.restart(set, &[])).expect("it is written down");
    (outcome, events.events())
}

/// Its join file has been used, so the masters sign nothing for it before they admit it again. Its pods need kubelet and kube-proxy until then.
#[test]
fn a_worker_without_its_files_goes_on_running_until_it_is_admitted_again() {
    let (bringup, host) = Bringup::brought_up("wk-1");
    host.with_world_mut(|world| world.remove("/etc/pf9/kube.d"));
    let set = restart_set(&bringup.plan, &failed_phases(&bringup.check(&host)));
    let names: Vec<&str> = set.iter().map(PhaseName::as_str).collect();
    assert!(
        names.contains(&"certs") && names.contains(&"kubelet"),
        "{names:?}"
    );
    host.clear_journal();
    let (outcome, events) = restart(&bringup, &host, &set);
    assert_ne!(outcome, Outcome::Converged);
    let stops = host.mutating_calls().into_iter();
    let stops: Vec<_> = stops.filter(|call| call.name == "stop_unit").collect();
    assert_eq!(stops, vec![], "{events:#?}");
    let kubelet = block_on(host.unit("pf9-kubelet.service"));
    assert!(kubelet.is_ok_and(|its| its.is_active()));
    assert!(host.with_world(|world| world.container_runs("proxy")));
    // A full clean would end its pods. Without one, it would do no harm.
    let host = host.with_kubernetes(|rules| rules.remote_api = false);
    let refused = || block_on(api_problem_of_clean(&host, &bringup.plan)).is_some();
    assert!(!refused(), "it has no pods");
    host.with_world_mut(|world| {
        world.image("image:1");
        world.tenants_pod("tenant-w-1", "tenant", "image:1");
    });
    assert!(refused(), "its pods run");
}

/// What waits for no signature is repaired meanwhile.
#[test]
fn docker_is_started_although_the_masters_sign_nothing() {
    let (bringup, host) = Bringup::brought_up("wk-1");
    host.with_world_mut(|world| world.remove("/etc/pf9/kube.d/certs"));
    block_on(host.stop_unit("docker.service")).expect("it stops");
    let set = restart_set(&bringup.plan, &failed_phases(&bringup.check(&host)));
    let (outcome, events) = restart(&bringup, &host, &set);
    assert_eq!(outcome, Outcome::Failed);
    for unit in ["docker.service", "pf9-kubelet.service"] {
        let state = block_on(host.unit(unit));
        assert!(
            state.is_ok_and(|its| its.is_active()),
            "{unit}: {events:#?}"
        );
    }
}

#[test]
fn a_worker_has_neither_an_admin_nor_the_key_of_an_authority() {
    let (_, host) = Bringup::brought_up("wk-1");
    let has = |path: &str| host.with_world(|world| world.text(Path::new(path)).is_some());
    assert!(has("/etc/pf9/kube.d/ca/cluster/ca.crt"));
    assert!(has("/etc/pf9/kube.d/kubeconfigs/kubelet.yaml"));
    for path in [
        "/etc/pf9/kube.d/ca/cluster/ca.key",
        "/etc/pf9/kube.d/ca/etcd/ca.crt",
        "/etc/pf9/kube.d/kubeconfigs/admin.yaml",
        "/etc/pf9/kube.d/kubeconfigs/local-admin.yaml",
        "/etc/pf9/kube.d/certs/admin/request.key",
        "/etc/pf9/kube.d/certs/apiserver/svcacct.key",
        "/etc/pf9/kube.d/manifests/k8s-master.yaml",
    ] {
        assert!(!has(path), "{path}");
    }
}

/// The token of the join file works once. nodeletd makes a clean after many failed repairs, also if no operator is there.
#[test]
fn a_clean_worker_comes_up_again_without_a_join_file() {
    let (bringup, host) = Bringup::brought_up("wk-1");
    let run = Bringup::clean(&host, false);
    assert_eq!(run.outcome, Outcome::Cleaned, "{}", run.text());
    host.with_world_mut(|world| world.remove(engine::kubernetes::join_file::JOIN_FILE));
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    assert_eq!(not_true(&bringup, &host), [""; 0]);
}
