//! Recovers a ledger that was lost or damaged on a host where the role runs.
//!
//! The copy of the ledger comes first: if the tip says that nothing was done since, the copy is the ledger. Otherwise
//! the ledger is rebuilt: the plan is applied to a simulated host as this one was before the role, and each resource in
//! the records of that apply is compared with this host (`rebuild`). What is on this host is recorded as the role's.
//! What the host had before the role is not known from this; each such resource is named.

use super::rebuild::last_run;
use super::recovered::{Rebuilt, Recovered, RecoveredFrom};
use crate::exec::Runner;
use crate::exec::undo::another_role::name;
use crate::ledger::{Ledger, LedgerError, Record, Recoverable};
use crate::resource::{ResourceError, ResourceResult};

impl Runner<'_> {
    /// Recovers the ledger; with `dry_run` says what would be recovered and writes nothing.
    ///
    /// # Errors
    /// The ledger is not lost: it knows what the role has made here. Or something that is no ledger is in its place. Or
    /// what remains of it reaches to the last run and names another role than the plan. Or the host cannot be read.
    pub async fn recover(&self, dry_run: bool) -> ResourceResult<Recovered> {
        match self.lost_ledger().await {
            None => {
                return Err(ResourceError::Unmet {
                    what: format!(
                        "recover the ledger {}: it is not lost, and it knows all that the role made on this host",
                        Ledger::path().display()
                    ),
                    next: "nothing has to be recovered; `nodelet history` shows what it knows"
                        .to_owned(),
                });
            }
            // Also in a dry run: it must not promise what the recovery then refuses.
            Some(unusable @ LedgerError::Unusable { .. }) => return Err(unusable.into()),
            Some(_) => {}
        }
        let from = Ledger::recoverable(self.host).await?;
        let doubt = self.doubt_about_role(&from)?;
        let run = from.last_run.max(1) + 1;
        let Rebuilt {
            mut result,
            records,
        } = match &from.exact {
            Some(records) if self.unrecorded(records).await.is_empty() => {
                let mut exact = Recovered::of(RecoveredFrom::Copy { run: from.last_run });
                exact.records.clone_from(records);
                exact.records.push(self.begins(run));
                exact
            }
            _ => self.rebuild(&from, run).await?,
        };
        if let Some(doubt) = doubt {
            result.note(doubt);
        }
        let changed = result.recorded.len();
        // A complete copy names all that a clean needs.
        if !matches!(result.source, RecoveredFrom::Copy { .. }) {
            result.unused_contents = Ledger::unused_contents(self.host, &records).await?;
        }
        for resource in self.unrecorded(&records).await {
            result.note(format!(
                "{resource}: it is on the host, but could not be recorded, so it stays"
            ));
        }
        if !dry_run {
            Ledger::recover(self.host, records, from.damaged, (run, changed)).await?;
        }
        Ok(result)
    }

    /// Refuses a plan of another role than the one that the remains of the ledger name. Its ledger would call this host
    /// its own: the next apply would remove what only the other role has, without `--replace-role`.
    ///
    /// If later runs are lost, one of them may have replaced the role. Then returns a sentence about this.
    fn doubt_about_role(&self, from: &Recoverable) -> ResourceResult<Option<String>> {
        let Some((_, records)) = &from.part else {
            return Ok(None);
        };
        let Some(recorded) = role_of(records) else {
            return Ok(None);
        };
        let planned = &self.plan.role;
        if name(&recorded) == name(planned) {
            return Ok(None);
        }
        let (end, last) = (last_run(records), from.last_run);
        if end < last {
            return Ok(Some(format!(
                "role {planned}: the last run (run {last}) is missing from the ledger, which ends with run {end} and names the role {recorded}. \
                 The next `nodelet apply` removes what only {recorded} has: see `nodelet plan`"
            )));
        }
        Err(ResourceError::Unmet {
            what: format!(
                "recover the ledger {}: it is the ledger of the role {recorded}, and {planned} is another role",
                Ledger::path().display()
            ),
            next: format!(
                "recover it with the role of this host: `nodelet recover --role {}`; then replace that role with \
                 `nodelet apply --replace-role`, if you want to",
                name(&recorded)
            ),
        })
    }
}

/// The role that these records say is on the host. What a clean keeps belongs to no role.
fn role_of(records: &[Record]) -> Option<String> {
    let is_clean = |record: &Record| matches!(record, Record::Cleaned { .. });
    let since = records.iter().rposition(is_clean).map_or(0, |at| at + 1);
    Ledger::role_in(&records[since..])
}
