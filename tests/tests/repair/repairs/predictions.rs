//! What would be done, as a prediction of a repair and the reason of a failed check name it.

use behaviour::{Fidelity, Mismatch, block_on};
use engine::exec::{Recording, Runner, overlay_host, restart_set};
use engine::host::Services as _;
use engine::host::fake::FakeHost;
use engine::model::Outcome;
use engine::report::Review;
use engine::resource::MaskedSecrets;

use super::{KUBELET, KUBELET_CONFIG, applied_host, edit, failed, repair, runner, text};

/// What a docker has that is down is not known, so its containers are neither promised to stay nor to be created. The rest is
/// predicted.
#[test]
fn the_repair_of_a_runtime_that_is_down_is_predicted_without_a_guess() {
    let (bringup, host) = applied_host();
    // It has run here.
    host.with_world_mut(|world| world.directory("/var/lib/docker/image"));
    block_on(host.stop_unit("docker.service")).expect("it stops");
    let set = restart_set(&bringup.plan, &failed(&bringup, &host));
    let before = host.snapshot();
    let predicted = Recording::default();
    let outcome = block_on(async {
        let overlay = overlay_host(&host, &bringup.plan).await;
        let runner = Runner::new(
            &bringup.plan,
            &overlay,
            &bringup.facts,
            &MaskedSecrets,
            &predicted,
        );
        runner.dry_restart(&set, &[]).await
    });
    let predicted = predicted.events();
    assert_eq!(
        outcome.ok(),
        Some(Outcome::Predicted),
        "{}",
        text(&predicted)
    );
    assert_eq!(host.snapshot(), before);
    let done = Recording::default();
    let outcome = block_on(runner(&bringup, &host, &done).restart(&set, &[]));
    assert_eq!(outcome.ok(), Some(Outcome::Converged));
    let fidelity = Fidelity::of(&predicted, &done.events());
    let shown: Vec<String> = fidelity.misses.iter().map(Mismatch::to_string).collect();
    let mut misses = fidelity.misses.iter();
    assert!(misses.all(Mismatch::waits_for_runtime), "{shown:#?}");
    assert!(
        shown
            .iter()
            .any(|miss| miss.starts_with("etcd/container:etcd: predicted known after apply")),
        "{shown:#?}"
    );
}

/// A protected file, or a file system without inodes, is seen without a write.
#[test]
fn a_repair_that_would_be_refused_is_predicted() {
    type Spoil<'a> = &'a dyn Fn(&FakeHost);
    let directory = std::path::Path::new(KUBELET_CONFIG).parent();
    let directory = directory.expect("it has one");
    let ways: [(Spoil<'_>, &str); 2] = [
        (
            &|host| host.with_world_mut(|world| world.protect(KUBELET_CONFIG)),
            "lsattr",
        ),
        (
            &|host| host.with_world_mut(|world| world.exhaust_inodes(directory)),
            "no inodes left",
        ),
    ];
    let (bringup, applied) = applied_host();
    edit(&applied, KUBELET_CONFIG);
    for (spoil, next) in ways {
        let host = applied.fork();
        spoil(&host);
        let set = restart_set(&bringup.plan, &failed(&bringup, &host));
        host.clear_journal();
        let predicted = Recording::default();
        let outcome = block_on(async {
            let overlay = overlay_host(&host, &bringup.plan).await;
            let runner = Runner::new(
                &bringup.plan,
                &overlay,
                &bringup.facts,
                &MaskedSecrets,
                &predicted,
            );
            runner.dry_restart(&set, &[]).await
        });
        assert_eq!(outcome.ok(), Some(Outcome::Refused), "{next}");
        assert_eq!(host.mutating_calls(), vec![], "{next}");
        let events = predicted.events();
        let shown = Review::of_repair(&events).diff();
        let end = "nothing would be stopped or changed: a repair would be refused";
        for part in [KUBELET_CONFIG, "phases/kubelet.rhai:", next, end] {
            assert!(shown.contains(part), "`{part}`: {shown}");
        }
        let (done, reported) = repair(&bringup, &host);
        assert_eq!(done, Outcome::Refused, "{reported}");
    }
}

#[test]
fn a_unit_that_does_not_run_is_to_be_started_and_not_created() {
    let (bringup, host) = applied_host();
    block_on(host.stop_unit(KUBELET)).expect("it stops");
    let health = bringup.check(&host);
    let reasons: Vec<&str> = health
        .iter()
        .flat_map(|phase| &phase.conditions)
        .map(|condition| condition.reason.as_str())
        .collect();
    let reported = reasons.join("\n");
    assert!(
        reported.contains("service pf9-kubelet.service would be started"),
        "{reported}"
    );
    assert!(!reported.contains("would be created"), "{reported}");
}
