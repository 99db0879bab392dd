//! Reading the ledger's file, and comparing it with what is kept beside it: the tip, and a copy of the ledger as it was when
//! the last run ended.

use std::path::{Path, PathBuf};

use super::seal::{CHAINED, Chain, Line};
use super::store::{LIMIT, content_folder, failed, in_time};
use super::tip::{Tip, id_of};
use super::{LedgerError, Record, RunId, VERSION};
use crate::exec::STATE;
use crate::host::Host;

/// Where the ledger stands.
pub(super) fn path() -> PathBuf {
    Path::new(STATE).join("ledger.jsonl")
}

/// Where it is written down what the ledger must contain.
pub(super) fn tip_path() -> PathBuf {
    Path::new(STATE).join("ledger.tip")
}

/// A copy of the ledger as it was when the last run ended.
pub(super) fn copy_path() -> PathBuf {
    Path::new(STATE).join("ledger.backup.jsonl")
}

/// What stood in the place of the ledger before it was recovered.
pub(super) fn damaged_path() -> PathBuf {
    Path::new(STATE).join("ledger.damaged.jsonl")
}

/// What stands in the file.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) records: Vec<Record>,
    pub(super) chain: Chain,
    /// A half-written line follows.
    pub(super) torn: bool,
    /// It is of an older form.
    pub(super) older: bool,
    /// It is of a form without a chain.
    unchained: bool,
    /// The tip or the copy is missing, damaged or out of date.
    pub(super) copies_due: bool,
}

/// The lines of a ledger that fit, and why the rest does not.
pub(super) struct Parsed {
    pub(super) book: Book,
    pub(super) error: Option<LedgerError>,
}

/// The ledger of a host; empty on a host that never had one.
pub(super) async fn read(host: &dyn Host) -> Result<Book, LedgerError> {
    // The tip first: a run that ends meanwhile has written its end before it.
    let tip = in_time(host.read(&tip_path(), LIMIT)).await;
    let bytes = in_time(host.read(&path(), LIMIT)).await;
    let bytes = bytes.map_err(failed("read"))?.unwrap_or_default();
    let Parsed { mut book, error } = parse(&path(), &bytes);
    if let Some(error) = error {
        return Err(error);
    }
    let tip_text = tip.map_err(failed("read the tip of"))?;
    if book.records.is_empty() {
        let evidence = evidence(host).await?;
        if evidence.is_empty() {
            return Ok(book);
        }
        return Err(LedgerError::Missing {
            path: path(),
            evidence,
        });
    }
    let tip = tip_text.as_deref().and_then(Tip::parse);
    if let Some(problem) = tip.as_ref().and_then(|tip| tip.problem(&book.records)) {
        return Err(corrupt(&path(), book.records.len() + 1, problem));
    }
    let copy = in_time(host.read(&copy_path(), LIMIT)).await;
    // One that cannot be read is written anew.
    let copy = copy.ok().flatten();
    if copy.as_deref() != ended_part(&bytes, &book.records) {
        book.copies_due = true;
        if let Some(problem) = copy.and_then(|copy| outdone_by(&book.records, tip.as_ref(), &copy))
        {
            return Err(corrupt(&path(), book.records.len() + 1, problem));
        }
    }
    book.copies_due |= tip != Some(Tip::of(&book.records));
    Ok(book)
}

/// Why the copy says that these records are not all, or are another host's.
fn outdone_by(records: &[Record], tip: Option<&Tip>, copy: &[u8]) -> Option<String> {
    let Parsed { book: copy, error } = parse(&copy_path(), copy);
    if error.is_some() || copy.records.is_empty() {
        return None;
    }
    let (its, ours) = (Tip::of(&copy.records), Tip::of(records));
    if its.id != ours.id {
        // The tip has named the ledger of this host.
        let known = tip.is_some_and(|tip| tip.id.is_some());
        return (!known).then(|| {
            format!(
                "it and {} are ledgers of different hosts, and nothing says which is this one's",
                copy_path().display()
            )
        });
    }
    (its.run > ours.run).then(|| {
        format!(
            "run {} has ended, as {} says, and that is not in it: it was replaced by an older one",
            its.run,
            copy_path().display()
        )
    })
}

/// The part of the file that was there when the last run ended; `None` if none has ended.
pub(super) fn ended_part<'b>(bytes: &'b [u8], records: &[Record]) -> Option<&'b [u8]> {
    let last = records
        .iter()
        .rposition(|record| matches!(record, Record::End { .. }))?;
    // Compaction puts what stands behind the end of the last run.
    let later = &records[last + 1..];
    let begun = later
        .iter()
        .position(|record| matches!(record, Record::Run { .. }));
    let lines = begun.map_or(records.len(), |begun| last + 1 + begun);
    let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let (end, _) = ends.nth(lines - 1)?;
    Some(&bytes[..=end])
}

/// The ledger that these bytes hold, as far as it goes.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Parsed {
    let mut book = Book::default();
    let error = parse_into(&mut book, path, bytes).err();
    if let Some(Record::Header { version, .. }) = book.records.first_mut() {
        *version = VERSION;
    }
    Parsed { book, error }
}

fn parse_into(book: &mut Book, path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
    let whole = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    book.torn = whole < bytes.len();
    for (number, line) in bytes[..whole].split_inclusive(|b| *b == b'\n').enumerate() {
        let number = number + 1;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let text = std::str::from_utf8(line)
            .map_err(|_| corrupt(path, number, "it is no text".to_owned()))?;
        if let Some(newer) = newer(path, text) {
            return Err(newer);
        }
        let Line { record, form } = book
            .chain
            .open(text, book.unchained)
            .map_err(|problem| corrupt(path, number, problem))?;
        if (number == 1) != matches!(record, Record::Header { .. }) {
            let problem = "the header stands elsewhere than in the first line: lines before it, or it, are missing";
            return Err(corrupt(path, number, problem.to_owned()));
        }
        book.unchained |= form.is_some_and(|version| version < CHAINED);
        book.older |= form.is_some_and(|version| version < VERSION);
        book.records.push(record);
    }
    Ok(())
}

fn corrupt(path: &Path, line: usize, problem: String) -> LedgerError {
    LedgerError::Corrupt {
        path: path.to_owned(),
        line,
        problem,
    }
}

/// The error for a header of a newer form.
fn newer(path: &Path, text: &str) -> Option<LedgerError> {
    if !text.starts_with("{\"r\":\"header\"") {
        return None;
    }
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let found = (json["r"] == "header").then(|| json["version"].as_u64())??;
    (found > u64::from(VERSION)).then(|| LedgerError::Newer {
        path: path.to_owned(),
        found: u32::try_from(found).unwrap_or(u32::MAX),
        known: VERSION,
    })
}

/// What on this host says that there was a ledger: files that are written after it alone.
pub(super) async fn evidence(host: &dyn Host) -> Result<Vec<String>, LedgerError> {
    let mut found = Vec::new();
    let identity = Path::new(STATE).join("identity.json");
    for path in [tip_path(), copy_path(), identity] {
        let entry = in_time(host.entry(&path))
            .await
            .map_err(failed("look for"))?;
        if entry.is_some() {
            found.push(path.display().to_string());
        }
    }
    for folder in [content_folder(), Path::new(STATE).join("services")] {
        let names = in_time(host.list(&folder)).await;
        if !names.map_err(failed("look for"))?.is_empty() {
            found.push(folder.display().to_string());
        }
    }
    Ok(found)
}

/// What can be used to recover a ledger.
#[derive(Debug, Default)]
pub(crate) struct Recoverable {
    /// The ledger as it was when the last run ended, if no run has begun since.
    pub(crate) exact: Option<Vec<Record>>,
    /// The records of this host's ledger that go furthest, and the file that they are from.
    pub(crate) part: Option<(PathBuf, Vec<Record>)>,
    /// The file as it stands, where something does.
    pub(crate) damaged: Option<Vec<u8>>,
    /// Highest number of a run that any of them names.
    pub(crate) last_run: RunId,
}

/// Looks for it. `own` tells whether an id is one of this host's.
pub(super) async fn recoverable(
    host: &dyn Host,
    own: impl Fn(&str) -> bool,
) -> Result<Recoverable, LedgerError> {
    // What cannot be read is of no use, and keeps nothing else from being used.
    let content = async |path: &Path| in_time(host.read(path, LIMIT)).await.ok().flatten();
    let tip = content(&tip_path()).await;
    let tip = tip.as_deref().and_then(Tip::parse);
    let mut found = Recoverable {
        last_run: tip
            .as_ref()
            .map_or(0, |tip| tip.run.max(tip.begun.unwrap_or(0))),
        ..Recoverable::default()
    };
    for path in [copy_path(), path()] {
        let Some(bytes) = content(&path).await.filter(|bytes| !bytes.is_empty()) else {
            continue;
        };
        let Parsed { book, error } = parse(&path, &bytes);
        if path == self::path() {
            found.damaged = Some(bytes);
        }
        let Some(last) = last_run(&book.records) else {
            continue;
        };
        let id = id_of(&book.records);
        let is_own = match tip.as_ref().and_then(|tip| tip.id.as_ref()) {
            Some(wanted) => id.as_ref() == Some(wanted),
            None => id.as_deref().is_none_or(&own),
        };
        if !is_own {
            continue;
        }
        // The copy is written before the tip: it may have the end of the run that had begun by the tip.
        let is_whole = |tip: &Tip| {
            let ended = Tip::of(&book.records).run;
            ended == tip.begun.unwrap_or(tip.run) && tip.problem(&book.records).is_none()
        };
        if error.is_none() && tip.as_ref().is_some_and(is_whole) && found.exact.is_none() {
            found.exact = Some(book.records.clone());
        }
        found.last_run = found.last_run.max(last);
        let further = found.part.as_ref().is_none_or(|(_, known)| {
            (last_run(known), known.len()) < (Some(last), book.records.len())
        });
        if further {
            found.part = Some((path, book.records));
        }
    }
    Ok(found)
}

fn last_run(records: &[Record]) -> Option<RunId> {
    records.iter().filter_map(Record::run).max()
}
