//! Replacing an authority, step by step ([`Rotation`]).
//!
//! A step is an apply of a plan in which the step of the authority has this rotation set; the rest follows by itself.
//! Files with the trusted roots then differ from the plan, and a component that reads them at its start is restarted.
//! Certificates that the predecessor signed are due for renewal, which goes on one component at a time as usual.
//!
//! In a cluster of several masters, one makes the successor (`claim`) and the others take it from a file. A step begins only if every node is
//! so far (`rollout`). A step that was interrupted is completed first (`interrupted`). A single master claims and shows its steps as well, because another one may join. No keys are exported meanwhile (`export`). Workers take part in the replacement of authority `cluster` by themselves (`workers`), also with a single master.

mod claim;
mod export;
mod interrupted;
mod rollout;
mod workers;

pub use self::export::check_export;
pub use self::interrupted::InterruptedStep;
pub use self::rollout::{Missing, Rollout, said};
pub use self::workers::{is_worker_behind, published, show_worker};

use crate::exec::{Mode, Renewals, Runner};
use crate::host::ClusterAccess;
use crate::ledger::Ledger;
use crate::model::{Outcome, Verb};
use crate::plan::Plan;
use crate::resource::pki::{
    Authority, ENCRYPTION, Replacement, Rotation, SentSuccessor, Stage, encryption_stage,
};
use crate::resource::{ResourceError, ResourceResult, Spec};

/// The same plan with this step of replacing an authority; `None` if no phase that is active on this host makes the
/// authority.
#[must_use]
pub fn rotating(plan: &Plan, authority: &str, step: Rotation) -> Option<Plan> {
    with_step(plan, authority, step, None)
}

/// The same plan with the step `begin`, which takes the successor that another master has made from this file; `None` as for [`rotating`].
#[must_use]
pub fn receiving(plan: &Plan, authority: &str, from: SentSuccessor) -> Option<Plan> {
    with_step(plan, authority, Rotation::Begin, Some(from))
}

fn with_step(
    plan: &Plan,
    authority: &str,
    step: Rotation,
    from: Option<SentSuccessor>,
) -> Option<Plan> {
    let mut plan = plan.clone();
    let phases = plan.phases.iter_mut().filter(|p| p.skipped.is_none());
    let found = phases
        .flat_map(|phase| &mut phase.steps)
        .find_map(|its| match &mut its.spec {
            Spec::Authority(spec) if spec.name == authority => {
                Some((&mut spec.rotation, &mut spec.successor))
            }
            Spec::EncryptionKeys(spec) if authority == ENCRYPTION => {
                Some((&mut spec.rotation, &mut spec.successor))
            }
            _ => None,
        });
    let (rotation, successor) = found?;
    *rotation = Some(step);
    *successor = from;
    Some(plan)
}

/// The authorities that a plan makes, and its encryption keys.
#[must_use]
pub fn authorities(plan: &Plan) -> Vec<&str> {
    let phases = plan.phases.iter().filter(|p| p.skipped.is_none());
    phases
        .flat_map(|phase| &phase.steps)
        .filter_map(|step| match &step.spec {
            Spec::Authority(spec) => Some(spec.name.as_str()),
            Spec::EncryptionKeys(_) => Some(ENCRYPTION),
            _ => None,
        })
        .collect()
}

impl Runner<'_> {
    /// Whether this step comes next, given the stage of the authority.
    ///
    /// # Errors
    /// It does not, with what to do instead; or the authority cannot be read.
    pub async fn check_stage(&self, authority: &str, step: Rotation) -> ResourceResult<()> {
        if authority == ENCRYPTION {
            return encryption_turn(step, encryption_stage(self.host).await?);
        }
        let current = Authority::read(self.host, authority).await?;
        let current = current.ok_or_else(|| ResourceError::Unmet {
            what: format!("replace authority `{authority}`: it has not been made yet"),
            next: "run `nodelet apply` first".to_owned(),
        })?;
        let next = match (step, current.stage()) {
            (Rotation::Begin, Stage::Settled) if !current.can_sign() => {
                "do this on the master that holds the authority's key".to_owned()
            }
            (Rotation::Begin, Stage::Switched) => {
                format!(
                    "finish the previous rotation first: `nodelet certs rotate {authority} finish`"
                )
            }
            (Rotation::Switch, Stage::Settled) => {
                format!("begin with `nodelet certs rotate {authority} begin`")
            }
            (Rotation::Finish, Stage::Settled) => {
                "there is nothing to finish: no predecessor is trusted".to_owned()
            }
            (Rotation::Finish, Stage::Begun) => {
                format!("switch first: `nodelet certs rotate {authority} switch`")
            }
            // A step that was run may be run again: it completes what a failure left undone.
            (Rotation::Begin, _) | (Rotation::Switch, _) | (Rotation::Finish, Stage::Switched) => {
                return Ok(());
            }
        };
        Err(ResourceError::Unmet {
            what: format!(
                "replace authority `{authority}`: {} at present",
                current.stage()
            ),
            next,
        })
    }

    /// Whether every component uses what the step before has made: a component that does not would be locked out. A step that this host has
    /// begun already may be taken again.
    ///
    /// # Errors
    /// A component does not, or a check does not hold, so that this is not known.
    pub async fn check_rollout(&self, authority: &str, step: Rotation) -> ResourceResult<()> {
        let present = Replacement::read(self.host, authority).await?;
        let before = match (step, present.map(|present| present.stage)) {
            (Rotation::Begin, _) => return Ok(()),
            // The step is taken again: it was checked before it was taken first.
            (Rotation::Switch, Some(Stage::Switched))
            | (Rotation::Finish, Some(Stage::Settled)) => {
                return Ok(());
            }
            (Rotation::Switch, _) => "begin",
            (Rotation::Finish, _) => "switch",
        };
        let unmet = |problem: String| ResourceError::Unmet {
            what: format!(
                "replace authority `{authority}`: not every component uses what the step before has made: {problem}"
            ),
            next: format!(
                "run `nodelet apply` and take this step again; if that does not help, take the step before again: `nodelet certs rotate {authority} {before}`"
            ),
        };
        for phase in self.check().await {
            let mut its = phase.conditions.iter().filter(|its| !its.advisory);
            if let Some(bad) = its.find(|its| !its.holds()) {
                let (name, check) = (&phase.phase, &bad.check);
                return Err(unmet(format!("{name}: {check}: {}", bad.reason)));
            }
        }
        if step == Rotation::Finish && authority != ENCRYPTION {
            let due = self.due().await;
            if let Some(problem) = due.problems.into_iter().next() {
                return Err(problem);
            }
            if let Some(component) = due.components.first() {
                return Err(unmet(format!("certificates of {component} are due")));
            }
        }
        Ok(())
    }

    /// Makes the API server store every Secret again, with the key that encrypts now; returns their number.
    ///
    /// # Errors
    /// The API server cannot be reached, or refuses. Secrets that were stored again stay so.
    pub async fn rewrite_secrets(&self, access: &ClusterAccess) -> ResourceResult<u64> {
        Ok(self.host.rewrite_secrets(access).await?)
    }

    /// Runs the rotation step in this runner's plan ([`rotating`]). Certificates that are only due are left to
    /// [`Runner::renew`].
    ///
    /// # Errors
    /// As [`Runner::apply`].
    ///
    /// # Cancel safety
    /// As [`Runner::apply`].
    pub async fn rotate(mut self) -> ResourceResult<Outcome> {
        self.renewals = Renewals::none();
        let outcome = self.run(Verb::Rotate, Mode::Apply).await?;
        if outcome == Outcome::Converged {
            // A kept copy of the predecessor's key would be worth as much as the key.
            Ledger::open(self.host).await?.compact().await?;
        }
        Ok(outcome)
    }
}

/// Whether this step comes next for the encryption keys.
fn encryption_turn(step: Rotation, stage: Stage) -> ResourceResult<()> {
    let next = match (step, stage) {
        (Rotation::Begin, Stage::Switched) => {
            "finish the previous rotation first: `nodelet certs rotate encryption finish`"
        }
        (Rotation::Switch, Stage::Settled) => "begin with `nodelet certs rotate encryption begin`",
        (Rotation::Finish, Stage::Settled) => "there is nothing to finish: there is one key",
        (Rotation::Finish, Stage::Begun) => {
            "switch first: `nodelet certs rotate encryption switch`"
        }
        (Rotation::Begin, Stage::Settled | Stage::Begun)
        | (Rotation::Switch, Stage::Begun | Stage::Switched)
        | (Rotation::Finish, Stage::Switched) => return Ok(()),
    };
    let current = match stage {
        Stage::Settled => "there is one key",
        Stage::Begun => "the next key is read and does not encrypt yet",
        Stage::Switched => "the next key encrypts, and the previous one is still read",
    };
    Err(ResourceError::Unmet {
        what: format!("replace the encryption key: {current} at present"),
        next: next.to_owned(),
    })
}
