//! One step: observe, diff, converge, and observe again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::exec::apply::permanent::PermanentErrors;
use crate::exec::apply::phase::Progress;
use crate::exec::check::missing_node::MissingNode;
use crate::exec::event::{Event, EventSink, millis};
use crate::exec::session::Session;
use crate::exec::{Mode, Runner};
use crate::host::HostError;
use crate::model::PhaseName;
use crate::plan::PlannedStep;
use crate::resource::{
    Action, Change, Context, Receipt, Resource, ResourceError, ResourceResult, Spec, with_resource,
    within,
};

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) enum Done {
    Unchanged,
    Changed,
}

/// One try of a step.
enum StepAttempt {
    Unchanged(BTreeMap<String, serde_json::Value>),
    Changed(BTreeMap<String, serde_json::Value>),
}

impl Runner<'_> {
    pub(in crate::exec) fn context(&self, absent: bool) -> Context<'_> {
        Context {
            host: self.host,
            outputs: &self.outputs,
            secrets: self.secrets,
            absent,
            cancel: Some(&self.cancel),
        }
    }

    /// Converges a step of a phase, and tries again as its policy says. The receipt holds what was done, also on failure. The progress gets
    /// the error of each try that is followed by another one.
    pub(in crate::exec) async fn step(
        &self,
        (phase, step): (&PhaseName, &PlannedStep),
        session: &Session<'_>,
        receipt: &mut Receipt<'_>,
        progress: &Progress,
    ) -> ResourceResult<Done> {
        let started = self.host.elapsed();
        let mut reported = None;
        let mut attempt = 1;
        let mut last = String::new();
        let mut permanent_errors = PermanentErrors::default();
        let mut missing = MissingNode::default();
        loop {
            let one = self
                .bounded(phase, step, session, receipt, &mut reported)
                .await;
            let error = match one {
                Ok(StepAttempt::Unchanged(outputs)) => {
                    self.outputs.set(&step.id, outputs);
                    if reported.is_none() {
                        self.events.emit(Event::StepUnchanged {
                            phase: phase.clone(),
                            step: step.id.clone(),
                        });
                        return Ok(Done::Unchanged);
                    }
                    // A retry found it converged after all.
                    break;
                }
                Ok(StepAttempt::Changed(outputs)) => {
                    self.outputs.set(&step.id, outputs);
                    break;
                }
                // A dry run tries once.
                Err(error) if session.mode == Mode::DryRun => error,
                Err(error) => self.error_of_step(&step.spec, &mut missing, error).await,
            };
            let reason = crate::model::chain(&error).join(": ");
            if session.mode == Mode::DryRun {
                if error.is_permanent() || is_refused_write(&error) {
                    // An apply would fail in the same way on each try.
                    return Err(error);
                }
                self.mark_paths_unknown(step, &reason).await;
                // If the change has been reported, how it ends cannot be simulated here. Otherwise the present state cannot be simulated
                // either: the server that would know it is missing.
                if reported.is_none() {
                    self.events.emit(Event::StepChanging {
                        phase: phase.clone(),
                        step: step.id.clone(),
                        span: step.span.clone(),
                        change: Change::unknown(&reason),
                    });
                }
                break;
            }
            let given_up = permanent_errors.give_up(error.is_permanent(), self.host.elapsed());
            if attempt >= step.policy.tries || given_up || self.cancel.is_cancelled() {
                return Err(error);
            }
            if reason != last {
                // The same reason is not reported again.
                self.events.emit(Event::StepRetried {
                    phase: phase.clone(),
                    step: step.id.clone(),
                    attempt,
                    tries: step.policy.tries,
                    error: reason.clone(),
                });
                last = reason;
            }
            progress.failed(error);
            self.pause(backoff(step.policy.backoff, attempt)).await;
            attempt += 1;
        }
        self.events.emit(Event::StepChanged {
            phase: phase.clone(),
            step: step.id.clone(),
            milliseconds: millis(self.host.elapsed().saturating_sub(started)),
        });
        Ok(Done::Changed)
    }

    /// Marks what a step would write as not known, if the step cannot be simulated: a step that reads it is then known
    /// after apply, too.
    async fn mark_paths_unknown(&self, step: &PlannedStep, why: &str) {
        for path in step.spec.paths() {
            // If the path may not be read, the steps that need it cannot read it either.
            let _ = self.host.mark_unknown(&path, why).await;
        }
    }

    async fn bounded(
        &self,
        phase: &PhaseName,
        step: &PlannedStep,
        session: &Session<'_>,
        receipt: &mut Receipt<'_>,
        reported: &mut Option<Change>,
    ) -> ResourceResult<StepAttempt> {
        let cx = self.context(step.policy.absent);
        let about = About {
            events: self.events,
            session,
            phase,
            step,
            renews: self.renewals.include(step),
        };
        let tried = async {
            with_resource!(&step.spec, resource => drive(resource, &cx, receipt, &about, reported).await)
        };
        let action = format!("{} {}", step.spec.kind(), step.spec.label());
        within(step.policy.timeout, action, tried).await
    }

    /// Waits, unless the run is asked to end.
    pub(in crate::exec) async fn pause(&self, duration: Duration) {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => {}
            () = self.host.pause(duration) => {}
        }
    }
}

/// What the verbs of a step need for their reports.
struct About<'a, 's> {
    events: &'a dyn EventSink,
    session: &'a Session<'s>,
    phase: &'a PhaseName,
    step: &'a PlannedStep,
    /// Whether a certificate is renewed that is only due.
    renews: bool,
}

impl About<'_, '_> {
    /// Reports a change that is about to happen, once per step, and records the intent.
    async fn intend(&self, change: &Change, reported: &mut Option<Change>) -> ResourceResult<()> {
        if reported.as_ref() == Some(change) {
            // The same intent is not recorded again.
            return Ok(());
        }
        if reported.is_none() {
            self.events.emit(Event::StepChanging {
                phase: self.phase.clone(),
                step: self.step.id.clone(),
                span: self.step.span.clone(),
                change: change.clone(),
            });
        }
        *reported = Some(change.clone());
        let place = (&self.step.id, &self.step.span);
        Ok(self.session.intent(self.phase, place, change).await?)
    }
}

/// The verbs of a resource in their order.
async fn drive<R: Resource>(
    resource: &R,
    cx: &Context<'_>,
    receipt: &mut Receipt<'_>,
    about: &About<'_, '_>,
    reported: &mut Option<Change>,
) -> ResourceResult<StepAttempt> {
    let observed = resource.observe(cx).await?;
    let Some(change) = resource.diff(&observed, cx.absent) else {
        return Ok(StepAttempt::Unchanged(resource.outputs(&observed)));
    };
    if change.action == Action::Renew && !about.renews {
        return Ok(StepAttempt::Unchanged(resource.outputs(&observed)));
    }
    about.intend(&change, reported).await?;
    resource.converge(&observed, cx, receipt).await?;
    // Observe again: a step is done when its result is seen, not when there was no error.
    let observed = resource.observe(cx).await?;
    if about.session.mode == Mode::Apply
        && let Some(left) = resource.diff(&observed, cx.absent)
        && left.action != Action::Run
    {
        let fields: Vec<String> = left
            .differences
            .iter()
            .map(|d| {
                format!(
                    "{} is {}, not {}",
                    d.field,
                    or_placeholder(&d.before),
                    or_placeholder(&d.after)
                )
            })
            .collect();
        return Err(ResourceError::NotConverged {
            what: format!(
                "keep {} as it was made: {}",
                resource.label(),
                fields.join("; ")
            ),
        });
    }
    about.session.converged(about.phase, about.step).await?;
    Ok(StepAttempt::Changed(resource.outputs(&observed)))
}

fn or_placeholder(text: &str) -> &str {
    if text.is_empty() { "nothing" } else { text }
}

/// Whether the host below would refuse a file that a step writes. Other failed writes are those of the simulated host, and say nothing
/// about the host below.
fn is_refused_write(error: &ResourceError) -> bool {
    matches!(error, ResourceError::Host(HostError::WriteRefused { .. }))
}

/// The pause after a failed try: it grows to four times `base`, and varies by up to 10 % either way. It grows by equal amounts and is
/// not [`doubled`](crate::model::doubled), because a script gives a number of tries: their last ones would be minutes apart.
pub(in crate::exec) fn backoff(base: Duration, attempt: u32) -> Duration {
    let grown = base.mul_f64(f64::from(attempt.min(7) + 1) / 2.0);
    grown.mul_f64(rand::random_range(0.9..1.1))
}

impl Spec {
    /// Whether the resource is as it should be, without changing anything.
    ///
    /// # Errors
    /// It cannot be observed.
    pub async fn pending(&self, cx: &Context<'_>) -> ResourceResult<Option<Change>> {
        Ok(self.inspect(cx).await?.change)
    }

    /// The same, with what else is known of the resource.
    pub(in crate::exec) async fn inspect(&self, cx: &Context<'_>) -> ResourceResult<Inspection> {
        with_resource!(self, resource => {
            let observed = resource.observe(cx).await?;
            let change = resource.diff(&observed, cx.absent);
            Ok(Inspection {
                change,
                note: resource.note(&observed),
                is_unknown: resource.is_unknown(&observed),
                has_problem: resource.has_problem(&observed),
            })
        })
    }
}

/// What an observation of a resource tells.
#[derive(Debug)]
pub(in crate::exec) struct Inspection {
    /// What a step would change.
    pub(in crate::exec) change: Option<Change>,
    /// A note for operators.
    pub(in crate::exec) note: Option<String>,
    /// Whether it is not known if the resource is as it should be; the note says why.
    pub(in crate::exec) is_unknown: bool,
    /// Whether the note tells of a problem that only an operator can end.
    pub(in crate::exec) has_problem: bool,
}
