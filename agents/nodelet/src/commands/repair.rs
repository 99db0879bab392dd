//! `nodelet repair`: repairs a host whose checks fail. nodeletd and operators run it. `rebuild` is the one that begins with a full clean.

mod rebuild;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use engine::exec::{
    Event, EventSink, PhaseHealth, Recording, Runner, Selection, failed_phases,
    phases_with_orphans, restart_set,
};
use engine::host::Host;
use engine::host::live::LiveHost;
use engine::model::{Outcome, PhaseName};
use engine::report;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::rebuild::rebuild;
use super::run::{exit, note_identity, prepare};
use crate::cli::RepairArgs;
use crate::inputs::Inputs;
use crate::output::exit::Exit;
use crate::output::{self, say};
use crate::pass::follow_checks;
use crate::process::limits::Limits;
use crate::process::signals;

/// Timeout for a second check of the phases that a pass saw failing. A phase whose check hangs still counts as failing.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Time for the checks of the other phases, once one is found to fail still.
pub(super) const SETTLE: Duration = Duration::from_millis(250);
/// After this time an operator sees which phase the checks wait for. On a healthy host that is busy they have ended before.
const FIRST_TOLD: Duration = Duration::from_secs(3);

pub(crate) async fn repair(args: &RepairArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let named = Selection {
        only: args.phases.clone(),
        ..Selection::default()
    };
    let (inputs, _lock) = prepare("repair", &args.role, &named, &host).await?;
    let sink = output::sink(args.role.json);
    // Before the checks: what failed may hold again. And before their limits, which a unit that it restarts must not inherit.
    let cancel = wake_runtime(&inputs, &host, sink.as_ref()).await?;
    if cancel.as_ref().is_some_and(CancellationToken::is_cancelled) {
        return Ok(exit(Outcome::Interrupted));
    }
    let checks = args.phases.is_empty() || !args.if_failing.is_empty();
    let limits = checks.then(|| Limits::enter(inputs.settings()));
    let (failed, with_orphans, health) = if args.phases.is_empty() && args.if_failing.is_empty() {
        // Check even if a pass has seen failures: the host may have recovered, or an operator may have repaired it, meanwhile.
        let health = checked(&inputs, &host, sink.as_ref()).await;
        let with_orphans = phases_with_orphans(&health);
        (failed_phases(&health), with_orphans, health)
    } else {
        let mut failed = still_failing(&inputs, &host, &args.if_failing).await;
        failed.extend(chosen(&inputs, &args.phases));
        (failed, Vec::new(), Vec::new())
    };
    if let Some(limits) = limits {
        limits.leave()?;
    }
    let set = match args.prune {
        true => Vec::new(),
        false => restart_set(&inputs.plan, &failed),
    };
    if set.is_empty() && (with_orphans.is_empty() || args.rebuild) {
        if !args.role.json {
            say(&report::nothing_to_repair(&health));
        }
        return Ok(Exit::Ok);
    }
    let cancel = match cancel {
        Some(cancel) => cancel,
        None => signals::cancel_on_signal()?,
    };
    let outcome = if args.rebuild {
        rebuild(args, &inputs, &host, sink.as_ref(), &cancel).await?
    } else {
        let restart = async |set: &[PhaseName], with_orphans: &[PhaseName]| {
            let mut runner = inputs.runner(&host, sink.as_ref());
            runner.cancel = cancel.clone();
            runner.accepts_quorum_loss = args.accept_quorum_loss;
            runner.restart(set, with_orphans).await
        };
        let mut outcome = restart(&set, &with_orphans).await?;
        if outcome == Outcome::Refused {
            let mut runner = inputs.runner(&host, sink.as_ref());
            runner.accepts_quorum_loss = args.accept_quorum_loss;
            if let Some(others) = other_phases(&runner, &failed, &with_orphans).await {
                outcome = match restart(&others, &with_orphans).await? {
                    Outcome::Converged => Outcome::Refused,
                    outcome => outcome,
                };
            }
        }
        // If phases were named, restart only those and what needs them.
        if outcome == Outcome::Converged && args.phases.is_empty() && !set.is_empty() {
            let readers = readers(&inputs, &host, &set).await;
            if !readers.is_empty() {
                outcome = restart(&readers, &[]).await?;
            }
        }
        note_identity(outcome, &inputs);
        outcome
    };
    Ok(exit(outcome))
}

/// Lets a docker or a containerd work again that a signal has stopped. Returns what a signal cancels from then on; `None` if there was nothing to do.
async fn wake_runtime(
    inputs: &Inputs,
    host: &dyn Host,
    sink: &dyn EventSink,
) -> Result<Option<CancellationToken>> {
    let mut runner = inputs.runner(host, sink);
    let Some(stopped) = runner.stopped_runtime().await else {
        return Ok(None);
    };
    let cancel = signals::cancel_on_signal()?;
    runner.cancel = cancel.clone();
    runner.wake_runtime(&stopped).await?;
    Ok(Some(cancel))
}

/// The conditions of all phases. A server that does not answer takes its time, so `sink` gets the phase that is waited for.
async fn checked(inputs: &Inputs, host: &dyn Host, sink: &dyn EventSink) -> Vec<PhaseHealth> {
    let ignored_events = Recording::default();
    let runner = inputs.runner(host, &ignored_events);
    let in_progress = runner.checks_in_progress.clone();
    let tell = |phase| sink.emit(Event::Checking { phase });
    // This asks again what does not answer: a server that is busy for a moment is no reason to take anything off.
    let checks = runner.check_until_failed(SETTLE);
    follow_checks(in_progress, FIRST_TOLD, tell, checks).await
}

/// The phases that a repair still restarts after it was refused: a file that cannot be written prevents the repair of its own phase, but not of
/// other phases, and so does etcd's quorum. `None` if nothing else is to be done, or if the repair was refused for another reason.
pub(super) async fn other_phases(
    runner: &Runner<'_>,
    failed: &BTreeSet<PhaseName>,
    with_orphans: &[PhaseName],
) -> Option<Vec<PhaseName>> {
    let (others, problems) = runner.restartable(failed).await;
    let nothing_else = others.is_empty() && with_orphans.is_empty();
    (!problems.is_empty() && !nothing_else).then_some(others)
}

/// The phases that a repair restarts in a second step: when they start, they read something that its first step, `repaired`, has made
/// again, a certificate for example.
pub(super) async fn readers(
    inputs: &Inputs,
    host: &dyn Host,
    repaired: &[PhaseName],
) -> Vec<PhaseName> {
    let ignored_events = Recording::default();
    let outdated = inputs
        .runner(host, &ignored_events)
        .outdated(repaired)
        .await;
    restart_set(&inputs.plan, &outdated)
}

/// The phases of these names; none for no name.
fn chosen(inputs: &Inputs, names: &[String]) -> Vec<PhaseName> {
    let phases = inputs.plan.phases.iter();
    let phases = phases.filter(|phase| names.iter().any(|name| name == phase.name.as_str()));
    phases.map(|phase| phase.name.clone()).collect()
}

/// Those phases of `seen_failing` that still fail. Between the pass that saw them fail and this command's lock, the host may have recovered, or
/// an operator may have repaired it.
///
/// The phases that these require are checked, too, and are among the failing ones if their checks end in time: the pass may have checked a
/// phase just before it broke, and then have seen only what that broke. A repair without the cause would wait for minutes in vain.
async fn still_failing(
    inputs: &Inputs,
    host: &dyn Host,
    seen_failing: &[String],
) -> BTreeSet<PhaseName> {
    let seen_failing = chosen(inputs, seen_failing);
    let ignored_events = &Recording::default();
    let required: BTreeSet<PhaseName> = (inputs.plan.phases.iter())
        .filter(|phase| seen_failing.contains(&phase.name))
        .flat_map(|phase| phase.requires.iter().cloned())
        .filter(|required| !seen_failing.contains(required))
        .collect();
    let mut checks: FuturesUnordered<_> = required
        .iter()
        .chain(&seen_failing)
        .map(|phase| async move {
            let mut runner = inputs.runner(host, ignored_events);
            runner.selection.only.push(phase.to_string());
            (
                phase,
                runner
                    .check()
                    .await
                    .iter()
                    .all(PhaseHealth::needs_no_repair),
            )
        })
        .collect();
    let mut failing: BTreeSet<PhaseName> = seen_failing.iter().cloned().collect();
    let mut known = BTreeSet::new();
    let mut until = Instant::now() + FIRST_WAIT;
    while let Ok(Some((phase, well))) = timeout_at(until, checks.next()).await {
        if well {
            failing.remove(phase);
        } else {
            known.insert(phase.clone());
            failing.insert(phase.clone());
            until = until.min(Instant::now() + SETTLE);
        }
        // Phases that are restarted anyway with the failing ones need no check.
        if restart_set(&inputs.plan, &known) == restart_set(&inputs.plan, &failing) {
            break;
        }
    }
    failing
}

#[cfg(test)]
pub(super) mod tests {
    use engine::env::KubeEnv;
    use engine::facts::Facts;
    use engine::host::fake::{FakeHost, FaultPlan};
    use engine::model::Span;
    use engine::plan::{Plan, PlannedCheck, PlannedPhase, Probe};

    use super::*;

    /// A phase that is well while its file is there.
    fn phase(name: &str) -> PlannedPhase {
        PlannedPhase {
            checks: vec![PlannedCheck {
                name: "its file is there".to_owned(),
                span: Span::file(format!("phases/{name}.rhai")),
                probe: Probe::FileExists(format!("/run/{name}").into()),
                every: PlannedCheck::EVERY,
                timeout: PlannedCheck::TIMEOUT,
                failures: 1,
                advisory: false,
                needs_api: None,
                needs_quorum: false,
            }],
            ..PlannedPhase::bare(name.parse().expect("a name"))
        }
    }

    pub(in crate::commands) fn inputs() -> Inputs {
        let settings = KubeEnv::from_pairs([
            ("ROLE".to_owned(), "master".to_owned()),
            ("MASTER_IP".to_owned(), "10.0.0.1".to_owned()),
        ]);
        let settings = settings.expect("good settings");
        let facts = Facts::nothing_about("h");
        let plan = Plan::bare(["docker", "etcd", "kubelet"].map(phase).to_vec());
        Inputs::of(plan, settings, facts)
    }

    async fn failing(host: &FakeHost, seen_failing: &[&str]) -> Vec<String> {
        let seen_failing: Vec<String> =
            seen_failing.iter().map(|name| (*name).to_owned()).collect();
        let failing = still_failing(&inputs(), host, &seen_failing).await;
        failing.iter().map(ToString::to_string).collect()
    }

    /// Otherwise an operator would see nothing for as long as a server does not answer.
    #[tokio::test(start_paused = true)]
    async fn a_repair_names_the_phase_whose_checks_it_waits_for() {
        let host = FakeHost::new()
            .with_file("/run/docker", "x")
            .with_file("/run/etcd", "x")
            .with_file("/run/kubelet", "x");
        let named = async || {
            let events = Recording::default();
            let health = checked(&inputs(), &host, &events).await;
            assert_eq!(health.len(), 3, "{health:?}");
            events.events()
        };
        assert_eq!(named().await, [], "the checks end at once");
        host.set_faults(FaultPlan::none().stall("read", "/run/etcd"));
        let phase = "etcd".parse().expect("a name");
        assert_eq!(named().await, [Event::Checking { phase }]);
        // The checks of a healthy host that is busy take a second or two.
        let events = Recording::default();
        let short = FIRST_TOLD.saturating_sub(Duration::from_millis(100));
        let inputs = inputs();
        let ended = tokio::time::timeout(short, checked(&inputs, &host, &events)).await;
        assert!(ended.is_err(), "a check hangs");
        assert_eq!(events.events(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn recovered_phases_are_not_restarted() {
        let host = FakeHost::new().with_file("/run/docker", "x");
        assert_eq!(failing(&host, &["docker"]).await, [""; 0]);
        assert_eq!(failing(&host, &["docker", "etcd"]).await, ["etcd"]);
        assert_eq!(failing(&host, &["etcd", "no-phase"]).await, ["etcd"]);
        assert_eq!(
            failing(&host, &[]).await,
            [""; 0],
            "no pass saw others fail"
        );
    }

    /// A phase whose check hangs still counts as failing, and delays the repair by a moment at most.
    #[tokio::test(start_paused = true)]
    async fn commands_do_not_wait_for_a_hanging_directory() {
        for (beside, longest) in [("docker", FIRST_WAIT), ("kubelet", SETTLE)] {
            let hangs = FaultPlan::none().stall("read", "/run/etcd");
            let host = FakeHost::new()
                .with_file("/run/docker", "x")
                .with_faults(hangs);
            let began = Instant::now();
            let failing = failing(&host, &["etcd", beside]).await;
            assert!(failing.contains(&"etcd".to_owned()), "{failing:?}");
            assert_eq!(failing.contains(&beside.to_owned()), beside == "kubelet");
            assert!(began.elapsed() <= longest + Duration::from_millis(10));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cause_that_the_pass_has_not_seen_is_repaired_too() {
        let host = FakeHost::new().with_file("/run/docker", "x");
        let mut inputs = inputs();
        let [docker, etcd] = [0, 1].map(|number: usize| inputs.plan.phases[number].name.clone());
        inputs.plan.phases[2].requires = vec![docker, etcd.clone()];
        let failing = still_failing(&inputs, &host, &["kubelet".to_owned()]).await;
        let kubelet = inputs.plan.phases[2].name.clone();
        assert_eq!(failing, BTreeSet::from([etcd, kubelet]));
        // A cause whose check hangs does not delay the repair.
        let hangs = FaultPlan::none().stall("read", "/run/docker");
        let host = FakeHost::new().with_faults(hangs);
        let began = Instant::now();
        let failing = still_failing(&inputs, &host, &["kubelet".to_owned()]).await;
        assert_eq!(failing.len(), 2, "{failing:?}");
        assert!(began.elapsed() < SETTLE, "{:?}", began.elapsed());
    }

    /// A phase that is restarted anyway is not checked.
    #[tokio::test(start_paused = true)]
    async fn phases_that_are_restarted_anyway_are_not_checked() {
        let hangs = FaultPlan::none().stall("read", "/run/kubelet");
        let host = FakeHost::new().with_faults(hangs);
        let mut inputs = inputs();
        inputs.plan.phases[2].requires = vec![inputs.plan.phases[1].name.clone()];
        let seen_failing = ["etcd", "kubelet"].map(str::to_owned);
        let began = Instant::now();
        let failing = still_failing(&inputs, &host, &seen_failing).await;
        assert_eq!(failing.len(), 2, "{failing:?}");
        assert!(began.elapsed() < SETTLE, "{:?}", began.elapsed());
    }
}
