//! Damaged ledgers: a line before the last one that is missing, repeated, moved or changed is noticed. So is a ledger
//! of an older version, which is refused.

use std::collections::BTreeMap;
use std::path::Path;

use super::{file, live, note, removal};
use crate::exec::scratch;
use crate::host::fake::{FakeHost, FaultPlan};
use crate::host::{ContainerConfig, Containers as _, Files as _};
use crate::ledger::contents::{copy_path, tip_path};
use crate::ledger::hash_chain::Chain;
use crate::ledger::store::disk::LIMIT;
use crate::ledger::{Ledger, LedgerError, RECOVER, Record, VERSION};
use crate::model::Outcome;
use crate::resource::docker::container_runtime;

async fn text(host: &FakeHost) -> String {
    let bytes = host.read(&file(), 1 << 20).await.unwrap().unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A host with some recorded runs, and the lines.
async fn written() -> (FakeHost, Vec<String>) {
    let host = FakeHost::new();
    let ledger = Ledger::open(&host).await.unwrap();
    for path in ["/a", "/b"] {
        let run = note(&ledger, removal(path)).await;
        ledger
            .end(run, Outcome::Converged, (1, 0), Vec::new())
            .await
            .unwrap();
    }
    drop(ledger);
    let lines = text(&host).await.lines().map(str::to_owned).collect();
    (host, lines)
}

/// The line at which these lines are refused, and why.
async fn refused(host: &FakeHost, lines: &[String]) -> Option<(usize, String)> {
    let host = host.fork();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    host.with_world_mut(|world| world.file(file(), &text));
    let read = Ledger::read(&host).await;
    let opened = Ledger::open(&host).await;
    assert_eq!(read.is_ok(), opened.is_ok());
    assert_eq!(
        host.with_world(|world| world.text(file())),
        Some(text),
        "what is refused is not touched"
    );
    match read.err()? {
        LedgerError::Corrupt { line, problem, .. } => Some((line, problem)),
        other => panic!("{other}"),
    }
}

/// A pass reads beside a run. One that ends between the two reads would be in the copy and not in the ledger, as if an older ledger were there.
#[tokio::test]
async fn the_ledger_is_read_after_what_it_is_compared_with() {
    let (host, _) = written().await;
    host.clear_journal();
    Ledger::read(&host).await.unwrap();
    let reads = host
        .journal()
        .into_iter()
        .filter(|call| call.name == "read");
    let reads: Vec<String> = reads.map(|call| call.argument).collect();
    let at = |path: &Path| reads.iter().position(|read| Path::new(read) == path);
    let ledger = at(&file());
    assert!(
        ledger.is_some() && at(&copy_path()) < ledger && at(&tip_path()) < ledger,
        "{reads:?}"
    );
    assert!(
        at(&copy_path()).is_some() && at(&tip_path()).is_some(),
        "{reads:?}"
    );
}

/// Also if it is larger than any ledger.
#[tokio::test]
async fn something_else_in_the_place_of_the_ledger_is_named_with_its_remedy() {
    let (directory, _) = written().await;
    directory.with_world_mut(|world| {
        world.remove(file());
        world.directory(file());
    });
    let (large, _) = written().await;
    let content = vec![b' '; usize::try_from(LIMIT).unwrap() + 1];
    large.with_world_mut(|world| world.file(file(), content));
    for (host, problem) in [
        (directory, "it is not a regular file"),
        (large, "it is larger than 67108864 bytes"),
    ] {
        let error = Ledger::read(&host).await.expect_err("it is no ledger");
        assert!(matches!(error, LedgerError::Unusable { .. }), "{error}");
        let said = error.to_string();
        for part in [problem, "`mv /var/opt/pf9/nodelet/ledger.jsonl", RECOVER] {
            assert!(said.contains(part), "`{part}`: {said}");
        }
    }
}

#[tokio::test]
async fn a_missing_line_is_detected_at_each_position() {
    let (host, lines) = written().await;
    assert_eq!(refused(&host, &lines).await, None, "as it was");
    for gone in 0..lines.len() - 1 {
        let mut left = lines.clone();
        left.remove(gone);
        let (line, problem) = refused(&host, &left).await.expect("it is noticed");
        assert_eq!(line, gone + 1, "{problem}");
        assert!(problem.contains("missing"), "{problem}");
    }
}

#[tokio::test]
async fn a_line_that_is_repeated_or_moved_is_noticed() {
    let (host, lines) = written().await;
    for again in 0..lines.len() {
        let mut more = lines.clone();
        more.insert(again, lines[again].clone());
        let (line, problem) = refused(&host, &more).await.expect("it is noticed");
        assert_eq!(line, again + 2, "{problem}");
    }
    for place in 1..lines.len() - 1 {
        let mut swapped = lines.clone();
        swapped.swap(place, place + 1);
        let (line, _) = refused(&host, &swapped).await.expect("it is noticed");
        assert_eq!(line, place + 1);
    }
}

#[tokio::test]
async fn a_changed_letter_is_noticed() {
    let (host, lines) = written().await;
    for place in 1..lines.len() {
        let mut changed = lines.clone();
        changed[place] =
            lines[place]
                .replacen("etcd", "etce", 1)
                .replacen("\"run\":", "\"run\": ", 1);
        let (line, problem) = refused(&host, &changed).await.expect("it is noticed");
        assert_eq!(line, place + 1);
        assert!(problem.contains("changed"), "{problem}");
    }
    // The chain depends on the header as well.
    let mut changed = lines.clone();
    changed[0] = lines[0].replace(':', ": ");
    assert!(refused(&host, &changed).await.is_some());
}

#[tokio::test]
async fn cut_in_the_middle_of_a_line_with_more_behind_it_is_noticed() {
    let (host, lines) = written().await;
    for place in 1..lines.len() - 1 {
        let mut cut = lines.clone();
        cut[place].truncate(lines[place].len() / 2);
        let (line, _) = refused(&host, &cut).await.expect("it is noticed");
        assert_eq!(line, place + 1);
    }
}

#[tokio::test]
async fn the_refusal_names_the_line_and_a_next_step() {
    let (host, mut lines) = written().await;
    lines.remove(2);
    host.with_world_mut(|world| world.file(file(), lines.join("\n") + "\n"));
    let error = Ledger::open(&host).await.err().unwrap().to_string();
    assert!(
        error.contains("ledger.jsonl:3: the line has number 3, expected 2"),
        "{error}"
    );
    assert!(error.contains("`nodelet recover`"), "{error}");
}

#[tokio::test]
async fn an_older_format_is_refused_with_a_next_step() {
    let (host, _) = written().await;
    let older = VERSION - 1;
    let content = format!("{{\"r\":\"header\",\"version\":{older}}}\n{{\"r\":\"old\"}}\n");
    host.with_world_mut(|world| world.file(file(), &content));
    assert!(Ledger::read(&host).await.is_err());
    let error = Ledger::open(&host).await.err().unwrap();
    assert!(
        matches!(error, LedgerError::Corrupt { line: 1, .. }),
        "{error}"
    );
    let wanted = format!(
        "ledger.jsonl:1: its format has version {older}, this program reads version {VERSION} only; `nodelet recover"
    );
    assert!(error.to_string().contains(&wanted), "{error}");
    assert_eq!(text(&host).await, content, "what is refused is not touched");
}

#[tokio::test]
async fn a_ledger_without_an_id_is_read_and_continued() {
    let (host, _) = written().await;
    let mut records = Ledger::read(&host).await.unwrap();
    records[0] = Record::Header {
        version: VERSION,
        id: None,
    };
    let mut chain = Chain::default();
    let content: String = records
        .iter()
        .map(|record| chain.next_line(record))
        .collect();
    host.with_world_mut(|world| {
        world.file(file(), &content);
        // The tip was the number of the last run, which is not valid any more, and there was no copy.
        world.file(file().with_extension("tip"), "2");
        world.remove(file().with_file_name("ledger.backup.jsonl"));
    });
    assert_eq!(Ledger::read(&host).await.unwrap(), records);
    let ledger = Ledger::open(&host).await.unwrap();
    note(&ledger, removal("/c")).await;
    drop(ledger);
    assert_eq!(
        live(&host).await,
        [removal("/a"), removal("/b"), removal("/c")]
    );
    assert!(text(&host).await.starts_with(&content));
}

/// If the whole directory is gone, nothing else shows that there was a ledger; and without settings there is no plan
/// that could show it.
#[tokio::test(start_paused = true)]
async fn resources_on_the_host_contradict_an_empty_ledger() {
    let made = async |host: &FakeHost, name: &str, (label, value): (&str, &str)| {
        let config = ContainerConfig {
            labels: BTreeMap::from([(label.to_owned(), value.to_owned())]),
            ..ContainerConfig::bare(name, "etcd:1")
        };
        host.create_container(&config).await.unwrap();
    };
    let said = async |host: &FakeHost| {
        let records = Ledger::read(host).await.unwrap();
        let belied = Ledger::contradicted_by_host(host, &records).await;
        belied.map(|error| error.to_string())
    };
    assert_eq!(said(&FakeHost::new()).await, None, "without a runtime");
    let host = FakeHost::new().with_docker().with_image("etcd:1");
    made(&host, "theirs", ("app", container_runtime::OURS)).await;
    made(&host, "proof", scratch::LABEL).await;
    assert_eq!(said(&host).await, None, "none of them is the role's");
    made(
        &host,
        "etcd",
        (container_runtime::OWNER, container_runtime::OURS),
    )
    .await;
    let missing = said(&host).await.expect("it is noticed");
    assert!(
        missing.contains("is missing or empty") && missing.contains("has container etcd; `nodelet"),
        "{missing}"
    );
    host.set_faults(FaultPlan::none().stall("container_runtime", "*"));
    assert_eq!(said(&host).await, None, "a runtime that hangs says nothing");
    host.with_world_mut(|world| {
        world.file("/etc/pf9/kube.d/kubeconfigs/admin.yaml", "kind: Config")
    });
    let missing = said(&host).await.expect("it is noticed");
    assert!(
        missing.contains("has file /etc/pf9/kube.d/kubeconfigs/admin.yaml"),
        "{missing}"
    );
    host.with_world_mut(|world| {
        world.remove("/etc/pf9/kube.d/kubeconfigs/admin.yaml");
        world.file("/etc/pf9/kube.d/kubeconfigs/admin.yaml.bak", "kind: Config");
    });
    assert_eq!(said(&host).await, None, "an operator's file is no role's");
    host.set_faults(FaultPlan::none().fail("entry", "/etc/pf9/kube.d/kubeconfigs/admin.yaml"));
    let unread = said(&host).await.expect("it is not known");
    assert!(
        unread.contains("compare this host with the ledger"),
        "{unread}"
    );
    host.set_faults(FaultPlan::none());
    // A new ledger knows as little. A ledger that has resources to take back is judged by its plan.
    let ledger = Ledger::open(&host).await.unwrap();
    let incomplete = said(&host).await.expect("it is noticed");
    assert!(
        incomplete.contains("does not know container etcd"),
        "{incomplete}"
    );
    note(&ledger, removal("/etc/a")).await;
    assert_eq!(said(&host).await, None);
}
