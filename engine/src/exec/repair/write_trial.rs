//! Whether a restart can write what it is going to write, tried before it stops anything.
//!
//! An immutable file, a file system that is read-only or full, or something else at the place of a file makes the
//! restart fail after it has stopped services that worked. Another try, or a full clean, would fail in the same way. A
//! key or data that is lost for good, a damaged program and an image that is gone have the same effect. A service that
//! needs one of these is not stopped.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::restart::restart_set;
use crate::exec::diagnosis::remedy::remedy;
use crate::exec::{Mode, Runner};
use crate::host::{EntryKind, HostError};
use crate::model::{PhaseName, Problem, STATE, Span, chain};
use crate::plan::{Graph, Plan, PlannedPhase, PlannedStep};
use crate::resource::docker::container_runtime;
use crate::resource::{
    Action, FileSource, ImageSpec, ResourceError, ResourceResult, ServiceSpec, Spec, largest, pki,
};

/// Bound on one trial, and on finding out whether it is needed. A disk that does not store a small file in this time is
/// not fit for a repair.
const BOUND: Duration = Duration::from_secs(10);
/// How long the container runtime may take to answer at all.
const ANSWER: Duration = Duration::from_secs(5);
/// Bound on reading an archive of images.
const READING: Duration = Duration::from_secs(5 * 60);
/// The name of a file in the runtime's directory. It stands for the files that a new container needs there.
const TRIAL: &str = "nodelet-trial";
/// Room for a configuration file, a certificate or a stamp, in bytes.
const SMALL: u64 = 64 * 1024;

/// A file that a phase has to write and cannot, or something else without which the phase would not come up again.
#[derive(Debug)]
pub(in crate::exec) struct Unwritable {
    /// `None` for the engine's own records, which every phase needs.
    pub(in crate::exec) phase: Option<PhaseName>,
    pub(in crate::exec) problem: Problem,
}

/// What a trial has found.
#[derive(Debug)]
pub(in crate::exec) struct Found {
    /// What cannot be written, or is missing.
    pub(in crate::exec) found: Vec<Unwritable>,
    /// Whether the container runtime answered. If it did not, nothing is known of images and of room for containers.
    pub(in crate::exec) runtime_answers: bool,
}

/// What a trial is about, and what is known when it begins.
struct Trial<'a> {
    written: Written,
    /// Whether also what the phases need and lack is looked for.
    looks_for_needs: bool,
    /// All phases that run.
    run: &'a [&'a PlannedPhase],
    runtime: &'a RuntimeState,
}

/// The container runtime at the beginning of a trial.
#[derive(Debug, Default)]
pub(in crate::exec) struct RuntimeState {
    answers: bool,
    /// Images that it says it does not have.
    removed: BTreeSet<String>,
}

impl RuntimeState {
    /// Whether it says that it does not have an image.
    pub(in crate::exec) fn lacks(&self, reference: &str) -> bool {
        self.removed.contains(reference)
    }
}

impl Runner<'_> {
    /// What a restart of these phases would fail to write, or would lack. Existing files stay as they are.
    pub(in crate::exec) async fn unwritable(&self, phases: &[PhaseName]) -> Found {
        let mut found = Vec::new();
        found.extend(self.unwritable_record().await);
        let run = |phase: &&PlannedPhase| phases.contains(&phase.name) && phase.skipped.is_none();
        let run: Vec<&PlannedPhase> = self.plan.phases.iter().filter(run).collect();
        let runtime = self.runtime_state(&run).await;
        let trial = Trial {
            written: Written::Pending,
            looks_for_needs: true,
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
        Found {
            found,
            runtime_answers: runtime.answers,
        }
    }

    /// What a restart of these phases would fail to write, as far as the simulated host sees it: nothing is written for it. What the
    /// phases need and lack is left to the restart.
    pub(in crate::exec) async fn foreseen(&self, phases: &[PhaseName]) -> Vec<Problem> {
        let run = |phase: &&PlannedPhase| phases.contains(&phase.name) && phase.skipped.is_none();
        let run: Vec<&PlannedPhase> = self.plan.phases.iter().filter(run).collect();
        let trial = Trial {
            written: Written::Pending,
            looks_for_needs: false,
            run: &run,
            runtime: &RuntimeState::default(),
        };
        let mut found = Vec::new();
        for phase in &run {
            self.unwritable_of(phase, &trial, &mut found).await;
        }
        problems(found)
    }

    /// Why the engine's own records could not be written, as far as it is seen without a write.
    pub(in crate::exec) async fn foreseen_record(&self) -> Option<Problem> {
        let ledger = Path::new(STATE).join("ledger.jsonl");
        let foreseen = tokio::time::timeout(BOUND, self.host.foresee_write(&ledger, SMALL)).await;
        match foreseen {
            Ok(Err(error)) => {
                let span = Span::file("role.yaml");
                Some(self.not_writable(&ledger, SMALL, error, span).await)
            }
            Ok(Ok(())) | Err(_) => None,
        }
    }

    /// The same for everything that an apply writes after a full clean.
    pub(in crate::exec) async fn unwritable_for_rebuild(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        found.extend(self.unwritable_record().await);
        let phases = self.plan.phases.iter();
        let run: Vec<&PlannedPhase> = phases.filter(|phase| phase.skipped.is_none()).collect();
        let runtime = self.runtime_state(&run).await;
        let trial = Trial {
            written: Written::All,
            looks_for_needs: true,
            run: &run,
            runtime: &runtime,
        };
        for phase in &run {
            self.unwritable_of(phase, &trial, &mut found).await;
        }
        found.into_iter().map(|one| one.problem).collect()
    }

    /// The phases that can be restarted for these failed phases although some files cannot be written, in the plan's
    /// order; and what cannot be written, or is lost. A phase with such a file is not restarted. A phase that needs it
    /// is not restarted either, unless it failed itself while the phase with the file runs.
    pub async fn restartable(
        &self,
        failed: &BTreeSet<PhaseName>,
    ) -> (Vec<PhaseName>, Vec<Problem>) {
        let all = restart_set(self.plan, failed);
        let unwritable = self.unwritable(&all).await.found;
        let mut blocked = BTreeSet::new();
        let mut down = BTreeSet::new();
        for one in &unwritable {
            match &one.phase {
                Some(phase) => blocked.insert(phase.clone()),
                None => return (Vec::new(), problems(unwritable)),
            };
        }
        for phase in self
            .plan
            .phases
            .iter()
            .filter(|p| blocked.contains(&p.name))
        {
            if self.is_down(phase).await {
                down.insert(phase.name.clone());
            }
        }
        let set = without(self.plan, failed, &blocked, &down);
        (set, problems(unwritable))
    }

    /// The ledger is written all the time, and replaced now and then, so it is always tried.
    async fn unwritable_record(&self) -> Option<Unwritable> {
        let ledger = Path::new(STATE).join("ledger.jsonl");
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
            let lacks = match step.policy.absent || !trial.looks_for_needs {
                true => None,
                false => self.lacks(step, trial).await,
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
                (spec, _) if made_anew && is_of_pki(spec) => true,
                _ => self.is_pending(step).await,
            };
            if !due {
                continue;
            }
            made_anew |= is_of_pki(&step.spec);
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

    /// What a step needs, is missing, and is not made by this run.
    async fn lacks(&self, step: &PlannedStep, trial: &Trial<'_>) -> Option<Problem> {
        let (requirement, error) = match &step.spec {
            Spec::Service(service) => match service.verify_programs(self.host).await {
                Err(error) => ("what is to be started is what was packed", error),
                Ok(()) => (
                    "what is to be started can be started",
                    self.masked(service).await?,
                ),
            },
            Spec::Container(container) => (
                "another container can be made",
                self.image_comes(&container.image, trial).await.err()?,
            ),
            // After a full clean each archive is needed. A damaged one is reported with the rest of the payload.
            Spec::Image(image) if trial.written == Written::Pending => (
                "an image that is gone can be loaded",
                self.can_be_loaded(image, trial.runtime).await.err()?,
            ),
            spec => (
                "keys and data are those that this host keeps",
                self.unrecoverable(spec).await?,
            ),
        };
        Some(Problem {
            requirement: requirement.to_owned(),
            span: step.span.clone(),
            problem: format!("could not {}", chain(&error).join(": ")),
            remedy: match &error {
                ResourceError::Pki { .. } => {
                    "put the right files back; `nodelet check` names each with what to do"
                        .to_owned()
                }
                error => remedy(error, &[]),
            },
        })
    }

    /// The error for a unit that is masked and whose file no step writes: systemd would not start it again.
    async fn masked(&self, service: &ServiceSpec) -> Option<ResourceError> {
        if !service.started {
            return None;
        }
        for directory in ["/etc/systemd/system", "/run/systemd/system"] {
            let mask = Path::new(directory).join(&service.unit);
            let entry = tokio::time::timeout(BOUND, self.host.entry(&mask)).await;
            let Ok(Ok(Some(entry))) = entry else { continue };
            let mut steps = self.plan.phases.iter().flat_map(|phase| &phase.steps);
            let is_mask = matches!(&entry.kind, EntryKind::Symlink(to) if to == "/dev/null");
            if is_mask && !steps.any(|step| step.spec.paths().contains(&mask)) {
                let unit = &service.unit;
                return Some(ResourceError::Host(HostError::service(
                    format!("start {unit}"),
                    format!("Unit {unit} is masked."),
                )));
            }
        }
        None
    }

    /// Why no apply brings back the key, authority or data of a step. What needs them would not come up again after a
    /// stop.
    async fn unrecoverable(&self, spec: &Spec) -> Option<ResourceError> {
        match tokio::time::timeout(BOUND, pki::key_problem(self.host, spec)).await {
            Ok(Err(error)) if error.is_permanent() => Some(error),
            Ok(_) => None,
            Err(_) => Some(deadline(
                format!("read {} {}", spec.kind(), spec.label()),
                BOUND,
            )),
        }
    }

    /// Whether the runtime has an image, or the run loads it. If the runtime does not answer, a restart ends no
    /// container.
    async fn image_comes(&self, reference: &str, trial: &Trial<'_>) -> ResourceResult<()> {
        if !trial.runtime.lacks(reference) {
            return Ok(());
        }
        let mut directory = false;
        for step in trial.run.iter().flat_map(|phase| &phase.steps) {
            match &step.spec {
                Spec::Image(image) if !step.policy.absent && image.is_named(reference) => {
                    return self.can_be_loaded(image, trial.runtime).await;
                }
                Spec::ImageDirectory(_) => directory = true,
                _ => {}
            }
        }
        // The images in a directory of the operator are not known.
        if directory {
            return Ok(());
        }
        Err(ResourceError::Unmet {
            what: format!(
                "make another container of image {reference}: docker does not have the image any more, and this run does not load it"
            ),
            next: "load the image first (`nodelet apply`), or name an image that docker has (`docker images`)".to_owned(),
        })
    }

    /// Whether the archive of an image can be loaded, if it is needed.
    async fn can_be_loaded(&self, image: &ImageSpec, runtime: &RuntimeState) -> ResourceResult<()> {
        if !runtime.lacks(&image.reference) {
            return Ok(());
        }
        match tokio::time::timeout(READING, image.verify_archive(self.host)).await {
            Ok(brings) => brings.map(drop),
            Err(_) => Err(deadline(
                format!("read {}", image.archive.display()),
                READING,
            )),
        }
    }

    /// What the container runtime says of the images that these phases need. A runtime that does not answer is not asked
    /// again: each request would wait for its deadline, and the repair with it.
    pub(in crate::exec) async fn runtime_state(&self, phases: &[&PlannedPhase]) -> RuntimeState {
        let steps = phases.iter().flat_map(|phase| &phase.steps);
        let references = steps.filter_map(|step| match &step.spec {
            Spec::Image(image) => Some(&image.reference),
            Spec::Container(container) => Some(&container.image),
            _ => None,
        });
        let references: BTreeSet<&String> = references.collect();
        let mut runtime = RuntimeState::default();
        if references.is_empty() {
            return runtime;
        }
        if !matches!(self.runtime_answers(ANSWER).await, Ok(None)) {
            // A runtime that is still to be installed has no image. One that hangs may have all of them.
            let there =
                tokio::time::timeout(BOUND, container_runtime::is_installed(self.host)).await;
            if matches!(there, Ok(Ok(false))) {
                runtime.removed = references.into_iter().cloned().collect();
            }
            return runtime;
        }
        runtime.answers = true;
        for reference in references {
            if self.is_gone(reference).await {
                runtime.removed.insert(reference.clone());
            }
        }
        runtime
    }

    /// Whether the runtime says that it does not have an image.
    async fn is_gone(&self, reference: &str) -> bool {
        let image = tokio::time::timeout(BOUND, self.host.image(reference)).await;
        matches!(image, Ok(Ok(None)))
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
            HostError::File { source, .. } if source.kind() == ErrorKind::StorageFull
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

    /// Whether something that a phase starts does not run, or cannot be checked, or an image that the phase brings is
    /// gone.
    async fn is_down(&self, phase: &PlannedPhase) -> bool {
        for step in &phase.steps {
            let runs = match &step.spec {
                Spec::Service(service) if service.started => {
                    let unit = self.host.unit(&service.unit).await;
                    unit.is_ok_and(|unit| unit.is_active())
                }
                Spec::Container(container) => container.runs(self.host).await.unwrap_or_default(),
                Spec::Image(image) => !self.is_gone(&image.reference).await,
                _ => true,
            };
            if !runs {
                return true;
            }
        }
        false
    }
}

/// Which steps are going to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Those that would change something now.
    Pending,
    /// All, except those of kept resources that are as they should be.
    All,
}

fn deadline(action: String, after: Duration) -> ResourceError {
    ResourceError::Host(HostError::Deadline { action, after })
}

fn unwritable(error: &ResourceError, span: Span, remedy: String) -> Problem {
    Problem {
        requirement: "what is to be written can be written".to_owned(),
        span,
        problem: format!("could not {}", chain(error).join(": ")),
        remedy,
    }
}

fn problems(unwritable: Vec<Unwritable>) -> Vec<Problem> {
    unwritable.into_iter().map(|one| one.problem).collect()
}

fn is_of_pki(spec: &Spec) -> bool {
    matches!(
        spec,
        Spec::Authority(_)
            | Spec::ServiceAccountKey(_)
            | Spec::Certificate(_)
            | Spec::Kubeconfig(_)
    )
}

/// The restart set of `failed` without the `blocked` phases and those that need them. A phase that failed itself stays
/// in the set, unless it needs a blocked phase that is `down`: it would wait without success.
fn without(
    plan: &Plan,
    failed: &BTreeSet<PhaseName>,
    blocked: &BTreeSet<PhaseName>,
    down: &BTreeSet<PhaseName>,
) -> Vec<PhaseName> {
    let graph = Graph::of(plan);
    let needs = |one: &PhaseName, of: &BTreeSet<PhaseName>| {
        of.iter().any(|other| graph.dependents(other).contains(one))
    };
    let from = |name: &PhaseName| {
        let phase = plan.phases.iter().find(|phase| phase.name == *name);
        phase.and_then(|phase| phase.restart_from.clone())
    };
    let free = |name: &&PhaseName| {
        let starts = from(name).is_some_and(|first| blocked.contains(&first));
        !blocked.contains(*name) && !starts && !needs(name, down)
    };
    let failed: BTreeSet<PhaseName> = failed.iter().filter(free).cloned().collect();
    let mut set = restart_set(plan, &failed);
    set.retain(|one| !blocked.contains(one) && (failed.contains(one) || !needs(one, blocked)));
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<PhaseName> {
        names.iter().map(|n| n.parse().expect("a name")).collect()
    }

    #[test]
    fn an_unwritable_path_blocks_no_other_phase() {
        let phase = |name: &str, requires: &[&str]| PlannedPhase {
            requires: requires
                .iter()
                .map(|n| n.parse().expect("a name"))
                .collect(),
            ..PlannedPhase::bare(name.parse().expect("a name"))
        };
        let plan = Plan::bare(vec![
            phase("docker", &[]),
            phase("etcd", &["docker"]),
            phase("kubelet", &["docker"]),
            phase("api-ready", &["kubelet", "etcd"]),
            phase("keepalived", &[]),
        ]);
        for (failed, blocked, down, restarted) in [
            (&["kubelet"][..], &["kubelet"][..], &[][..], ""),
            (&["kubelet", "keepalived"], &["kubelet"], &[], "keepalived"),
            (&["kubelet", "etcd"], &["kubelet"], &[], "etcd"),
            (&["etcd", "docker"], &["docker"], &[], "etcd"),
            (&["etcd", "docker"], &["docker"], &["docker"], ""),
            (&["docker"], &["kubelet"], &[], "docker etcd"),
            (&["api-ready", "kubelet"], &["kubelet"], &["kubelet"], ""),
            (&["api-ready", "kubelet"], &["kubelet"], &[], "api-ready"),
        ] {
            let left = without(&plan, &set(failed), &set(blocked), &set(down));
            let left: Vec<&str> = left.iter().map(PhaseName::as_str).collect();
            assert_eq!(left.join(" "), restarted, "{failed:?}, {blocked:?}");
        }
    }
}
