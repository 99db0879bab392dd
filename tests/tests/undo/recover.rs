//! Ledgers that were deleted, truncated or replaced on a host where the role runs: nothing is changed before a recovery, and a
//! clean afterwards takes back the same as on an undamaged host, as far as that can be known.

mod joined;

use std::path::{Path, PathBuf};

use behaviour::{Bringup, block_on};
use engine::exec::{Recording, Recovered, RecoveredFrom, Runner};
use engine::facts::gather;
use engine::host::Files as _;
use engine::host::fake::{FakeHost, FaultPlan, WorldSnapshot};
use engine::ledger::LedgerError;
use engine::model::{Outcome, STATE};
use engine::resource::{MaskedSecrets, ResourceError, ResourceResult, Spec};

const CASES: [&str; 2] = ["cp-1", "cp-2-nodocker"];

/// A host at its role, and its state before the role.
fn applied_host(case: &str) -> (Bringup, FakeHost, WorldSnapshot) {
    let bringup = Bringup::of(case);
    let host = bringup.bare_host();
    let before = host.snapshot();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    (bringup, host, before)
}

fn at(name: &str) -> String {
    format!("{STATE}/{name}")
}

fn text(host: &FakeHost, name: &str) -> String {
    host.with_world(|world| world.text(at(name)))
        .unwrap_or_default()
}

/// Calls `ask` with a runner that has the present facts of the host, as a command has them.
fn with_runner<T>(bringup: &Bringup, host: &FakeHost, ask: impl AsyncFnOnce(Runner<'_>) -> T) -> T {
    let ignored_events = Recording::default();
    block_on(async {
        let facts = gather(host).await.expect("facts");
        let runner = Runner::new(&bringup.plan, host, &facts, &MaskedSecrets, &ignored_events);
        ask(runner).await
    })
}

fn recover(bringup: &Bringup, host: &FakeHost, dry_run: bool) -> ResourceResult<Recovered> {
    with_runner(bringup, host, async |runner| runner.recover(dry_run).await)
}

fn lost(bringup: &Bringup, host: &FakeHost) -> Option<LedgerError> {
    with_runner(bringup, host, async |runner| runner.lost_ledger().await)
}

/// Asserts that nothing is done to such a host, and that the reason names the file and the command to recover it.
#[track_caller]
fn refused(bringup: &Bringup, host: &FakeHost, what: &str) {
    let lost = lost(bringup, host).unwrap_or_else(|| panic!("{what}: it is noticed"));
    let said = lost.to_string();
    assert!(
        said.contains("ledger.jsonl") && said.contains("`nodelet recover`"),
        "{what}: {said}"
    );
    host.clear_journal();
    assert_ne!(
        Bringup::clean(host, true).outcome,
        Outcome::Cleaned,
        "{what}"
    );
    assert_ne!(bringup.apply(host).outcome, Outcome::Converged, "{what}");
    assert_ne!(bringup.stop(host).outcome, Outcome::Stopped, "{what}");
    assert_eq!(host.mutating_calls(), vec![], "{what}");
}

/// Damages the first host; the second is the source of files from another host.
type Damage = fn(&FakeHost, &FakeHost);

/// Damage only to the ledger; the files beside it are undamaged.
fn damages() -> Vec<(&'static str, Damage)> {
    vec![
        ("deleted", |host, _| {
            host.with_world_mut(|world| world.remove(at("ledger.jsonl")));
        }),
        ("emptied", |host, _| {
            host.with_world_mut(|world| world.file(at("ledger.jsonl"), ""));
        }),
        ("truncated", |host, _| {
            let text = text(host, "ledger.jsonl");
            host.with_world_mut(|world| world.file(at("ledger.jsonl"), &text[..text.len() / 2]));
        }),
        ("rubbish in the middle", |host, _| {
            let text = text(host, "ledger.jsonl");
            let (start, end) = text.split_at(text.len() / 2);
            host.with_world_mut(|world| {
                world.file(at("ledger.jsonl"), format!("{start}\u{1}rubbish{end}"))
            });
        }),
        ("of an older form", |host, _| {
            let text = text(host, "ledger.jsonl");
            let (_, records) = text.split_once('\n').expect("a header");
            let older = format!("{{\"r\":\"header\",\"version\":1}}\n{records}");
            host.with_world_mut(|world| world.file(at("ledger.jsonl"), older));
        }),
        ("another host's", |host, another| {
            let text = text(another, "ledger.jsonl");
            host.with_world_mut(|world| world.file(at("ledger.jsonl"), text));
        }),
    ]
}

#[test]
fn a_ledger_that_was_lost_is_recovered_from_its_copy_and_nothing_is_missing() {
    for case in CASES {
        let (bringup, applied_host, before) = applied_host(case);
        let whole = Bringup::records(&applied_host);
        let another = Bringup::of(if case == "cp-1" {
            "cp-2-nodocker"
        } else {
            "cp-1"
        });
        let another = {
            let host = another.bare_host();
            assert_eq!(another.apply(&host).outcome, Outcome::Converged);
            host
        };
        for (damage, inflict) in damages() {
            let what = format!("{case}, {damage}");
            let host = applied_host.fork();
            inflict(&host, &another);
            refused(&bringup, &host, &what);
            let shown = recover(&bringup, &host, true).expect("it can be shown");
            assert_eq!(host.mutating_calls(), vec![], "{what}: a dry run");
            let recovered = recover(&bringup, &host, false).expect("it can be recovered");
            assert_eq!(shown, recovered, "{what}");
            assert!(
                matches!(recovered.source, RecoveredFrom::Copy { .. }),
                "{what}: {recovered:?}"
            );
            assert_eq!(recovered.unknown, [""; 0], "{what}");
            assert!(lost(&bringup, &host).is_none(), "{what}");
            assert_eq!(Bringup::records(&host)[..whole.len()], whole, "{what}");
            let again = bringup.apply(&host);
            assert_eq!(again.outcome, Outcome::Converged, "{}", again.text());
            assert_eq!(again.changes(), [""; 0], "{what}");
            let clean = Bringup::clean(&host, true);
            assert_eq!(clean.outcome, Outcome::Cleaned, "{what}: {}", clean.text());
            assert_eq!(bringup.not_cleaned(&before, &host, true), [""; 0], "{what}");
        }
    }
}

/// Of two undos of a file the older one counts. The content of the newer one is in the ledger, too, and nothing has to be compared.
#[test]
fn contents_that_the_ledger_names_are_not_reported_as_unused() {
    const FILE: &str = "/etc/pf9/kube.d/kubelet/config.yaml";
    for with_copy in [true, false] {
        let (bringup, host, _) = applied_host("cp-1");
        host.with_world_mut(|world| world.file_with_mode(FILE, "edited: true\n", 0o600));
        assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
        let contents = || block_on(host.list(Path::new(&at("content")))).expect("a listing");
        assert!(!contents().is_empty(), "the edited content is saved");
        let text = text(&host, "ledger.jsonl");
        host.with_world_mut(|world| {
            if with_copy {
                world.remove(at("ledger.jsonl"));
            } else {
                world.file(at("ledger.jsonl"), format!("{text}rubbish\n"));
                world.remove(at("ledger.tip"));
                world.remove(at("ledger.backup.jsonl"));
            }
        });
        let recovered = recover(&bringup, &host, true).expect("it can be shown");
        let is_copy = matches!(recovered.source, RecoveredFrom::Copy { .. });
        assert_eq!(is_copy, with_copy, "{recovered:?}");
        let unused = &recovered.unused_contents;
        assert!(unused.is_empty(), "{unused:?}");
    }
}

/// The payload has a list of each package with all packages that it needs: two lists may name the same one.
#[test]
fn a_package_that_two_steps_bring_is_named_once() {
    let (bringup, host, _) = applied_host("cp-1");
    let steps = bringup.plan.phases.iter().flat_map(|phase| &phase.steps);
    let lists = steps.filter_map(|step| match &step.spec {
        Spec::Packages(packages) => {
            let name = packages.names.first()?;
            Some(packages.directory.join(format!("{name}.list")))
        }
        _ => None,
    });
    let lists: Vec<PathBuf> = lists.collect();
    assert!(lists.len() > 1, "{lists:?}");
    host.with_world_mut(|world| {
        let all = lists.iter().filter_map(|list| world.text(list));
        let all: String = all.collect();
        for list in &lists {
            world.file(list, &all);
        }
        for name in ["ledger.jsonl", "ledger.tip", "ledger.backup.jsonl"] {
            world.remove(at(name));
        }
    });
    let recovered = recover(&bringup, &host, true).expect("it can be shown");
    let lines = recovered.unknown.iter();
    let mut packages: Vec<&String> = lines.filter(|line| line.starts_with("package ")).collect();
    assert!(!packages.is_empty(), "{recovered:#?}");
    packages.sort();
    let all = packages.len();
    packages.dedup();
    assert_eq!(packages.len(), all, "{:#?}", recovered.unknown);
}

fn packages_of(host: &FakeHost) -> Vec<String> {
    let facts = block_on(gather(host)).expect("facts");
    facts.packages.into_keys().collect()
}

/// If the files beside the ledger are lost as well, only the host itself shows what the role has done.
#[test]
fn a_lost_ledger_is_rebuilt_from_the_host() {
    for case in CASES {
        for state in [false, true] {
            let (bringup, host, before) = applied_host(case);
            let what = format!("{case}, state directory {state}");
            let others = "/var/lib/docker/volumes/others/data";
            host.with_world_mut(|world| {
                world.file(others, "precious");
                if state {
                    world.remove(STATE);
                } else {
                    for name in ["ledger.jsonl", "ledger.tip", "ledger.backup.jsonl"] {
                        world.remove(at(name));
                    }
                }
            });
            let lost_now = lost(&bringup, &host).expect("it is noticed");
            assert!(
                matches!(lost_now, LedgerError::Missing { .. }),
                "{lost_now}"
            );
            let recovered = recover(&bringup, &host, false).expect("it can be recovered");
            assert_eq!(recovered.source, RecoveredFrom::Host, "{what}");
            let told =
                |resource: &str| recovered.unknown.iter().any(|line| line.contains(resource));
            assert!(told("net.ipv4.ip_forward"), "{what}: {recovered:#?}");
            assert!(
                recovered.recorded.contains(&"container etcd".to_owned()),
                "{what}: {recovered:#?}"
            );
            assert!(lost(&bringup, &host).is_none(), "{what}");
            let again = bringup.apply(&host);
            assert_eq!(again.outcome, Outcome::Converged, "{}", again.text());
            // The records of kept keys are in the state directory, too: the keys on the host prove which ones they are.
            let in_state = [
                "certs/certificate_authority:cluster",
                "certs/certificate_authority:etcd",
                "certs/certificate_authority:front-proxy",
                "certs/service_account_key:service-account",
                "certs/encryption_keys:secrets",
                "etcd/data_id:etcd",
                "etcd-backup/timer:etcd-backup",
            ];
            let lost_too = if state { &in_state[..] } else { &[] };
            assert_eq!(again.changes(), lost_too, "{what}");
            let packages = packages_of(&host);
            let clean = Bringup::clean(&host, true);
            assert_eq!(clean.outcome, Outcome::Cleaned, "{what}: {}", clean.text());
            // The versions of packages do not say who has installed them.
            assert_eq!(packages_of(&host), packages, "{what}");
            assert!(told("package docker.io"), "{what}: {recovered:#?}");
            // Nor do they say who owns what docker keeps.
            let kept = block_on(host.read(Path::new(others), 100)).expect("it can be read");
            assert_eq!(kept.as_deref(), Some(&b"precious"[..]), "{what}");
            assert!(told("directory /var/lib/docker:"), "{what}: {recovered:#?}");
            let mut left = bringup.not_cleaned(&before, &host, true);
            // Packages that stay keep their files, and docker its bridge.
            left.retain(|line| !line.starts_with("+ path /usr/lib/") && !line.contains("docker"));
            // The recovery has named what could not be known.
            left.retain(|line| {
                let mut words = line.split([' ', ':', '/']).filter(|word| word.len() > 4);
                !words.any(told)
            });
            assert_eq!(left, [""; 0], "{what}");
        }
    }
}

/// The apply on a simulated host that tells what is to be taken back knows no other nodes.
#[test]
fn routes_to_other_nodes_are_removed_after_a_recovery() {
    let (bringup, host, _) = applied_host("cp-1");
    let via = [172, 30, 0, 77].into();
    host.with_world_mut(|world| world.join_node("w-1", "10.20.7.0/24", via));
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    assert_eq!(host.with_world(|world| world.node_routes().len()), 1);
    host.with_world_mut(|world| {
        for name in ["ledger.jsonl", "ledger.tip", "ledger.backup.jsonl"] {
            world.remove(at(name));
        }
    });
    let _ = recover(&bringup, &host, false).expect("it can be recovered");
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    assert_eq!(Bringup::clean(&host, true).outcome, Outcome::Cleaned);
    assert_eq!(host.with_world(|world| world.node_routes()), []);
}

/// The lines before the damage belong to the host: what they say about the time before the role is used.
#[test]
fn the_complete_lines_of_a_damaged_ledger_are_used() {
    let (bringup, host, before) = applied_host("cp-1");
    let text = text(&host, "ledger.jsonl");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let most = lines.len() * 3 / 4;
    let mut damaged = lines[..most].concat();
    damaged.push_str("rubbish\n");
    host.with_world_mut(|world| {
        world.file(at("ledger.jsonl"), &damaged);
        world.remove(at("ledger.tip"));
        world.remove(at("ledger.backup.jsonl"));
    });
    refused(&bringup, &host, "rubbish");
    let recovered = recover(&bringup, &host, false).expect("it can be recovered");
    assert!(
        matches!(&recovered.source, RecoveredFrom::Part { run: 1, .. }),
        "{recovered:?}"
    );
    let kept = host.with_world(|world| world.text(at("ledger.damaged.jsonl")));
    assert_eq!(kept, Some(damaged), "the damaged ledger is kept");
    assert!(lost(&bringup, &host).is_none());
    let clean = Bringup::clean(&host, true);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    let told = |resource: &str| recovered.unknown.iter().any(|line| line.contains(resource));
    let mut left = bringup.not_cleaned(&before, &host, true);
    left.retain(|line| {
        let mut words = line.split([' ', ':', '/']).filter(|word| word.len() > 4);
        !words.any(told)
    });
    assert_eq!(left, [""; 0], "{:#?}", recovered.unknown);
}

/// Also if its tip was replaced by an older one as well: the copy is newer.
#[test]
fn an_older_ledger_is_not_taken_for_the_present_one() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    assert_eq!(
        bringup.apply_only(&host, &["node-config"]).outcome,
        Outcome::Converged
    );
    let (ledger, tip) = (text(&host, "ledger.jsonl"), text(&host, "ledger.tip"));
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    for with_tip in [false, true] {
        let host = host.fork();
        host.with_world_mut(|world| {
            world.file(at("ledger.jsonl"), &ledger);
            if with_tip {
                world.file(at("ledger.tip"), &tip);
            }
        });
        refused(&bringup, &host, "an older ledger");
        let recovered = recover(&bringup, &host, false).expect("it can be recovered");
        let is_whole = matches!(recovered.source, RecoveredFrom::Copy { run: 2 });
        assert_eq!(is_whole, !with_tip, "{recovered:?}");
        assert!(lost(&bringup, &host).is_none());
    }
}

/// An interrupted run has done things that the copy does not know.
#[test]
fn a_copy_older_than_an_interrupted_run_is_incomplete() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    assert_eq!(
        bringup.apply_only(&host, &["node-config"]).outcome,
        Outcome::Converged
    );
    host.set_faults(FaultPlan::none().crash_after(60));
    assert_ne!(bringup.apply(&host).outcome, Outcome::Converged);
    host.end_crash();
    host.with_world_mut(|world| world.remove(at("ledger.jsonl")));
    let recovered = recover(&bringup, &host, false).expect("it can be recovered");
    assert!(
        matches!(&recovered.source, RecoveredFrom::Part { run: 1, .. }),
        "{recovered:?}"
    );
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
}

/// The state of a host on which a new ledger was begun without a recovery.
#[test]
fn a_ledger_that_knows_a_part_of_the_role_is_not_enough() {
    let (bringup, host, _) = applied_host("cp-1");
    host.with_world_mut(|world| world.remove(STATE));
    // The records that a repair would have written into a new ledger.
    let bare = bringup.bare_host();
    assert_eq!(
        bringup.apply_only(&bare, &["node-config"]).outcome,
        Outcome::Converged
    );
    for name in ["ledger.jsonl", "ledger.tip", "ledger.backup.jsonl"] {
        let text = text(&bare, name);
        host.with_world_mut(|world| world.file_with_mode(at(name), text, 0o600));
    }
    let lost_now = lost(&bringup, &host).expect("it is noticed");
    assert!(
        matches!(lost_now, LedgerError::Incomplete { .. }),
        "{lost_now}"
    );
    assert!(
        lost_now.to_string().contains("container etcd"),
        "{lost_now}"
    );
    let recovered = recover(&bringup, &host, false).expect("it can be recovered");
    assert!(
        recovered.recorded.contains(&"container etcd".to_owned()),
        "{recovered:?}"
    );
    assert!(lost(&bringup, &host).is_none());
}

#[test]
fn there_is_nothing_to_recover_on_a_host_that_has_its_ledger_and_on_a_bare_one() {
    let (bringup, host, _) = applied_host("cp-1");
    let bare = bringup.bare_host();
    for host in [&host, &bare] {
        assert!(lost(&bringup, host).is_none());
        host.clear_journal();
        let refused = recover(&bringup, host, false).expect_err("nothing is lost");
        assert!(matches!(refused, ResourceError::Unmet { .. }), "{refused}");
        assert_eq!(host.mutating_calls(), vec![]);
    }
}

/// A dry run must not promise what the recovery refuses.
#[test]
fn a_directory_in_the_place_of_the_ledger_is_moved_away_first() {
    let (bringup, host, _) = applied_host("cp-1");
    host.with_world_mut(|world| {
        world.remove(at("ledger.jsonl"));
        world.directory(at("ledger.jsonl"));
    });
    refused(&bringup, &host, "a directory");
    for dry_run in [true, false] {
        let error = recover(&bringup, &host, dry_run).expect_err("a directory is there");
        let said = engine::model::chain(&error).join(": ");
        let next = format!("move it away (`mv {} /root/`)", at("ledger.jsonl"));
        assert!(said.contains(&next), "{said}");
        assert_eq!(host.mutating_calls(), vec![]);
    }
    host.with_world_mut(|world| world.remove(at("ledger.jsonl")));
    recover(&bringup, &host, false).expect("it is out of the way");
    assert!(lost(&bringup, &host).is_none());
}

/// Its ledger would say that the host has this other role, and its next apply would remove the role that runs.
#[test]
fn a_ledger_is_not_recovered_as_that_of_another_role() {
    let (bringup, applied_host, _) = applied_host("cp-1");
    let mut other = Bringup::of("cp-1");
    other.plan.role = "other 1".to_owned();
    let whole = text(&applied_host, "ledger.jsonl");
    for content in [None, Some(&whole[..whole.len() / 2])] {
        let host = applied_host.fork();
        host.with_world_mut(|world| match content {
            None => world.remove(at("ledger.jsonl")),
            Some(content) => world.file(at("ledger.jsonl"), content),
        });
        host.clear_journal();
        for dry_run in [true, false] {
            let refused = recover(&other, &host, dry_run).expect_err("it is another role");
            let ResourceError::Unmet { what, next } = &refused else {
                panic!("{refused}");
            };
            for role in [bringup.plan.role.as_str(), "other 1"] {
                assert!(what.contains(role), "{role}: {what}");
            }
            assert!(next.contains("`nodelet recover --role pf9-kube`"), "{next}");
            assert_eq!(host.mutating_calls(), vec![]);
        }
        // Another version of the role is the same role.
        other.plan.role = "pf9-kube 0.1".to_owned();
        recover(&other, &host, true).expect("it can be shown");
        other.plan.role = "other 1".to_owned();
        recover(&bringup, &host, false).expect("it can be recovered");
    }
    // After a clean the host has no role.
    let host = applied_host.fork();
    let clean = Bringup::clean(&host, false);
    assert_eq!(clean.outcome, Outcome::Cleaned, "{}", clean.text());
    host.with_world_mut(|world| world.remove(at("ledger.jsonl")));
    recover(&other, &host, true).expect("the host has no role");
}

/// A lost run may have replaced the role, so the older records are no evidence against the role that is named.
#[test]
fn records_that_lack_the_last_run_refuse_no_role() {
    let bringup = Bringup::of("cp-1");
    let mut other = Bringup::of("cp-1");
    other.plan.role = "other 1".to_owned();
    let host = bringup.bare_host();
    let run = bringup.apply_only(&host, &["node-config"]);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    let older = text(&host, "ledger.backup.jsonl");
    let run = other.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host.with_world_mut(|world| {
        world.remove(at("ledger.jsonl"));
        world.file(at("ledger.backup.jsonl"), &older);
    });
    let doubts = |recovered: &Recovered| {
        let lines = recovered.unknown.iter();
        let its = lines.filter(|line| line.starts_with("role "));
        its.cloned().collect::<Vec<String>>()
    };
    let recovered = recover(&bringup, &host, true).expect("it can be shown");
    assert_eq!(doubts(&recovered), [""; 0], "the records name this role");
    let recovered = recover(&other, &host, false).expect("it can be recovered");
    assert!(
        matches!(&recovered.source, RecoveredFrom::Part { run: 1, .. }),
        "{recovered:?}"
    );
    let doubts = doubts(&recovered);
    assert_eq!(doubts.len(), 1, "{recovered:#?}");
    for named in [bringup.plan.role.as_str(), "other 1", "run 1", "run 2"] {
        assert!(doubts[0].contains(named), "{named}: {}", doubts[0]);
    }
    assert!(lost(&other, &host).is_none());
}

/// The files beside the ledger can be made again, so their loss is no loss of data.
#[test]
fn a_lost_tip_or_copy_is_written_again() {
    let (bringup, host, _) = applied_host("cp-1");
    let (tip, copy) = (
        text(&host, "ledger.tip"),
        text(&host, "ledger.backup.jsonl"),
    );
    assert_eq!(copy, text(&host, "ledger.jsonl"));
    for name in ["ledger.tip", "ledger.backup.jsonl"] {
        for content in [None, Some(""), Some("rubbish")] {
            let host = host.fork();
            host.with_world_mut(|world| match content {
                None => world.remove(at(name)),
                Some(content) => world.file(at(name), content),
            });
            assert!(lost(&bringup, &host).is_none(), "{name} {content:?}");
            let renewed = block_on(engine::ledger::Ledger::renew_copies(&host));
            assert!(renewed.expect("it can be"), "{name} {content:?}");
            assert_eq!(text(&host, "ledger.tip"), tip, "{name} {content:?}");
            assert_eq!(
                text(&host, "ledger.backup.jsonl"),
                copy,
                "{name} {content:?}"
            );
            let renewed = block_on(engine::ledger::Ledger::renew_copies(&host));
            assert!(!renewed.expect("it is good"), "{name} {content:?}");
        }
    }
}

#[test]
fn saved_contents_that_were_damaged_are_named() {
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    host.with_world_mut(|world| {
        world.directory("/etc/docker");
        world.file("/etc/docker/daemon.json", "{}");
    });
    assert_eq!(bringup.apply(&host).outcome, Outcome::Converged);
    let problems = |host: &FakeHost| {
        block_on(engine::ledger::Ledger::damaged_contents(host)).expect("it can be looked at")
    };
    assert_eq!(problems(&host), [""; 0]);
    let folder = at("content");
    let names = block_on(engine::host::Files::list(&host, Path::new(&folder))).expect("listed");
    for content in [None, Some("rubbish")] {
        let host = host.fork();
        let path = format!("{folder}/{}", names[0]);
        host.with_world_mut(|world| match content {
            None => world.remove(path),
            Some(content) => world.file(path, content),
        });
        let told = problems(&host).join("\n");
        assert!(
            told.contains(&names[0]) && told.contains("/etc/docker/daemon.json"),
            "{told}"
        );
    }
}
