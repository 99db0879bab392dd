//! Renews certificates that are good and due, one component at a time. A component is done when it is seen to use its
//! new certificates.
//!
//! The renewal is an apply of the phases that the component's certificates concern. It renews the due certificates of
//! this component only. A service that reads a certificate at its start restarts because its inputs differ, and the
//! checks of these phases wait until servers show the certificate on disk. A phase that fails is rolled back as in
//! every apply: the old certificate is there again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::exec::apply::phase::Progress;
use crate::exec::event::Event;
use crate::exec::{Mode, Renewals, Runner, Selection};
use crate::model::{Outcome, PhaseName, Verb};
use crate::plan::PlannedStep;
use crate::resource::kubernetes::pod_container::{StaticPods, of_pods};
use crate::resource::pki::{self, ReloadMode, consumer_of};
use crate::resource::{Action, ResourceError, ResourceResult, Spec};

/// Static pod of the control plane.
const CONTROL_PLANE: &str = "k8s-master";
/// Phase that waits for it.
const API_READY: &str = "api-ready";
/// How long a container of this pod may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// If an old certificate ends sooner than this after its container will have looked for a new one, the container is
/// ended.
const MARGIN: Duration = Duration::from_secs(60);

/// What is due for renewal.
#[derive(Debug, Default)]
pub struct Due {
    /// Components with a certificate that is good and due, in the order of their renewal.
    pub components: Vec<&'static str>,
    /// Certificates of which this cannot be determined; the others are renewed all the same.
    pub problems: Vec<ResourceError>,
}

impl Runner<'_> {
    /// What is due. Reads only.
    pub async fn due(&self) -> Due {
        let mut named = BTreeSet::new();
        let mut problems = Vec::new();
        for (_, component, step) in self.certificates() {
            match self.is_due(step).await {
                Ok(true) => {
                    named.insert(component);
                }
                Ok(false) => {}
                Err(error) => problems.push(error),
            }
        }
        let mut components = pki::components();
        components.retain(|name| named.contains(name));
        Due {
            components,
            problems,
        }
    }

    /// The steps that make certificates, each with its phase and the component that uses it.
    fn certificates(&self) -> impl Iterator<Item = (&PhaseName, &'static str, &PlannedStep)> {
        let phases = self.plan.phases.iter().filter(|p| p.skipped.is_none());
        phases
            .flat_map(|phase| phase.steps.iter().map(move |step| (&phase.name, step)))
            .filter_map(|(phase, step)| match &step.spec {
                Spec::Certificate(certificate) => {
                    consumer_of(&certificate.path).map(|its| (phase, its.component, step))
                }
                _ => None,
            })
    }

    async fn is_due(&self, step: &PlannedStep) -> ResourceResult<bool> {
        let cx = self.context(step.policy.absent);
        let change = step.spec.pending(&cx).await?;
        Ok(change.is_some_and(|change| change.action == Action::Renew))
    }

    /// Renews the due certificates of a component, and waits until the component is seen to use them.
    ///
    /// # Errors
    /// As [`Runner::apply`].
    ///
    /// # Cancel safety
    /// As [`Runner::apply`].
    pub async fn renew(mut self, component: &str) -> ResourceResult<Outcome> {
        let mut steps = BTreeSet::new();
        let mut impatient = BTreeMap::new();
        let mut phases: BTreeSet<String> = phases_renewed_with(component)
            .iter()
            .map(ToString::to_string)
            .collect();
        for (phase, its, step) in self.certificates() {
            if its != component || !self.is_due(step).await? {
                continue;
            }
            steps.insert(step.id.clone());
            phases.insert(phase.to_string());
            if let Spec::Certificate(certificate) = &step.spec
                && let Some((container, reason)) = self.impatient(&certificate.path).await?
            {
                impatient.insert(container, reason);
            }
        }
        self.selection = Selection {
            only: phases.into_iter().collect(),
            ..Selection::default()
        };
        self.renewals = Renewals::Only(steps);
        let outcome = self.run(Verb::Renew, Mode::Apply).await?;
        if outcome != Outcome::Converged {
            return Ok(outcome);
        }
        for (container, reason) in impatient {
            self.restart_container(container, &reason).await?;
        }
        Ok(outcome)
    }

    /// The container that would read a new certificate only after its present one has ended, and a text that says so.
    async fn impatient(&self, certificate: &str) -> ResourceResult<Option<(&'static str, String)>> {
        let Some(ReloadMode::Reconnect { within, container }) =
            consumer_of(certificate).map(|its| its.reload)
        else {
            return Ok(None);
        };
        let path = pki::certificate_paths(certificate).certificate;
        let Some(present) = pki::certificate_in(self.host, &path).await? else {
            return Ok(None);
        };
        let left = present
            .not_after
            .duration_since(self.host.now())
            .unwrap_or_default();
        Ok((left < within + MARGIN).then(|| {
            let reason = format!(
                "its old certificate {certificate} ends in {}, and the component reads the file only every {}",
                humantime::format_duration(Duration::from_secs(left.as_secs())),
                humantime::format_duration(within)
            );
            (container, reason)
        }))
    }

    /// Ends a container of the control plane, which kubelet starts again, and waits until the control plane passes its
    /// checks.
    async fn restart_container(&self, name: &str, reason: &str) -> ResourceResult<()> {
        let Some(phase) = self
            .plan
            .phases
            .iter()
            .find(|p| p.name.as_str() == API_READY)
        else {
            return Ok(());
        };
        let containers = self.host.containers(&of_pods()).await?;
        let pods = StaticPods::among(&containers);
        for container in containers
            .iter()
            .filter(|container| container.running && pods.has(container, CONTROL_PLANE, name))
        {
            self.events.emit(Event::ResourceRestarted {
                phase: phase.name.clone(),
                resource: format!("container {name}"),
                reason: reason.to_owned(),
            });
            self.host.stop_container(&container.name, GRACE).await?;
        }
        for check in phase.checks.iter().filter(|check| !check.advisory) {
            self.wait_for(phase, check, &Progress::default()).await?;
        }
        Ok(())
    }
}

/// The phases that a component's certificates concern.
#[must_use]
pub fn phases_renewed_with(component: &str) -> &'static [&'static str] {
    match component {
        "etcd" => &["certs", "etcd"],
        "kubelet" => &["certs", "kubeconfigs", "kubelet", API_READY],
        "kube-proxy" => &["certs", "kubeconfigs", "kube-proxy"],
        _ => &["certs", "kubeconfigs", API_READY],
    }
}
