//! Certificates over their life: the use of each is known, due certificates are renewed component by component, and a repair does
//! not renew certificates that are only due.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use behaviour::{Bringup, block_on, checked_in_part};
use engine::exec::{Event, PhaseHealth, Recording, Runner, Status};
use engine::host::fake::FakeHost;
use engine::model::{Outcome, PhaseName};
use engine::resource::pki::{CONSUMERS, ReloadMode, components};
use engine::resource::{NoSecrets, Spec};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A host on which every certificate is due.
fn aged() -> (Bringup, FakeHost) {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    host.with_world_mut(|world| world.advance(DAY * 300));
    (bringup, host)
}

fn runner<'a>(bringup: &'a Bringup, host: &'a FakeHost, events: &'a Recording) -> Runner<'a> {
    Runner::new(&bringup.plan, host, &bringup.facts, &NoSecrets, events)
}

fn certificate(host: &FakeHost, path: &str) -> String {
    let path = format!("/etc/pf9/kube.d/certs/{path}/request.crt");
    host.with_world(|world| world.text(path))
        .expect("it is there")
}

#[test]
fn every_certificate_of_the_role_has_its_use() {
    let plan = Bringup::of("cp-1").plan;
    let steps = plan.phases.iter().flat_map(|phase| &phase.steps);
    let planned: BTreeSet<&str> = steps
        .filter_map(|step| match &step.spec {
            Spec::Certificate(certificate) => Some(certificate.path.as_str()),
            _ => None,
        })
        .collect();
    let used = CONSUMERS.iter().map(|one| one.certificate).collect();
    assert_eq!(planned, used);
}

#[test]
fn the_page_has_the_table() {
    let mut table = "| certificate | renewed with | what for | the component uses a renewed one |\n|---|---|---|---|\n".to_owned();
    for one in CONSUMERS {
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            one.certificate, one.component, one.purpose, one.reload
        );
    }
    checked_in_part("docs/certificates.md", "uses", &table);
}

#[test]
fn due_certificates_are_renewed_by_component_without_failures() {
    let (bringup, host) = aged();
    let events = Recording::default();
    let health = block_on(runner(&bringup, &host, &events).check());
    assert!(health.iter().all(|phase| phase.status() == Status::True));

    for component in components() {
        let due = block_on(runner(&bringup, &host, &events).due());
        assert_eq!(due.components.first(), Some(&component));
        let before: Vec<String> = CONSUMERS
            .iter()
            .map(|one| certificate(&host, one.certificate))
            .collect();
        let outcome = block_on(runner(&bringup, &host, &events).renew(component));
        assert_eq!(outcome.expect("it ends"), Outcome::Converged);
        for (one, before) in CONSUMERS.iter().zip(before) {
            assert_eq!(
                certificate(&host, one.certificate) != before,
                one.component == component,
                "{component}: {}",
                one.certificate
            );
        }
    }
    let health = block_on(runner(&bringup, &host, &events).check());
    // No backup was made in these months, so that check does not hold.
    let well =
        |phase: &&PhaseHealth| phase.all_conditions_hold() || phase.phase.as_str() == "etcd-backup";
    assert!(health.iter().all(|phase| well(&phase)), "{health:?}");
    assert_eq!(bringup.apply(&host).changes(), Vec::<String>::new());
}

#[test]
fn a_repair_does_not_renew_due_certificates() {
    let (bringup, host) = aged();
    let before = certificate(&host, "apiserver");
    host.with_world_mut(|world| {
        world.remove("/etc/pf9/kube.d/certs/aggregator/request.crt");
    });
    let events = Recording::default();
    let certs: PhaseName = "certs".parse().expect("a name");
    let outcome = block_on(runner(&bringup, &host, &events).restart(&[certs], &[]));
    assert_eq!(outcome.expect("it ends"), Outcome::Converged);
    assert_eq!(certificate(&host, "apiserver"), before);
    assert_ne!(certificate(&host, "aggregator"), "");
}

/// A repair finds the programs that read a repaired file only at their start, if their phases come after the repaired one.
#[test]
fn readers_of_what_was_made_anew_are_outdated() {
    let (bringup, host) = aged();
    let events = Recording::default();
    let outdated = |phase: &str| {
        let repaired: PhaseName = phase.parse().expect("a name");
        let outdated = block_on(runner(&bringup, &host, &events).outdated(&[repaired]));
        let names: Vec<String> = outdated.iter().map(ToString::to_string).collect();
        names.join(" ")
    };
    assert_eq!(outdated("certs"), "");
    host.with_world_mut(|world| {
        world.remove("/etc/pf9/kube.d/certs/kubelet/server/request.crt");
    });
    let certs: PhaseName = "certs".parse().expect("a name");
    let outcome = block_on(runner(&bringup, &host, &events).restart(&[certs], &[]));
    assert_eq!(outcome.expect("it ends"), Outcome::Converged);
    assert_eq!(outdated("certs"), "kubelet");
    assert_eq!(outdated("api-ready"), "", "kubelet does not come after it");
}

#[test]
fn an_authority_near_its_end_is_a_warning() {
    let (bringup, host) = aged();
    host.with_world_mut(|world| world.advance(DAY * 30));
    let events = Recording::default();
    let health = block_on(runner(&bringup, &host, &events).check());
    let certs = &health[health
        .iter()
        .position(|p| p.phase.as_str() == "certs")
        .expect("it is there")];
    assert_eq!(certs.status(), Status::True);
    let reported = certs
        .conditions
        .iter()
        .find(|c| c.advisory)
        .expect("it warns");
    assert_eq!(reported.status, Status::False);
    assert!(
        reported.reason.contains("request.crt ends in 1month"),
        "{}",
        reported.reason
    );
}

/// nodeletd would log that the problem is over.
#[test]
fn a_missing_certificate_ends_no_warning_about_its_expiry() {
    let (bringup, host) = Bringup::brought_up("cp-1");
    let events = Recording::default();
    let expiry = || {
        let health = block_on(runner(&bringup, &host, &events).check());
        let all = health.into_iter().flat_map(|phase| phase.conditions);
        let mut all = all.filter(|its| its.check == "no certificate expires soon");
        let found = all.next().expect("it is there");
        (found.status, found.reason)
    };
    assert_eq!(expiry().0, Status::True);
    let certificate = "/etc/pf9/kube.d/certs/kubelet/server/request.crt";
    host.with_world_mut(|world| world.remove(certificate));
    let (status, reason) = expiry();
    assert_eq!(status, Status::Unknown);
    assert!(
        reason.ends_with(&format!("{certificate} is missing")),
        "{reason}"
    );
    host.with_world_mut(|world| world.remove("/etc/pf9/kube.d"));
    assert_eq!(expiry().0, Status::False);
}

#[test]
fn an_unreadable_certificate_does_not_block_other_renewals() {
    let (bringup, host) = aged();
    let events = Recording::default();
    let due = || block_on(runner(&bringup, &host, &events).due());
    let all = due().components;
    let first = all[0];
    let outcome = block_on(runner(&bringup, &host, &events).renew(first));
    assert_eq!(outcome.expect("it ends"), Outcome::Converged);
    // The clock was ahead when the first certificate was renewed: now it is set right.
    host.with_world_mut(|world| {
        let began = world.now() - world.elapsed();
        world.begin_at(began - DAY * 40);
    });
    let due = due();
    assert!(
        !due.problems.is_empty(),
        "the certificates of {first} are not valid yet"
    );
    assert_eq!(due.components, all[1..]);
}

/// A host that was off for so long would start its kubelet with the expired certificate, and wait for a node that cannot become Ready.
#[test]
fn a_kubeconfig_is_repaired_together_with_the_certificate_in_it() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    let events = Recording::default();
    let kubeconfigs = || {
        let health = block_on(runner(&bringup, &host, &events).check());
        let phase = health
            .into_iter()
            .find(|phase| phase.phase.as_str() == "kubeconfigs")
            .expect("it is there");
        let condition = phase.conditions.into_iter().next().expect("it has a check");
        (condition.status, condition.reason)
    };
    let set_mode = |mode: u32| {
        host.with_world_mut(|world| {
            let key = "/etc/pf9/kube.d/certs/admin/request.key";
            let text = world.text(key).expect("it is there");
            world.file_with_mode(key, &text, mode);
        });
    };
    // Its mode is repaired, and the kubeconfig stays as it is.
    set_mode(0o644);
    assert_eq!(kubeconfigs().0, Status::True);
    // It is only due, and a repair does not renew it. But one that repairs its files does.
    host.with_world_mut(|world| world.advance(DAY * 300));
    assert_eq!(kubeconfigs().0, Status::False);
    set_mode(0o600);
    assert_eq!(kubeconfigs().0, Status::True);
    host.with_world_mut(|world| world.advance(DAY * 66));
    let (status, reason) = kubeconfigs();
    assert_eq!(status, Status::False);
    assert_eq!(
        reason,
        "kubeconfig admin has certificate admin, which would be issued again"
    );
    let phases = ["certs", "kubeconfigs"].map(|name| name.parse().expect("a name"));
    let outcome = block_on(runner(&bringup, &host, &events).restart(&phases, &[]));
    assert_eq!(outcome.expect("it ends"), Outcome::Converged);
    assert_eq!(kubeconfigs(), (Status::True, String::new()));
}

/// A server that would read its files too late to show the new certificate before the old one ends is restarted; other servers are
/// not.
#[test]
fn servers_that_would_reload_too_late_are_restarted() {
    for (left, restarted) in [(4, true), (10, false)] {
        let (bringup, host) = aged();
        let left = Duration::from_secs(left * 60);
        host.with_world_mut(|world| world.advance(DAY * 65 - left));
        for one in CONSUMERS {
            let ReloadMode::Reconnect { container, .. } = one.reload else {
                continue;
            };
            let events = Recording::default();
            let outcome = block_on(runner(&bringup, &host, &events).renew(one.component));
            assert_eq!(outcome.expect("it ends"), Outcome::Converged);
            let reported: Vec<String> = events
                .events()
                .into_iter()
                .filter_map(|event| match event {
                    Event::ResourceRestarted {
                        resource, reason, ..
                    } if resource.starts_with("container") => {
                        assert!(reason.contains(one.certificate), "{reason}");
                        Some(resource)
                    }
                    _ => None,
                })
                .collect();
            let expected = restarted.then(|| format!("container {container}"));
            assert_eq!(
                reported,
                expected.into_iter().collect::<Vec<_>>(),
                "{left:?}"
            );
        }
    }
}
