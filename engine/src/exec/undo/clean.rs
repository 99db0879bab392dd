//! Clean: restores the host to its state before the role; needs only the ledger.
//!
//! It needs no plan and no script. The ledger has the inverse of each change, and the steps that remove what running
//! components leave behind; each phase recorded these steps before its first effect. Phases are cleaned in reverse
//! order. Errors are collected; an error does not stop the rest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::exec::event::{Event, EventSink, millis};
use crate::exec::partial_files::sweep;
use crate::exec::scratch;
use crate::exec::undo::executor::{
    Executor, UndoPurpose, Undone, brings_runtime, failure, keeps_runtime, name_of, needs_runtime,
    remove,
};
use crate::host::{Host, HostError, HostResult};
use crate::kubernetes::etcd_backup::BACKUP_LEFT;
use crate::kubernetes::join_file::{IDENTITY, JOIN_FILE, UNFINISHED_IDENTITY};
use crate::kubernetes::masters::{self, MASTERS};
use crate::ledger::{Ledger, LiveUndo, Record, RunId};
use crate::model::{Failure, Outcome, PhaseName, STATE, Verb, chain};
use crate::plan::PlannedStep;
use crate::resource::docker::container_runtime;
use crate::resource::pki::request_keys;
use crate::resource::{ResourceError, ResourceResult, Spec, Undo};

/// What a clean works on.
struct Clean<'a, 'h> {
    host: &'a dyn Host,
    executor: Executor<'a>,
    /// Where each removed resource is recorded. What appears in its place later is not the role's.
    recorded_in: Option<(&'a Ledger<'h>, RunId)>,
    events: &'a dyn EventSink,
    cancel: &'a CancellationToken,
    undone: usize,
    /// How many resources were not taken back, without a failure.
    left: usize,
    /// The first failure of each phase, to be recorded.
    failures: Vec<(PhaseName, Failure)>,
    /// Names of containers that are not the role's, in a runtime that the role installed: with such containers the
    /// runtime stays. `None` if they are not known.
    foreign_containers: Option<Vec<String>>,
}

/// Takes back everything in the ledger, in reverse order, except what is kept; with `purge` also what is kept, the join
/// file with the key that opens it, and the list of masters. On a host without a ledger, or with nothing left to take
/// back, it changes nothing else, except if the last clean has failed: then it does what that one lacks. Containers of other programs that a
/// restart of docker has ended are started in any case.
///
/// # Errors
/// The ledger cannot be read or written.
///
/// # Cancel safety
/// Do not drop the future. Cancel through `cancel`: the clean then ends at the next safe point, and another clean
/// continues from there.
pub async fn clean(
    host: &dyn Host,
    events: &dyn EventSink,
    cancel: &CancellationToken,
    purge: bool,
) -> ResourceResult<Outcome> {
    let started = host.elapsed();
    let records = Ledger::read(host).await?;
    let work = Work::of(&records, purge);
    let hostname = host.sysctl("kernel.hostname").await;
    events.emit(Event::RunStarted {
        verb: Verb::Clean,
        role: work.role.clone(),
        host: hostname.ok().flatten().unwrap_or_default(),
        digest: String::new(),
        phases: work.phases.clone(),
    });
    let ledger;
    let mut clean = Clean {
        host,
        executor: Executor::new(host, UndoPurpose::Clean),
        recorded_in: None,
        events,
        cancel,
        undone: 0,
        left: 0,
        failures: Vec::new(),
        foreign_containers: Some(Vec::new()),
    };
    let mut outcome = Outcome::Cleaned;
    let counts = |clean: &Clean<'_, '_>| (clean.undone, work.kept.len() + clean.left);
    // A clean that has failed may have taken everything back. What follows on the last undo is missing then, and so is the record of a clean.
    if !work.phases.is_empty() || Ledger::is_clean_unfinished_in(&records) {
        ledger = Ledger::open(host).await?;
        let run = ledger.begin(Verb::Clean, &work.role, None).await?;
        clean.recorded_in = Some((&ledger, run));
        // Also beside kept files: what is kept is the file, and not the half of another one.
        let begun = work.undos.iter().map(|live| &live.undo);
        if let Err(error) = sweep(host, begun.chain(&work.kept)).await {
            clean.fail(None, "half-made files", &error);
        }
        clean.everything(&work).await;
        outcome = if cancel.is_cancelled() {
            Outcome::Interrupted
        } else if clean.executor.failed > 0 {
            Outcome::Failed
        } else {
            ledger.cleaned(run, !purge, &clean.executor.later).await?;
            if let Err(error) = clean.forget().await {
                tracing::warn!("could not {}", chain(&error).join(": "));
            }
            Outcome::Cleaned
        };
        for (phase, failure) in &clean.failures {
            let (phase, failure) = (phase.clone(), failure.clone());
            let record = Record::Failed {
                run,
                phase,
                failure,
            };
            ledger.append(record).await?;
        }
        ledger.end(run, outcome, counts(&clean), Vec::new()).await?;
        if outcome == Outcome::Cleaned {
            // The previous files are restored, so the saved copies, which may hold secrets, are no longer needed.
            ledger.compact().await?;
        }
    } else {
        clean.start_interrupted().await;
        if clean.executor.failed > 0 {
            outcome = Outcome::Failed;
        }
    }
    if purge && outcome == Outcome::Cleaned {
        for (path, error) in forget_cluster(host).await {
            clean.fail(None, &path, &error.into());
            outcome = Outcome::Failed;
        }
    }
    if !purge && !work.kept.is_empty() {
        events.emit(Event::ResourcesKept {
            resources: work.kept.iter().map(Undo::key).collect(),
        });
    }
    let (changed, unchanged) = counts(&clean);
    events.emit(Event::RunFinished {
        outcome,
        changed,
        unchanged,
        milliseconds: millis(host.elapsed().saturating_sub(started)),
    });
    Ok(outcome)
}

/// Removes what operators and the cluster have put on this host and no ledger has: the join file and the key that opens it, which together
/// give away all keys of the cluster, the list of masters, and which of them takes backups. Returns what could not be removed.
async fn forget_cluster(host: &dyn Host) -> Vec<(String, HostError)> {
    let mut left = Vec::new();
    let files = [JOIN_FILE, IDENTITY, MASTERS, BACKUP_LEFT];
    let mut paths = files.map(PathBuf::from).to_vec();
    match unfinished_keys(host).await {
        Ok(unfinished) => paths.extend(unfinished),
        Err(error) => left.push((IDENTITY.to_owned(), error)),
    }
    for path in paths {
        let removed = match host.entry(&path).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => host.remove(&path).await,
            Err(error) => Err(error),
        };
        let shown = path.display().to_string();
        left.extend(removed.err().map(|error| (shown, error)));
    }
    left
}

/// Copies of the key that a `nodelet pki key` has left which was killed or cut off from power.
async fn unfinished_keys(host: &dyn Host) -> HostResult<Vec<PathBuf>> {
    let unfinished = Path::new(IDENTITY).with_extension(UNFINISHED_IDENTITY);
    let (Some(directory), Some(begin)) = (unfinished.parent(), unfinished.file_name()) else {
        return Ok(Vec::new());
    };
    let begin = begin.to_string_lossy();
    let names = host.list(directory).await?.into_iter();
    let names = names.filter(|name| name.starts_with(begin.as_ref()));
    Ok(names.map(|name| directory.join(name)).collect())
}

/// What has to be taken back, in this order.
#[derive(Default)]
struct Work {
    role: String,
    phases: Vec<PhaseName>,
    undos: Vec<LiveUndo>,
    cleanups: Vec<(PhaseName, Vec<PlannedStep>)>,
    kept: Vec<Undo>,
}

impl Work {
    fn of(records: &[Record], purge: bool) -> Self {
        let mut work = Self {
            role: Ledger::role_in(records).unwrap_or_default(),
            ..Self::default()
        };
        let (undos, kept): (Vec<LiveUndo>, Vec<LiveUndo>) = Ledger::live_in(records)
            .into_iter()
            .partition(|live| purge || !live.keep);
        work.kept = kept.into_iter().map(|live| live.undo).collect();
        for (phase, mut steps) in Ledger::all_cleanup_steps_in(records) {
            steps.retain(|step| purge || !step.policy.keep);
            if !steps.is_empty() {
                work.cleanups.push((phase, steps));
            }
        }
        // From the phase that was applied last to the first one.
        work.phases = Ledger::phases_in(records);
        work.phases.retain(|phase| {
            undos.iter().any(|live| live.phase == *phase)
                || work.cleanups.iter().any(|(cleanup, _)| cleanup == phase)
        });
        work.phases.reverse();
        work.undos = undos;
        work.undos.reverse();
        work
    }
}

impl Clean<'_, '_> {
    async fn everything(&mut self, work: &Work) {
        let cleanup = work.cleanups.iter().flat_map(|(_, steps)| steps);
        if needs_runtime(&work.undos, cleanup)
            && let Some(error) = self.executor.ensure_runtime_running().await
        {
            self.fail(None, "container runtime", &error);
        }
        for (resource, error) in scratch::remove_all(self.host).await {
            self.fail(None, &resource, &error);
        }
        if work.undos.iter().any(|live| brings_runtime(&live.undo)) {
            self.find_foreign_containers().await;
        }
        // Also those of phases that stay: the undo of a reload belongs to the first phase that changed a unit file.
        let settling = work
            .undos
            .iter()
            .filter(|it| it.undo.properties().deferred_order.is_some());
        self.executor.later.extend(settling.cloned());
        for phase in &work.phases {
            if self.cancel.is_cancelled() {
                return;
            }
            self.phase(phase, work).await;
        }
        for live in self.executor.last() {
            if self.cancel.is_cancelled() {
                return;
            }
            // docker would wait for what it could not end, and take the containers of others down with it.
            if self.executor.containers_left
                && container_runtime::restarts(&live.undo)
                && let Some(error) = container_runtime::still_needed(self.host).await
            {
                self.fail(None, &live.undo.key(), &error);
                continue;
            }
            self.undo(None, &live).await;
        }
        self.start_interrupted().await;
    }

    /// Starts the containers of other programs that a restart of docker has ended. A failure is reported.
    async fn start_interrupted(&mut self) {
        if let Err(error) = container_runtime::start_interrupted(self.host).await {
            self.fail(None, "containers of other programs", &error);
        }
    }

    /// Finds the containers that are not the role's, in the runtime that the role installed. A runtime that cannot be
    /// started runs nothing that another program could miss; whether it still has something of the role was checked
    /// before. If a runtime runs and does not answer, its containers are not known.
    async fn find_foreign_containers(&mut self) {
        if container_runtime::start_if_installed(self.host)
            .await
            .is_err()
            && matches!(container_runtime::runs(self.host).await, Ok(false))
        {
            return;
        }
        match container_runtime::foreign_containers(self.host).await {
            Ok(names) => self.foreign_containers = Some(names),
            Err(error) => {
                self.foreign_containers = None;
                self.fail(None, "container runtime", &error);
            }
        }
    }

    /// Whether the runtime that the role installed has, or may have, containers that are not the role's.
    fn is_shared(&self) -> bool {
        self.foreign_containers
            .as_ref()
            .is_none_or(|names| !names.is_empty())
    }

    /// Whether an undo must not run because it would end a runtime that has other containers, or remove what their
    /// networks need.
    fn must_stay(&self, undo: &Undo) -> bool {
        self.is_shared() && (container_runtime::ends(undo) || container_runtime::needs(undo))
    }

    async fn phase(&mut self, phase: &PhaseName, work: &Work) {
        let started = self.host.elapsed();
        let (undone, failed) = (self.undone, self.executor.failed);
        self.events.emit(Event::PhaseStarted {
            phase: phase.clone(),
            about: "takes back what it did".to_owned(),
        });
        if self.waits_for_runtime(phase, work).await || self.keeps_runtime_for_others(phase, work) {
            self.finished(phase, started, (undone, failed));
            return;
        }
        for live in work.undos.iter().filter(|live| live.phase == *phase) {
            if self.cancel.is_cancelled() {
                break;
            }
            if live.undo.properties().deferred_order.is_none() && !self.must_stay(&live.undo) {
                self.undo(Some(phase), live).await;
            }
        }
        let cleanup = work.cleanups.iter().filter(|(cleanup, _)| cleanup == phase);
        let mut gone = Vec::new();
        // If the runtime keeps running, what it would leave behind is still in use.
        let mut its = work.undos.iter().filter(|live| live.phase == *phase);
        let goes_on = self.is_shared() && its.any(|live| container_runtime::ends(&live.undo));
        let cleanup = cleanup.filter(|_| !goes_on);
        for step in cleanup.flat_map(|(_, steps)| steps) {
            if !self.cancel.is_cancelled() && self.step(phase, step).await {
                gone.push(&step.id);
            }
        }
        // A component that could not be ended may create these resources again.
        if self.executor.failed == failed {
            for step in gone {
                let (phase, step) = (phase.clone(), Some(step.clone()));
                self.record(|run| Record::CleanupDone { run, phase, step })
                    .await;
            }
        }
        self.finished(phase, started, (undone, failed));
    }

    /// Whether a phase that installed or started the container runtime must wait: the runtime still has resources that could not be removed,
    /// and that only the runtime can remove. Either it does not answer, or containers of the role still run. Reports this as a failure.
    async fn waits_for_runtime(&mut self, phase: &PhaseName, work: &Work) -> bool {
        if !self.executor.containers_left {
            return false;
        }
        let mut still_needed = container_runtime::still_needed(self.host).await;
        for live in work.undos.iter().filter(|live| live.phase == *phase) {
            let undo = &live.undo;
            let is_of_runtime = brings_runtime(undo) || container_runtime::ends(undo);
            let error = match keeps_runtime(undo, self.host).await {
                None if is_of_runtime => still_needed.take(),
                error => error,
            };
            if let Some(error) = error {
                self.fail(Some(phase), &undo.key(), &error);
                return true;
            }
        }
        false
    }

    /// Whether a phase installed a container runtime that now has containers that are not the role's. The runtime then
    /// stays, with its configuration. Reports this.
    fn keeps_runtime_for_others(&mut self, phase: &PhaseName, work: &Work) -> bool {
        let its = |live: &&LiveUndo| live.phase == *phase && brings_runtime(&live.undo);
        let Some(live) = work.undos.iter().find(its) else {
            return false;
        };
        if !self.is_shared() {
            return false;
        }
        let reason = match &self.foreign_containers {
            Some(names) => format!(
                "it has containers that are not the role's ({})",
                names.join(", ")
            ),
            None => "it is not known whether it has containers that are not the role's".to_owned(),
        };
        let reason = format!("{reason}, so docker, its data and its configuration stay");
        self.leave(Some(phase), live.undo.key(), reason);
        true
    }

    fn finished(&self, phase: &PhaseName, started: Duration, (undone, failed): (usize, usize)) {
        self.events.emit(Event::PhaseFinished {
            phase: phase.clone(),
            outcome: if self.executor.failed > failed {
                Outcome::Failed
            } else {
                Outcome::Cleaned
            },
            changed: self.undone - undone,
            unchanged: 0,
            milliseconds: millis(self.host.elapsed().saturating_sub(started)),
        });
    }

    async fn undo(&mut self, phase: Option<&PhaseName>, live: &LiveUndo) {
        let resource = live.undo.key();
        match self.executor.undo(&live.undo).await {
            Undone::Done => {
                self.record(|run| Record::Pruned {
                    run,
                    phase: live.phase.clone(),
                    step: live.step.clone(),
                    resource: resource.clone(),
                    in_use: false,
                })
                .await;
                self.report_restored(phase, resource);
            }
            Undone::Again => self.report_restored(phase, resource),
            Undone::Full => self.executor.later.push(live.clone()),
            Undone::Left(error) => self.leave(phase, resource, chain(&error).join(": ")),
            Undone::Failed(error) => self.fail(phase, &resource, &error),
        }
    }

    /// Carries out a cleanup step; returns whether its resource is gone.
    async fn step(&mut self, phase: &PhaseName, step: &PlannedStep) -> bool {
        let resource = name_of(step);
        let removed = remove(self.host, step).await;
        match &removed {
            Ok(true) => self.report_restored(Some(phase), resource),
            Ok(false) => {}
            Err(error) => {
                self.executor.containers_left |= matches!(step.spec, Spec::Pods(_));
                self.fail(Some(phase), &resource, error);
            }
        }
        removed.is_ok()
    }

    /// Appends a record of this run. If it cannot be written, that is reported as a failure; the clean continues.
    async fn record(&mut self, record: impl FnOnce(RunId) -> Record) {
        if let Some((ledger, run)) = self.recorded_in
            && let Err(error) = ledger.append(record(run)).await
        {
            self.fail(None, "ledger", &error.into());
        }
    }

    /// Removes the records of this host that are not in the ledger: its next bring-up begins with the preconditions.
    async fn forget(&self) -> ResourceResult<()> {
        let state = Path::new(STATE);
        self.host.remove_tree(&state.join("services")).await?;
        self.host.remove(&state.join("preflight.json")).await?;
        // keepalived is set up no more, so it lacks no list.
        masters::settle(self.host).await?;
        // Requests for certificates that were not answered: their keys are of no use.
        self.host.remove_tree(&request_keys()).await?;
        Ok(())
    }

    fn report_restored(&mut self, phase: Option<&PhaseName>, resource: String) {
        self.undone += 1;
        self.events.emit(Event::ResourceRestored {
            phase: phase.cloned(),
            resource,
        });
    }

    fn leave(&mut self, phase: Option<&PhaseName>, resource: String, reason: String) {
        self.left += 1;
        self.events.emit(Event::ResourceLeft {
            phase: phase.cloned(),
            resource,
            reason,
        });
    }

    fn fail(&mut self, phase: Option<&PhaseName>, resource: &str, error: &ResourceError) {
        self.executor.failed += 1;
        if let Some(phase) = phase
            && self.failures.iter().all(|(known, _)| known != phase)
        {
            let next = "remove the cause, then `nodelet clean` again".to_owned();
            let failure = failure(phase, resource, error, next);
            self.failures.push((phase.clone(), failure));
        }
        self.events.emit(Event::CleanFailed {
            phase: phase.cloned(),
            resource: resource.to_owned(),
            error: match error {
                ResourceError::Unmet { next, .. } | ResourceError::Awaited { next, .. } => {
                    format!("{}; {next}", chain(error).join(": "))
                }
                _ => chain(error).join(": "),
            },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Recording;
    use crate::host::Services as _;
    use crate::host::fake::FakeHost;
    use crate::resource::docker::container_runtime::UNIT;
    use crate::resource::docker::container_runtime::tests::{LIST, interrupted_host};

    async fn clean_of(host: &FakeHost) -> (Outcome, Vec<Event>) {
        let (events, cancel) = (Recording::default(), CancellationToken::new());
        let outcome = clean(host, &events, &cancel, false).await;
        (outcome.expect("the ledger is good"), events.events())
    }

    /// The last clean has taken everything back, and docker was down at its end. Or there was no clean since docker was restarted.
    #[tokio::test(start_paused = true)]
    async fn a_clean_with_nothing_to_take_back_starts_containers_of_others() {
        for last in [Verb::Clean, Verb::Apply] {
            let host = interrupted_host().await;
            let ledger = Ledger::open(&host).await.expect("it is opened");
            let run = ledger.begin(last, "role", None).await.expect("it begins");
            let ended = ledger.end(run, Outcome::Failed, (0, 0), Vec::new()).await;
            ended.expect("it ends");
            let (outcome, events) = clean_of(&host).await;
            assert_eq!(outcome, Outcome::Failed, "{last:?}");
            let names_it = |event: &Event| matches!(event, Event::CleanFailed { error, .. } if error.contains("`docker start theirs`"));
            assert!(events.iter().any(names_it), "{last:?}: {events:?}");
            // docker may be disabled or masked on purpose, and then each clean fails.
            let way_out = format!("or remove {LIST} if these containers are not needed");
            let says_it = |event: &Event| matches!(event, Event::CleanFailed { error, .. } if error.contains(&way_out));
            assert!(events.iter().any(says_it), "{last:?}: {events:?}");

            let saved = Path::new(STATE).join("content").join("of-a-secret");
            host.with_world_mut(|world| world.file(&saved, "before the role"));
            host.start_unit(UNIT).await.expect("it starts");
            let (outcome, events) = clean_of(&host).await;
            assert_eq!(outcome, Outcome::Cleaned, "{last:?}: {events:?}");
            assert!(host.with_world(|world| world.container_runs("theirs")));
            let records = Ledger::read(&host).await.expect("it is read");
            let is_clean = |record: &Record| matches!(record, Record::Cleaned { .. });
            let is_recorded = records.iter().any(is_clean);
            assert_eq!(is_recorded, last == Verb::Clean);
            let is_saved = host.with_world(|world| world.text(&saved).is_some());
            assert_eq!(is_saved, last != Verb::Clean, "{last:?}");

            host.clear_journal();
            assert_eq!(clean_of(&host).await.0, Outcome::Cleaned, "{last:?}");
            assert_eq!(host.mutating_calls(), [], "{last:?}");
        }
    }
}
