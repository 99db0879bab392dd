//! `nodelet trust`: a worker takes the authorities that the masters have published, and shows how far it is. nodeletd runs it.

use anyhow::{Context as _, Result, bail};
use engine::exec::{Selection, failed_phases, published, show_worker};
use engine::host::ClusterAccess;
use engine::host::live::LiveHost;
use engine::model::Outcome;
use engine::resource::pki::{NODE_KUBECONFIG, Replacement, kept_node, kubeconfig_path};

use crate::cli::TrustArgs;
use crate::commands::run::{exit, may_change_by_itself, only_root, prepare_locked};
use crate::output;
use crate::output::exit::Exit;
use crate::output::say;
use crate::process::lock::Lock;
use crate::process::signals;

/// What this command does, for error messages.
const VERB: &str = "take the authorities of the cluster";
/// The authority that workers trust.
const CLUSTER: &str = "cluster";

pub(crate) async fn trust(args: &TrustArgs) -> Result<Exit> {
    only_root(VERB)?;
    let host = LiveHost::new();
    let lock = Lock::take("trust")?;
    if kept_node(&host).await?.is_none() || !may_change_by_itself().await? {
        return Ok(Exit::Ok);
    }
    let access = ClusterAccess::with(&kubeconfig_path(NODE_KUBECONFIG));
    let Some(published) = published(&host, &access).await.context(VERB)? else {
        return Ok(Exit::Ok);
    };
    let are_older = published.are_older(&host).await?;
    let inputs = prepare_locked("apply", &args.role, &Selection::default(), &host, &lock).await?;
    let sink = output::sink(args.role.json);
    let cancel = signals::cancel_on_signal()?;
    let runner = || {
        let mut runner = inputs.runner(&host, sink.as_ref());
        runner.cancel = cancel.clone();
        runner
    };
    // Otherwise an apply that fails for another reason would be rolled back again and again: nodeletd's repair comes first.
    let failed = failed_phases(&runner().check().await);
    if let Some(phase) = failed.first() {
        bail!("{VERB}: the checks of phase {phase} fail; repair this host first");
    }
    let present = Replacement::read(&host, CLUSTER).await?;
    let follows = !are_older && present != published.replacement();
    if !are_older {
        published.keep(&host).await?;
    }
    if follows && !args.role.json {
        say("the masters replace the authority of the cluster, and this host follows\n");
    }
    // Also if the files are there already: an earlier call may have been interrupted before kubelet was restarted with them.
    let outcome = runner().apply().await?;
    if outcome != Outcome::Converged {
        return Ok(exit(outcome));
    }
    let due = runner().due().await;
    for component in due.components {
        let outcome = runner().renew(component).await?;
        if outcome != Outcome::Converged {
            return Ok(exit(outcome));
        }
    }
    // Also a certificate that was renewed: a master may have signed it with the predecessor.
    let left = runner().due().await;
    let mut problems = due.problems.into_iter().chain(left.problems);
    if let Some(problem) = problems.next() {
        return Err(problem.into());
    }
    if let Some(component) = left.components.first() {
        bail!("{VERB}: certificates of {component} are still due after their renewal");
    }
    show_worker(&host).await?;
    Ok(Exit::Ok)
}
