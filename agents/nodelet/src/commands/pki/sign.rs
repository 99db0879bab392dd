//! `nodelet pki sign`: decides about the requests of nodes for certificates; nodeletd runs it.

use std::collections::BTreeSet;

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

pub(crate) async fn sign(args: &PkiSignArgs) -> Result<Exit> {
    let access = ClusterAccess::with(&args.kubeconfig);
    let host = LiveHost::new();
    let mut all = SigningReport::default();
    // Each call decides a part of the requests. Those that failed do not come again in this run, so they are in the way of no other.
    let mut failed = BTreeSet::new();
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
        all.requests.extend(report.requests);
        all.left = report.left;
        if report.left == 0 {
            break;
        }
    }
    if args.json {
        say(&format!("{}\n", in_json(&all)));
    }
    if all.left > 0 {
        // nodeletd starts the next run.
        error_report::say(&format!(
            "nodelet: {} more requests wait for the next `nodelet pki sign`",
            all.left
        ));
    }
    Ok(match failed.is_empty() && all.left == 0 {
        true => Exit::Ok,
        false => Exit::Failed,
    })
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
}
