//! `nodelet plan` and `nodelet diff`: what an apply would do. Neither takes the lock, neither writes anything.
//!
//! Against this host the plan is played on an overlay, which reads the host and keeps every change to itself; with
//! `--facts` on a simulated host.

use anyhow::Result;
use engine::exec::{
    Event, EventSink as _, PhaseHealth, Recording, UnmetRequires, failed_phases, overlay_host,
    phases_with_orphans, restart_set, simulated_host,
};
use engine::host::Host;
use engine::host::live::LiveHost;
use engine::model::{Outcome, Verb, count};
use engine::plan::Plan;
use engine::report::{self, JsonReport, Review, with_octal_modes};
use engine::resource::{MaskedSecrets, SecretStore};

use crate::cli::{DiffArgs, PhaseArgs, PlanArgs, RoleArgs, TargetArgs};
use crate::commands::cluster::warn_of_other_settings;
use crate::commands::repair::{SETTLE, other_phases, readers};
use crate::commands::run::{another_role, lost_ledger, unchanged};
use crate::inputs::{self, Inputs, NO_ROLE};
use crate::output::exit::Exit;
use crate::output::{Out, error_report, is_long_for_a_terminal, say};

pub(crate) async fn plan(args: &PlanArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let inputs = read(&args.target, &args.phases, &host).await?;
    let role = &args.target.role;
    if role.json && !args.dry_run {
        return Ok(json(&inputs, &args.phases));
    }
    if inputs.are_of_no_role() {
        return Ok(nothing(role));
    }
    if args.full {
        return Ok(full(&inputs, &args.phases));
    }
    let events = predict(&args.target, &args.phases, &inputs, &host, false).await?;
    let missing = missing(args, &inputs).await;
    let review = Review::of(&events)
        .with_skipped_of(&inputs.plan)
        .with_missing(missing.as_ref());
    if role.json {
        lines(&events);
    } else {
        let text = review.plan();
        let is_brief = !args.details && is_long_for_a_terminal(&text);
        say(&if is_brief { review.brief() } else { text });
    }
    Ok(if review.complete() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

pub(crate) async fn diff(args: &DiffArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let DiffArgs { target, phases, .. } = args;
    let role = &target.role;
    let inputs = read(target, phases, &host).await?;
    if inputs.are_of_no_role() {
        return Ok(nothing(role));
    }
    let (events, health) = if args.repair {
        predict_repair(&inputs, &host).await?
    } else {
        let events = predict(target, phases, &inputs, &host, args.rebuild).await?;
        (events, Vec::new())
    };
    let review = match args.repair {
        true => Review::of_repair(&events),
        false => Review::of(&events),
    };
    if role.json && events.is_empty() {
        lines(&nothing_predicted(&inputs.plan));
    } else if role.json {
        lines(&events);
    } else if events.is_empty() {
        say(&report::nothing_to_repair(&health));
    } else {
        say(&review.diff());
    }
    Ok(match review.totals().pending() {
        _ if events.is_empty() => Exit::Ok,
        _ if !review.complete() => Exit::Failed,
        // A repair is pending even if it would change nothing: it restarts phases.
        0 if !args.repair => Exit::Ok,
        _ => Exit::Pending,
    })
}

/// What a program gets if a repair would do nothing: the events of a dry run without phases. No output could also be a failure.
fn nothing_predicted(plan: &Plan) -> [Event; 2] {
    [
        Event::RunStarted {
            verb: Verb::DryRun,
            role: plan.role.clone(),
            host: plan.host.clone(),
            digest: plan.digest(),
            phases: Vec::new(),
        },
        Event::RunFinished {
            outcome: Outcome::Predicted,
            changed: 0,
            unchanged: 0,
            milliseconds: 0,
        },
    ]
}

/// Says that there is no role to apply. With `--json` it prints nothing, because there are no events.
pub(in crate::commands) fn nothing(role: &RoleArgs) -> Exit {
    if !role.json {
        say(&format!("nothing to do: {NO_ROLE}\n"));
    }
    Exit::Ok
}

/// Warns of a facts file that was taken on a host with a role.
fn warn_of_facts(target: &TargetArgs, inputs: &Inputs) {
    if let (Some(path), Some(role)) = (&target.facts, &inputs.facts.installed_role) {
        tracing::warn!(
            "{} was taken on a host with {role}: it has the packages, units, links and ports of that host, but none of its files and \
             containers, so the prediction is true neither for that host nor for a bare one",
            path.display()
        );
    }
}

/// Warns that an apply needs an option, because another role is on this host. The prediction shows and counts what it would remove.
async fn warn_of_another_role(inputs: &Inputs, host: &LiveHost) {
    // A user who may not read the ledger gets the prediction without the warning.
    if let Ok(Some(another)) = another_role(inputs, host).await {
        error_report::say(&format!(
            "{}; only `nodelet apply --replace-role` would make the changes below",
            another.mismatch_message()
        ));
    }
}

async fn read(target: &TargetArgs, phases: &PhaseArgs, host: &LiveHost) -> Result<Inputs> {
    let inputs = inputs::read_for(target, host).await?;
    warn_of_facts(target, &inputs);
    // Refuse what an apply would refuse. A user who may not read the host's state gets the rest of the prediction.
    if target.facts.is_none() {
        unchanged(&target.role, host, &inputs).await?;
        lost_ledger(&inputs, host).await?;
        if !inputs.are_of_no_role() {
            warn_of_another_role(&inputs, host).await;
            warn_of_other_settings(&inputs.plan, host).await;
        }
    }
    if !inputs.are_of_no_role() {
        phases.selection().validate(&inputs.plan)?;
    }
    Ok(inputs)
}

/// The events of a dry run: on a simulated host if a facts file describes it, on an overlay of this host otherwise.
async fn predict(
    target: &TargetArgs,
    phases: &PhaseArgs,
    inputs: &Inputs,
    host: &LiveHost,
    rebuild: bool,
) -> Result<Vec<Event>> {
    inputs.refuse_taken_directories()?;
    if target.facts.is_some() {
        let simulated = simulated_host(&inputs.facts, &inputs.plan);
        return dry_run(phases, inputs, &simulated, &MaskedSecrets, rebuild).await;
    }
    let overlay = overlay_host(host, &inputs.plan).await;
    let ignored_events = Recording::default();
    let mut asking = inputs.runner(&overlay, &ignored_events);
    asking.selection = phases.selection();
    // Refuse what an apply would refuse. A user who may not read the host's state gets the rest of the prediction.
    if let Ok(Some(missing)) = asking.unmet_requires().await {
        return Err(missing.into());
    }
    dry_run(phases, inputs, &overlay, &inputs.secrets, rebuild).await
}

/// The phases that the chosen ones require and that the host of a facts file does not have: an apply there would be refused. For this host
/// [`predict`] refuses such a plan.
async fn missing(args: &PlanArgs, inputs: &Inputs) -> Option<UnmetRequires> {
    args.target.facts.as_ref()?;
    let simulated = simulated_host(&inputs.facts, &inputs.plan);
    let ignored_events = Recording::default();
    let mut asking = inputs.runner_of(&inputs.plan, &MaskedSecrets, &simulated, &ignored_events);
    asking.selection = args.phases.selection();
    asking.unmet_requires().await.ok().flatten()
}

/// The events of a dry run of what `nodelet repair` would do now, and the conditions for which it would do it. There are no events if a
/// repair would wake, restart and remove nothing.
async fn predict_repair(
    inputs: &Inputs,
    host: &dyn Host,
) -> Result<(Vec<Event>, Vec<PhaseHealth>)> {
    let ignored_events = Recording::default();
    let checker = inputs.runner(host, &ignored_events);
    let runtime = checker.stopped_runtime().await;
    // The same checks as in a repair.
    let health = checker.check_until_failed(SETTLE).await;
    let mut failed = failed_phases(&health);
    let mut events = Vec::new();
    if let Some(stopped) = &runtime {
        // A repair makes its checks when docker works again, and these phases may be well then.
        failed.retain(|phase| !stopped.phases.contains(phase));
        events.extend(stopped.woken());
    }
    let set = restart_set(&inputs.plan, &failed);
    let with_orphans = phases_with_orphans(&health);
    if set.is_empty() && with_orphans.is_empty() {
        if runtime.is_some() {
            let [started, finished] = nothing_predicted(&inputs.plan);
            events.insert(0, started);
            events.push(finished);
        }
        return Ok((events, health));
    }
    let overlay = overlay_host(host, &inputs.plan).await;
    let recording = Recording::default();
    let runner = || inputs.runner(&overlay, &recording);
    let outcome = runner().dry_restart(&set, &with_orphans).await?;
    if outcome == Outcome::Refused {
        // The same phases as in a repair.
        if let Some(others) = other_phases(&runner(), &failed, &with_orphans).await {
            runner().dry_restart(&others, &with_orphans).await?;
        }
    }
    if outcome == Outcome::Predicted && !set.is_empty() {
        let readers = readers(inputs, &overlay, &set).await;
        if !readers.is_empty() {
            runner().dry_restart(&readers, &[]).await?;
        }
    }
    events.extend(recording.events());
    Ok((events, health))
}

async fn dry_run(
    phases: &PhaseArgs,
    inputs: &Inputs,
    host: &dyn Host,
    secrets: &dyn SecretStore,
    rebuild: bool,
) -> Result<Vec<Event>> {
    let recording = Recording::default();
    let mut runner = inputs.runner_of(&inputs.plan, secrets, host, &recording);
    runner.selection = phases.selection();
    runner.rebuild = rebuild;
    runner.dry_run().await?;
    Ok(recording.events())
}

pub(in crate::commands) fn lines(events: &[Event]) {
    let report = JsonReport::new(Out::new());
    for event in events {
        report.emit(event.clone());
    }
}

/// Plan and digest as one value.
fn json(inputs: &Inputs, phases: &PhaseArgs) -> Exit {
    let value = serde_json::json!({
        "digest": inputs.plan.digest(),
        "plan": chosen(inputs, phases),
    });
    say(&format!("{:#}\n", with_octal_modes(value)));
    Exit::Ok
}

/// Shows a line for each phase, then every step in full.
fn full(inputs: &Inputs, phases: &PhaseArgs) -> Exit {
    let plan = &inputs.plan;
    let chosen = chosen(inputs, phases);
    say(&format!(
        "plan of {} for {} {}: {}, {}\n{}\n",
        plan.role,
        plan.node,
        plan.host,
        count(plan.phases.len(), "phase"),
        &plan.digest()[..12],
        report::phases(&chosen)
    ));
    for phase in &chosen.phases {
        say(&format!("{}\n", report::plan(phase)));
    }
    say("this is the plan and no prediction: `nodelet plan` shows what would change\n");
    Exit::Ok
}

/// The plan with the chosen phases only.
fn chosen(inputs: &Inputs, phases: &PhaseArgs) -> Plan {
    let plan = &inputs.plan;
    let phases = phases.selection().phases(plan);
    Plan {
        phases: phases.into_iter().cloned().collect(),
        ..plan.clone()
    }
}

#[cfg(test)]
mod tests {
    use engine::host::fake::FakeHost;
    use engine::model::PhaseName;
    use engine::plan::{PlannedStep, Probe};
    use engine::resource::{ServiceSpec, Spec};

    use super::*;
    use crate::commands::repair::tests::inputs;

    /// A repair wakes what is stopped before its checks. What needs docker fails only because of it; other phases are restarted all the same.
    #[tokio::test(start_paused = true)]
    async fn a_stopped_containerd_or_docker_is_predicted_to_be_woken() {
        const CONTAINERD: &str = "containerd.service";
        const DOCKER: &str = "docker.service";
        let mut inputs = inputs();
        let docker = &mut inputs.plan.phases[0];
        docker.checks[0].probe = Probe::ContainerRuntime;
        let service = Spec::Service(ServiceSpec::bare(DOCKER));
        docker.steps.push(PlannedStep::bare(&docker.name, service));
        let docker = docker.name.clone();
        // Its file is missing.
        inputs.plan.phases[1].requires = vec![docker];
        let units: [&[&str]; 3] = [&[CONTAINERD], &[DOCKER], &[CONTAINERD, DOCKER]];
        let cases = units.map(|units| [(units, false), (units, true)]);
        for (units, kubelet_fails) in cases.into_iter().flatten() {
            let mut host = FakeHost::new()
                .with_docker()
                .with_active_unit(CONTAINERD, "[Service]\n");
            if !kubelet_fails {
                host = host.with_file("/run/kubelet", "x");
            }
            for unit in units {
                host.with_world_mut(|world| world.stop_main_process(unit, "stopped"));
            }
            let predicted = predict_repair(&inputs, &host).await;
            let (events, _) = predicted.expect("it can be predicted");
            let woken = events.iter().filter_map(|event| match event {
                Event::ResourceWoken {
                    resource,
                    restarted: false,
                    ..
                } => Some(resource.as_str()),
                _ => None,
            });
            assert_eq!(woken.collect::<Vec<_>>(), units, "{events:?}");
            let restarted = events.iter().filter_map(|event| match event {
                Event::RunStarted { verb, phases, .. } if *verb == Verb::DryRun => Some(phases),
                _ => None,
            });
            let restarted: Vec<&str> = restarted.flatten().map(PhaseName::as_str).collect();
            let expected: &[&str] = if kubelet_fails { &["kubelet"] } else { &[] };
            assert_eq!(restarted, expected, "{events:?}");
            let review = Review::of_repair(&events);
            assert!(review.complete(), "{events:?}");
            let text = review.diff();
            for unit in units {
                assert!(text.contains(&format!("{unit} continued")), "{text}");
            }
            assert_eq!(host.mutations(), 0);
        }
    }

    /// Programs read it as they read any other prediction.
    #[test]
    fn a_prediction_without_a_repair_is_a_run_without_phases() {
        let events = nothing_predicted(&Plan::bare(Vec::new()));
        let [started, finished] = events
            .each_ref()
            .map(|event| serde_json::to_value(event).expect("JSON"));
        assert_eq!(started["event"], "run_started");
        assert_eq!(started["verb"], "dry_run");
        assert_eq!(started["phases"], serde_json::json!([]));
        assert_eq!(finished["event"], "run_finished");
        assert_eq!(finished["outcome"], "predicted");
        let review = Review::of_repair(&events);
        assert!(review.complete());
        assert_eq!(review.totals().pending(), 0);
    }
}
