//! `nodelet apply` and `nodelet stop`: the commands that change the host.

use anyhow::{Context as _, Result, bail};
use engine::exec::{AnotherRole, Recording, Selection};
use engine::host::live::LiveHost;
use engine::ledger::{Ledger, LedgerError};
use engine::model::Outcome;
use engine::resource::ResourceResult;

use super::cluster::{
    apply_with_list, joining_address, phases_without_list, warn_of_other_settings,
};
use crate::cli::{ApplyArgs, RoleArgs, RunArgs, StopArgs};
use crate::inputs::identity::Identity;
use crate::inputs::installed_identity::installed_identity;
use crate::inputs::last_good_settings::last_good;
use crate::inputs::{self, Inputs, NO_ROLE};
use crate::nodeletd::View;
use crate::nodeletd::api::client;
use crate::output;
use crate::output::exit::Exit;
use crate::output::problem::{Problem, Refused};
use crate::process::lock::Lock;
use crate::process::signals;

pub(crate) async fn apply(args: &ApplyArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let RunArgs { role, phases } = &args.run;
    let mut selection = phases.selection();
    let (inputs, lock) = prepare_for_any_role("apply", role, &selection, &host).await?;
    refuse_before_apply(&inputs, args.replace_role, &host).await?;
    warn_of_other_settings(&inputs.plan, &host).await;
    // A join file names the masters of its time. keepalived must not begin with those.
    let joins = match selection == Selection::default() {
        true => joining_address(&inputs, &host).await?,
        false => None,
    };
    if joins.is_some() {
        selection.only = phases_without_list(&inputs.plan);
    }
    let sink = output::sink(role.json);
    let mut runner = inputs.runner(&host, sink.as_ref());
    runner.selection = selection;
    runner.accepts_quorum_loss = args.accept_quorum_loss;
    if let Some(missing) = runner.unmet_requires().await? {
        return Err(missing.into());
    }
    runner.cancel = signals::cancel_on_signal()?;
    let outcome = runner.apply().await?;
    note_identity(outcome, &inputs);
    match joins {
        Some(address) if outcome == Outcome::Converged => {
            apply_with_list(role, address, &host, &lock, &runner.cancel).await
        }
        Some(_) | None => Ok(exit(outcome)),
    }
}

/// Records the identity that the host is bound to from now on. Called after the run, because a refused run writes nothing, not even this
/// record. Values that a clean released are recorded again. If the record cannot be written, the run has still succeeded: a warning says
/// so.
pub(super) fn note_identity(outcome: Outcome, inputs: &Inputs) {
    if outcome != Outcome::Refused
        && Identity::recorded().as_ref() != Some(&inputs.identity)
        && let Err(error) = inputs.identity.write()
    {
        tracing::warn!("{}: {error:#}", Identity::NOT_NOTED);
    }
}

/// There is no role to apply.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum NoRole {
    #[error("{verb} a role: {}", NO_ROLE)]
    Waits { verb: String },
    /// With ROLE none, an apply would take back the whole role, which the operator has not asked for.
    #[error(
        "{verb} a role: ROLE is none, and {role} is on this host; set it back, or remove the role with `nodelet clean`"
    )]
    Installed { verb: String, role: String },
}

impl NoRole {
    /// `installed_role` is the role that the ledger says is on this host.
    fn of(verb: &str, installed_role: Option<String>) -> Self {
        let verb = verb.to_owned();
        match installed_role {
            Some(role) => Self::Installed { verb, role },
            None => Self::Waits { verb },
        }
    }
}

pub(crate) async fn stop(args: &StopArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let RunArgs { role, phases } = &args.run;
    let selection = phases.selection();
    let (inputs, _lock) = prepare("stop", role, &selection, &host).await?;
    if !args.by_nodeletd {
        refuse_if_reapplied("stop this host", "stopped").await?;
    }
    let sink = output::sink(role.json);
    let mut runner = inputs.runner(&host, sink.as_ref());
    runner.selection = selection;
    runner.accepts_quorum_loss = args.accept_quorum_loss;
    runner.cancel = signals::cancel_on_signal()?;
    runner.wake_stopped_runtime().await?;
    Ok(exit(runner.stop().await?))
}

/// Everything that can be refused is refused here, before anything is touched.
pub(super) async fn prepare(
    verb: &str,
    args: &RoleArgs,
    selection: &Selection,
    host: &LiveHost,
) -> Result<(Inputs, Lock)> {
    let (inputs, lock) = prepare_for_any_role(verb, args, selection, host).await?;
    refuse_another_role(verb, &inputs, host).await?;
    Ok((inputs, lock))
}

/// The same, but another role may be on the host.
async fn prepare_for_any_role(
    verb: &str,
    args: &RoleArgs,
    selection: &Selection,
    host: &LiveHost,
) -> Result<(Inputs, Lock)> {
    only_root(&format!("{verb} a role"))?;
    let lock = Lock::take(verb)?;
    let inputs = inputs_for_any_role(verb, args, selection, host).await?;
    Ok((inputs, lock))
}

/// As [`prepare`], for a command that holds the lock already.
pub(super) async fn prepare_locked(
    verb: &str,
    args: &RoleArgs,
    selection: &Selection,
    host: &LiveHost,
    _held: &Lock,
) -> Result<Inputs> {
    let inputs = inputs_for_any_role(verb, args, selection, host).await?;
    refuse_another_role(verb, &inputs, host).await?;
    Ok(inputs)
}

/// The inputs, if they fit this host.
async fn inputs_for_any_role(
    verb: &str,
    args: &RoleArgs,
    selection: &Selection,
    host: &LiveHost,
) -> Result<Inputs> {
    let inputs = inputs::read(args, host).await?;
    unchanged(args, host, &inputs).await?;
    if inputs.are_of_no_role() {
        let installed_role = Ledger::installed_role_in(&Ledger::read(host).await?);
        return Err(NoRole::of(verb, installed_role).into());
    }
    selection.validate(&inputs.plan)?;
    has_ledger(&inputs, host).await?;
    Ok(inputs)
}

/// Refuses a role other than the one that is on this host. Only an apply can replace a role.
async fn refuse_another_role(verb: &str, inputs: &Inputs, host: &LiveHost) -> Result<()> {
    refuse_mismatch(verb, another_role(inputs, host).await?.as_ref())
}

/// The same for a command that changes nothing. It continues if its user may not read the ledger.
pub(super) async fn refuse_another_role_if_readable(
    verb: &str,
    inputs: &Inputs,
    host: &LiveHost,
) -> Result<()> {
    let another = another_role(inputs, host).await.ok().flatten();
    refuse_mismatch(verb, another.as_ref())
}

/// Refuses a role that differs from the one on this host.
fn refuse_mismatch(verb: &str, another: Option<&AnotherRole>) -> Result<()> {
    match another {
        Some(another) => bail!("{verb} a role: {}", another.mismatch_message()),
        None => Ok(()),
    }
}

/// The role on this host, if it differs from that of the plan.
pub(super) async fn another_role(
    inputs: &Inputs,
    host: &LiveHost,
) -> ResourceResult<Option<AnotherRole>> {
    let ignored_events = Recording::default();
    let runner = inputs.runner(host, &ignored_events);
    runner.another_role().await
}

/// Refuses an apply of another role, unless it is to replace the one on this host, and an apply of settings that do not fit the host.
async fn refuse_before_apply(inputs: &Inputs, replaces: bool, host: &LiveHost) -> Result<()> {
    if !replaces {
        refuse_to_replace(inputs, host).await?;
    }
    inputs.refuse_taken_directories()
}

/// Refuses an apply of a role other than the one that is on this host, and lists what it would remove.
async fn refuse_to_replace(inputs: &Inputs, host: &LiveHost) -> Result<()> {
    let Some(another) = another_role(inputs, host).await? else {
        return Ok(());
    };
    let removed = another.removed.iter();
    let problems: Vec<String> = removed
        .map(|step| format!("{step}: it would be removed\n"))
        .collect();
    bail!(Refused {
        what: format!("apply a role: {another}"),
        items: problems.iter().map(|p| Problem::of_text(p)).collect(),
        problems,
    })
}

/// The next step if nodeletd holds the host at its role.
const NEXT: &str = "`systemctl stop pf9-nodeletd` first, or set KUBE_SERVICE_STATE to false";

/// Refuses to take the role down if nodeletd may bring it up again, perhaps before an operator has worked on the host. `what` completes
/// "could not …", and `state` is the state of the host afterwards.
pub(super) async fn refuse_if_reapplied(what: &str, state: &str) -> Result<()> {
    let view = match client::status().await {
        Err(error) if error.is::<client::NotThere>() => return Ok(()),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("see whether nodeletd holds this host; {NEXT}"));
        }
        Ok(view) => view,
    };
    match reapplied(&view) {
        None => Ok(()),
        Some(reapplied) => bail!("{what}: {}", reapplied.as_reason(state)),
    }
}

/// Why a role that is taken down may not stay down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reapplied {
    /// It is not known yet what nodeletd will do.
    NoPass,
    /// nodeletd brings it up again.
    WhenItFails,
    /// nodeletd changes nothing now, for a reason that may end with what is done to the host.
    Later,
}

impl Reapplied {
    /// The reason and the next step of an operator who wants the host to stay in this state. nodeletd may wait before an attempt, and an
    /// attempt may be refused, so the text says neither that it succeeds nor when it comes.
    fn as_reason(self, state: &str) -> String {
        let why = match self {
            Self::NoPass => {
                return format!(
                    "nodeletd runs, and no status pass of it has succeeded yet; {NEXT}"
                );
            }
            Self::WhenItFails => "nodeletd holds it at its role and may bring it up again",
            Self::Later => {
                "nodeletd changes nothing now (`nodelet status` says why), but may bring it up again once that is over"
            }
        };
        format!("{why}; {NEXT}, or `nodelet pause` for as long as it is to stay {state}")
    }
}

/// Whether nodeletd may bring the role up again.
fn reapplied(view: &View) -> Option<Reapplied> {
    if view.last_pass.is_none() {
        Some(Reapplied::NoPass)
    } else if view.desired != "true" || view.paused_until.is_some() || view.is_unassigned {
        None
    } else if view.prevents_changes.is_some() {
        Some(Reapplied::Later)
    } else {
        Some(Reapplied::WhenItFails)
    }
}

/// Whether nodeletd would change this host now: it is not paused, and the role is to be up. Also without nodeletd, because an operator has
/// called the command then.
pub(super) async fn may_change_by_itself() -> Result<bool> {
    match client::status().await {
        Err(error) if error.is::<client::NotThere>() => Ok(true),
        Err(error) => Err(error).context("see whether nodeletd may change this host"),
        Ok(view) => Ok(reapplied(&view) == Some(Reapplied::WhenItFails)),
    }
}

/// Refuses users other than root: a command that changes this host, or reads what only root may read, needs root.
pub(super) fn only_root(what: &str) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("{what}: only root can; try again with sudo");
    }
    Ok(())
}

/// Refuses a host where the role is installed and the ledger does not know it: nothing that is done there could be taken back.
pub(super) async fn has_ledger(inputs: &Inputs, host: &LiveHost) -> Result<()> {
    let ignored_events = Recording::default();
    let runner = inputs.runner(host, &ignored_events);
    match runner.lost_ledger().await {
        Some(lost) => Err(lost.into()),
        None => Ok(()),
    }
}

/// The same for commands that change nothing: they go on if they may not read the ledger.
pub(super) async fn lost_ledger(inputs: &Inputs, host: &LiveHost) -> Result<()> {
    match has_ledger(inputs, host).await {
        Err(error) if matches!(error.downcast_ref(), Some(LedgerError::Host { .. })) => Ok(()),
        looked => looked,
    }
}

/// The inputs of the role that is on this host. If the settings already have ROLE none, or cannot be used, these are the last good
/// settings.
pub(super) async fn installed_inputs(args: &RoleArgs, host: &LiveHost) -> Result<Inputs> {
    or_last_good(inputs::read(args, host).await, args, host).await
}

/// The same with the name that the host had at its set-up.
pub(super) async fn installed_inputs_as_set_up(args: &RoleArgs, host: &LiveHost) -> Result<Inputs> {
    or_last_good(inputs::read_as_set_up(args, host).await, args, host).await
}

/// These inputs, or those of the last good settings if these have no role.
async fn or_last_good(inputs: Result<Inputs>, args: &RoleArgs, host: &LiveHost) -> Result<Inputs> {
    let inputs = match inputs {
        Ok(inputs) if !inputs.are_of_no_role() => return Ok(inputs),
        inputs => inputs,
    };
    match last_good(args, host).await {
        Ok((_, last)) if !last.are_of_no_role() => Ok(last),
        _ => inputs,
    }
}

/// Refuses changes of settings that cannot change while the role is on the host.
pub(super) async fn unchanged(args: &RoleArgs, host: &LiveHost, inputs: &Inputs) -> Result<()> {
    if let Some(installed) = installed_identity(args, host).await?
        && let Some(changed) = installed.changed_by(&inputs.identity)
    {
        return Err(changed.into());
    }
    Ok(())
}

pub(super) fn exit(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Converged | Outcome::Stopped | Outcome::Predicted | Outcome::Cleaned => Exit::Ok,
        Outcome::Interrupted => Exit::Pending,
        Outcome::Failed | Outcome::Refused => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use engine::env::KubeEnv;
    use engine::facts::{Disk, Facts, ObstacleKind};
    use engine::plan::Plan;

    use super::*;

    /// A stop or a clean would not last.
    #[test]
    fn a_host_that_nodeletd_holds_is_not_taken_down() {
        let mut view = View::at_rest();
        assert_eq!(reapplied(&view), Some(Reapplied::WhenItFails));
        view.prevents_changes = Some("could not read the ledger".to_owned());
        assert_eq!(reapplied(&view), Some(Reapplied::Later));
        view.is_unassigned = true;
        assert_eq!(reapplied(&view), None, "no role is to be there");
        view.is_unassigned = false;
        view.paused_until = Some(9);
        assert_eq!(reapplied(&view), None);
        view.paused_until = None;
        for desired in ["false", "ignore"] {
            desired.clone_into(&mut view.desired);
            assert_eq!(reapplied(&view), None, "{desired}");
        }
        view.last_pass = None;
        assert_eq!(reapplied(&view), Some(Reapplied::NoPass));
    }

    #[test]
    fn a_refused_stop_says_what_nodeletd_does_now() {
        let holds = Reapplied::WhenItFails.as_reason("stopped");
        let held = Reapplied::Later.as_reason("stopped");
        let unknown = Reapplied::NoPass.as_reason("stopped");
        assert!(holds.contains("holds it at its role"), "{holds}");
        for other in [&held, &unknown] {
            assert!(!other.contains("holds it at its role"), "{other}");
        }
        assert!(held.starts_with("nodeletd changes nothing now"), "{held}");
        for text in [holds, held, unknown] {
            // It may wait for its next attempt.
            assert!(!text.contains("at once"), "{text}");
            assert!(text.contains("`systemctl stop pf9-nodeletd`"), "{text}");
        }
    }

    /// As a plan does: the phase that uses the directory would find it only after others have changed the host.
    #[tokio::test]
    async fn an_apply_refuses_a_setting_that_names_a_file_as_a_directory() {
        let pairs = [
            ("ROLE", "master"),
            ("MASTER_IP", "10.0.0.1"),
            ("USER_IMAGES_DIR", "/etc/shadow"),
        ];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = KubeEnv::from_pairs(pairs).expect("good settings");
        let mut facts = Facts::nothing_about("m");
        facts.disks.push(Disk {
            path: "/etc/shadow".to_owned(),
            free: 1,
            total: 1,
            filesystem: None,
            read_only: false,
            mode: None,
            taken_by: None,
        });
        let mut inputs = Inputs::of(Plan::bare(Vec::new()), settings, facts);
        // An apply that replaces a role does not look for the role on this host.
        let apply =
            async |inputs: &Inputs| refuse_before_apply(inputs, true, &LiveHost::new()).await;
        apply(&inputs).await.expect("nothing is in the way");
        inputs.facts.disks[0].taken_by = Some(ObstacleKind::File.into());
        let refused = apply(&inputs).await.expect_err("a file is in the way");
        let refused = inputs::problems_of(&refused).concat();
        for part in ["USER_IMAGES_DIR", "/etc/shadow is not a directory"] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn a_host_without_a_role_gets_a_next_step() {
        let waits = NoRole::of("apply", None).to_string();
        assert!(waits.contains("apply a role: ROLE is none"), "{waits}");
        assert!(waits.contains("`ROLE: master`"), "{waits}");
        let installed = NoRole::of("repair", Some("pf9-kube 1.20.2".to_owned())).to_string();
        assert!(
            installed.contains("pf9-kube 1.20.2 is on this host"),
            "{installed}"
        );
        assert!(installed.contains("`nodelet clean`"), "{installed}");
    }
}
