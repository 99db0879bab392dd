//! `nodelet repair --rebuild`: a full clean, and an apply after it. nodeletd runs it at every tenth attempt.

use anyhow::Result;
use engine::exec::{Event, EventSink, RecordedNode, api_problem_of_clean, quorum_problem_of_clean};
use engine::host::Host;
use engine::host::live::LiveHost;
use engine::ledger::Ledger;
use engine::model::{Outcome, Verb};
use tokio_util::sync::CancellationToken;

use crate::cli::RepairArgs;
use crate::commands::clean::{CleanPurpose, Removal, remove_role};
use crate::commands::run::note_identity;
use crate::inputs::identity::Identity;
use crate::inputs::installed_identity::installed_identity;
use crate::inputs::{self, Inputs};

/// Takes everything off and brings it up again, under one lock, so that no other command runs in between. Refused if it could not come up
/// again, or if etcd needs this host.
pub(super) async fn rebuild(
    args: &RepairArgs,
    inputs: &Inputs,
    host: &LiveHost,
    sink: &dyn EventSink,
    cancel: &CancellationToken,
) -> Result<Outcome> {
    let recorded = Identity::recorded().unwrap_or_default().node_in_etcd();
    let guarded = (!args.accept_quorum_loss).then_some(&recorded);
    let rebuild = async || clean_and_apply(args, host, sink, cancel).await;
    unless_refused(inputs, host, sink, guarded, rebuild).await
}

/// Rebuilds the host with `rebuild`, which begins with a full clean. Refused if a precondition would fail afterwards, or if etcd would lose its
/// quorum with the member of `guarded`, or if the host needs an API server elsewhere that does not answer it, or a signature of a master that it does not get. Without `guarded`, the operator accepts
/// the loss of the quorum. If it is refused, nothing is changed.
async fn unless_refused(
    inputs: &Inputs,
    host: &dyn Host,
    sink: &dyn EventSink,
    guarded: Option<&RecordedNode>,
    rebuild: impl AsyncFnOnce() -> Result<Outcome>,
) -> Result<Outcome> {
    Ledger::has_room(host, Verb::Apply).await?;
    let mut before = inputs.runner(host, sink);
    before.rebuild = true;
    let mut problems = before.failed_preconditions().await?;
    if let Some(recorded) = guarded {
        problems.extend(quorum_problem_of_clean(host, Some(&inputs.plan), recorded).await);
    }
    problems.extend(api_problem_of_clean(host, &inputs.plan).await);
    problems.extend(before.signature_problem_of_clean().await);
    if !problems.is_empty() {
        sink.emit(Event::PreflightFailed { problems });
        return Ok(Outcome::Refused);
    }
    rebuild().await
}

async fn clean_and_apply(
    args: &RepairArgs,
    host: &LiveHost,
    sink: &dyn EventSink,
    cancel: &CancellationToken,
) -> Result<Outcome> {
    let role = &args.role;
    let bound = installed_identity(role, host).await?;
    let clean = Removal {
        purpose: CleanPurpose::Rebuild,
        accepts_quorum_loss: args.accept_quorum_loss,
    };
    // What could not be taken off has been reported; the apply is tried all the same.
    let cleaned = remove_role(role, host, sink, cancel, clean).await?;
    if matches!(cleaned, Outcome::Interrupted | Outcome::Refused) {
        return Ok(cleaned);
    }
    // The clean has changed the host, so its facts are read again.
    let inputs = inputs::read(role, host).await?;
    // The host must become what it was, but an operator may have changed the settings meanwhile.
    if let Some(changed) = bound.and_then(|was| was.changed_by(&inputs.identity)) {
        return Err(changed.into());
    }
    let mut runner = inputs.runner(host, sink);
    runner.cancel = cancel.clone();
    runner.accepts_quorum_loss = args.accept_quorum_loss;
    let outcome = runner.apply().await?;
    note_identity(outcome, &inputs);
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use engine::exec::Recording;
    use engine::host::fake::FakeHost;
    use engine::kubernetes::masters::MASTERS;
    use engine::model::{Span, StepId};
    use engine::plan::{PlannedStep, StepPolicy};
    use engine::resource::{EtcdMemberSpec, InitialState, Spec};

    use super::super::tests::inputs;
    use super::*;

    /// The plan of a master whose member of etcd has two others beside it, and its host. The members at `down` do not answer.
    fn master(down: &[&str]) -> (Inputs, FakeHost) {
        let mut inputs = inputs();
        let etcd = &mut inputs.plan.phases[1];
        etcd.steps.push(PlannedStep {
            id: StepId::new(&etcd.name, "etcd_member", "cp-1"),
            span: Span::file("phases/etcd.rhai"),
            spec: Spec::EtcdMember(EtcdMemberSpec {
                name: "cp-1".to_owned(),
                data: "/var/etcd".into(),
                peer: "https://10.0.0.1:2380".to_owned(),
                settings: "/etc/etcd.env".into(),
                initial_state: InitialState::Existing,
                token: "t".to_owned(),
                api: None,
                data_id: None,
            }),
            policy: StepPolicy::default(),
        });
        let masters = r#"{"version":1,"masters":[{"name":"cp-1","address":"10.0.0.1","voter":true},{"name":"cp-2","address":"10.0.0.2","voter":true},{"name":"cp-3","address":"10.0.0.3","voter":true}]}"#;
        let host = FakeHost::new().with_file(MASTERS, masters);
        host.with_world_mut(|world| {
            world.etcd.voter("cp-1", "10.0.0.1", 1);
            world.etcd.voter("cp-2", "10.0.0.2", 2);
            world.etcd.voter("cp-3", "10.0.0.3", 3);
            down.iter().for_each(|down| world.etcd.silence(down));
        });
        (inputs, host)
    }

    /// nodeletd makes a full clean at the tenth attempt. It would take the data of the last member that has it, and bring nothing back.
    #[tokio::test]
    async fn a_rebuild_does_not_begin_if_etcd_needs_this_host() {
        let two_down: &[&str] = &["10.0.0.2", "10.0.0.3"];
        let recorded = RecordedNode::default();
        for (down, guarded, rebuilds) in [
            (two_down, Some(&recorded), false),
            (two_down, None, true),
            (&[], Some(&recorded), true),
        ] {
            let (inputs, host) = master(down);
            let events = Recording::default();
            let mut began = false;
            let rebuild = async || {
                began = true;
                Ok(Outcome::Converged)
            };
            let outcome = unless_refused(&inputs, &host, &events, guarded, rebuild).await;
            assert_eq!(began, rebuilds, "{down:?} {guarded:?}");
            let expected = match rebuilds {
                true => Outcome::Converged,
                false => Outcome::Refused,
            };
            assert_eq!(outcome.expect("it is decided"), expected);
            let said: String = (events.events().iter())
                .filter_map(|event| match event {
                    Event::PreflightFailed { problems } => Some(problems),
                    _ => None,
                })
                .flatten()
                .map(|problem| problem.problem.as_str())
                .collect();
            let names_members = ["cp-2", "cp-3"].iter().all(|name| said.contains(name));
            assert_eq!(
                (said.is_empty(), names_members),
                (rebuilds, !rebuilds),
                "{said}"
            );
            assert_eq!(host.mutations(), 0);
        }
    }
}
