//! `nodelet pki sign`: decides about the requests of nodes for certificates; nodeletd runs it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use engine::exec::{DecidedRequest, RequestOutcome, SigningReport, sign_requests};
use engine::host::ClusterAccess;
use engine::host::live::LiveHost;
use engine::kubernetes::shown;

use crate::cli::PkiSignArgs;
use crate::output::exit::Exit;
use crate::output::{error_report, say};

/// Most lists of requests in a run, so that it ends.
const ROUNDS: usize = 20;
/// No further round begins after this time: nodeletd ends a run after two minutes, and the end of a run says what is left.
const LONGEST: Duration = Duration::from_secs(45);
/// Said if the list of requests is too long.
const MORE: &str = "there are more requests than are read at a time, and kube-controller-manager deletes settled ones after an hour; who has made them: `kubectl get csr`";

pub(crate) async fn sign(args: &PkiSignArgs) -> Result<Exit> {
    let access = ClusterAccess::with(&args.kubeconfig);
    let host = LiveHost::new();
    let mut all = SigningReport::default();
    // Each call decides a part of the requests. Those that failed do not come again in this run, so they are in the way of no other.
    let mut failed = BTreeSet::new();
    let began = Instant::now();
    for _ in 0..ROUNDS {
        let report = sign_requests(&host, &access, args.life, &failed).await?;
        for request in &report.requests {
            let (text, is_open) = line(request);
            if is_open {
                failed.insert(request.name.clone());
            }
            match (args.json, is_open) {
                (true, _) => {}
                (false, true) => error_report::say(&format!("nodelet: {text}")),
                (false, false) => say(&format!("{text}\n")),
            }
        }
        if !args.json {
            for (requester, number) in &report.deleted.numbers {
                let requester = shown(requester);
                say(&format!(
                    "deleted {number} requests of {requester}, which makes too many\n"
                ));
            }
        }
        let ends = is_last(&report) || began.elapsed() >= LONGEST;
        add(&mut all, report);
        if ends {
            break;
        }
    }
    if args.json {
        say(&format!("{}\n", in_json(&all)));
    }
    // nodeletd starts the next run.
    let next = "wait for the next `nodelet pki sign`";
    let left = &all.deleted.left;
    for text in [
        (all.left > 0).then(|| format!("{} more requests {next}", all.left)),
        (*left > 0).then(|| format!("{left} requests that are too many {next}")),
        all.deleted
            .problem
            .as_ref()
            .map(|problem| format!("could not {problem}")),
        all.has_more.then(|| MORE.to_owned()),
    ]
    .into_iter()
    .flatten()
    {
        error_report::say(&format!("nodelet: {text}"));
    }
    let is_done = failed.is_empty() && all.left == 0 && *left == 0 && !all.has_more;
    Ok(if is_done { Exit::Ok } else { Exit::Failed })
}

/// Whether another round would find nothing to do, or has nothing done to go on with.
fn is_last(report: &SigningReport) -> bool {
    let waits = report.left > 0 || report.deleted.left > 0 || report.has_more;
    let has_done = !report.requests.is_empty() || !report.deleted.numbers.is_empty();
    !(waits && has_done)
}

/// Adds what the next round has done. What is left is what it has left.
fn add(all: &mut SigningReport, next: SigningReport) {
    all.requests.extend(next.requests);
    all.left = next.left;
    all.has_more = next.has_more;
    all.deleted.left = next.deleted.left;
    all.deleted.problem = next.deleted.problem;
    for (requester, number) in next.deleted.numbers {
        *all.deleted.numbers.entry(requester).or_default() += number;
    }
}

/// What was done about a request, and whether it is still open.
fn line(request: &DecidedRequest) -> (String, bool) {
    let DecidedRequest {
        name,
        requester,
        outcome,
    } = request;
    let (name, requester) = (shown(name), shown(requester));
    match outcome {
        RequestOutcome::Signed(certificate) => (
            format!("signed request {name} of {requester}: {certificate}"),
            false,
        ),
        RequestOutcome::Denied(reason) => (
            format!("denied request {name} of {requester}: {reason}"),
            false,
        ),
        RequestOutcome::Settled => (
            format!("request {name} of {requester} was settled by another client"),
            false,
        ),
        RequestOutcome::Failed(reason) => (
            format!("could not decide about request {name} of {requester}: {reason}"),
            true,
        ),
    }
}

fn in_json(report: &SigningReport) -> serde_json::Value {
    let requests = report.requests.iter().map(|request| {
        let (outcome, reason) = match &request.outcome {
            RequestOutcome::Signed(certificate) => ("signed", certificate.to_string()),
            RequestOutcome::Denied(reason) => ("denied", reason.clone()),
            RequestOutcome::Settled => ("settled", String::new()),
            RequestOutcome::Failed(reason) => ("failed", reason.clone()),
        };
        serde_json::json!({
            "name": request.name,
            "requester": request.requester,
            "outcome": outcome,
            "reason": reason,
        })
    });
    serde_json::json!({
        "requests": requests.collect::<Vec<_>>(),
        "left": report.left,
        "deleted": report.deleted.numbers,
        "deletions_left": report.deleted.left,
        "deletion_problem": report.deleted.problem,
        "has_more": report.has_more,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_request_is_no_failure_and_an_undecided_one_is() {
        let request = |outcome: RequestOutcome| DecidedRequest {
            name: "a".to_owned(),
            requester: "system:node:w-1".to_owned(),
            outcome,
        };
        let (text, failed) = line(&request(RequestOutcome::Denied("another node".to_owned())));
        assert_eq!(text, "denied request a of system:node:w-1: another node");
        assert!(!failed);
        assert!(line(&request(RequestOutcome::Failed("no answer".to_owned()))).1);
        assert!(!line(&request(RequestOutcome::Settled)).1);
    }

    #[test]
    fn a_run_goes_on_while_it_makes_progress() {
        let mut report = SigningReport::default();
        assert!(is_last(&report));
        report.has_more = true;
        assert!(is_last(&report), "it can do nothing about the rest");
        report.deleted.numbers.insert("w-9".to_owned(), 5);
        assert!(!is_last(&report));
        let mut all = SigningReport::default();
        add(&mut all, report.clone());
        report.has_more = false;
        assert!(is_last(&report));
        report.deleted.left = 1;
        assert!(!is_last(&report));
        add(&mut all, report);
        assert_eq!(all.deleted.numbers["w-9"], 10);
        assert!(!all.has_more);
        assert_eq!(all.deleted.left, 1);
    }
}
