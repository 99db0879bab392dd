//! What a phase needs to come up again after a stop, and lacks: programs, units, images, keys and data.
//!
//! A restart would only find this after it has stopped what worked. Not here: files that cannot be written (`write_trial`), and what the
//! container runtime says of its images (`apply::runtime_state`).

use std::path::Path;
use std::time::Duration;

use super::write_trial::{BOUND, Trial, Written};
use crate::exec::Runner;
use crate::exec::apply::runtime_state::RuntimeState;
use crate::exec::diagnosis::remedy::remedy;
use crate::host::{EntryKind, HostError};
use crate::model::{Problem, chain};
use crate::plan::{PlannedPhase, PlannedStep};
use crate::resource::{
    DataIdSpec, ImageSpec, ResourceError, ResourceResult, ServiceSpec, Spec, pki,
};

/// Bound on reading an archive of images.
const READING: Duration = Duration::from_secs(5 * 60);

impl Runner<'_> {
    /// What a step of the phase needs, is missing, and is not made by this run.
    pub(super) async fn lacks(
        &self,
        phase: &PlannedPhase,
        step: &PlannedStep,
        trial: &Trial<'_>,
    ) -> Option<Problem> {
        let (requirement, error) = match &step.spec {
            Spec::Service(service) => match service.verify_programs(self.host).await {
                Err(error) => ("the program matches its checksum", error),
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
            Spec::DataId(data) => {
                let lost = self.unrecoverable(&step.spec).await?;
                (
                    "keys and data are those that this host keeps",
                    self.unless_joined(phase, data, lost).await?,
                )
            }
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

    /// The error of data that is lost, unless the phase's member of etcd is going to get it from the other masters. If that has to wait or is
    /// refused, it says why.
    async fn unless_joined(
        &self,
        phase: &PlannedPhase,
        data: &DataIdSpec,
        lost: ResourceError,
    ) -> Option<ResourceError> {
        let mut steps = phase.steps.iter().filter(|step| !step.policy.absent);
        let member = steps.find_map(|step| match &step.spec {
            Spec::EtcdMember(member) => Some(member),
            _ => None,
        });
        let Some(member) = member else {
            return Some(lost);
        };
        let cx = self.context(false);
        match tokio::time::timeout(BOUND, member.joins_without(data, &cx)).await {
            Ok(Ok(true)) => None,
            Ok(Err(error @ (ResourceError::Awaited { .. } | ResourceError::Unmet { .. }))) => {
                Some(error)
            }
            Ok(Ok(false) | Err(_)) | Err(_) => Some(lost),
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
}

fn deadline(action: String, after: Duration) -> ResourceError {
    ResourceError::Host(HostError::Deadline { action, after })
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;
    use crate::exec::{Event, Recording};
    use crate::facts::Facts;
    use crate::host::Services as _;
    use crate::host::fake::FakeHost;
    use crate::kubernetes::masters::MASTERS;
    use crate::model::{Outcome, PhaseName, Span, StepId};
    use crate::plan::{Plan, PlannedPhase, StepPolicy};
    use crate::resource::{
        ANOTHER_VERSION, APPLY_VERSION, Checksums, EtcdMemberSpec, InitialState, NoSecrets,
    };

    const UNIT: &str = "pf9-kubelet.service";
    const PACKAGE: &str = "/opt/pf9/roles/r/current";
    const PROGRAM: &str = "/opt/pf9/roles/r/current/payload/bin/kubelet";

    /// Installs a release of the package with this program. Returns its checksums.
    fn install(host: &FakeHost, release: &str, program: &str) -> Checksums {
        let digest = |text: &str| crate::model::hex(&sha2::Sha256::digest(text));
        let sums = format!(
            "{}  payload/bin/kubelet\n{}  payload/release\n",
            digest(program),
            digest(release)
        );
        let sha256 = digest(&sums);
        let manifest = format!("checksums: {sha256}\n");
        let file = format!("{PACKAGE}/SHA256SUMS");
        host.with_world_mut(|world| {
            world.file_with_mode(PROGRAM, program, 0o755);
            world.file(format!("{PACKAGE}/role.yaml"), &manifest);
            world.file(&file, &sums);
        });
        Checksums {
            file: file.into(),
            sha256,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_program_that_differs_in_a_version_that_is_not_applied_is_not_started() {
        let host = FakeHost::new().with_docker().with_unit(UNIT, "[Service]\n");
        let checksums = install(&host, "1", "kubelet");
        let name: PhaseName = "kubelet".parse().expect("a name");
        let step = PlannedStep {
            id: StepId::new(&name, "service", "kubelet"),
            span: Span::file("phases/kubelet.rhai"),
            spec: Spec::Service(ServiceSpec {
                unit: UNIT.to_owned(),
                started: true,
                enabled: None,
                restart_inputs: Vec::new(),
                reload_inputs: Vec::new(),
                runs: vec![PROGRAM.into()],
                checksums: Some(checksums),
            }),
            policy: StepPolicy::default(),
        };
        let plan = Plan::bare(vec![PlannedPhase {
            steps: vec![step],
            ..PlannedPhase::bare(name.clone())
        }]);
        let facts = Facts::nothing_about("cp-1");
        let restart = async || {
            let heard = Recording::default();
            let runner = Runner::new(&plan, &host, &facts, &NoSecrets, &heard);
            let outcome = runner.restart(std::slice::from_ref(&name), &[]).await;
            (outcome.expect("it is written down"), heard.events())
        };
        assert_eq!(restart().await.0, Outcome::Converged);
        install(&host, "2", "kubelet");
        host.stop_unit(UNIT).await.expect("it stops");
        let (outcome, events) = restart().await;
        assert_eq!(outcome, Outcome::Converged, "{events:?}");
        install(&host, "3", "another kubelet");
        host.stop_unit(UNIT).await.expect("it stops");
        let (outcome, events) = restart().await;
        assert_eq!(outcome, Outcome::Refused, "{events:?}");
        let refusal = events.iter().find_map(Event::refusal);
        let refusal = refusal.expect("it says why");
        for part in [PROGRAM, ANOTHER_VERSION, APPLY_VERSION] {
            assert!(refusal.contains(part), "{refusal}");
        }
        assert!(!refusal.contains("damaged"), "{refusal}");
        let unit = host.unit(UNIT).await.expect("systemd answers");
        assert!(!unit.is_active(), "it is not started");
    }

    /// A phase with a member of etcd whose data was lost.
    fn etcd(name: &PhaseName) -> Plan {
        let step = |spec: Spec| PlannedStep {
            id: StepId::new(name, spec.kind(), &spec.label()),
            span: Span::file("phases/etcd.rhai"),
            spec,
            policy: StepPolicy::default(),
        };
        let member = EtcdMemberSpec {
            name: "m-3".to_owned(),
            data: "/var/etcd".into(),
            peer: "https://172.30.0.13:2380".to_owned(),
            settings: "/etc/pf9/kube.d/etcd/member.env".into(),
            initial_state: InitialState::Existing,
            token: "c-1".to_owned(),
            api: None,
            data_id: Some("etcd".to_owned()),
        };
        let data = DataIdSpec {
            name: "etcd".to_owned(),
            path: "/var/etcd/member/nodelet-data-id".into(),
        };
        Plan::bare(vec![PlannedPhase {
            steps: vec![step(Spec::EtcdMember(member)), step(Spec::DataId(data))],
            ..PlannedPhase::bare(name.clone())
        }])
    }

    #[tokio::test(start_paused = true)]
    async fn a_master_whose_disk_was_emptied_is_repaired_once_it_can_join_the_others() {
        const RECORD: &str = "/var/opt/pf9/nodelet/kept/data-etcd.json";
        let masters = r#"{"version":1,"masters":[{"name":"m-1","address":"172.30.0.11","voter":true},{"name":"m-2","address":"172.30.0.12","voter":true}]}"#;
        let record = r#"{"version":1,"id":"00112233445566778899aabbccddeeff"}"#;
        let host = FakeHost::new()
            .with_docker()
            .with_file(MASTERS, masters)
            .with_file(RECORD, record);
        host.with_world_mut(|world| {
            world.etcd.voter("m-1", "172.30.0.11", 11);
            world.etcd.voter("m-2", "172.30.0.12", 12);
            world.etcd.voter("m-3", "172.30.0.13", 13);
            world.etcd.silence("172.30.0.13");
        });
        let name: PhaseName = "etcd".parse().expect("a name");
        let plan = etcd(&name);
        let facts = Facts::nothing_about("m-3");
        let restart = async |host: &FakeHost| {
            let heard = Recording::default();
            let runner = Runner::new(&plan, host, &facts, &NoSecrets, &heard);
            let outcome = runner.restart(std::slice::from_ref(&name), &[]).await;
            (outcome.expect("it is written down"), heard.events())
        };
        let refusal = |events: &[Event]| {
            let said = events.iter().find_map(Event::refusal);
            said.expect("it says why")
        };
        // A member joins only while all others work.
        let busy = host.fork();
        busy.with_world_mut(|world| {
            let state = world.etcd.states.get_mut("https://172.30.0.12:4001");
            state.expect("it is there").leader = None;
        });
        let (outcome, events) = restart(&busy).await;
        assert_eq!(outcome, Outcome::Refused, "{events:?}");
        assert!(
            refusal(&events).contains("m-2: it knows no leader"),
            "{events:?}"
        );
        // Without other masters the data is needed.
        let alone = host.fork();
        alone.with_world_mut(|world| world.remove(MASTERS));
        let (outcome, events) = restart(&alone).await;
        assert_eq!(outcome, Outcome::Refused, "{events:?}");
        assert!(refusal(&events).contains("lost or exchanged"), "{events:?}");
        let (outcome, events) = restart(&host).await;
        assert_eq!(outcome, Outcome::Converged, "{events:?}");
        let learners = host.with_world(|world| {
            let learners = world.etcd.members.iter().filter(|one| one.learner);
            learners.count()
        });
        assert_eq!(learners, 1);
        let text = host.with_world(|world| world.text(RECORD));
        assert!(text.is_some_and(|text| text != record), "it has another id");
    }
}
