//! `nodelet recover`: writes a new ledger on a host where the role runs and the ledger was lost or damaged.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use engine::exec::{Recording, Recovered, RecoveredFrom};
use engine::host::live::LiveHost;

use super::run::{installed_inputs, note_identity, only_root, unchanged};
use crate::cli::RecoverArgs;
use crate::output::exit::Exit;
use crate::output::say;
use crate::process::lock::Lock;

pub(crate) async fn recover(args: &RecoverArgs) -> Result<Exit> {
    only_root("recover a role")?;
    let _lock = Lock::take("recover")?;
    let host = LiveHost::new();
    let inputs = installed_inputs(&args.role, &host).await?;
    if inputs.are_of_no_role() {
        bail!(
            "recover the ledger: ROLE is none in the settings and in the last good ones, so it is not known which role runs here; \
             set ROLE to that role and try again"
        );
    }
    unchanged(&args.role, &host, &inputs).await?;
    let ignored_events = Recording::default();
    let runner = inputs.runner(&host, &ignored_events);
    let recovered = runner.recover(args.dry_run).await?;
    if args.role.json {
        say(&format!("{:#}\n", serde_json::to_value(&recovered)?));
    } else {
        say(&text(&recovered, args.dry_run));
    }
    if !args.dry_run {
        note_identity(engine::model::Outcome::Converged, &inputs);
    }
    Ok(Exit::Ok)
}

/// The result of a recovery, or what it would be.
fn text(recovered: &Recovered, dry_run: bool) -> String {
    let mut text = String::new();
    let _ = match &recovered.source {
        RecoveredFrom::Copy { run } => writeln!(
            text,
            "from the copy of the ledger (ledger.backup.jsonl), which is complete up to run {run}: nothing is missing"
        ),
        RecoveredFrom::Part { path, run } => writeln!(
            text,
            "from {}, which goes up to run {run}, and from what is on this host",
            path.display()
        ),
        RecoveredFrom::Host => writeln!(
            text,
            "from the plan and from what is on this host: no usable copy of the ledger is there"
        ),
    };
    if !recovered.recorded.is_empty() {
        let count = recovered.recorded.len();
        let _ = writeln!(
            text,
            "recorded as the role's ({count}), a clean takes them back:"
        );
        for resource in &recovered.recorded {
            let _ = writeln!(text, "  + {resource}");
        }
    }
    if !recovered.unknown.is_empty() {
        let _ = writeln!(text, "not known ({}):", recovered.unknown.len());
        for unknown in &recovered.unknown {
            let _ = writeln!(text, "  ? {unknown}");
        }
    }
    if !recovered.unused_contents.is_empty() {
        let _ = writeln!(
            text,
            "saved contents of files that no record names; one may be the content of a file before the role, so compare them before a clean:"
        );
        for path in &recovered.unused_contents {
            let _ = writeln!(text, "  ? {}", path.display());
        }
    }
    text.push_str(if dry_run {
        "nothing was written; `nodelet recover` writes it\n"
    } else {
        "the ledger is written; nodeletd continues with its next status pass\n"
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_facts_are_listed_by_name() {
        let mut recovered = Recovered {
            source: RecoveredFrom::Host,
            recorded: vec!["container etcd".to_owned()],
            unknown: vec!["sysctl net.ipv4.ip_forward: its value before is not known".to_owned()],
            unused_contents: vec!["/var/opt/pf9/nodelet/content/ab".into()],
        };
        let told = text(&recovered, true);
        for line in [
            "  + container etcd\n",
            "  ? sysctl net.ipv4.ip_forward",
            "  ? /var/opt/pf9/nodelet/content/ab\n",
            "nothing was written",
        ] {
            assert!(told.contains(line), "{told}");
        }
        recovered.source = RecoveredFrom::Copy { run: 7 };
        let told = text(&recovered, false);
        assert!(told.contains("complete up to run 7"), "{told}");
        assert!(told.ends_with("next status pass\n"), "{told}");
    }
}
