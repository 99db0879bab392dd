//! Whether the role's package is as it was packed, checked before a full clean.
//!
//! A step verifies the files that it is about to use. After a clean that is too late: the host would not come up again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exec::Runner;
use crate::exec::diagnosis::remedy::remedy;
use crate::host::{EntryKind, HostError};
use crate::model::{Problem, Span, chain};
use crate::plan::{PlannedStep, Probe};
use crate::resource::{Checksums, ImageSpec, PayloadUser, ResourceError, ResourceResult, Spec};

/// Bound on reading one file of the package, or all of it.
const READING: Duration = Duration::from_secs(5 * 60);

/// Files of the package, and the place of the script that uses each.
type UsedFiles = BTreeMap<PathBuf, Span>;

impl Runner<'_> {
    /// The damaged files of the package. Problems of the files in `reported` are already known.
    pub(in crate::exec) async fn damaged_for_rebuild(
        &self,
        reported: &BTreeSet<PathBuf>,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        // A dry run does not read the package.
        if !self.host.reads_payload() {
            return problems;
        }
        let steps = self.rebuild_steps();
        for step in &steps {
            if let Spec::Image(image) = &step.spec
                && !reported.contains(&image.archive)
                && let Err(error) = in_time(&image.archive, self.archive_serves(image)).await
            {
                problems.push(problem_of(&error, &step.span));
            }
        }
        let Some(checksums) = self.checksums(&steps) else {
            return problems;
        };
        for (path, span) in self.used_files(&steps, &mut problems).await {
            if !reported.contains(&path)
                && let Err(error) = in_time(&path, checksums.verify(self.host, &path)).await
            {
                problems.push(problem_of(&error, &span));
            }
        }
        let mut rest = self.of_package(checksums, reported).await;
        rest.retain(|one| problems.iter().all(|other| other.problem != one.problem));
        problems.extend(rest);
        problems
    }

    /// The steps that an apply carries out after a clean.
    fn rebuild_steps(&self) -> Vec<&PlannedStep> {
        let phases = self.plan.phases.iter();
        let phases = phases.filter(|phase| phase.skipped.is_none());
        let steps = phases.flat_map(|phase| &phase.steps);
        steps.filter(|step| !step.policy.absent).collect()
    }

    /// Whether another version of the role than that of the plan is installed, so that the payload has the files of that version.
    pub(in crate::exec) async fn has_another_version(&self) -> bool {
        let steps = self.rebuild_steps();
        match self.checksums(&steps) {
            Some(checksums) => checksums.has_another_version(self.host).await,
            None => false,
        }
    }

    /// The checksums of the package; a package from a checkout has none.
    fn checksums<'p>(&'p self, steps: &[&'p PlannedStep]) -> Option<&'p Checksums> {
        let mut users = steps
            .iter()
            .filter_map(|step| step.spec.properties().payload_user);
        let of_steps = users.find_map(PayloadUser::checksums);
        let mut checks = self.plan.phases.iter().flat_map(|phase| &phase.checks);
        of_steps.or_else(|| {
            checks.find_map(|check| match &check.probe {
                Probe::PackageIntact { checksums } => checksums.as_ref(),
                _ => None,
            })
        })
    }

    /// Verifies that an archive is as it was packed and, if docker does not have the image, that the archive contains
    /// it.
    async fn archive_serves(&self, image: &ImageSpec) -> ResourceResult<()> {
        if !matches!(self.host.image(&image.reference).await, Ok(Some(_))) {
            return image.verify_archive(self.host).await.map(drop);
        }
        // The image need not come from the archive: an operator may have loaded it.
        match self.host.entry(&image.archive).await? {
            Some(_) => image.verify_content(self.host).await.map(drop),
            None => Ok(()),
        }
    }

    /// The files of the package that these steps use, without archives of images.
    async fn used_files(&self, steps: &[&PlannedStep], problems: &mut Vec<Problem>) -> UsedFiles {
        let mut files = UsedFiles::new();
        let mut archives = BTreeSet::new();
        for step in steps {
            match step.spec.properties().payload_user {
                Some(PayloadUser::Image(image)) => drop(archives.insert(&image.archive)),
                Some(PayloadUser::Service(service)) if service.checksums.is_some() => {
                    let programs = service.runs.iter().cloned();
                    files.extend(programs.map(|path| (path, step.span.clone())));
                }
                Some(PayloadUser::Packages(packages)) if packages.checksums.is_some() => {
                    let cx = self.context(false);
                    for name in &packages.names {
                        match in_time(&packages.directory, packages.closure(name, &cx)).await {
                            Ok(names) => files.extend(names.into_iter().map(|name| {
                                let path = packages.directory.join(name);
                                (path, step.span.clone())
                            })),
                            Err(error) => problems.push(problem_of(&error, &step.span)),
                        }
                    }
                }
                Some(PayloadUser::Service(_) | PayloadUser::Packages(_)) | None => {}
            }
        }
        for path in self
            .plan
            .payload
            .iter()
            .filter(|path| !archives.contains(path))
        {
            let entry = self.host.entry(path).await.ok().flatten();
            if entry.is_some_and(|entry| matches!(entry.kind, EntryKind::File(_))) {
                let span = || Span::file("role.yaml");
                files.entry(path.clone()).or_insert_with(span);
            }
        }
        files
    }

    /// The damaged files of the whole package without those in `reported`; only the first ones if there are many.
    async fn of_package(
        &self,
        checksums: &Checksums,
        reported: &BTreeSet<PathBuf>,
    ) -> Vec<Problem> {
        let span = Span::file("role.yaml");
        match in_time(&checksums.file, checksums.problems(self.host, reported)).await {
            Ok(reported) => {
                let each = reported.into_iter().map(|(problem, remedy)| Problem {
                    problem,
                    remedy,
                    ..problem_at(span.clone())
                });
                each.collect()
            }
            Err(error) => vec![problem_of(&error, &span)],
        }
    }
}

async fn in_time<T>(
    path: &Path,
    reading: impl Future<Output = ResourceResult<T>>,
) -> ResourceResult<T> {
    tokio::time::timeout(READING, reading)
        .await
        .unwrap_or_else(|_| {
            Err(ResourceError::Host(HostError::Deadline {
                action: format!("read {}", path.display()),
                after: READING,
            }))
        })
}

fn problem_of(error: &ResourceError, span: &Span) -> Problem {
    Problem {
        problem: format!("could not {}", chain(error).join(": ")),
        remedy: remedy(error, &[]),
        ..problem_at(span.clone())
    }
}

fn problem_at(span: Span) -> Problem {
    Problem {
        requirement: "the role's package is as it was packed".to_owned(),
        span,
        problem: String::new(),
        remedy: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;
    use crate::exec::Recording;
    use crate::facts::Facts;
    use crate::host::fake::FakeHost;
    use crate::model::{PhaseName, StepId};
    use crate::plan::{Plan, PlannedPhase, StepPolicy};
    use crate::resource::{ANOTHER_VERSION, APPLY_VERSION, NoSecrets, ServiceSpec};

    const PAYLOAD: &str = "/opt/pf9/roles/r/current/payload";
    const SUMS: &str = "/opt/pf9/roles/r/current/SHA256SUMS";

    fn at(name: &str) -> PathBuf {
        Path::new(PAYLOAD).join(name)
    }

    /// A package with checksums, programs, image archives and an unused file, of which docker already has one image; and
    /// the plan that uses the package.
    fn with_checksums() -> (FakeHost, Plan) {
        let files = [
            ("bin/kubelet", "kubelet"),
            ("bin/kubectl", "kubectl"),
            ("images/a.tar", "fake-image:a:1"),
            ("images/b.tar", "fake-image:b:1"),
            ("unused", "unused"),
            ("images/a.tar.old", "unused"),
        ];
        let host = FakeHost::new().with_docker().with_image("a:1");
        let mut sums = String::new();
        for (name, content) in files {
            host.with_world_mut(|world| world.file_with_mode(at(name), content, 0o755));
            let digest = crate::model::hex(&sha2::Sha256::digest(content));
            sums += &format!("{digest}  payload/{name}\n");
        }
        let checksums = Some(Checksums {
            file: SUMS.into(),
            sha256: crate::model::hex(&sha2::Sha256::digest(&sums)),
        });
        host.with_world_mut(|world| world.file(SUMS, &sums));
        let phase: PhaseName = "kubelet".parse().expect("a name");
        let step = |kind: &str, name: &str, spec| PlannedStep {
            id: StepId::new(&phase, kind, name),
            span: Span::new("phases/kubelet.rhai", 7, 1),
            spec,
            policy: StepPolicy::default(),
        };
        let image = |name: &str| {
            let spec = ImageSpec {
                reference: format!("{name}:1"),
                archive: at(&format!("images/{name}.tar")),
                checksums: checksums.clone(),
            };
            step("image", name, Spec::Image(spec))
        };
        let service = ServiceSpec {
            unit: "pf9-kubelet.service".to_owned(),
            started: true,
            enabled: None,
            restart_inputs: Vec::new(),
            reload_inputs: Vec::new(),
            runs: vec![at("bin/kubelet")],
            checksums: checksums.clone(),
        };
        let steps = vec![
            image("a"),
            image("b"),
            step("service", "kubelet", Spec::Service(service)),
        ];
        let mut plan = Plan::bare(vec![PlannedPhase {
            steps,
            ..PlannedPhase::bare(phase)
        }]);
        plan.payload = files[..4].iter().map(|(name, _)| at(name)).collect();
        (host, plan)
    }

    async fn failed_preconditions(host: &FakeHost, plan: &Plan, rebuild: bool) -> Vec<Problem> {
        let (facts, ignored_events) = (Facts::nothing_about("cp-1"), Recording::default());
        let mut runner = Runner::new(plan, host, &facts, &NoSecrets, &ignored_events);
        runner.rebuild = rebuild;
        runner.failed_preconditions().await.expect("the host tells")
    }

    #[tokio::test(start_paused = true)]
    async fn each_damaged_file_of_the_package_keeps_a_full_clean_from_beginning() {
        let (host, plan) = with_checksums();
        assert_eq!(failed_preconditions(&host, &plan, true).await, []);
        for damaged in [
            &["bin/kubelet"][..],
            &["bin/kubectl"],
            &["images/a.tar"],
            &["images/b.tar"],
            &["unused"],
            &["images/a.tar", "images/b.tar", "bin/kubelet", "bin/kubectl"],
        ] {
            let host = host.fork();
            for name in damaged {
                host.with_world_mut(|world| world.file_with_mode(at(name), "other", 0o755));
            }
            let reported = failed_preconditions(&host, &plan, true).await;
            assert_eq!(reported.len(), damaged.len(), "{reported:?}");
            for name in damaged {
                let path = at(name).display().to_string();
                let its = reported.iter().find(|one| one.problem.contains(&path));
                let its = its.expect("it is named");
                assert!(
                    its.problem.contains("its checksum is not the one"),
                    "{its:?}"
                );
                assert_eq!(its.remedy, "install the role's package again");
            }
            // A repair needs only the files that it uses.
            assert_eq!(failed_preconditions(&host, &plan, false).await, []);
        }
    }

    /// The plan of the version before stays in use while the host has a wrong name.
    #[tokio::test(start_paused = true)]
    async fn a_file_that_a_version_which_is_not_applied_lacks_is_reported_as_such() {
        let (host, plan) = with_checksums();
        let digest = |text: &str| crate::model::hex(&sha2::Sha256::digest(text));
        let sums = format!("{}  payload/bin/kubelet\n", digest("kubelet 2"));
        let manifest = format!("checksums: {}\n", digest(&sums));
        host.with_world_mut(|world| {
            world.file_with_mode(at("bin/kubelet"), "kubelet 2", 0o755);
            world.remove(at("images/a.tar"));
            world.file("/opt/pf9/roles/r/current/role.yaml", &manifest);
            world.file(SUMS, &sums);
        });
        let reported = failed_preconditions(&host, &plan, false).await;
        assert_eq!(reported.len(), 1, "{reported:?}");
        let reason = format!("a.tar is not there: {ANOTHER_VERSION}");
        assert!(reported[0].problem.ends_with(&reason), "{reported:?}");
        assert_eq!(reported[0].remedy, APPLY_VERSION);
    }

    #[tokio::test(start_paused = true)]
    async fn missing_and_wrong_archives_are_reported_once() {
        let (host, mut plan) = with_checksums();
        let missing = host.fork();
        missing.with_world_mut(|world| world.remove(at("images/a.tar")));
        let reported = failed_preconditions(&missing, &plan, true).await;
        assert_eq!(reported.len(), 1, "{reported:?}");
        assert!(
            reported[0].problem.ends_with("a.tar is not there"),
            "{reported:?}"
        );
        // Its name begins like that of the missing file.
        missing.with_world_mut(|world| world.file(at("images/a.tar.old"), "other"));
        let reported = failed_preconditions(&missing, &plan, true).await;
        assert_eq!(reported.len(), 2, "{reported:?}");
        let forged = host.fork();
        forged.with_world_mut(|world| world.file(SUMS, ""));
        let reported = failed_preconditions(&forged, &plan, true).await;
        assert!(
            reported.iter().any(|one| one.problem.contains(SUMS)),
            "{reported:?}"
        );
        // A checkout has no checksums. Its archives are read.
        for step in &mut plan.phases[0].steps {
            match &mut step.spec {
                Spec::Image(image) => image.checksums = None,
                Spec::Service(service) => service.checksums = None,
                _ => {}
            }
        }
        host.with_world_mut(|world| world.file(at("images/b.tar"), "fake-image:c:1"));
        let reported = failed_preconditions(&host, &plan, true).await;
        assert_eq!(reported.len(), 1, "{reported:?}");
        assert!(
            reported[0].problem.contains("holds other images (c:1)"),
            "{reported:?}"
        );
    }
}
