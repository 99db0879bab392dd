//! A status pass: what is wanted, how the host is, and which phases fail. What a repair restarts is computed by the repair.
//!
//! `nodelet pass` makes one, as a process with limited CPU time and memory, and prints it as JSON for nodeletd. A pass changes nothing on
//! the host, except that it renews copies of what it has read (last good settings, identity).
//!
//! What follows from a pass is decided in `nodeletd::supervisor`. Start with [`Pass::make`].

mod allocation;
mod damage;
mod desired;
mod progress;
mod result;
mod signing;
mod state;
mod timeouts;
mod verdict;
mod watch_list;

use std::collections::BTreeSet;

use anyhow::Result;
use engine::exec::{FailureCounts, Recording, failed_phases};
use engine::host::live::LiveHost;
use tokio::time::error::Elapsed;

use crate::cli::RoleArgs;
use crate::inputs::identity::Changed;
use crate::inputs::installed_identity::{installed_identity, is_installed};
use crate::inputs::last_good_settings::{last_good, last_good_if_any};
use crate::inputs::{Role, current, problems_of, settings};
pub(crate) use allocation::WithoutSubnet;
use allocation::nodes_without_subnet;
use damage::damaged;
pub(crate) use desired::{Desired, ServiceState};
use progress::tell_progress;
pub(crate) use progress::{Progress, follow_checks};
pub(crate) use result::Pass;
use state::{has_no_other_role, keep, lacks_backup, ledger, protect_state, remember};
use timeouts::{SETTLE, TIMEOUT};
use verdict::{
    SettingsVerdict, at_their_places, blockers, changed_settings, problems_beside_name,
    with_failures_unknown,
};
pub(crate) use watch_list::WatchList;

impl Pass {
    /// Reads the settings, or takes the last good ones; plans; makes every check once. `before` has the failures in a row before this
    /// pass.
    ///
    /// # Errors
    /// There are no good settings at all, the role cannot be planned with them, or gathering the facts of the host timed out.
    pub(crate) async fn make(
        args: &RoleArgs,
        before: &FailureCounts,
        host: &LiveHost,
    ) -> Result<Self> {
        let mut now = current(args, host).await;
        // A timeout on a busy host, after a boot for example, says nothing about its settings: try once more.
        if now.as_ref().is_err_and(anyhow::Error::is::<Elapsed>) {
            now = current(args, host).await;
        }
        let bound = installed_identity(args, host).await?;
        let bound = bound.as_ref();
        let mut service_state = None;
        let (settings, inputs, settings_problems) = match now {
            Ok((settings, inputs)) => {
                let now = blockers(bound, &inputs, host).await?;
                let last = match now.as_slice() {
                    [] => None,
                    _ => last_good_if_any(args, host).await?,
                };
                let before = match &last {
                    Some((_, last)) => Some(blockers(bound, last, host).await?),
                    None => None,
                };
                let another = bound.is_some_and(|b| b.changed_by(&inputs.identity).is_some());
                match (SettingsVerdict::of(now, before.as_deref(), another), last) {
                    // The settings are not to blame for the host's other name. KUBE_SERVICE_STATE still counts.
                    (SettingsVerdict::Refused(_), Some((good, last))) if last.renamed.is_some() => {
                        service_state = Some(Desired::of(&settings).service_state);
                        let problems = problems_beside_name(args, &settings, &good, bound, host);
                        let problems = problems.await?;
                        (good, last, problems)
                    }
                    (SettingsVerdict::Refused(worse), Some((good, last))) => {
                        let problems = at_their_places(&worse, &settings);
                        (good, last, problems)
                    }
                    (verdict, _) => {
                        // The last good settings and the last good role are those of the role that is on this host.
                        if verdict == SettingsVerdict::Good
                            && has_no_other_role(&inputs, host).await
                        {
                            keep(args, &settings, &inputs);
                        }
                        (settings, inputs, Vec::new())
                    }
                }
            }
            Err(error) if error.is::<Elapsed>() => return Err(error),
            Err(error) => {
                let problems = problems_of(&error);
                // Missing settings count as wrong settings.
                let Ok((good, inputs)) = last_good(args, host).await else {
                    return Err(error);
                };
                let is_role_wrong =
                    matches!(&inputs.role, Role::LastGood { problems, .. } if !problems.is_empty());
                match settings(args, host).await {
                    // The role is wrong. KUBE_SERVICE_STATE of the current settings still decides whether the role is to be up.
                    Ok(settings) if is_role_wrong => {
                        service_state = Some(Desired::of(&settings).service_state);
                        let problems = changed_settings(bound, &settings, &inputs);
                        (good, inputs, problems)
                    }
                    // The host's name is wrong, and nothing can be planned with it.
                    Ok(settings) if inputs.renamed.is_some() && error.is::<Changed>() => {
                        service_state = Some(Desired::of(&settings).service_state);
                        let problems = problems_beside_name(args, &settings, &good, bound, host);
                        let problems = problems.await?;
                        (good, inputs, problems)
                    }
                    _ => (good, inputs, problems),
                }
            }
        };
        let (role_problems, pending_release) = match &inputs.role {
            Role::LastGood {
                problems,
                pending_release,
            } => (problems.clone(), pending_release.clone()),
            Role::Installed(_) => (Vec::new(), None),
        };
        let changes = bound.map(|bound| bound.changes_by(&inputs.identity));
        let mut changes = changes.unwrap_or_default();
        // The plan has the name of the set-up: what it says of this host is true, and what fails can be restarted.
        let restarts_only = changes.is_empty() && inputs.renamed.is_some();
        changes.extend(inputs.renamed.clone());
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let refused = (!changes.is_empty()).then(|| changes.join("; "));
        let ignored_events = Recording::default();
        let runner = inputs.runner(host, &ignored_events);
        let in_progress = runner.checks_in_progress.clone();
        let mut health = tell_progress(in_progress, runner.check_again(SETTLE, before)).await;
        if refused.is_some() && !restarts_only {
            health = with_failures_unknown(health);
        }
        let failed = failed_phases(&health);
        let due = runner.due().await;
        // Certificates of one authority have one problem. A check of their phase reports it, too.
        let problems = due.problems.iter();
        let problems = problems.map(|problem| engine::model::chain(problem).join(": "));
        for problem in problems.collect::<BTreeSet<String>>() {
            tracing::warn!("could not tell whether a certificate is due: {problem}");
        }
        let installed = is_installed(host, &runner).await;
        if installed && refused.is_none() && !inputs.are_of_no_role() {
            remember(&inputs.identity, &health);
        }
        let (ledger_lost, ledger_problem) = match inputs.are_of_no_role() {
            true => (String::new(), String::new()),
            false => ledger(&runner).await,
        };
        protect_state();
        let mut desired = Desired::of(&settings);
        desired.service_state = service_state.unwrap_or(desired.service_state);
        let runs = if desired.service_state == ServiceState::False {
            let answer = tokio::time::timeout(TIMEOUT, runner.runs()).await;
            answer.unwrap_or_default()
        } else {
            None
        };
        let mut watch_list = WatchList::of(&inputs.plan, inputs.facts.address, &args.config);
        let mut without_subnet = WithoutSubnet::default();
        let changes_nothing = desired.service_state != ServiceState::True || refused.is_some();
        if changes_nothing {
            watch_list.signing = None;
            watch_list.masters = None;
        }
        if changes_nothing
            && let Some(allocation) = watch_list.allocation.take()
            && installed
        {
            without_subnet = nodes_without_subnet(host, allocation.kubeconfig).await;
        }
        Ok(Self {
            desired,
            settings_problems,
            role_problems,
            pending_release,
            refused,
            restarts_only,
            ledger_lost,
            ledger_problem,
            digest: inputs.plan.digest(),
            watch_list,
            restart_set: failed.iter().cloned().collect(),
            failed: failed.into_iter().collect(),
            damaged: damaged(&inputs.plan, &health),
            without_subnet,
            due: due.components.into_iter().map(str::to_owned).collect(),
            health,
            installed,
            runs,
            lacks_backup: lacks_backup(&settings).await,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use engine::env::KubeEnv;
    use engine::host::live::LiveHost;
    use engine::plan::Plan;

    /// The plan of a master with a virtual IP.
    pub(crate) async fn plan_of_master() -> Plan {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let facts = repository.join("tests/fixtures/hosts/cp-1.yaml");
        let facts = std::fs::read_to_string(facts).expect("a fixture");
        let facts = engine::facts::Facts::from_yaml(&facts).expect("facts");
        let role = repository.join("roles/pf9-kube").display().to_string();
        let role = engine::role::RolePackage::load(&LiveHost::new(), &role).await;
        let settings = repository.join("tests/fixtures/settings/cp-1-vip.yaml");
        let settings = std::fs::read(settings).expect("a fixture");
        let settings = KubeEnv::resolve(vec![("a.yaml".to_owned(), settings)]);
        let settings = settings.expect("good settings");
        let plan = engine::planner::plan(&role.expect("the role"), &settings, &facts);
        plan.expect("a plan")
    }
}
