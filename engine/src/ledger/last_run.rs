//! `ledger.tip`: what the ledger must contain, kept beside it.
//!
//! It names the ledger, the last run that has ended with a digest of that run's first and last record, and a run that
//! has begun since. Nothing else would show that a ledger was truncated, or replaced by an older one or by another
//! host's.

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::{Record, RunId};

/// Hex digits of a digest.
const DIGITS: usize = 16;

/// What the ledger must contain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct LastRun {
    /// The ledger's own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    /// The last run that has ended; 0 for none.
    pub(super) run: RunId,
    /// Digest of its first and last record.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) sum: String,
    /// A run that has begun since and has no end yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) begun: Option<RunId>,
}

impl LastRun {
    /// The tip for these records.
    pub(super) fn of(records: &[Record]) -> Self {
        let ended = records.iter().rev().find_map(|record| match record {
            Record::End { run, .. } => Some(*run),
            _ => None,
        });
        let last = records.iter().rev().find_map(|record| match record {
            Record::Run { run, .. } => Some(*run),
            _ => None,
        });
        Self {
            id: id_of(records),
            run: ended.unwrap_or(0),
            sum: ended.map(|run| sum(records, run)).unwrap_or_default(),
            begun: last.filter(|last| !has_end(records, *last)),
        }
    }

    /// Parses the content of the file; `None` if it is not valid.
    pub(super) fn parse(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }

    pub(super) fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and texts are JSON")
    }

    /// Why these records are not the ones that this tip was written for.
    pub(super) fn problem(&self, records: &[Record]) -> Option<String> {
        let id = id_of(records);
        if self.id.is_some() && self.id != id {
            return Some(format!(
                "it is the ledger {}, and the ledger of this host is {}",
                id.as_deref().unwrap_or("without an id"),
                self.id.as_deref().unwrap_or_default(),
            ));
        }
        if self.run > 0 && !has_end(records, self.run) {
            return Some(format!(
                "run {} had ended, but its end is not in this ledger: lines are missing at the end",
                self.run
            ));
        }
        if !self.sum.is_empty() && self.sum != sum(records, self.run) {
            return Some(format!(
                "run {} in this ledger differs from the recorded run {}: the ledger was replaced",
                self.run, self.run
            ));
        }
        let begun = self.begun.filter(|begun| !has_begun(records, *begun))?;
        Some(format!(
            "run {begun} had begun, but it is not in this ledger: lines are missing at the end"
        ))
    }
}

/// The id of a ledger with these records.
pub(super) fn id_of(records: &[Record]) -> Option<String> {
    records.iter().find_map(|record| match record {
        Record::Header { id, .. } => id.clone(),
        _ => None,
    })
}

fn has_end(records: &[Record], wanted: RunId) -> bool {
    let mut back = records.iter().rev();
    back.any(|record| matches!(record, Record::End { run, .. } if *run == wanted))
}

fn has_begun(records: &[Record], wanted: RunId) -> bool {
    let mut back = records.iter().rev();
    back.any(|record| record.run() == Some(wanted))
}

/// Digest of a run's first and last record. Both outlive a compaction. Fields that a role's last good version may not know do not count: after a
/// failed upgrade it reads these records.
fn sum(records: &[Record], wanted: RunId) -> String {
    let its = records.iter().filter(|record| {
        matches!(record, Record::Run { run, .. } | Record::End { run, .. } if *run == wanted)
    });
    let mut hash = sha2::Sha256::new();
    for mut record in its.cloned() {
        match &mut record {
            Record::Run { cluster_digest, .. } => *cluster_digest = None,
            Record::End { phases, .. } => phases.clear(),
            _ => {}
        }
        let text =
            serde_json::to_vec(&record).expect("a record holds nothing that JSON cannot say");
        hash.update(text);
    }
    let mut hex = crate::model::hex(&hash.finalize());
    hex.truncate(DIGITS);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version from before a failed upgrade reads the ledger again, and drops fields that it does not know.
    #[test]
    fn newer_fields_are_no_part_of_the_sum() {
        let earlier = [
            r#"{"r":"run","run":1,"verb":"apply","role":"r 1","digest":"d","at":"t"}"#,
            r#"{"r":"end","run":1,"outcome":"converged","changed":1,"unchanged":0,"at":"t"}"#,
        ];
        let read = |line: &str| serde_json::from_str::<Record>(line).expect("a record");
        let records = earlier.map(read);
        let written = records
            .each_ref()
            .map(|record| serde_json::to_string(record).expect("JSON"));
        assert_eq!(written, earlier);
        let mut newer = records.clone();
        let [
            Record::Run { cluster_digest, .. },
            Record::End { phases, .. },
        ] = &mut newer
        else {
            panic!("{newer:?}");
        };
        *cluster_digest = Some("c".to_owned());
        phases.push("etcd".parse().expect("a name"));
        assert_ne!(newer, records);
        assert_eq!(sum(&newer, 1), sum(&records, 1));
    }
}
