//! What would be done, as a prediction of a repair and the reason of a failed check name it.

use behaviour::{Fidelity, Mismatch, block_on};
use engine::exec::{Recording, Runner, overlay_host, restart_set};
use engine::host::Services as _;
use engine::model::Outcome;
use engine::resource::MaskedSecrets;

use super::{KUBELET, applied_host, failed, runner, text};

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
