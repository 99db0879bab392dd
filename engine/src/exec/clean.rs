//! Clean: the host as it was before the role came, from the ledger alone.
//!
//! No plan and no script is needed: what was done is known by its inverses, and what the things that ran have left
//! behind by the steps that each phase had written down before its first effect. Phases go in reverse; errors are
//! collected, and none keeps the rest from being tried.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::STATE;
use super::advice::chain;
use super::event::{Event, EventSink, Failure, Outcome, Verb};
use super::step::millis;
use super::throwaway;
use super::unfinished::sweep;
use crate::host::Host;
use crate::ledger::{Ledger, LedgerError, LiveUndo, Record, RunId};
use crate::plan::{PhaseName, PlannedStep, Span};
use crate::resource::{
    Change, Context, MaskedSecrets, Outputs, Receipt, Resource, ResourceError, ResourceResult,
    Spec, Undo, engine, with_resource,
};

/// What a clean works on.
struct Clean<'a, 'h> {
    host: &'a dyn Host,
    /// Where each thing that is gone is written down: what comes to stand in its place is somebody else's.
    book: Option<(&'a Ledger<'h>, RunId)>,
    events: &'a dyn EventSink,
    cancel: &'a CancellationToken,
    undone: usize,
    failed: usize,
    /// The first failure of each phase, to be written down.
    failures: Vec<(PhaseName, Failure)>,
    /// Directories that were not empty when their turn came.
    full: Vec<LiveUndo>,
    /// Something in the container engine could not be taken back, or may not be.
    containers_left: bool,
    /// Containers of somebody else in an engine that the role has brought: it stays.
    strangers: Option<Vec<String>>,
}

/// Takes everything back that the ledger knows of, in reverse, but for what is kept; with `purge` that too. On a host
/// without a ledger, or with a clean one, nothing is touched.
///
/// # Errors
/// The ledger cannot be read or written.
///
/// # Cancel safety
/// Do not drop the future: ask for an end through `cancel`, which is heard at the next safe point. Another clean goes
/// on from there.
pub async fn clean(
    host: &dyn Host,
    events: &dyn EventSink,
    cancel: &CancellationToken,
    purge: bool,
) -> ResourceResult<Outcome> {
    let started = host.elapsed();
    let work = Work::of(&Ledger::read(host).await?, purge);
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
        book: None,
        events,
        cancel,
        undone: 0,
        failed: 0,
        failures: Vec::new(),
        full: Vec::new(),
        containers_left: false,
        strangers: Some(Vec::new()),
    };
    let mut outcome = Outcome::Cleaned;
    if !work.is_empty() {
        ledger = Ledger::open(host).await?;
        let run = ledger.begin(Verb::Clean, &work.role, "").await?;
        clean.book = Some((&ledger, run));
        if let Err(error) = sweep(host, &work.undos).await {
            clean.fail(None, "half-made files", &error);
        }
        clean.everything(&work).await;
        outcome = if cancel.is_cancelled() {
            Outcome::Interrupted
        } else if clean.failed > 0 {
            Outcome::Failed
        } else {
            ledger.cleaned(run, !purge, &clean.full).await?;
            if let Err(error) = clean.forget().await {
                tracing::warn!("could not {}", chain(&error).join(": "));
            }
            Outcome::Cleaned
        };
        for (phase, failure) in &clean.failures {
            ledger.failed(run, phase, failure).await?;
        }
        ledger.end(run, outcome, (clean.undone, 0)).await?;
        if outcome == Outcome::Cleaned {
            // What stood before is back, so nobody needs the copies, which may hold secrets.
            ledger.compact().await?;
        }
    }
    if !purge && !work.kept.is_empty() {
        events.emit(Event::ThingsKept {
            things: work.kept.iter().map(Undo::about).collect(),
        });
    }
    events.emit(Event::RunFinished {
        outcome,
        changed: clean.undone,
        unchanged: 0,
        milliseconds: millis(host.elapsed().saturating_sub(started)),
    });
    Ok(outcome)
}

/// What there is to take back, in the order in which it is.
#[derive(Default)]
struct Work {
    role: String,
    phases: Vec<PhaseName>,
    undos: Vec<LiveUndo>,
    lanes: Vec<(PhaseName, Vec<PlannedStep>)>,
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
        for (phase, mut steps) in Ledger::clean_lanes_in(records) {
            steps.retain(|step| purge || !step.policy.keep);
            if !steps.is_empty() {
                work.lanes.push((phase, steps));
            }
        }
        // From the last that came to be to the first.
        work.phases = Ledger::phases_in(records);
        work.phases.retain(|phase| {
            undos.iter().any(|live| live.phase == *phase)
                || work.lanes.iter().any(|(lane, _)| lane == phase)
        });
        work.phases.reverse();
        work.undos = undos;
        work.undos.reverse();
        work
    }

    fn is_empty(&self) -> bool {
        self.phases.is_empty()
    }

    /// Whether the role has brought the container engine.
    fn brought_engine(&self) -> bool {
        self.undos.iter().any(|live| brings_engine(&live.undo))
    }

    /// Whether the container engine is needed.
    fn is_about_containers(&self) -> bool {
        self.undos
            .iter()
            .any(|live| is_about_containers(&live.undo))
            || self
                .lanes
                .iter()
                .flat_map(|(_, steps)| steps)
                .any(|step| matches!(step.spec, Spec::Pods(_)))
    }
}

impl Clean<'_, '_> {
    async fn everything(&mut self, work: &Work) {
        if work.is_about_containers()
            && let Err(error) = engine::wake(self.host).await
        {
            self.containers_left = true;
            self.fail(None, "container engine", &error);
        }
        for (thing, error) in throwaway::remove_all(self.host).await {
            self.fail(None, &thing, &error);
        }
        if work.brought_engine() {
            self.look_for_strangers().await;
        }
        for phase in &work.phases {
            if self.cancel.is_cancelled() {
                return;
            }
            self.phase(phase, work).await;
        }
        self.directories().await;
        for live in settling(&work.undos) {
            if self.cancel.is_cancelled() {
                return;
            }
            if !self.stays(&live.undo) {
                self.undo(None, &live).await;
            }
        }
    }

    /// Who else lives in the engine that the role has brought. One that cannot be started has nobody who would miss it; whether
    /// something of ours is still in it has been asked before. Nobody can tell of one that runs and does not say.
    async fn look_for_strangers(&mut self) {
        if engine::wake(self.host).await.is_err()
            && matches!(engine::runs(self.host).await, Ok(false))
        {
            return;
        }
        match engine::strangers(self.host).await {
            Ok(names) => self.strangers = Some(names),
            Err(error) => {
                self.strangers = None;
                self.fail(None, "container engine", &error);
            }
        }
    }

    /// Whether somebody else lives in the engine that the role has brought, or may.
    fn is_shared(&self) -> bool {
        self.strangers
            .as_ref()
            .is_none_or(|names| !names.is_empty())
    }

    /// Whether an undo would end an engine that somebody else lives in, or take away what its networks need.
    fn stays(&self, undo: &Undo) -> bool {
        self.is_shared() && (engine::ends(undo) || engine::needs(undo))
    }

    async fn phase(&mut self, phase: &PhaseName, work: &Work) {
        let started = self.host.elapsed();
        let (undone, failed) = (self.undone, self.failed);
        self.events.emit(Event::PhaseStarted {
            phase: phase.clone(),
            about: "takes back what it did".to_owned(),
        });
        if self.is_held(phase, work).await || self.is_lived_in(phase, work) {
            self.finished(phase, started, (undone, failed));
            return;
        }
        for live in work.undos.iter().filter(|live| live.phase == *phase) {
            if live.undo.settles().is_some() {
                continue;
            }
            if self.cancel.is_cancelled() {
                break;
            }
            if self.stays(&live.undo) {
                continue;
            }
            if let Undo::RemoveDirectory { path } = &live.undo
                && self
                    .host
                    .list(path)
                    .await
                    .is_ok_and(|names| !names.is_empty())
            {
                // What is in it may go later.
                self.full.push(live.clone());
                continue;
            }
            self.undo(Some(phase), live).await;
        }
        let lane = work.lanes.iter().filter(|(lane, _)| lane == phase);
        let mut gone = Vec::new();
        // The traces of an engine that goes on are in use.
        let mut its = work.undos.iter().filter(|live| live.phase == *phase);
        let goes_on = self.is_shared() && its.any(|live| engine::ends(&live.undo));
        let lane = lane.filter(|_| !goes_on);
        for step in lane.flat_map(|(_, steps)| steps) {
            if !self.cancel.is_cancelled() && self.step(phase, step).await {
                gone.push(&step.id);
            }
        }
        // What could not be ended makes its traces again.
        if self.failed == failed
            && let Some((ledger, run)) = self.book
        {
            for step in gone {
                let written = ledger.lane_withdrawn(run, phase, Some(step)).await;
                self.wrote(written);
            }
        }
        self.finished(phase, started, (undone, failed));
    }

    /// Whether a phase that brought the container engine has to wait, because things that could not be taken back are
    /// still in an engine that does not answer: without it they never could be. Says so.
    async fn is_held(&mut self, phase: &PhaseName, work: &Work) -> bool {
        if !self.containers_left {
            return false;
        }
        for live in work.undos.iter().filter(|live| live.phase == *phase) {
            if let Some(error) = keeps_engine(&live.undo, self.host).await {
                self.fail(Some(phase), &live.undo.about(), &error);
                return true;
            }
        }
        false
    }

    /// Whether a phase brought a container engine that somebody else lives in by now: it is his from here on, with its
    /// configuration. Says so.
    fn is_lived_in(&self, phase: &PhaseName, work: &Work) -> bool {
        let its = |live: &&LiveUndo| live.phase == *phase && brings_engine(&live.undo);
        let Some(live) = work.undos.iter().find(its) else {
            return false;
        };
        if !self.is_shared() {
            return false;
        }
        let reason = match &self.strangers {
            Some(names) => format!(
                "containers of somebody else are in it ({})",
                names.join(", ")
            ),
            None => "nobody can tell whether containers of somebody else are in it".to_owned(),
        };
        self.events.emit(Event::ThingLeft {
            phase: Some(phase.clone()),
            thing: live.undo.about(),
            reason: format!("{reason}, so docker, its data and its configuration stay"),
        });
        true
    }

    fn finished(&self, phase: &PhaseName, started: Duration, (undone, failed): (usize, usize)) {
        self.events.emit(Event::PhaseFinished {
            phase: phase.clone(),
            outcome: if self.failed > failed {
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
        let undo = &live.undo;
        let thing = undo.about();
        let limit = undo.patience();
        let result = match tokio::time::timeout(limit, undo.carry_out(self.host)).await {
            Ok(result) => result,
            Err(_) => Err(late(&thing, limit)),
        };
        match result {
            Ok(()) => {
                // Units take in what is there again only when all of it is.
                let settled = undo.settles().is_none() || self.failed == 0;
                if let (true, Some((ledger, run))) = (settled, self.book) {
                    let written = ledger.withdrawn(run, &live.phase, &live.step, &thing);
                    self.wrote(written.await);
                }
                self.took_back(phase, thing);
            }
            Err(error) if concerns_others(undo, &error) => self.events.emit(Event::ThingLeft {
                phase: phase.cloned(),
                thing,
                reason: chain(&error).join(": "),
            }),
            Err(error) => {
                self.containers_left |= is_about_containers(undo);
                self.fail(phase, &thing, &error);
            }
        }
    }

    /// Carries out a step of a clean lane; says whether its thing is gone.
    async fn step(&mut self, phase: &PhaseName, step: &PlannedStep) -> bool {
        let thing = format!("{} {}", step.spec.kind(), step.spec.label());
        let limit = step.policy.timeout;
        let result = match tokio::time::timeout(limit, remove(self.host, step)).await {
            Ok(result) => result,
            Err(_) => Err(late(&thing, limit)),
        };
        match result {
            Ok(true) => self.took_back(Some(phase), thing),
            Ok(false) => {}
            Err(error) => {
                self.fail(Some(phase), &thing, &error);
                return false;
            }
        }
        true
    }

    /// What cannot be written down is told, and keeps nothing from being taken back.
    fn wrote(&mut self, written: Result<(), LedgerError>) {
        if let Err(error) = written {
            self.fail(None, "ledger", &error.into());
        }
    }

    /// Directories that others of ours were still in, the deepest first; those that are left hold what is not ours,
    /// or what is kept.
    async fn directories(&mut self) {
        let mut full = std::mem::take(&mut self.full);
        full.sort_by_key(|live| std::cmp::Reverse(path_of(&live.undo).components().count()));
        for live in full {
            match self.host.list(path_of(&live.undo)).await {
                Ok(names) if !names.is_empty() => self.full.push(live),
                _ => self.undo(None, &live).await,
            }
        }
    }

    /// What the engine remembers of a host that is its own again, whose next bring-up begins with the preconditions.
    async fn forget(&self) -> ResourceResult<()> {
        let state = Path::new(STATE);
        self.host.remove_tree(&state.join("services")).await?;
        self.host.remove(&state.join("preflight.json")).await?;
        Ok(())
    }

    fn took_back(&mut self, phase: Option<&PhaseName>, thing: String) {
        self.undone += 1;
        self.events.emit(Event::ThingRestored {
            phase: phase.cloned(),
            thing,
        });
    }

    fn fail(&mut self, phase: Option<&PhaseName>, thing: &str, error: &ResourceError) {
        self.failed += 1;
        if let Some(phase) = phase
            && self.failures.iter().all(|(known, _)| known != phase)
        {
            let failure = Failure {
                what: format!("taking back {thing}"),
                span: Span::file(format!("phases/{phase}.rhai")),
                chain: chain(error),
                found: Vec::new(),
                next: "mend what the reason names, then `nodelet clean` again".to_owned(),
            };
            self.failures.push((phase.clone(), failure));
        }
        self.events.emit(Event::CleanFailed {
            phase: phase.cloned(),
            thing: thing.to_owned(),
            error: match error {
                ResourceError::Unmet { next, .. } => format!("{}; {next}", chain(error).join(": ")),
                _ => chain(error).join(": "),
            },
        });
    }
}

/// What has to take in the files that were there before, once each: units are loaded again, then those that ran
/// before run again.
fn settling(undos: &[LiveUndo]) -> Vec<LiveUndo> {
    let mut last: Vec<LiveUndo> = undos
        .iter()
        .filter(|live| live.undo.settles().is_some())
        .cloned()
        .collect();
    for live in &mut last {
        // It may have been started since, with configuration that is gone by now.
        if let Undo::StartUnit { name } = &live.undo
            && name.ends_with(".service")
        {
            live.undo = Undo::RestartUnit { name: name.clone() };
        }
    }
    last.sort_by_key(|live| live.undo.settles());
    let mut seen = BTreeSet::new();
    last.retain(|live| seen.insert(live.undo.about()));
    last
}

/// Makes a step's thing absent; says whether it was there.
pub(super) async fn remove(host: &dyn Host, step: &PlannedStep) -> ResourceResult<bool> {
    let cx = Context {
        host,
        outputs: &Outputs::default(),
        secrets: &MaskedSecrets,
        absent: true,
    };
    let mut tries = step.policy.tries;
    loop {
        let result = with_resource!(&step.spec, resource => remove_once(resource, &cx).await);
        tries = tries.saturating_sub(1);
        if result.is_ok() || tries == 0 {
            return result;
        }
        host.pause(step.policy.backoff).await;
    }
}

async fn remove_once<R: Resource>(resource: &R, cx: &Context<'_>) -> ResourceResult<bool> {
    let observed = resource.observe(cx).await?;
    let Some(change) = resource.diff(&observed) else {
        return Ok(false);
    };
    // A way back needs no way back of its own.
    let mut ignored = Receipt::default();
    resource
        .converge(&observed, &change, cx, &mut ignored)
        .await?;
    let left: Option<Change> = resource.diff(&resource.observe(cx).await?);
    match left {
        None => Ok(true),
        Some(_) => Err(ResourceError::NotConverged {
            what: format!(
                "remove {}: it is still there, or there again",
                resource.label()
            ),
        }),
    }
}

/// Why the engine's package has to stay while something may still be in an engine that does not answer.
pub(super) async fn keeps_engine(undo: &Undo, host: &dyn Host) -> Option<ResourceError> {
    if !brings_engine(undo) || host.container_engine().await.is_ok() {
        return None;
    }
    Some(ResourceError::Unmet {
        what: "remove docker while containers may still be in it: it does not answer".to_owned(),
        next: "mend what keeps docker from answering (`journalctl -u docker -n 50`), then run `nodelet clean` again"
            .to_owned(),
    })
}

/// Whether it takes away the packages of a container engine.
fn brings_engine(undo: &Undo) -> bool {
    matches!(undo, Undo::PurgePackages { names } if engine::is_engine(names))
}

/// Whether the container engine is needed for it.
pub(super) fn is_about_containers(undo: &Undo) -> bool {
    matches!(
        undo,
        Undo::RemoveContainer { .. }
            | Undo::RecreateContainer { .. }
            | Undo::StopContainer { .. }
            | Undo::RemoveImage { .. }
            | Undo::RestoreImage { .. }
    )
}

/// What lives outside of this host, or what others use by now: it is told when it stays, and is no failure.
pub(super) fn concerns_others(undo: &Undo, error: &ResourceError) -> bool {
    match undo {
        Undo::DeleteObject { .. } | Undo::RestoreObject { .. } | Undo::PatchNode { .. } => true,
        Undo::UnloadModule { .. } => says(error, "in use"),
        Undo::RemoveContainer { .. } | Undo::StopContainer { .. } => says(error, engine::TAKEN),
        // Containers of somebody else were made of it since.
        Undo::RemoveImage { .. } => says(error, "status code 409"),
        // Packages of somebody else have come to need them.
        Undo::PurgePackages { .. } => says(error, "dependency problems"),
        _ => false,
    }
}

fn says(error: &ResourceError, text: &str) -> bool {
    chain(error).join(": ").contains(text)
}

pub(super) fn late(thing: &str, after: Duration) -> ResourceError {
    ResourceError::Host(crate::host::HostError::Deadline {
        action: format!("take back {thing}"),
        after,
    })
}

fn path_of(undo: &Undo) -> &Path {
    match undo {
        Undo::RemoveDirectory { path } => path,
        _ => Path::new("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostError;

    #[test]
    fn what_others_use_by_now_is_no_failure() {
        let image = Undo::RemoveImage {
            reference: "app:1".to_owned(),
        };
        let packages = Undo::PurgePackages {
            names: vec!["iptables".to_owned()],
        };
        let said = |text: &str| ResourceError::Host(HostError::service("do it", text.to_owned()));
        let in_use = said("Docker responded with status code 409: conflict: container x uses it");
        let needed = said("dpkg: dependency problems prevent removal of iptables");
        assert!(concerns_others(&image, &in_use));
        assert!(concerns_others(&packages, &needed));
        assert!(!concerns_others(&image, &needed));
        assert!(!concerns_others(&packages, &in_use));
    }
}
