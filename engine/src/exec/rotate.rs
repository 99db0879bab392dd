//! Replacing an authority, step by step ([`Rotation`]).
//!
//! A step is an apply of a plan in which the authority's own step says so; the rest follows by itself. What trusts the
//! authority differs from what is planned then, and whoever reads that at its start is restarted. What its predecessor
//! signed is due for renewal, which goes on one component at a time as ever.

use super::check::Status;
use super::event::{Outcome, Verb};
use super::{Mode, Renewals, Runner};
use crate::host::ClusterAccess;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::resource::pki::{Authority, ENCRYPTION, Rotation, Stage, encryption_stage};
use crate::resource::{ResourceError, ResourceResult, Spec};

/// The same plan with this step of replacing an authority; `None` if no phase that does something here makes it.
#[must_use]
pub fn rotating(plan: &Plan, authority: &str, step: Rotation) -> Option<Plan> {
    let mut plan = plan.clone();
    let phases = plan.phases.iter_mut().filter(|p| p.skipped.is_none());
    let found = phases
        .flat_map(|phase| &mut phase.steps)
        .find_map(|its| match &mut its.spec {
            Spec::Authority(spec) if spec.name == authority => Some(&mut spec.rotation),
            Spec::EncryptionKeys(spec) if authority == ENCRYPTION => Some(&mut spec.rotation),
            _ => None,
        });
    *found? = Some(step);
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
    /// Whether it is this step's turn, by how far the authority is.
    ///
    /// # Errors
    /// It is not, with what to do instead; or the authority cannot be read.
    pub async fn its_turn(&self, authority: &str, step: Rotation) -> ResourceResult<()> {
        if authority == ENCRYPTION {
            return encryption_turn(step, encryption_stage(self.host).await?);
        }
        let stands = Authority::read(self.host, authority).await?;
        let stands = stands.ok_or_else(|| ResourceError::Unmet {
            what: format!("replace authority `{authority}`: it has not been made yet"),
            next: "run `nodelet apply` first".to_owned(),
        })?;
        let next = match (step, stands.stage()) {
            (Rotation::Begin, Stage::Settled) if !stands.can_sign() => {
                "do it on the master that holds its key".to_owned()
            }
            (Rotation::Begin, Stage::Switched) => {
                format!("end the last one first: `nodelet certs rotate {authority} finish`")
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
            // A step that was taken may be taken again: it brings about what a failure left undone.
            (Rotation::Begin, _) | (Rotation::Switch, _) | (Rotation::Finish, Stage::Switched) => {
                return Ok(());
            }
        };
        Err(ResourceError::Unmet {
            what: format!(
                "replace authority `{authority}`: {} at present",
                stands.stage()
            ),
            next,
        })
    }

    /// Whether everybody has taken in what the step before has made: whoever has not would be shut out.
    ///
    /// # Errors
    /// Somebody has not, or a phase does not do its work and cannot tell.
    pub async fn has_settled(&self, authority: &str, step: Rotation) -> ResourceResult<()> {
        let before = match step {
            Rotation::Begin => return Ok(()),
            Rotation::Switch => "begin",
            Rotation::Finish => "switch",
        };
        let unmet = |problem: String| ResourceError::Unmet {
            what: format!(
                "replace authority `{authority}`: not everybody has taken in the step before: {problem}"
            ),
            next: format!(
                "mend that, or take it again: `nodelet certs rotate {authority} {before}`"
            ),
        };
        for phase in self.check().await {
            let mut its = phase.conditions.iter().filter(|its| !its.warns);
            if let Some(bad) = its.find(|its| its.status != Status::True) {
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

    /// Has the API server store every Secret anew, with the key that encrypts now; gives their number.
    ///
    /// # Errors
    /// The API server cannot be asked, or refuses. What has been stored anew stays so.
    pub async fn rewrite_secrets(&self, access: &ClusterAccess) -> ResourceResult<u64> {
        Ok(self.host.rewrite_secrets(access).await?)
    }

    /// Takes the step that this runner's plan has ([`rotating`]). What is merely due is left to [`Runner::renew`].
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
            // What is kept of the predecessor's key would be worth as much as the key.
            Ledger::open(self.host).await?.compact().await?;
        }
        Ok(outcome)
    }
}

/// Whether it is this step's turn for the encryption keys.
fn encryption_turn(step: Rotation, stage: Stage) -> ResourceResult<()> {
    let next = match (step, stage) {
        (Rotation::Begin, Stage::Switched) => {
            "end the last one first: `nodelet certs rotate encryption finish`"
        }
        (Rotation::Switch, Stage::Settled) => "begin with `nodelet certs rotate encryption begin`",
        (Rotation::Finish, Stage::Settled) => "there is nothing to finish: there is one key",
        (Rotation::Finish, Stage::Begun) => {
            "switch first: `nodelet certs rotate encryption switch`"
        }
        _ => return Ok(()),
    };
    let stands = match stage {
        Stage::Settled => "there is one key",
        Stage::Begun => "the next key is read and does not encrypt yet",
        Stage::Switched => "the next key encrypts, and the previous one is still read",
    };
    Err(ResourceError::Unmet {
        what: format!("replace the encryption key: {stands} at present"),
        next: next.to_owned(),
    })
}
