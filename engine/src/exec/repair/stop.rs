//! Stop: quiesce what runs, leave files. Phases in reverse order, best effort, errors collected.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use super::start_again::Ended;
use crate::exec::apply::phase::Progress;
use crate::exec::apply::step::Done;
use crate::exec::event::{Event, millis};
use crate::exec::kubernetes::quorum::lock::{DisruptionLock, LATE_WAIT, NotLocked};
use crate::exec::session::Session;
use crate::exec::{Mode, Runner, scratch};
use crate::kubernetes::etcd_members::Loss;
use crate::ledger::Ledger;
use crate::model::{Failure, Outcome, PhaseName, Problem, Verb, chain};
use crate::plan::{PlannedPhase, PlannedStep};
use crate::resource::docker::container_runtime;
use crate::resource::{Receipt, ResourceResult, Spec, Undo};

/// What follows a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopPurpose {
    /// Nothing: `on_stop` steps are carried out.
    Stop,
    /// A start. A resource that could not be started again is not ended.
    Restart(Containers),
}

/// What a restart does with containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) enum Containers {
    /// They are ended.
    End,
    /// They go on running: the runtime did not say whether new ones could be made.
    Leave,
}

/// What the phases of one stop share about containers.
struct SharedByPhases {
    /// Temporary containers are still to be removed.
    sweeps: bool,
    /// A container could not be ended.
    containers_left: bool,
}

/// How long the container runtime may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the ledger has anything of a phase. For a phase without steps: whether it has anything of any phase.
fn is_written(phase: &PlannedPhase, begun: &BTreeSet<PhaseName>) -> bool {
    if phase.steps.is_empty() {
        !begun.is_empty()
    } else {
        begun.contains(&phase.name)
    }
}

/// The failure of a stop at a phase that must not be ended now, after others have ended.
fn refused_late(phase: &PlannedPhase, problem: Problem) -> Failure {
    Failure {
        what: problem.requirement,
        span: problem.span,
        chain: vec![format!("end phase {}: {}", phase.name, problem.problem)],
        found: vec![
            "what was ended before it is started again; a node that was drained stays cordoned until the next `nodelet apply`"
                .to_owned(),
        ],
        next: problem.remedy,
    }
}

impl Runner<'_> {
    /// Ends everything that the selected phases run. After a failure the rest is stopped all the same; the outcome is
    /// `Failed` if there was a failure, and `Refused` if etcd would lose its quorum. This is asked before anything is stopped, and once
    /// more directly before etcd is: units that were stopped until then are started again.
    ///
    /// # Errors
    /// The run could not be recorded; nothing was stopped then.
    pub async fn stop(&self) -> ResourceResult<Outcome> {
        let phases = self.selection.phases(self.plan);
        let refused = self.quorum_problem_in_turn(phases, Loss::Stop, Mode::Apply);
        if let Some(problem) = refused.await {
            let problems = vec![problem];
            self.events.emit(Event::PreflightFailed { problems });
            return Ok(Outcome::Refused);
        }
        let session = Session::begin(self.host, Verb::Stop, self.plan).await?;
        let mut ended = Vec::new();
        let outcome = self
            .stop_but(
                &session,
                &BTreeSet::new(),
                StopPurpose::Stop,
                Loss::Stop,
                &mut ended,
            )
            .await;
        let (outcome, touched) = outcome?;
        if outcome != Outcome::Refused {
            return Ok(outcome);
        }
        self.start_again(ended).await;
        Ok(match touched {
            true => Outcome::Failed,
            false => Outcome::Refused,
        })
    }

    /// The stop before a clean. Units that ran before the role go on running: the clean needs them, and what they run
    /// is not the role's. Directly before etcd is stopped, its quorum is asked about: the outcome is `Refused` if the clean must not go on,
    /// and units that were stopped are started again.
    ///
    /// # Errors
    /// As [`Runner::stop`].
    pub async fn stop_for_clean(&self) -> ResourceResult<Outcome> {
        let records = Ledger::read(self.host).await?;
        let ours: BTreeSet<String> = Ledger::live_in(&records)
            .into_iter()
            .filter_map(|live| match live.undo {
                Undo::StopUnit { name } => Some(name),
                _ => None,
            })
            .collect();
        // A runtime that has containers which are not the role's goes on running, even if the role has installed and
        // started it.
        let lived_in = container_runtime::foreign_containers(self.host)
            .await
            .unwrap_or_default();
        let stays = |unit: &str| !lived_in.is_empty() && container_runtime::is_unit(unit);
        let units = self.plan.phases.iter().flat_map(|phase| &phase.steps);
        let theirs = units
            .filter_map(|step| match &step.spec {
                Spec::Service(service) => Some(service.unit.clone()),
                _ => None,
            })
            .filter(|unit| !ours.contains(unit) || stays(unit))
            .collect();
        let session = Session::begin(self.host, Verb::Stop, self.plan).await?;
        let mut ended = Vec::new();
        let outcome = self
            .stop_but(
                &session,
                &theirs,
                StopPurpose::Stop,
                Loss::Clean,
                &mut ended,
            )
            .await;
        let (outcome, _) = outcome?;
        if outcome == Outcome::Refused {
            self.start_again(ended).await;
        }
        Ok(outcome)
    }

    /// Ends what the selected phases run, for a moment: their `on_stop` steps are left out. Adds what was ended to
    /// `ended`. A dry run uses a simulated host and records nothing.
    pub(in crate::exec) async fn quiesce(
        &self,
        mode: Mode,
        containers: Containers,
        ended: &mut Vec<Ended>,
    ) -> ResourceResult<Outcome> {
        let purpose = StopPurpose::Restart(containers);
        let session = match mode {
            Mode::Apply => Session::begin(self.host, Verb::Stop, self.plan).await?,
            Mode::DryRun => Session::simulated(),
        };
        let (outcome, _) = self
            .stop_but(&session, &BTreeSet::new(), purpose, Loss::Restart, ended)
            .await?;
        Ok(outcome)
    }

    /// Also returns whether anything was ended: a phase may be refused after others have ended.
    async fn stop_but(
        &self,
        session: &Session<'_>,
        running: &BTreeSet<String>,
        purpose: StopPurpose,
        loss: Loss,
        all_ended: &mut Vec<Ended>,
    ) -> ResourceResult<(Outcome, bool)> {
        let begun = self.begun().await?;
        let started = self.host.elapsed();
        let mut phases = self.selection.phases(self.plan);
        phases.reverse();
        self.events.emit(Event::RunStarted {
            verb: Verb::Stop,
            role: self.plan.role.clone(),
            host: self.plan.host.clone(),
            digest: self.plan.digest(),
            phases: phases.iter().map(|phase| phase.name.clone()).collect(),
        });
        let mut outcome = Outcome::Stopped;
        let mut stopped = 0;
        let mut touched = false;
        let mut shared = SharedByPhases {
            sweeps: purpose == StopPurpose::Stop,
            containers_left: false,
        };
        for phase in phases {
            if self.cancel.is_cancelled() {
                outcome = Outcome::Interrupted;
                break;
            }
            let locked = self.late_lock(phase, session, purpose, loss).await;
            let lock = match locked {
                Ok(lock) => lock,
                Err(NotLocked::Refused(problem)) => {
                    // nodeletd does not count a restart that was refused, also if it has to start again what it ended.
                    touched = stopped > 0 || !all_ended.is_empty() || outcome == Outcome::Failed;
                    if loss == Loss::Stop && touched {
                        let failure = refused_late(phase, *problem);
                        if let Err(error) = session.failed(&phase.name, &failure).await {
                            tracing::warn!("could not {}", chain(&error).join(": "));
                        }
                        self.events.emit(Event::PhaseFailed {
                            phase: phase.name.clone(),
                            failure,
                        });
                    } else {
                        let problems = vec![*problem];
                        self.events.emit(Event::PreflightFailed { problems });
                    }
                    outcome = Outcome::Refused;
                    break;
                }
                Err(NotLocked::Interrupted) => {
                    outcome = Outcome::Interrupted;
                    break;
                }
            };
            let began = self.host.elapsed();
            self.events.emit(Event::PhaseStarted {
                phase: phase.name.clone(),
                about: phase.about.clone(),
            });
            let (ended, failed) = self
                .stop_phase(
                    phase,
                    session,
                    running,
                    &begun,
                    purpose,
                    &mut shared,
                    all_ended,
                )
                .await;
            // From now on other masters see that the member is down.
            lock.release(self.host).await;
            stopped += ended;
            let one = if failed {
                Outcome::Failed
            } else {
                Outcome::Stopped
            };
            if failed {
                outcome = Outcome::Failed;
            }
            self.events.emit(Event::PhaseFinished {
                phase: phase.name.clone(),
                outcome: one,
                changed: ended,
                unchanged: 0,
                milliseconds: millis(self.host.elapsed().saturating_sub(began)),
            });
        }
        let reported = match outcome {
            // Something was touched.
            Outcome::Refused if touched && loss == Loss::Stop => Outcome::Failed,
            outcome => outcome,
        };
        self.events.emit(Event::RunFinished {
            outcome: reported,
            changed: stopped,
            unchanged: 0,
            milliseconds: millis(self.host.elapsed().saturating_sub(started)),
        });
        session.end(reported, (stopped, 0), Vec::new()).await?;
        Ok((outcome, touched))
    }

    /// Takes the lock before etcd's member is ended, if the phase has it. The error says why this phase must not be ended now. A stop takes its time,
    /// for a drain for example, and meanwhile another member may have failed.
    async fn late_lock(
        &self,
        phase: &PlannedPhase,
        session: &Session<'_>,
        purpose: StopPurpose,
        loss: Loss,
    ) -> Result<DisruptionLock, NotLocked> {
        // A prediction takes no time, and etcd goes on running without the runtime.
        if session.mode == Mode::DryRun || purpose == StopPurpose::Restart(Containers::Leave) {
            return Ok(DisruptionLock::default());
        }
        self.take_disruption_lock(phase, loss, LATE_WAIT).await
    }

    /// Phases that have something on this host, according to the ledger, that a clean would take back.
    async fn begun(&self) -> ResourceResult<BTreeSet<PhaseName>> {
        let records = Ledger::read(self.host).await?;
        let live = Ledger::live_in(&records).into_iter();
        Ok(live
            .filter(|live| !live.keep)
            .map(|live| live.phase)
            .collect())
    }

    /// Whether this host has anything of the role: according to the ledger or, if that was lost, to what runs.
    pub async fn has_role(&self) -> bool {
        let begun = self.begun().await.unwrap_or_default();
        let phases = || self.plan.phases.iter();
        if phases().any(|phase| is_written(phase, &begun)) {
            return true;
        }
        for phase in phases() {
            if self.has_unit(phase).await {
                return true;
            }
        }
        // The containers of a runtime that hangs are not known, so it is not asked for each of them.
        let answer = tokio::time::timeout(TIMEOUT, self.host.container_runtime()).await;
        if !matches!(answer, Ok(Ok(_))) {
            return false;
        }
        for phase in phases() {
            if self.has_container(phase).await {
                return true;
            }
        }
        false
    }

    /// Whether anything of the role's own runs: a unit that it brings or has started, or one of its containers. The
    /// container runtime alone does not count. `None` if nothing is known to run and not everything could be checked.
    pub async fn runs(&self) -> Option<bool> {
        let mut all_known = true;
        let records = Ledger::read(self.host).await.unwrap_or_else(|_| {
            all_known = false;
            Vec::new()
        });
        let live = Ledger::live_in(&records);
        let started = |unit: &str| {
            let mut undos = live.iter().map(|live| &live.undo);
            undos.any(|undo| matches!(undo, Undo::StopUnit { name } if name == unit))
        };
        for phase in &self.plan.phases {
            for step in &phase.steps {
                let Spec::Service(service) = &step.spec else {
                    continue;
                };
                let unit = service.unit.as_str();
                if container_runtime::is_unit(unit) || !(brings(phase, unit) || started(unit)) {
                    continue;
                }
                match self.host.unit(unit).await {
                    Ok(state) if state.is_active() || state.active == "activating" => {
                        return Some(true);
                    }
                    Ok(_) => {}
                    Err(_) => all_known = false,
                }
            }
        }
        match self.host.unit(container_runtime::UNIT).await {
            Ok(state) if state.is_active() => {}
            // A runtime that is down runs nothing, and a request to its socket would start it.
            Ok(_) => return all_known.then_some(false),
            Err(_) => return None,
        }
        for step in self.plan.phases.iter().flat_map(|phase| &phase.steps) {
            if let Spec::Container(container) = &step.spec {
                match container.runs(self.host).await {
                    Ok(true) => return Some(true),
                    Ok(false) => {}
                    Err(_) => all_known = false,
                }
            }
        }
        all_known.then_some(false)
    }

    /// Whether a phase has anything of the role on this host. If not, what the phase would end is not the role's.
    ///
    /// The ledger says so. If it was lost, a container with the role's label does, or a unit whose file the plan
    /// brings.
    async fn has_begun(&self, phase: &PlannedPhase, begun: &BTreeSet<PhaseName>) -> bool {
        is_written(phase, begun) || self.has_unit(phase).await || self.has_container(phase).await
    }

    /// Whether there is a unit whose file the phase brings.
    async fn has_unit(&self, phase: &PlannedPhase) -> bool {
        for step in &phase.steps {
            if let Spec::Service(service) = &step.spec
                && brings(phase, &service.unit)
                && matches!(self.host.unit(&service.unit).await, Ok(unit) if unit.loaded)
            {
                return true;
            }
        }
        false
    }

    /// Whether there is a container of the phase that has the role's label.
    async fn has_container(&self, phase: &PlannedPhase) -> bool {
        for step in &phase.steps {
            if let Spec::Container(container) = &step.spec
                && container.exists(self.host).await
            {
                return true;
            }
        }
        false
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "they are what one stop shares among its phases"
    )]
    /// Ends the steps in reverse order, then runs the `on_stop` steps. The first phase with containers also removes temporary ones: all runs then.
    async fn stop_phase(
        &self,
        phase: &PlannedPhase,
        session: &Session<'_>,
        running: &BTreeSet<String>,
        begun: &BTreeSet<PhaseName>,
        purpose: StopPurpose,
        shared: &mut SharedByPhases,
        all_ended: &mut Vec<Ended>,
    ) -> (usize, bool) {
        let mut ended = 0;
        let mut why = None;
        if !self.has_begun(phase, begun).await {
            return (0, false);
        }
        let mut of_containers = phase.steps.iter().chain(&phase.on_stop);
        if shared.sweeps
            && let Some(step) = of_containers.find(|step| is_about_containers(step))
        {
            shared.sweeps = false;
            let woken = container_runtime::ensure_running_for_live_restore(self.host).await;
            let problems = woken.err().map(|error| chain(&error).join(": "));
            let left = scratch::remove_all(self.host).await;
            let left = left
                .iter()
                .map(|(resource, error)| format!("{resource}: {}", chain(error).join(": ")));
            for error in problems.into_iter().chain(left) {
                why.get_or_insert_with(|| not_ended(step, &error, purpose));
                self.stop_failed(phase, step, error);
            }
        }
        let stays = |step: &PlannedStep| matches!(&step.spec, Spec::Service(service) if running.contains(&service.unit));
        for step in phase.steps.iter().rev().filter(|step| !stays(step)) {
            if shared.containers_left
                && purpose == StopPurpose::Stop
                && let Some(error) = self.is_still_needed(step).await
            {
                why.get_or_insert_with(|| not_ended(step, &error, purpose));
                self.stop_failed(phase, step, error);
                continue;
            }
            let cx = self.context(step.policy.absent);
            // Nothing is rolled back here; what has to be undone by a clean is in the ledger.
            let unused = Mutex::default();
            let mut receipt = session.receipt(&phase.name, step, &unused);
            let container = match purpose {
                StopPurpose::Restart(containers) => {
                    self.container_as_it_runs(step, containers).await
                }
                StopPurpose::Stop => Ok(None),
            };
            // A container that could not be brought back is not ended.
            let (container, quiesced) = match container {
                Ok(container) => {
                    let quiesce = step.spec.quiesce(&cx, &mut receipt);
                    (
                        container,
                        tokio::time::timeout(step.policy.timeout, quiesce).await,
                    )
                }
                Err(error) => (None, Ok(Err(error))),
            };
            if !matches!(quiesced, Ok(Ok(false))) {
                // A unit that ran has noted its start. What did not end in time counts as ended.
                let units = receipt.undos.iter().cloned();
                all_ended.extend(units.chain(container).map(|start_undo| Ended {
                    phase: phase.name.clone(),
                    step: step.id.clone(),
                    start_undo,
                }));
            }
            let error = match quiesced {
                Ok(Ok(true)) => {
                    ended += 1;
                    self.events.emit(Event::StepStopped {
                        phase: phase.name.clone(),
                        step: step.id.clone(),
                    });
                    continue;
                }
                Ok(Ok(false)) => continue,
                Ok(Err(error)) => chain(&error).join(": "),
                Err(_) => format!(
                    "it did not end within {}",
                    humantime::format_duration(step.policy.timeout)
                ),
            };
            shared.containers_left |= is_about_containers(step);
            why.get_or_insert_with(|| not_ended(step, &error, purpose));
            self.stop_failed(phase, step, error);
        }
        let is_stop = purpose == StopPurpose::Stop;
        for step in phase.on_stop.iter().filter(|_| is_stop) {
            let mut receipt = Receipt::default();
            match self
                .step(
                    (&phase.name, step),
                    session,
                    &mut receipt,
                    &Progress::default(),
                )
                .await
            {
                Ok(Done::Changed) => ended += 1,
                Ok(Done::Unchanged) => {}
                Err(error) => {
                    // Draining is best effort: an error is reported, and is no failure of the stop.
                    let error = chain(&error).join(": ");
                    shared.containers_left |= is_about_containers(step);
                    if step.spec.kind() != "drain" {
                        why.get_or_insert_with(|| not_ended(step, &error, purpose));
                    }
                    self.stop_failed(phase, step, error);
                }
            }
        }
        if let Some(failure) = &why
            && let Err(error) = session.failed(&phase.name, failure).await
        {
            tracing::warn!("could not {}", chain(&error).join(": "));
        }
        (ended, why.is_some())
    }

    /// Why the container runtime must not be ended: containers that could not be ended still run in it.
    async fn is_still_needed(&self, step: &PlannedStep) -> Option<String> {
        let is_runtime = matches!(&step.spec, Spec::Service(service) if container_runtime::is_unit(&service.unit));
        if !is_runtime {
            return None;
        }
        let error = container_runtime::still_needed(self.host).await?;
        Some(chain(&error).join(": "))
    }

    fn stop_failed(&self, phase: &PlannedPhase, step: &PlannedStep, error: String) {
        self.events.emit(Event::StopFailed {
            phase: phase.name.clone(),
            step: step.id.clone(),
            error,
        });
    }
}

/// What `nodelet history` says of a resource that could not be ended.
fn not_ended(step: &PlannedStep, error: &str, purpose: StopPurpose) -> Failure {
    let next = match purpose {
        StopPurpose::Stop => "see what keeps it from ending, then `nodelet stop` again",
        StopPurpose::Restart(_) => "see what keeps it from ending; the next repair tries again",
    };
    Failure {
        what: format!(
            "{}{} {}",
            Failure::STOP,
            step.spec.kind(),
            step.spec.label()
        ),
        span: step.span.clone(),
        chain: vec![error.to_owned()],
        found: Vec::new(),
        next: next.to_owned(),
    }
}

/// Whether the end of a step is about containers.
fn is_about_containers(step: &PlannedStep) -> bool {
    matches!(step.spec, Spec::Container(_) | Spec::Pods(_))
}

/// Whether a phase brings the file of a unit.
fn brings(phase: &PlannedPhase, unit: &str) -> bool {
    phase.steps.iter().any(|step| {
        matches!(&step.spec, Spec::File(file) if file.unit
            && file.path.file_name().is_some_and(|name| name == unit))
    })
}

#[cfg(test)]
mod tests;
