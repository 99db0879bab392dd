//! Whether a restart can write what it is going to write, tried before it stops anything.
//!
//! An immutable file, a file system that is read-only or full, or something else at the place of a file makes the
//! restart fail after it has stopped services that worked. Another try, or a full clean, would fail in the same way. A
//! key or data that is lost for good, a damaged program and an image that is gone have the same effect (`needs`). A
//! service that needs one of these is not stopped.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exec::apply::runtime_state::RuntimeState;
use crate::exec::diagnosis::remedy::remedy;
use crate::exec::{Mode, Runner};
use crate::host::{EntryKind, HostError};
use crate::ledger::Ledger;
use crate::model::{PhaseName, Problem, Span, chain};
use crate::plan::{PlannedPhase, PlannedStep};
use crate::resource::{Action, FileSource, ResourceError, Spec, largest};

/// Bound on one trial, and on finding out whether it is needed. A disk that does not store a small file in this time is
/// not fit for a repair.
pub(super) const BOUND: Duration = Duration::from_secs(10);
/// The name of a file in the runtime's directory. It stands for the files that a new container needs there.
const TRIAL: &str = "nodelet-trial";
/// Room for a configuration file, a certificate or a stamp, in bytes.
const SMALL: u64 = 64 * 1024;

/// A file that a phase has to write and cannot, or something else for which the phase must not be restarted.
#[derive(Debug)]
pub(in crate::exec) struct Unwritable {
    /// `None` for the engine's own records, which every phase needs.
    pub(in crate::exec) phase: Option<PhaseName>,
    pub(in crate::exec) problem: Problem,
}

/// What a trial has found.
#[derive(Debug)]
pub(in crate::exec) struct TrialResult {
    /// What cannot be written, or is missing.
    pub(in crate::exec) found: Vec<Unwritable>,
    /// Whether the container runtime answered. If it did not, nothing is known of images and of room for containers.
    pub(in crate::exec) runtime_answers: bool,
}

/// What a trial is about, and what is known when it begins.
pub(super) struct Trial<'a> {
    pub(super) written: Written,
    /// Whether the trial also looks for what the phases need and lack.
    with_needs: bool,
    /// All phases that run.
    pub(super) run: &'a [&'a PlannedPhase],
    pub(super) runtime: &'a RuntimeState,
}

/// Which steps are going to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Those that would change something now.
    Pending,
    /// All, except those of kept resources that are as they should be.
    All,
}

impl Runner<'_> {
    /// What a restart of these phases would fail to write, or would lack. Existing files stay as they are.
    pub(in crate::exec) async fn unwritable(&self, phases: &[PhaseName]) -> TrialResult {
        let mut found = Vec::new();
        found.extend(self.unwritable_record().await);
        let run = self.phases_that_run(phases);
        let runtime = self.runtime_state(&run).await;
        let trial = Trial {
            written: Written::Pending,
            with_needs: true,
            run: &run,
            runtime: &runtime,
        };
        for phase in &run {
            for path in self.payload_of(&[phase], &runtime) {
                if let Some(problem) = self.payload_problem(path, Mode::Apply).await {
                    found.push(Unwritable {
                        phase: Some(phase.name.clone()),
                        problem,
                    });
                }
            }
            self.unwritable_of(phase, &trial, &mut found).await;
        }
        TrialResult {
            found,
            runtime_answers: runtime.answers,
        }
    }

    /// The phases of the plan with these names, without those that are skipped.
    fn phases_that_run(&self, names: &[PhaseName]) -> Vec<&PlannedPhase> {
        let runs = |phase: &&PlannedPhase| names.contains(&phase.name) && phase.skipped.is_none();
        self.plan.phases.iter().filter(runs).collect()
    }

    /// What a restart of these phases would fail to write, as far as the simulated host can tell without a write. Does not look for what
    /// the phases need and lack.
    pub(in crate::exec) async fn predicted_write_problems(
        &self,
        phases: &[PhaseName],
    ) -> Vec<Problem> {
        let run = self.phases_that_run(phases);
        let trial = Trial {
            written: Written::Pending,
            with_needs: false,
            run: &run,
            runtime: &RuntimeState::default(),
        };
        let mut found = Vec::new();
        for phase in &run {
            self.unwritable_of(phase, &trial, &mut found).await;
        }
        problems(found)
    }

    /// Why the engine's own records could not be written, as far as the host can tell without a write.
    pub(in crate::exec) async fn predicted_record_problem(&self) -> Option<Problem> {
        let ledger = Ledger::path();
        let predicted = tokio::time::timeout(BOUND, self.host.predict_write(&ledger, SMALL)).await;
        match predicted {
            Ok(Err(error)) => {
                let span = Span::file("role.yaml");
                Some(self.not_writable(&ledger, SMALL, error, span).await)
            }
            Ok(Ok(())) | Err(_) => None,
        }
    }

    /// What an apply after a full clean would fail to write, or would lack. Existing files stay as they are.
    pub(in crate::exec) async fn unwritable_for_rebuild(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        found.extend(self.unwritable_record().await);
        let phases = self.plan.phases.iter();
        let run: Vec<&PlannedPhase> = phases.filter(|phase| phase.skipped.is_none()).collect();
        let runtime = self.runtime_state(&run).await;
        let trial = Trial {
            written: Written::All,
            with_needs: true,
            run: &run,
            runtime: &runtime,
        };
        for phase in &run {
            self.unwritable_of(phase, &trial, &mut found).await;
        }
        found.into_iter().map(|one| one.problem).collect()
    }

    /// The ledger is written all the time, and replaced now and then, so it is always tried.
    async fn unwritable_record(&self) -> Option<Unwritable> {
        let ledger = Ledger::path();
        let problem = self.trial(&ledger, SMALL, Span::file("role.yaml")).await?;
        Some(Unwritable {
            phase: None,
            problem,
        })
    }

    async fn unwritable_of(
        &self,
        phase: &PlannedPhase,
        trial: &Trial<'_>,
        found: &mut Vec<Unwritable>,
    ) {
        // If a key or certificate is made again, those after it are made again from it.
        let mut made_anew = false;
        for step in &phase.steps {
            let lacks = match step.policy.absent || !trial.with_needs {
                true => None,
                false => self.lacks(phase, step, trial).await,
            };
            found.extend(lacks.map(|problem| Unwritable {
                phase: Some(phase.name.clone()),
                problem,
            }));
            let files = self.files_of(step, trial.runtime).await;
            let kept = step.policy.keep;
            let due = match (&step.spec, trial.written) {
                // The service is started again, and its stamp is written then.
                (Spec::Service(_), _) => true,
                // The container is removed, and another one is made.
                (Spec::Container(_), _) => !step.policy.absent,
                (_, Written::All) if !kept => true,
                _ if files.is_empty() => false,
                (spec, _) if made_anew && spec.properties().follows_pki => true,
                _ => self.is_pending(step).await,
            };
            if !due {
                continue;
            }
            made_anew |= step.spec.properties().follows_pki;
            for (path, room) in files {
                let problem = match self.obstacle(&step.spec, &path).await {
                    Some(error) => Some(unwritable(&error, step.span.clone(), remedy(&error, &[]))),
                    None => self.trial(&path, room, step.span.clone()).await,
                };
                found.extend(problem.map(|problem| Unwritable {
                    phase: Some(phase.name.clone()),
                    problem,
                }));
            }
        }
    }

    /// Why the step would not replace what is at `path`: it is of another kind, or too large to be kept for a clean. If
    /// it cannot be inspected, the trial decides.
    async fn obstacle(&self, spec: &Spec, path: &Path) -> Option<ResourceError> {
        let entry = tokio::time::timeout(BOUND, self.host.entry(path)).await;
        let entry = entry.ok()?.ok().flatten()?;
        match (spec, &entry.kind) {
            (Spec::Directory(_), EntryKind::Directory) => None,
            (Spec::Directory(_), other) => {
                Some(ResourceError::in_the_way(path, "a directory", other))
            }
            (_, EntryKind::File(size)) if *size > largest(spec) => {
                Some(ResourceError::Host(HostError::TooLarge {
                    path: path.to_path_buf(),
                    limit: largest(spec),
                }))
            }
            (_, EntryKind::File(_) | EntryKind::Symlink(_)) => None,
            (Spec::Symlink(_), other) => Some(ResourceError::in_the_way(path, "a link", other)),
            (_, other) => Some(ResourceError::in_the_way(path, "a file", other)),
        }
    }

    /// Whether a step would change something. If that cannot be determined, it counts as a change.
    async fn is_pending(&self, step: &PlannedStep) -> bool {
        let cx = self.context(step.policy.absent);
        match tokio::time::timeout(BOUND, step.spec.pending(&cx)).await {
            // A restart does not renew a certificate that is only due.
            Ok(Ok(change)) => change.is_some_and(|change| change.action != Action::Renew),
            Ok(Err(_)) | Err(_) => true,
        }
    }

    /// The files that a step writes, and the room for each.
    async fn files_of(&self, step: &PlannedStep, runtime: &RuntimeState) -> Vec<(PathBuf, u64)> {
        match &step.spec {
            Spec::Directory(directory) => vec![(directory.path.clone(), 0)],
            Spec::Symlink(link) => vec![(link.path.clone(), 0)],
            Spec::Service(service) if service.started => vec![(service.stamp_path(), SMALL)],
            // The runtime writes the file. If it does not answer, a restart ends no container.
            Spec::Container(_) if !runtime.answers => Vec::new(),
            Spec::Container(_) => {
                let root = tokio::time::timeout(BOUND, self.host.container_runtime_root()).await;
                let root = root.into_iter().flatten();
                root.map(|root| (root.join(TRIAL), SMALL)).collect()
            }
            Spec::File(file) => {
                let source = match &file.source {
                    FileSource::Payload(source)
                    | FileSource::Copy(source)
                    | FileSource::GuardedCopy(source) => {
                        self.host.entry(source).await.ok().flatten()
                    }
                    FileSource::Text(_) => None,
                };
                // A file that is missing from the payload is reported as a precondition.
                let room = match source.map(|entry| entry.kind) {
                    Some(EntryKind::File(size)) => size.max(SMALL),
                    _ => SMALL,
                };
                vec![(file.path.clone(), room)]
            }
            spec => spec.paths().into_iter().map(|path| (path, SMALL)).collect(),
        }
    }

    /// Why a file cannot be written; `None` if it can.
    async fn trial(&self, path: &Path, room: u64, span: Span) -> Option<Problem> {
        let tried = tokio::time::timeout(BOUND, self.host.try_write(path, room)).await;
        let error = match tried {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error,
            Err(_) => HostError::Deadline {
                action: format!("write {}", path.display()),
                after: BOUND,
            },
        };
        Some(self.not_writable(path, room, error, span).await)
    }

    /// The problem of a path that cannot be written because of this error.
    async fn not_writable(&self, path: &Path, room: u64, error: HostError, span: Span) -> Problem {
        let no_space = matches!(
            &error,
            HostError::File { source, .. } | HostError::WriteRefused { source, .. }
                if source.kind() == ErrorKind::StorageFull
        );
        let error = ResourceError::Host(error);
        let free = self.host.space(path).await.map(|space| space.free);
        let remedy = match free {
            Ok(free) if no_space && free > room => format!(
                "remove files: the file system of {0} has {free} bytes free and no inodes left (`df -i`, `du --inodes -xd1`)",
                path.display()
            ),
            _ => remedy(&error, &[]),
        };
        unwritable(&error, span, remedy)
    }
}

fn unwritable(error: &ResourceError, span: Span, remedy: String) -> Problem {
    Problem {
        requirement: "what is to be written can be written".to_owned(),
        span,
        problem: format!("could not {}", chain(error).join(": ")),
        remedy,
    }
}

pub(super) fn problems(unwritable: Vec<Unwritable>) -> Vec<Problem> {
    unwritable.into_iter().map(|one| one.problem).collect()
}
