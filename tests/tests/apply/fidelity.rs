//! What `nodelet plan` predicts against a host is what `nodelet apply` then does to it, and predicting touches nothing.
//!
//! `UPDATE_GENERATED=1 cargo test -p behaviour --test apply` writes the figures to `docs/fidelity.md`.

use std::fmt::Write as _;

use behaviour::{Bringup, Case, Fidelity, block_on, checked_in, fixtures, repository, text};
use engine::exec::{Event, simulated_host};
use engine::facts::{Facts, Listener, gather};
use engine::host::fake::{FakeHost, FaultPlan, difference};
use engine::model::Outcome;

/// The cases with a plan.
const CASES: [&str; 3] = ["cp-1", "cp-1-vip", "cp-2-nodocker"];
/// The target, in percent.
const WANTED: f64 = 99.0;
/// The heading of the figures of real hosts in the page; `tests/lab/tests/soak/fidelity.rs` writes them.
const REAL: &str = "## On real hosts";

/// A host in some state, and the role that is applied to it.
struct Situation {
    name: &'static str,
    bringup: Bringup,
    host: FakeHost,
}

#[test]
fn predicting_makes_no_mutating_call_and_changes_nothing() {
    for case in CASES {
        let bringup = Bringup::of(case);
        let mut worlds = bringup.worlds();
        let healthy = bringup.bare_host();
        let _ = bringup.apply(&healthy);
        worlds.push((&bringup.plan.phases[0], healthy));
        for (phase, host) in worlds {
            host.clear_journal();
            let before = host.snapshot();
            let predicted = bringup.predict(&host);
            assert_eq!(
                predicted.outcome,
                Outcome::Predicted,
                "{case}, {}: {}",
                phase.name,
                predicted.text()
            );
            assert_eq!(host.mutating_calls(), [], "{case}, before {}", phase.name);
            // These two show the packet filter and change nothing.
            let shows = ["iptables-save", "ip6tables-save"];
            let journal = host.journal();
            let runs = journal.iter().filter(|call| call.name == "run");
            let others: Vec<&str> = runs
                .map(|call| call.argument.as_str())
                .filter(|command| !shows.contains(command))
                .collect();
            assert_eq!(others, [""; 0], "{case}: a command was run");
            assert_eq!(
                difference(&before, &host.snapshot()),
                Vec::<String>::new(),
                "{case}, before {}",
                phase.name
            );
        }
    }
}

#[test]
fn predictions_match_apply_between_phases() {
    for case in CASES {
        let bringup = Bringup::of(case);
        for (phase, host) in bringup.worlds() {
            let fidelity = fidelity(&bringup, &host);
            assert!(
                fidelity.misses.is_empty(),
                "{case}, before {}: {}",
                phase.name,
                misses(&fidelity)
            );
        }
    }
}

#[test]
fn fidelity_meets_the_target_and_the_published_value() {
    let mut table = String::from(
        "| situation | steps | predicted to change | changed | misses |\n|---|---:|---:|---:|---|\n",
    );
    let mut bad = String::new();
    for situation in situations() {
        let fidelity = fidelity(&situation.bringup, &situation.host);
        let named: Vec<String> = fidelity.misses.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} |",
            situation.name,
            fidelity.steps,
            fidelity.predicted,
            fidelity.done,
            if named.is_empty() {
                "none".to_owned()
            } else {
                named.join("; ")
            },
        );
        let score = fidelity.score().expect("every situation has steps");
        if score < WANTED {
            let _ = writeln!(
                bad,
                "{}: {:.1} %\n{}",
                situation.name,
                score,
                misses(&fidelity)
            );
        }
    }
    println!("{table}");
    assert_eq!(bad, "", "below {WANTED} %");
    checked_in("docs/fidelity.md", &page(&table));
}

#[test]
fn the_ports_of_a_running_master_count_as_its_own() {
    let bringup = Bringup::of("cp-1");
    let host = healthy(&bringup);
    let mut facts = block_on(gather(&host)).expect("the host tells");
    let listening = |port| Listener {
        port,
        address: [0, 0, 0, 0].into(),
        program: None,
        cgroup: None,
    };
    // Without this fact, the programs that the role runs would still show that the role is there.
    facts.units.remove("pf9-kubelet.service");
    facts.listening = Some([443, 2380, 4001].map(listening).into());
    let facts = Facts::from_yaml(&facts.without_files().to_yaml().expect("facts are YAML"));
    let facts = facts.expect("they are read back");
    let replayed = Bringup {
        plan: bringup.plan.clone(),
        facts,
    };
    let refusing = |events: &[Event]| -> Vec<String> {
        let predicted_events = events.iter().filter_map(|event| match event {
            Event::PreflightFailed { problems } => Some(problems.iter().map(|p| p.problem.clone())),
            _ => None,
        });
        predicted_events.flatten().collect()
    };
    let run = replayed.predict(&simulated_host(&replayed.facts, &replayed.plan));
    assert_eq!(refusing(&run.events), Vec::<String>::new());
    let mut without = replayed.facts;
    without.met_before.clear();
    let bare = Bringup {
        plan: bringup.plan,
        facts: without,
    };
    let run = bare.predict(&simulated_host(&bare.facts, &bare.plan));
    assert!(
        refusing(&run.events).join("; ").contains("443"),
        "the ports are foreign"
    );
}

fn situations() -> Vec<Situation> {
    let mut all = Vec::new();
    let mut add = |name, bringup, host| {
        all.push(Situation {
            name,
            bringup,
            host,
        })
    };
    for (name, case) in [
        ("bare host", "cp-1"),
        ("bare host without docker", "cp-2-nodocker"),
    ] {
        let bringup = Bringup::of(case);
        let host = bringup.bare_host();
        add(name, bringup, host);
    }
    for (name, case) in [
        ("healthy host", "cp-1"),
        ("healthy host with a virtual IP", "cp-1-vip"),
    ] {
        let bringup = Bringup::of(case);
        let host = healthy(&bringup);
        add(name, bringup, host);
    }
    let bringup = Bringup::of("cp-1");
    let host = bringup.bare_host();
    host.with_world_mut(|world| {
        world.file(
            "/etc/docker/daemon.json",
            "{\"log-level\": \"debug\", \"icc\": false}\n",
        );
        world.start_docker();
    });
    add("docker configured otherwise", bringup, host);
    for (name, setting) in [
        (
            "one parameter changed (a flag of the API server)",
            "API_SERVER_FLAGS: --v=3",
        ),
        (
            "one parameter changed (workloads on the master)",
            "ALLOW_WORKLOADS_ON_MASTER: true",
        ),
    ] {
        let host = healthy(&Bringup::of("cp-1"));
        let settings = text(fixtures("settings/cp-1.yaml"));
        let changed = Bringup::from_case(Case::of("cp-1", &format!("{settings}{setting}\n")));
        add(name, changed, host);
    }
    let host = healthy(&Bringup::of("cp-1-vip"));
    add(
        "the virtual IP taken out of the settings",
        Bringup::of("cp-1"),
        host,
    );
    let bringup = Bringup::of("cp-1");
    let host = healthy(&bringup);
    host.with_world_mut(|world| world.remove_container("etcd"));
    add("lost etcd container", bringup, host);
    for (name, share) in [
        ("half-finished apply (interrupted at a quarter)", 4),
        ("half-finished apply (interrupted at the half)", 2),
        ("half-finished apply (interrupted near the end)", 1),
    ] {
        let bringup = Bringup::of("cp-1");
        let whole = bringup.bare_host();
        let _ = bringup.apply(&whole);
        let crash_at = whole.mutations() / share - if share == 1 { 12 } else { 0 };
        let host = bringup
            .bare_host()
            .with_faults(FaultPlan::none().crash_after(crash_at));
        let _ = bringup.apply(&host);
        assert!(
            host.crashed(),
            "{name}: the crash at call {crash_at} was reached"
        );
        host.end_crash();
        add(name, bringup, host);
    }
    all
}

/// A host after an apply.
fn healthy(bringup: &Bringup) -> FakeHost {
    let host = bringup.bare_host();
    let run = bringup.apply(&host);
    assert_eq!(run.outcome, Outcome::Converged, "{}", run.text());
    host
}

fn fidelity(bringup: &Bringup, host: &FakeHost) -> Fidelity {
    let predicted = bringup.predict(host);
    let done = bringup.apply(&host.fork());
    assert_eq!(done.outcome, Outcome::Converged, "{}", done.text());
    Fidelity::of(&predicted.events, &done.events)
}

fn misses(fidelity: &Fidelity) -> String {
    fidelity
        .misses
        .iter()
        .map(|miss| format!("  {miss}\n"))
        .collect()
}

/// The whole page; the part about real hosts stays as it is.
fn page(table: &str) -> String {
    let on_disk =
        std::fs::read_to_string(repository().join("docs/fidelity.md")).unwrap_or_default();
    let real = on_disk
        .find(REAL)
        .map_or(format!("{REAL}\n"), |at| on_disk[at..].to_owned());
    format!(
        "\
# Fidelity

`nodelet plan` predicts, `nodelet apply` does. Both are recorded and compared step by step: the action (created, changed,
restarted, reloaded, removed, unchanged) and, for a file whose content may be shown, the SHA-256 of that content. Secret
or random files (keys, certificates, kubeconfigs) have no digest: only their actions are compared. A step that the
prediction calls *known after apply* counts as a miss. `command` steps are counted separately: their effect cannot be known beforehand.
The role has none.

The action that counts as done is the one that `apply` announces before it converges a step. `apply` then observes the resource again and fails if it
still differs from the plan; only applies that succeeded are compared. Mode, owner, image and flags are not compared with the prediction. The host is not
compared with it either: a prediction lists actions, and contains no description of the whole host. So the shares below show that a prediction
names the steps that change, not that each detail of the host will be as predicted.

Three shares are given for real hosts: how many of the predicted changes were done as predicted; how many of the changes that were done had been
predicted; and on how many of all steps both agree. Each must be at least 99 %. If nothing was predicted or nothing was done,
there is no share, and the line says so.

If the API server does not answer, the prediction takes the state of its objects from nodelet's own records: if a run that wanted
the same of the cluster has converged the step, and etcd's data is still there, the object is as planned; if no run ever has, the object is absent. Otherwise
it is known after apply. Routes to other nodes are only taken as planned if the whole plan is the same, because it has the list of the masters.

## On fake hosts

Here the prediction and the apply run on the same fake host's code, so agreement says nothing about real hosts, and no share is given. The table
shows that a prediction carries effects from phase to phase as an apply does. Written by `UPDATE_GENERATED=1 cargo test -p behaviour --test apply`;
`cargo xtask test` asserts it.

{table}
{real}"
    )
}
