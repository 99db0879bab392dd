//! Reads the ledger's file and compares it with what is kept beside it: the tip, and a copy of the ledger as it was
//! when the last run ended.

use std::cmp::Ordering;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::store::disk::{LIMIT, content_folder, failed, in_time};
use super::{LedgerError, Record, RunId, VERSION};
use crate::host::{Host, HostError};
use crate::ledger::hash_chain::Chain;
use crate::ledger::last_run::{LastRun, id_of};
use crate::model::STATE;

/// The path of the ledger.
pub(super) fn path() -> PathBuf {
    Path::new(STATE).join("ledger.jsonl")
}

/// The path of the tip, which says what the ledger must contain. The file keeps its name, although its type is called [`LastRun`]: a
/// running host has this file, and with another name a ledger that lacks its end would not be noticed there.
pub(super) fn tip_path() -> PathBuf {
    Path::new(STATE).join("ledger.tip")
}

/// A copy of the ledger as it was when the last run ended.
pub(super) fn copy_path() -> PathBuf {
    Path::new(STATE).join("ledger.backup.jsonl")
}

/// The file that was in the place of the ledger before it was recovered.
pub(super) fn damaged_path() -> PathBuf {
    Path::new(STATE).join("ledger.damaged.jsonl")
}

/// The content of the file.
#[derive(Debug, Default)]
pub(super) struct LedgerContents {
    pub(super) records: Vec<Record>,
    pub(super) chain: Chain,
    /// A half-written line follows.
    pub(super) truncated: bool,
    /// The tip or the copy is missing, damaged or out of date.
    pub(super) copies_due: bool,
}

/// The valid lines of a ledger, and why the rest is not valid.
pub(super) struct Parsed {
    pub(super) contents: LedgerContents,
    pub(super) error: Option<LedgerError>,
}

/// The ledger of a host; empty on a host that never had one.
pub(super) async fn read(host: &dyn Host) -> Result<LedgerContents, LedgerError> {
    // The ledger is read last: a run that ends in the meantime writes its end there before the tip and the copy.
    let copy = in_time(host.read(&copy_path(), LIMIT)).await;
    let tip = in_time(host.read(&tip_path(), LIMIT)).await;
    let bytes = in_time(host.read(&path(), LIMIT)).await;
    let bytes = bytes.map_err(unusable)?.unwrap_or_default();
    let Parsed {
        mut contents,
        error,
    } = parse(&path(), &bytes);
    if let Some(error) = error {
        return Err(error);
    }
    let tip_text = tip.map_err(failed("read the tip of"))?;
    if contents.records.is_empty() {
        let evidence = evidence(host).await?;
        if evidence.is_empty() {
            return Ok(contents);
        }
        return Err(LedgerError::Missing {
            path: path(),
            evidence,
        });
    }
    let tip = tip_text.as_deref().and_then(LastRun::parse);
    if let Some(problem) = tip.as_ref().and_then(|tip| tip.problem(&contents.records)) {
        return Err(corrupt(&path(), contents.records.len() + 1, problem));
    }
    // A copy that cannot be read is written again.
    let copy = copy.ok().flatten();
    if copy.as_deref() != ended_part(&bytes, &contents.records) {
        contents.copies_due = true;
        if let Some(problem) =
            copy.and_then(|copy| contradicted_by_copy(&contents.records, tip.as_ref(), &copy))
        {
            return Err(corrupt(&path(), contents.records.len() + 1, problem));
        }
    }
    contents.copies_due |= tip != Some(LastRun::of(&contents.records));
    Ok(contents)
}

/// The error for a path that cannot be read: either something else is in the place of the file, or the host has failed.
fn unusable(error: HostError) -> LedgerError {
    let problem = match &error {
        HostError::TooLarge { limit, .. } => format!("it is larger than {limit} bytes"),
        HostError::File { source, .. }
            if matches!(
                source.kind(),
                ErrorKind::IsADirectory | ErrorKind::InvalidInput
            ) =>
        {
            "it is not a regular file".to_owned()
        }
        _ => return failed("read")(error),
    };
    LedgerError::Unusable {
        path: path(),
        problem,
    }
}

/// Why, according to the copy, these records are not complete, or belong to another host.
fn contradicted_by_copy(records: &[Record], tip: Option<&LastRun>, copy: &[u8]) -> Option<String> {
    let Parsed {
        contents: copy,
        error,
    } = parse(&copy_path(), copy);
    if error.is_some() || copy.records.is_empty() {
        return None;
    }
    let (its, ours) = (LastRun::of(&copy.records), LastRun::of(records));
    if its.id != ours.id {
        // If the tip has an id, it names the ledger of this host.
        let known = tip.is_some_and(|tip| tip.id.is_some());
        return (!known).then(|| {
            format!(
                "it and {} are ledgers of different hosts, and it is not known which one belongs to this host",
                copy_path().display()
            )
        });
    }
    (its.run > ours.run).then(|| {
        format!(
            "run {} has ended according to {}, but its end is not in this ledger: an older ledger has replaced it",
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
    // Compaction puts the live records behind the end of the last run.
    let later = &records[last + 1..];
    let begun = later
        .iter()
        .position(|record| matches!(record, Record::Run { .. }));
    let lines = begun.map_or(records.len(), |begun| last + 1 + begun);
    let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let (end, _) = ends.nth(lines - 1)?;
    Some(&bytes[..=end])
}

/// The ledger in these bytes, up to the first line that is not valid.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Parsed {
    let mut contents = LedgerContents::default();
    let error = parse_into(&mut contents, path, bytes).err();
    Parsed { contents, error }
}

fn parse_into(contents: &mut LedgerContents, path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
    let complete_bytes = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    contents.truncated = complete_bytes < bytes.len();
    for (number, line) in bytes[..complete_bytes]
        .split_inclusive(|b| *b == b'\n')
        .enumerate()
    {
        let number = number + 1;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let text = std::str::from_utf8(line)
            .map_err(|_| corrupt(path, number, "it is not text".to_owned()))?;
        if let Some(other) = other_version(path, number, text) {
            return Err(other);
        }
        let record = contents
            .chain
            .open(text)
            .map_err(|problem| corrupt(path, number, problem))?;
        if (number == 1) != matches!(record, Record::Header { .. }) {
            let problem =
                "the header must be the first line: the header, or lines before it, are missing";
            return Err(corrupt(path, number, problem.to_owned()));
        }
        contents.records.push(record);
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

/// The error for a header of another version.
fn other_version(path: &Path, line: usize, text: &str) -> Option<LedgerError> {
    // Lines of the chain begin with their number.
    if !text.starts_with("{\"r\":") {
        return None;
    }
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    let found = (json["r"] == "header").then(|| json["version"].as_u64())??;
    let found = u32::try_from(found).unwrap_or(u32::MAX);
    match found.cmp(&VERSION) {
        Ordering::Less => {
            let problem = format!(
                "its format has version {found}, this program reads version {VERSION} only"
            );
            Some(corrupt(path, line, problem))
        }
        Ordering::Equal => None,
        Ordering::Greater => Some(LedgerError::Newer {
            path: path.to_owned(),
            found,
            known: VERSION,
        }),
    }
}

/// The files that show that there was a ledger: they are written only after it.
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
    /// The longest readable records of this host's ledger, and the file that they are from.
    pub(crate) part: Option<(PathBuf, Vec<Record>)>,
    /// The content of the ledger's file, if there is any.
    pub(crate) damaged: Option<Vec<u8>>,
    /// Highest number of a run that any of them names.
    pub(crate) last_run: RunId,
}

/// Finds what can be used to recover a ledger. `own` says whether an id is one of this host's.
pub(super) async fn recoverable(
    host: &dyn Host,
    own: impl Fn(&str) -> bool,
) -> Result<Recoverable, LedgerError> {
    // A file that cannot be read is left out; the others are used all the same.
    let content = async |path: &Path| in_time(host.read(path, LIMIT)).await.ok().flatten();
    let tip = content(&tip_path()).await;
    let tip = tip.as_deref().and_then(LastRun::parse);
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
        let Parsed { contents, error } = parse(&path, &bytes);
        // A newer program can read it: it is not lost.
        if let Some(newer @ LedgerError::Newer { .. }) = error {
            return Err(newer);
        }
        if path == self::path() {
            found.damaged = Some(bytes);
        }
        let Some(last) = last_run(&contents.records) else {
            continue;
        };
        let id = id_of(&contents.records);
        let is_own = match tip.as_ref().and_then(|tip| tip.id.as_ref()) {
            Some(wanted) => id.as_ref() == Some(wanted),
            None => id.as_deref().is_none_or(&own),
        };
        if !is_own {
            continue;
        }
        // The copy is written before the tip: it may have the end of a run of which the tip has only the beginning.
        let is_whole = |tip: &LastRun| {
            let ended = LastRun::of(&contents.records).run;
            ended == tip.begun.unwrap_or(tip.run) && tip.problem(&contents.records).is_none()
        };
        if error.is_none() && tip.as_ref().is_some_and(is_whole) && found.exact.is_none() {
            found.exact = Some(contents.records.clone());
        }
        found.last_run = found.last_run.max(last);
        let further = found.part.as_ref().is_none_or(|(_, known)| {
            (last_run(known), known.len()) < (Some(last), contents.records.len())
        });
        if further {
            found.part = Some((path, contents.records));
        }
    }
    Ok(found)
}

fn last_run(records: &[Record]) -> Option<RunId> {
    records.iter().filter_map(Record::run).max()
}
