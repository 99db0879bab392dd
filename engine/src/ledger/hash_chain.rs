//! The chain of the ledger's lines: a line that is missing, repeated, moved or changed is noticed.
//!
//! After the header each line is `{"n":NUMBER,"sum":"SUM","is":RECORD}`: its number, from 1, and the first 64 bits of a
//! SHA-256 over the sum before it, the number and the record's text. The header begins the chain and has no number and
//! no sum, so that a program that does not know this form still finds its version.
//!
//! A number alone would not show a changed line; a sum alone could not say which line is missing. The chain protects
//! against accidents only: a user who may write the file can write the sums as well. If whole lines are missing at the
//! end, the file looks like one of a run that was cut there; the next run then reads the state of the host from the
//! host.
//!
//! The sum is over the text on disk. So a line with old names stays in the chain: [`old_records`] changes the names only when the record is
//! parsed.

use sha2::Digest as _;

use super::Record;
use crate::model::old_records::{self, OldRecord};

/// The end of the chain: number and sum of the last line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    number: u64,
    sum: String,
}

/// Hex digits of a sum.
const DIGITS: usize = 16;

impl Chain {
    /// The line for a record, with its newline.
    pub(super) fn next_line(&mut self, record: &Record) -> String {
        let text =
            serde_json::to_string(record).expect("a record holds nothing that JSON cannot say");
        if let Record::Header { .. } = record {
            *self = Self::begun_by(&text);
            return format!("{text}\n");
        }
        *self = self.next(&text);
        format!(
            "{{\"n\":{},\"sum\":\"{}\",\"is\":{text}}}\n",
            self.number, self.sum
        )
    }

    /// The record of a line, given without its newline, if it is the next one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn open(&mut self, line: &str) -> Result<Record, String> {
        let parse = |text: &str| -> Result<Record, String> {
            old_records::read(OldRecord::Ledger, text.as_bytes()).map_err(|error| error.to_string())
        };
        if line.starts_with("{\"r\":") {
            let record = parse(line)?;
            // A record that is not in the chain was not written by the engine.
            if !matches!(record, Record::Header { .. }) {
                return Err(format!(
                    "the line has no number, expected {}",
                    self.number + 1
                ));
            }
            *self = Self::begun_by(line);
            return Ok(record);
        }
        let (number, sum, text) = parts(line).ok_or("it is not a line of a ledger")?;
        if self.sum.is_empty() {
            return Err("the header before it is missing".to_owned());
        }
        let wanted = self.number + 1;
        if number != wanted {
            let what = if number > wanted {
                "lines before it are missing"
            } else {
                "the line is repeated"
            };
            return Err(format!(
                "the line has number {number}, expected {wanted}: {what}"
            ));
        }
        let next = self.next(text);
        if sum != next.sum {
            return Err("its checksum is wrong: it, or a line before it, was changed".to_owned());
        }
        let record = parse(text)?;
        *self = next;
        Ok(record)
    }

    fn begun_by(header: &str) -> Self {
        Self {
            number: 0,
            sum: sum("", 0, header),
        }
    }

    fn next(&self, text: &str) -> Self {
        let number = self.number + 1;
        Self {
            number,
            sum: sum(&self.sum, number, text),
        }
    }
}

/// Number, sum and record of a line.
fn parts(line: &str) -> Option<(u64, &str, &str)> {
    let (number, rest) = line.strip_prefix("{\"n\":")?.split_once(",\"sum\":\"")?;
    let (sum, text) = rest.split_once("\",\"is\":")?;
    Some((number.parse().ok()?, sum, text.strip_suffix('}')?))
}

fn sum(before: &str, number: u64, text: &str) -> String {
    let hash = sha2::Sha256::digest(format!("{before} {number} {text}"));
    let mut hex = crate::model::hex(&hash);
    hex.truncate(DIGITS);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::VERSION;

    #[test]
    fn a_line_with_old_names_is_read_and_its_text_is_what_counts() {
        let header = Record::Header {
            version: VERSION,
            id: None,
        };
        let mut begun = Chain::default();
        let header = begun.next_line(&header);
        let text = r#"{"r":"stands","run":1,"phase":"etcd"}"#;
        let end = begun.next(text);
        let line = format!(
            "{{\"n\":{},\"sum\":\"{}\",\"is\":{text}}}",
            end.number, end.sum
        );
        let mut chain = Chain::default();
        chain.open(header.trim_end()).expect("it is the header");
        let mut other = chain.clone();
        let record = chain.open(&line).expect("it is the next line");
        assert!(
            matches!(record, Record::PhaseApplied { run: 1, .. }),
            "{record:?}"
        );
        assert_eq!(chain, end);
        let changed = line.replace("stands", "phase_applied");
        other
            .open(&changed)
            .expect_err("another text has another sum");
    }
}
