//! What a phase needs to come up again after a stop, and lacks: programs, units, images, keys and data.
//!
//! A restart would only find this after it has stopped what worked. Not here: files that cannot be written (`write_trial`), and what the
//! container runtime says of its images (`runtime_state`).

use std::path::Path;
use std::time::Duration;

use super::runtime_state::RuntimeState;
use super::write_trial::{BOUND, Trial, Written};
use crate::exec::Runner;
use crate::exec::diagnosis::remedy::remedy;
use crate::host::{EntryKind, HostError};
use crate::model::{Problem, chain};
use crate::plan::PlannedStep;
use crate::resource::{ImageSpec, ResourceError, ResourceResult, ServiceSpec, Spec, pki};

/// Bound on reading an archive of images.
const READING: Duration = Duration::from_secs(5 * 60);

impl Runner<'_> {
    /// What a step needs, is missing, and is not made by this run.
    pub(super) async fn lacks(&self, step: &PlannedStep, trial: &Trial<'_>) -> Option<Problem> {
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
}

fn deadline(action: String, after: Duration) -> ResourceError {
    ResourceError::Host(HostError::Deadline { action, after })
}
