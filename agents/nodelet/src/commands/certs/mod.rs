//! `nodelet certs`: every certificate with its end and its users; `nodelet certs renew`: renew what is due.
//!
//! `rotate` replaces authorities, and `others` has what that needs in a cluster of several masters. Not here: when a certificate is due, and how it is made (`resource::pki` of the engine), and renewals
//! during a run (`exec::kubernetes`). Start with `certs`.

pub(in crate::commands) mod others;
pub(in crate::commands) mod rotate;

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use engine::exec::{Due, Selection};
use engine::host::live::LiveHost;
use engine::model::Outcome;
use engine::resource::pki::{Inventory, Kind, Listed, inventory};

use super::run::{exit, prepare};
use crate::cli::{CertsArgs, CertsCommand, RenewArgs};
use crate::output::exit::Exit;
use crate::output::{self, say};
use crate::process::signals;

pub(crate) async fn certs(args: &CertsArgs) -> Result<Exit> {
    match &args.command {
        Some(CertsCommand::Renew(args)) => renew(args).await,
        Some(CertsCommand::Rotate(args)) => crate::commands::certs::rotate::rotate(args).await,
        Some(CertsCommand::Send(args)) => others::send(args).await,
        Some(CertsCommand::Rollout(args)) => others::show(args).await,
        None => list(args.json).await,
    }
}

async fn list(json: bool) -> Result<Exit> {
    let inventory = inventory(&LiveHost::new()).await?;
    let now = SystemTime::now();
    let invalid = |one: &Listed| one.seconds_left == 0 || one.certificate.not_before > now;
    let over = inventory.certificates.iter().any(invalid);
    if json {
        say(&format!("{:#}\n", serde_json::to_value(&inventory)?));
    } else {
        say(&table(&inventory, now));
    }
    // A certificate that was not read may have expired as well.
    Ok(
        if over || inventory.cut_short || !inventory.unreadable.is_empty() {
            Exit::Pending
        } else {
            Exit::Ok
        },
    )
}

async fn renew(args: &RenewArgs) -> Result<Exit> {
    let host = LiveHost::new();
    let everything = Selection::default();
    let (inputs, _lock) = prepare("renew", &args.role, &everything, &host).await?;
    let sink = output::sink(args.role.json);
    let runner = || inputs.runner(&host, sink.as_ref());
    let Due {
        components: mut due,
        problems,
    } = runner().due().await;
    // A problem is reported when all other components are renewed.
    let rest = problems.into_iter().next();
    due.retain(|name| {
        args.component
            .as_deref()
            .is_none_or(|wanted| wanted == *name)
    });
    if due.is_empty() {
        if let Some(problem) = rest {
            return Err(problem.into());
        }
        if !args.role.json {
            say(
                "nothing to renew: no certificate is past three fifths of its life; for missing or wrong ones, run `nodelet repair`\n",
            );
        }
        return Ok(Exit::Ok);
    }
    let cancel = signals::cancel_on_signal()?;
    let first = if args.all { due.len() } else { 1 };
    for component in due.iter().take(first) {
        let mut runner = runner();
        runner.cancel = cancel.clone();
        runner.accepts_quorum_loss = args.accept_quorum_loss;
        let outcome = runner.renew(component).await?;
        if outcome != Outcome::Converged {
            return Ok(exit(outcome));
        }
    }
    rest.map_or(Ok(Exit::Ok), |problem| Err(problem.into()))
}

/// An entry for each certificate, problems of reading first; only `--json` has copies of authorities.
fn table(inventory: &Inventory, now: SystemTime) -> String {
    let mut text = String::new();
    for (path, problem) in &inventory.unreadable {
        let _ = writeln!(text, "✗ {}: {problem}", path.display());
    }
    if inventory.cut_short {
        text.push_str("? not everything was read: there are too many files\n");
    }
    for (kind, heading) in [
        (Kind::Authority, "authorities"),
        (Kind::Certificate, "certificates"),
        (Kind::Kubeconfig, "kubeconfigs"),
    ] {
        let _ = writeln!(text, "{heading}");
        for one in inventory.certificates.iter().filter(|one| one.kind == kind) {
            line(&mut text, one, now);
        }
    }
    text
}

fn line(text: &mut String, one: &Listed, now: SystemTime) {
    let due = match one.due {
        None => String::new(),
        Some(due) if due <= now => ", due now".to_owned(),
        Some(due) => format!(", due {}", day(due)),
    };
    let (sign, left) = match one.seconds_left {
        0 => ('✗', "expired".to_owned()),
        _ if one.certificate.not_before > now => {
            let begins = day(one.certificate.not_before);
            ('✗', format!("not valid before {begins}"))
        }
        seconds => ('✓', format!("{} left", two_largest_units(seconds))),
    };
    let facts = &one.certificate;
    let _ = writeln!(
        text,
        "  {sign} {:<32} {left}, ends {}{due}",
        one.name,
        day(facts.not_after)
    );
    let _ = writeln!(text, "      {} by {}", facts.subject, facts.issuer);
    let names: Vec<String> = facts
        .names
        .iter()
        .cloned()
        .chain(facts.addresses.iter().map(ToString::to_string))
        .collect();
    if !names.is_empty() {
        let _ = writeln!(text, "      for {}", names.join(", "));
    }
    if let (Some(purpose), Some(reload)) = (one.purpose, &one.reload) {
        let _ = writeln!(
            text,
            "      {purpose}; the component uses a renewed certificate {reload}"
        );
    }
}

fn day(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The two largest units: seconds do not matter for a certificate that ends in a year.
fn two_largest_units(seconds: u64) -> String {
    let exact = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    // A blank between number and unit: `9 years 11 months`.
    let spaced = |part: &str| {
        let unit = part.trim_start_matches(|one: char| one.is_ascii_digit());
        let number = &part[..part.len() - unit.len()];
        format!("{number} {unit}")
    };
    let parts: Vec<String> = exact.split(' ').take(2).map(spaced).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remaining_time_is_readable() {
        const DAY: u64 = 24 * 3600;
        for (seconds, text) in [
            (59, "59 s"),
            (2 * 3600 + 60, "2 h 1 m"),
            (DAY + 3600 + 60, "1 day 1 h"),
            (9 * 31_557_600 + 11 * 2_630_016, "9 years 11 months"),
        ] {
            assert_eq!(two_largest_units(seconds), text);
        }
    }
}
