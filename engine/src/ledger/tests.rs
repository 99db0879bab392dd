//! The ledger on a host that fails, crashes, and cuts writes.

mod compaction;
mod crashes;
mod damage;
mod old_names;

use std::path::{Path, PathBuf};

use super::{History, Ledger, LedgerError, Record, RunId, VERSION, Why};
use crate::host::fake::{FakeHost, FaultPlan};
use crate::host::{Attributes, Files as _};
use crate::model::{Outcome, PhaseName, STATE, Span, StepId, Verb};
use crate::plan::{PlannedStep, StepPolicy};
use crate::resource::{Action, DirectorySpec, Owner, SavedContent, Spec, Undo, UndoLog as _};

fn step(name: &str) -> PlannedStep {
    PlannedStep {
        id: StepId::new(&"etcd".parse().unwrap(), "directory", name),
        span: Span::new("phases/etcd.rhai", 9, 1),
        spec: Spec::Directory(DirectorySpec {
            path: name.into(),
            attributes: Attributes::root(0o755),
            owner: Owner::default(),
            exclusive: false,
            spared: None,
        }),
        policy: StepPolicy::default(),
    }
}

fn file() -> PathBuf {
    Path::new(STATE).join("ledger.jsonl")
}

fn removal(path: &str) -> Undo {
    Undo::RemoveFile { path: path.into() }
}

/// What runs append to the ledger, in short.
impl Ledger<'_> {
    async fn reverted(
        &self,
        run: RunId,
        phase: &PhaseName,
        remaining: Vec<String>,
    ) -> Result<(), LedgerError> {
        self.append(Record::Reverted {
            run,
            phase: phase.clone(),
            resource: None,
            remaining,
        })
        .await
    }

    async fn pruned(
        &self,
        run: RunId,
        phase: &PhaseName,
        (step, resource): (&StepId, &str),
        in_use: bool,
    ) -> Result<(), LedgerError> {
        self.append(Record::Pruned {
            run,
            phase: phase.clone(),
            step: step.clone(),
            resource: resource.to_owned(),
            in_use,
        })
        .await
    }

    async fn cleanup_steps(
        &self,
        run: RunId,
        phase: &PhaseName,
        steps: Vec<PlannedStep>,
    ) -> Result<(), LedgerError> {
        self.append(Record::CleanupSteps {
            run,
            phase: phase.clone(),
            steps,
            partial: false,
        })
        .await
    }

    async fn record_complete(&self, run: RunId, phase: &PhaseName) -> Result<(), LedgerError> {
        let phase = phase.clone();
        self.append(Record::PhaseApplied { run, phase }).await
    }
}

/// Notes an undo as a step of phase etcd in a run of its own.
async fn note(ledger: &Ledger<'_>, undo: Undo) -> u64 {
    let run = ledger
        .begin(Verb::Apply, "pf9-kube 1.20.2", None)
        .await
        .unwrap();
    let (phase, step): (PhaseName, _) = ("etcd".parse().unwrap(), step("/a"));
    let intent = Record::Intent {
        run,
        phase: phase.clone(),
        step: step.id.clone(),
        span: step.span.clone(),
        action: Action::Create,
        fields: Vec::new(),
    };
    ledger.append(intent).await.unwrap();
    ledger
        .step_log(run, &phase, &step)
        .note(&undo)
        .await
        .unwrap();
    let receipt = Record::Receipt {
        run,
        phase,
        step: step.id,
    };
    ledger.append(receipt).await.unwrap();
    run
}

async fn live(host: &FakeHost) -> Vec<Undo> {
    let ledger = Ledger::open(host).await.unwrap();
    ledger
        .live()
        .await
        .into_iter()
        .map(|live| live.undo)
        .collect()
}

#[tokio::test]
async fn saved_state_is_restored_at_start() {
    let host = FakeHost::new();
    {
        let ledger = Ledger::open(&host).await.unwrap();
        note(&ledger, removal("/a")).await;
    }
    assert_eq!(live(&host).await, [removal("/a")]);
    let entry = host.entry(&file()).await.unwrap().unwrap();
    assert_eq!(entry.attributes.mode, 0o600);
    assert_eq!(
        host.entry(Path::new(STATE))
            .await
            .unwrap()
            .unwrap()
            .attributes
            .mode,
        0o700
    );
}

#[tokio::test]
async fn the_older_of_two_undos_counts() {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    note(&ledger, removal("/a")).await;
    let restore = Undo::RestoreFile {
        path: "/a".into(),
        content: SavedContent::new(b"ours".to_vec()),
        attributes: Attributes::root(0o644),
    };
    note(&ledger, restore).await;
    drop(ledger);
    assert_eq!(live(&host).await, [removal("/a")]);
}

#[tokio::test]
async fn a_reverted_run_leaves_what_earlier_runs_did() {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    note(&ledger, removal("/a")).await;
    let run = note(&ledger, removal("/b")).await;
    ledger
        .reverted(run, &"etcd".parse().unwrap(), Vec::new())
        .await
        .unwrap();
    drop(ledger);
    assert_eq!(live(&host).await, [removal("/a")]);
}

#[tokio::test]
async fn a_reverted_run_loses_its_cleanup_steps() {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    let (docker, etcd) = ("docker".parse().unwrap(), "etcd".parse().unwrap());
    for (run, phase) in [(1, &docker), (2, &etcd)] {
        note(&ledger, removal("/a")).await;
        let cleanup = vec![step("/left")];
        ledger.cleanup_steps(run, phase, cleanup).await.unwrap();
    }
    let reverted = ledger.reverted(2, &docker, Vec::new()).await;
    reverted.unwrap();
    assert_eq!(ledger.all_cleanup_steps().await.len(), 2, "of another run");
    let reverted = ledger.reverted(2, &etcd, Vec::new()).await;
    reverted.unwrap();
    let left = ledger.all_cleanup_steps().await;
    assert_eq!(left, [(docker, vec![step("/left")])]);
}

#[tokio::test]
async fn a_rollback_forgets_no_directory_that_it_left() {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    let phase = "etcd".parse().unwrap();
    let directory = Undo::RemoveDirectory { path: "/d".into() };
    let run = note(&ledger, directory.clone()).await;
    ledger
        .step_log(run, &phase, &step("/a"))
        .note(&removal("/d/a"))
        .await
        .unwrap();
    let left = vec![directory.key()];
    let reverted = ledger.reverted(run, &phase, left.clone()).await;
    reverted.unwrap();
    let named: Vec<String> = ledger.left_by_rollback(&phase).await.into_iter().collect();
    assert_eq!(named, left);
    // The phase is complete later: the directory is a part of it.
    ledger.record_complete(run + 1, &phase).await.unwrap();
    assert!(ledger.left_by_rollback(&phase).await.is_empty());
    drop(ledger);
    assert_eq!(live(&host).await, [directory]);
}

#[tokio::test]
async fn what_is_in_use_counts_until_it_is_taken_back() {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    let undo = Undo::UnloadModule {
        name: "ip_vs".to_owned(),
        stay: Vec::new(),
    };
    let run = note(&ledger, undo.clone()).await;
    let phase = "etcd".parse().unwrap();
    let (id, about) = (step("/a").id, undo.key());
    let resource = (&id, about.as_str());
    ledger.pruned(run, &phase, resource, true).await.unwrap();
    let resources = ledger.resources().await;
    assert!(
        resources.iter().all(|resource| resource.in_use),
        "{resources:?}"
    );
    assert_eq!(resources.len(), 1);
    ledger.pruned(run, &phase, resource, false).await.unwrap();
    drop(ledger);
    assert_eq!(live(&host).await, []);
}

/// Otherwise each apply would try to take back what is in use, and a directory that a rollback left would count as a
/// phase that was applied.
#[tokio::test]
async fn marks_of_old_runs_outlive_compaction() {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    let phase = "etcd".parse().unwrap();
    let directory = Undo::RemoveDirectory { path: "/d".into() };
    let left = vec![directory.key()];
    for _ in 0..3 {
        let run = note(&ledger, directory.clone()).await;
        let reverted = ledger.reverted(run, &phase, left.clone()).await;
        reverted.unwrap();
    }
    let module = Undo::UnloadModule {
        name: "ip_vs".to_owned(),
        stay: Vec::new(),
    };
    let run = note(&ledger, module.clone()).await;
    let (id, about) = (step("/a").id, module.key());
    let resource = (&id, about.as_str());
    ledger.pruned(run, &phase, resource, true).await.unwrap();
    for _ in 0..60 {
        let run = note(&ledger, removal("/a")).await;
        ledger
            .end(run, Outcome::Converged, (1, 0), Vec::new())
            .await
            .unwrap();
    }
    for _ in 0..2 {
        ledger.compact().await.unwrap();
        let named: Vec<String> = ledger.left_by_rollback(&phase).await.into_iter().collect();
        assert_eq!(named, left);
        let mut resources = ledger.resources().await;
        resources.retain(|resource| resource.in_use);
        assert_eq!(resources.len(), 1, "{resources:?}");
        assert_eq!(resources[0].undo.undo, module);
    }
    // The copy and the tip fit the compacted ledger.
    drop(ledger);
    assert!(!Ledger::renew_copies(&host).await.unwrap());
    let records = Ledger::read(&host).await.unwrap();
    let reverted = |record: &&Record| matches!(record, Record::Reverted { .. });
    assert_eq!(records.iter().filter(reverted).count(), 1);
    // The phase is complete later: nothing of it is left by a rollback.
    let ledger = Ledger::open(&host).await.unwrap();
    ledger.record_complete(run + 61, &phase).await.unwrap();
    ledger.compact().await.unwrap();
    assert!(ledger.left_by_rollback(&phase).await.is_empty());
}

/// The plan wants the resource again: if a later plan has it no longer, it is taken back.
#[tokio::test]
async fn a_resource_that_is_noted_again_is_not_in_use() {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    let phase = "etcd".parse().unwrap();
    let module = Undo::UnloadModule {
        name: "ip_vs".to_owned(),
        stay: Vec::new(),
    };
    let run = note(&ledger, module.clone()).await;
    let (id, about) = (step("/a").id, module.key());
    let resource = (&id, about.as_str());
    ledger.pruned(run, &phase, resource, true).await.unwrap();
    let before = ledger.live().await;
    ledger
        .step_log(run, &phase, &step("/a"))
        .note(&module)
        .await
        .unwrap();
    assert_eq!(ledger.live().await, before, "its undo stays the same");
    let resources = ledger.resources().await;
    assert!(
        resources.iter().all(|resource| !resource.in_use),
        "{resources:?}"
    );
}

/// Otherwise an apply after an interrupted clean would add a step a second time.
#[tokio::test]
async fn partial_cleanup_steps_take_only_steps_that_are_missing() {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    let phase = "etcd".parse().unwrap();
    let (stays, done) = (step("/stays"), step("/done"));
    let run = note(&ledger, removal("/a")).await;
    let cleanup = vec![stays.clone(), done.clone()];
    ledger.cleanup_steps(run, &phase, cleanup).await.unwrap();
    let cleanup_done = Record::CleanupDone {
        run,
        phase: phase.clone(),
        step: Some(done.id.clone()),
    };
    ledger.append(cleanup_done).await.unwrap();
    let known = ledger.cleanup_steps_of(&phase).await;
    assert_eq!(known, Some((vec![stays.id.clone()], true)));
    let again = vec![stays.clone(), done.clone()];
    ledger.cleanup_steps(run, &phase, again).await.unwrap();
    assert_eq!(
        ledger.all_cleanup_steps().await,
        [(phase, vec![stays, done])]
    );
}

#[tokio::test]
async fn a_truncated_last_line_is_removed() {
    let host = FakeHost::new();
    {
        let ledger = Ledger::open(&host).await.unwrap();
        note(&ledger, removal("/a")).await;
        note(&ledger, removal("/b")).await;
    }
    let whole = host.read(&file(), 1 << 20).await.unwrap().unwrap();
    let last_line = whole[..whole.len() - 1]
        .iter()
        .rposition(|b| *b == b'\n')
        .unwrap()
        + 1;
    for cut in last_line + 1..whole.len() {
        let truncated = host.fork();
        truncated.with_world_mut(|world| world.file(file(), &whole[..cut]));
        let records = Ledger::read(&truncated).await.unwrap();
        let ledger = Ledger::open(&truncated).await.unwrap();
        assert_eq!(ledger.live().await.len(), 2, "cut at {cut}");
        note(&ledger, removal("/c")).await;
        drop(ledger);
        assert_eq!(live(&truncated).await.len(), 3);
        assert!(Ledger::read(&truncated).await.unwrap().len() > records.len());
    }
}

#[tokio::test]
async fn a_newer_form_is_refused() {
    let host = FakeHost::new();
    let newer = VERSION + 1;
    let header = format!(r#"{{"r":"header","version":{newer},"more":true}}"#);
    host.with_world_mut(|world| world.file(file(), header + "\n{\"r\":\"news\"}\n"));
    let error = Ledger::open(&host).await.err().unwrap();
    let LedgerError::Newer { found, known, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((found, known), (newer, VERSION));
    // Nor is it recovered: a newer program can read it.
    let error = Ledger::recoverable(&host).await.err().unwrap();
    assert!(matches!(error, LedgerError::Newer { .. }), "{error}");
}

#[tokio::test]
async fn a_line_changed_by_others_is_named() {
    let host = FakeHost::new();
    {
        let ledger = Ledger::open(&host).await.unwrap();
        note(&ledger, removal("/a")).await;
    }
    let text = String::from_utf8(host.read(&file(), 1 << 20).await.unwrap().unwrap()).unwrap();
    let changed = text.replacen("intent", "content", 1);
    host.with_world_mut(|world| world.file(file(), changed));
    let error = Ledger::open(&host).await.err().unwrap();
    assert!(error.to_string().contains("ledger.jsonl:3:"), "{error}");
}

#[tokio::test]
async fn previous_content_is_kept_apart_and_comes_back() {
    let host = FakeHost::new().with_file("/etc/token", "hunter2");
    let undo = Undo::RestoreFile {
        path: "/etc/token".into(),
        content: SavedContent::new(b"hunter2".to_vec()),
        attributes: Attributes::root(0o600),
    };
    {
        let ledger = Ledger::open(&host).await.unwrap();
        note(&ledger, undo).await;
    }
    host.with_world_mut(|world| world.file("/etc/token", "ours"));
    let text = String::from_utf8(host.read(&file(), 1 << 20).await.unwrap().unwrap()).unwrap();
    assert!(!text.contains("hunter2"));
    let kept = live(&host).await.remove(0);
    kept.carry_out(&host).await.unwrap();
    assert_eq!(
        host.with_world(|world| world.text("/etc/token")),
        Some("hunter2".to_owned())
    );
    let folder = Path::new(STATE).join("content");
    let name = host.list(&folder).await.unwrap().remove(0);
    assert_eq!(
        host.entry(&folder.join(&name))
            .await
            .unwrap()
            .unwrap()
            .attributes
            .mode,
        0o600
    );
    host.with_world_mut(|world| world.file(folder.join(&name), "forged"));
    assert!(
        kept.carry_out(&host).await.is_err(),
        "content that was tampered with is not written back"
    );
}

#[tokio::test]
async fn compaction_crashed_at_each_call_loses_nothing() {
    let host = FakeHost::new();
    {
        let ledger = Ledger::open(&host).await.unwrap();
        for n in 0..60 {
            let run = note(&ledger, removal(&format!("/{}", n % 3))).await;
            ledger
                .end(run, Outcome::Converged, (1, 0), Vec::new())
                .await
                .unwrap();
        }
        let run = note(&ledger, removal("/gone")).await;
        ledger
            .reverted(run, &"etcd".parse().unwrap(), Vec::new())
            .await
            .unwrap();
    }
    let before = live(&host).await;
    assert_eq!(before.len(), 3);
    let history_read = Ledger::open(&host).await.unwrap().history().await;
    let lines = |records: &[Record]| records.len();
    let long = lines(&Ledger::read(&host).await.unwrap());
    for cut in 1..=4 {
        for fault in [
            FaultPlan::none().crash_before(cut),
            FaultPlan::none().crash_after(cut),
        ] {
            let crashing = host.fork();
            let ledger = Ledger::open(&crashing).await.unwrap();
            crashing.set_faults(fault);
            let _ = ledger.compact().await;
            drop(ledger);
            crashing.end_crash();
            assert_eq!(live(&crashing).await, before);
        }
    }
    let ledger = Ledger::open(&host).await.unwrap();
    ledger.compact().await.unwrap();
    let history = ledger.history().await;
    assert_eq!(
        history.runs,
        history_read.runs[history_read.runs.len() - 50..]
    );
    let last = history.runs.last().unwrap();
    assert_eq!(last.run, 61);
    assert!(
        last.phases[&"etcd".parse().unwrap()].reverted,
        "that something was taken back is still told"
    );
    let next = ledger
        .begin(Verb::Apply, "pf9-kube 1.20.2", None)
        .await
        .unwrap();
    assert_eq!(next, 62, "numbers go on");
    drop(ledger);
    assert_eq!(live(&host).await, before);
    assert!(lines(&Ledger::read(&host).await.unwrap()) < long);
}

#[tokio::test]
async fn why_names_the_script_line() {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    note(&ledger, removal("/etc/x")).await;
    let records = Ledger::read(&host).await.unwrap();
    for resource in ["/etc/x", "etcd", "/a", "etcd/directory:/a"] {
        let why = Why::of(&records, resource);
        assert_eq!(
            why.causes[0].span.as_ref().unwrap().to_string(),
            "phases/etcd.rhai:9:1",
            "{resource}"
        );
        assert_eq!(why.attempts.len(), 1, "{resource}");
    }
    assert!(!Why::of(&records, "/etc/y").is_known());
    assert_eq!(History::of(&records).runs.len(), 1);
}
