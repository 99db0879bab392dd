//! Writes of the ledger that are cut, fail half-way, or are given up.

use std::time::Duration;

use super::{file, live, note, removal, step};
use crate::host::Files as _;
use crate::host::fake::{FakeHost, FaultPlan};
use crate::ledger::{Ledger, Record};
use crate::model::{Outcome, Verb};

/// A ledger with one undo, and what is on disk of it.
async fn begun(host: &FakeHost) -> Ledger<'_> {
    let ledger = Ledger::open(host).await.unwrap();
    note(&ledger, removal("/a")).await;
    ledger
}

async fn bytes(host: &FakeHost) -> Vec<u8> {
    host.read(&file(), 1 << 20).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_line_is_not_joined_to_a_failed_append() {
    let path = file().display().to_string();
    for faults in [
        FaultPlan::none().truncate_append("append", &path).times(1),
        FaultPlan::none().fail("append", &path).times(1),
        FaultPlan::none().fail_after_call(1),
    ] {
        let host = FakeHost::new();
        let ledger = begun(&host).await;
        host.set_faults(faults);
        ledger
            .begin(Verb::Apply, "pf9-kube 1.20.2", None)
            .await
            .unwrap_err();
        note(&ledger, removal("/b")).await;
        let live_undos = ledger.live().await;
        drop(ledger);
        assert_eq!(live(&host).await, [removal("/a"), removal("/b")]);
        assert_eq!(live_undos.len(), 2);
        let runs = Ledger::open(&host).await.unwrap().history().await.runs;
        assert_eq!(runs.len(), 2, "what failed to be written is not there");
    }
}

#[tokio::test]
async fn a_tail_that_cannot_be_repaired_is_not_written_behind() {
    let path = file().display().to_string();
    let host = FakeHost::new();
    let ledger = begun(&host).await;
    host.set_faults(
        FaultPlan::none()
            .truncate_append("append", &path)
            .times(1)
            .fail("write", &path)
            .times(1),
    );
    for _ in 0..2 {
        ledger
            .begin(Verb::Apply, "pf9-kube 1.20.2", None)
            .await
            .unwrap_err();
    }
    note(&ledger, removal("/b")).await;
    drop(ledger);
    assert_eq!(live(&host).await, [removal("/a"), removal("/b")]);
}

/// A disk that stalls for longer than any timeout may carry out a write later. That write must not be mixed with what
/// was written in the meantime.
#[tokio::test(start_paused = true)]
async fn a_write_that_arrives_late_breaks_no_chain() {
    for (name, waits) in [
        ("append", Duration::from_secs(3600)),
        ("append", Duration::from_millis(10)),
        ("write", Duration::from_secs(3600)),
    ] {
        let host = FakeHost::new();
        let ledger = begun(&host).await;
        let ledger_file = file().display().to_string();
        if name == "write" {
            // The append fails, so the file is written again, and that write hangs.
            host.set_faults(
                FaultPlan::none()
                    .fail("append", "*")
                    .times(1)
                    .late(name, &ledger_file)
                    .times(1),
            );
            ledger.begin(Verb::Apply, "r", None).await.unwrap_err();
        } else {
            host.set_faults(FaultPlan::none().late(name, "*").times(1));
        }
        // The ledger's own deadline, or that of a step, which ends first.
        let begin = ledger.begin(Verb::Apply, "pf9-kube 1.20.2", None);
        let given_up = tokio::time::timeout(waits, begin).await;
        assert!(!matches!(given_up, Ok(Ok(_))), "{name}");
        // While it hangs, nothing else is written.
        let before = bytes(&host).await;
        let refused = ledger.begin(Verb::Apply, "r", None).await.unwrap_err();
        assert!(
            crate::model::chain(&refused).join(": ").contains("1m"),
            "{refused}"
        );
        assert_eq!(bytes(&host).await, before, "{name}");
        host.late_writes_arrive();
        note(&ledger, removal("/b")).await;
        drop(ledger);
        assert_eq!(live(&host).await, [removal("/a"), removal("/b")], "{name}");
    }
}

#[tokio::test]
async fn a_write_that_failed_half_way_is_repaired() {
    let host = FakeHost::new();
    let ledger = begun(&host).await;
    host.set_faults(FaultPlan::none().truncate_append("append", "*").times(1));
    ledger.begin(Verb::Apply, "r", None).await.unwrap_err();
    note(&ledger, removal("/b")).await;
    drop(ledger);
    assert_eq!(live(&host).await, [removal("/a"), removal("/b")]);
}

#[tokio::test]
async fn a_ledger_truncated_at_each_byte_can_be_continued() {
    let host = FakeHost::new();
    let ledger = begun(&host).await;
    let phase = "etcd".parse().unwrap();
    ledger
        .cleanup_steps(1, &phase, vec![step("/a")])
        .await
        .unwrap();
    let reverted = ledger.reverted(1, &phase, Vec::new()).await;
    reverted.unwrap();
    ledger
        .end(1, Outcome::Failed, (0, 0), Vec::new())
        .await
        .unwrap();
    ledger.cleaned(1, true, &[]).await.unwrap();
    drop(ledger);
    let all = Ledger::read(&host).await.unwrap();
    let whole = bytes(&host).await;
    for cut in 0..=whole.len() {
        let truncated = host.fork();
        truncated.with_world_mut(|world| {
            world.file(file(), &whole[..cut]);
            // The tip and the copy are written after the whole ledger.
            world.remove(file().with_extension("tip"));
            world.remove(file().with_file_name("ledger.backup.jsonl"));
        });
        let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        let read = Ledger::read(&truncated).await.unwrap();
        assert_eq!(read, all[..lines], "read, cut at {cut}");
        let ledger = Ledger::open(&truncated).await.unwrap();
        // A file that was cut in its header is replaced by a new ledger.
        let mut kept = all[..lines.max(1)].to_vec();
        if lines == 0 {
            kept = Ledger::read(&truncated).await.unwrap();
            assert!(matches!(kept[..], [Record::Header { .. }]), "{kept:?}");
        }
        assert_eq!(
            Ledger::read(&truncated).await.unwrap(),
            kept,
            "cut at {cut}"
        );
        note(&ledger, removal("/c")).await;
        drop(ledger);
        let read = Ledger::read(&truncated).await.unwrap();
        assert_eq!(read[..kept.len()], kept, "goes on, cut at {cut}");
        assert!(matches!(read.last(), Some(Record::Receipt { .. })));
    }
}
