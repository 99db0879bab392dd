//! Changes that were cut short one after the other: killed, for want of memory most often. None of them says whether it would have
//! helped, so none counts as a failed attempt; but where it goes on like that nothing is mended, and people are told.

use super::worker::Change;

/// So many in a row are told.
const OFTEN: u32 = 3;

/// Since a change came to its end.
#[derive(Debug, Default)]
pub(super) struct CutShort {
    row: u32,
    problem: String,
}

impl CutShort {
    /// Takes note of how `nodelet` ended that was called with these words, and what there was to tell of it.
    pub(super) fn ended(&mut self, words: &str, change: Change, told: &str) {
        match change {
            Change::Interrupted => {
                self.row = self.row.saturating_add(1);
                if self.row >= OFTEN {
                    let why = if told.is_empty() {
                        "somebody asked it to end"
                    } else {
                        told
                    };
                    self.problem = format!(
                        "`nodelet {words}` did not come to its end, {} times in a row now: {why}; see `journalctl -k` for processes that were \
                         killed for want of memory, and `nodelet history`",
                        self.row
                    );
                }
            }
            Change::Done | Change::Failed | Change::Refused => self.forget(),
            Change::Busy => {}
        }
    }

    /// Nothing is to be done any more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What is wrong; empty when nothing is.
    pub(super) fn problem(&self) -> &str {
        &self.problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_in_a_row_is_told_until_one_comes_to_its_end() {
        let mut cut = CutShort::default();
        for told in [false, false, false, true] {
            assert_eq!(!cut.problem().is_empty(), told);
            cut.ended("repair", Change::Interrupted, "it was killed by signal 9");
            cut.ended("repair", Change::Busy, "");
        }
        assert!(
            cut.problem().contains("signal 9") && cut.problem().contains("journalctl -k"),
            "{}",
            cut.problem()
        );
        cut.ended("repair", Change::Failed, "");
        assert_eq!(cut.problem(), "");
    }
}
