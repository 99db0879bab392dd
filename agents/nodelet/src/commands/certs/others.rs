//! Replacements in a cluster of several masters: `nodelet certs rollout` shows how far each master is, and `nodelet certs send` writes the
//! file with which another master takes the successor.

use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use engine::exec::{Rollout, authorities, said};
use engine::host::ClusterAccess;
use engine::host::live::LiveHost;
use engine::kubernetes::admission::end_of;
use engine::kubernetes::join_file::{FileKind, JoinContent as _};
use engine::plan::Plan;
use engine::resource::ResourceResult;
use engine::resource::pki::{Replacement, Rotation, Stage, successor_of};

use crate::cli::{LOCAL_ADMIN, RolloutArgs, SendArgs};
use crate::commands::pki::export::own_entry;
use crate::commands::pki::made_file::{MadeFile, seconds};
use crate::commands::run::{only_root, unchanged};
use crate::inputs;
use crate::output::exit::Exit;
use crate::output::say;

/// How far the masters are; `None` if this host is the only one and has no node.
pub(super) async fn rollout(
    host: &LiveHost,
    plan: &Plan,
    of: &str,
) -> ResourceResult<Option<Rollout>> {
    let access = ClusterAccess::with(Path::new(LOCAL_ADMIN));
    // A role without a node can be that of a single host only.
    let own = own_entry(plan).map(|own| own.name).unwrap_or_default();
    Rollout::read(host, &access, of, &own).await
}

pub(crate) async fn show(args: &RolloutArgs) -> Result<Exit> {
    only_root("show how far a replacement is")?;
    let host = LiveHost::new();
    let inputs = inputs::read(&args.role, &host).await?;
    unchanged(&args.role, &host, &inputs).await?;
    let known = authorities(&inputs.plan);
    let asked = args.authority.as_deref();
    if let Some(asked) = asked
        && !known.contains(&asked)
    {
        bail!(
            "show how far `{asked}` is replaced: it is one of {}",
            known.join(", ")
        );
    }
    let (mut all, mut exit) = (Vec::new(), Exit::Ok);
    for of in known {
        if asked.is_some_and(|asked| asked != of) {
            continue;
        }
        let Some(present) = Replacement::read(&host, of).await? else {
            bail!(
                "show how far `{of}` is replaced: it has not been made yet; run `nodelet apply` first"
            );
        };
        let rollout = rollout(&host, &inputs.plan, of).await?;
        if present.stage != Stage::Settled
            || rollout.as_ref().is_some_and(|its| waits(its, &present))
        {
            exit = Exit::Pending;
        }
        if args.role.json {
            let nodes = rollout.as_ref().map(Rollout::nodes);
            let workers = rollout.as_ref().map(Rollout::workers);
            all.push(serde_json::json!({ "of": of, "this_host": present, "masters": nodes, "workers": workers }));
            continue;
        }
        match &rollout {
            Some(rollout) => say(&text(rollout, &present)),
            None => say(&format!(
                "{of}: this host, the only master, {}\n",
                said(Some(&present))
            )),
        }
    }
    if args.role.json {
        say(&format!("{:#}\n", serde_json::Value::from(all)));
    }
    Ok(exit)
}

/// Whether another node takes part in a replacement that this host does not know; also a worker that trusts an abandoned successor.
fn waits(rollout: &Rollout, present: &Replacement) -> bool {
    let mut workers = rollout.workers().values().flatten();
    !rollout.missing(Rotation::Begin, present).is_empty()
        || workers.any(|its| its.stage != Stage::Settled)
}

/// How far each node is, and what comes next on this one.
pub(super) fn text(rollout: &Rollout, present: &Replacement) -> String {
    let of = rollout.of();
    let mut text = format!("{of}\n");
    for (name, shown) in rollout.nodes() {
        let _ = match name == rollout.own() {
            true => writeln!(text, "  {name} {} (this host)", said(Some(present))),
            false => writeln!(text, "  {name} {}", said(shown.as_ref())),
        };
    }
    for (name, shown) in rollout.workers() {
        let _ = writeln!(text, "  {name} {} (worker)", said(shown.as_ref()));
    }
    let step = match present.stage {
        Stage::Settled => Rotation::Begin,
        Stage::Begun => Rotation::Switch,
        Stage::Switched => Rotation::Finish,
    };
    let missing = rollout.missing(step, present);
    for its in &missing {
        let _ = writeln!(text, "  next on {}: {}", its.at, its.next);
    }
    let next = match step {
        Rotation::Begin => return text,
        Rotation::Switch => "switch",
        Rotation::Finish => "finish",
    };
    if missing.is_empty() {
        let _ = writeln!(
            text,
            "  next on this host: `nodelet certs rotate {of} {next}`"
        );
    }
    text
}

pub(crate) async fn send(args: &SendArgs) -> Result<Exit> {
    only_root("send a successor")?;
    let host = LiveHost::new();
    let mut file = successor_of(&host, &args.authority).await?;
    let expires = end_of(SystemTime::now(), args.sealed.valid_for);
    file.expires = seconds(expires);
    let sealed = file.seal(&args.sealed.to);
    let made = MadeFile {
        output: args.sealed.output.as_deref(),
        json: args.json,
        kind: FileKind::Successor,
        name: &args.authority,
        sealed: sealed.with_context(|| format!("send the successor of `{}`", args.authority))?,
        expires,
    };
    made.save()?;
    made.report(("id", file.id.as_str().into()));
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn a_successor_is_sent_only_to_a_key() {
        let send = ["nodelet", "certs", "send", "etcd"];
        assert!(Cli::try_parse_from(send).is_err());
        let to = ["--to", "age1x"];
        assert!(Cli::try_parse_from(send.iter().chain(&to)).is_ok());
        let long = ["--valid-for", "25h"];
        let long = send.iter().chain(&to).chain(&long);
        assert!(Cli::try_parse_from(long).is_err());
    }
}
