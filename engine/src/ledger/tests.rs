//! The ledger on a host that fails, crashes, and cuts writes.

mod compaction;
mod crashes;
mod damage;

use std::path::{Path, PathBuf};

use super::{History, Ledger, LedgerError, Record, VERSION, Why};
use crate::host::fake::{FakeHost, FaultPlan};
use crate::host::{Attributes, Files as _};
use crate::model::{Outcome, STATE, Span, StepId, Verb};
use crate::plan::{PlannedStep, StepPolicy};
use crate::resource::{
    Action, Change, DirectorySpec, Owner, SavedContent, Spec, Undo, UndoLog as _,
};

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

/// Notes an undo as a step of phase etcd in a run of its own.
async fn note(ledger: &Ledger<'_>, undo: Undo) -> u64 {
    let run = ledger
        .begin(Verb::Apply, "pf9-kube 1.20.2", "0123456789abcdef")
        .await
        .unwrap();
    let phase = "etcd".parse().unwrap();
    ledger
        .intent(run, &phase, &step("/a"), &Change::new(Action::Create))
        .await
        .unwrap();
    ledger
        .step_log(run, &phase, &step("/a"))
        .note(&undo)
        .await
        .unwrap();
    ledger.receipt(run, &phase, &step("/a").id).await.unwrap();
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
async fn what_was_noted_is_there_after_a_new_start() {
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
async fn of_two_undos_of_one_thing_the_older_counts() {
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
        .reverted(run, &"etcd".parse().unwrap(), None)
        .await
        .unwrap();
    drop(ledger);
    assert_eq!(live(&host).await, [removal("/a")]);
}

#[tokio::test]
async fn a_reverted_run_takes_its_clean_lane_with_it() {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    let (docker, etcd) = ("docker".parse().unwrap(), "etcd".parse().unwrap());
    for (run, phase) in [(1, &docker), (2, &etcd)] {
        note(&ledger, removal("/a")).await;
        let lane = vec![step("/left")];
        ledger.clean_lane(run, phase, lane).await.unwrap();
    }
    ledger.reverted(2, &docker, None).await.unwrap();
    assert_eq!(ledger.clean_lanes().await.len(), 2, "of another run");
    ledger.reverted(2, &etcd, None).await.unwrap();
    let left = ledger.clean_lanes().await;
    assert_eq!(left, [(docker, vec![step("/left")])]);
}

#[tokio::test]
async fn a_torn_last_line_counts_as_not_written_and_is_cut_off() {
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
async fn compaction_keeps_what_counts_wherever_it_is_cut() {
    let host = FakeHost::new();
    {
        let ledger = Ledger::open(&host).await.unwrap();
        for n in 0..60 {
            let run = note(&ledger, removal(&format!("/{}", n % 3))).await;
            ledger.end(run, Outcome::Converged, (1, 0)).await.unwrap();
        }
        let run = note(&ledger, removal("/gone")).await;
        ledger
            .reverted(run, &"etcd".parse().unwrap(), None)
            .await
            .unwrap();
    }
    let before = live(&host).await;
    assert_eq!(before.len(), 3);
    let told = Ledger::open(&host).await.unwrap().history().await;
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
            crashing.revive();
            assert_eq!(live(&crashing).await, before);
        }
    }
    let ledger = Ledger::open(&host).await.unwrap();
    ledger.compact().await.unwrap();
    let history = ledger.history().await;
    assert_eq!(history.runs, told.runs[told.runs.len() - 50..]);
    let last = history.runs.last().unwrap();
    assert_eq!(last.run, 61);
    assert!(
        last.phases[&"etcd".parse().unwrap()].reverted,
        "that something was taken back is still told"
    );
    let next = ledger
        .begin(Verb::Apply, "pf9-kube 1.20.2", "0123456789abcdef")
        .await
        .unwrap();
    assert_eq!(next, 62, "numbers go on");
    drop(ledger);
    assert_eq!(live(&host).await, before);
    assert!(lines(&Ledger::read(&host).await.unwrap()) < long);
}

#[tokio::test]
async fn why_names_the_script_line_of_a_thing() {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    note(&ledger, removal("/etc/x")).await;
    let records = Ledger::read(&host).await.unwrap();
    for thing in ["/etc/x", "etcd", "/a", "etcd/directory:/a"] {
        let why = Why::of(&records, thing);
        assert_eq!(
            why.causes[0].span.as_ref().unwrap().to_string(),
            "phases/etcd.rhai:9:1",
            "{thing}"
        );
        assert_eq!(why.attempts.len(), 1, "{thing}");
    }
    assert!(!Why::of(&records, "/etc/y").is_known());
    assert_eq!(History::of(&records).runs.len(), 1);
}
